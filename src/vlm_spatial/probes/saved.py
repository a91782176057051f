"""Probes on disk: safetensors with metadata, loaded without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vlm_spatial.errors import UserError
from vlm_spatial.files import unreadable, written_then_renamed
from vlm_spatial.probes.probe import Probe
from vlm_spatial.workflow.provenance import verified_digest

Key = tuple[str, str]
"""``(axis, site)``."""

_TENSORS = ("weight", "bias", "mean", "scale", "class_mean")
_OPTIONAL = ("shuffled_weight", "shuffled_bias")


class Probes(dict[Key, Probe]):
    """Probes by ``(axis, site)``. Asking for one that could not be fitted raises a UserError that says why.

    Attributes:
        metadata: classes, split, trained_on, identity, strengths and ``inconclusive`` reasons, as saved.
    """

    def __init__(self, probes: Mapping[Key, Probe], metadata: dict[str, Any], source: str = "probes") -> None:
        super().__init__(probes)
        self.metadata = metadata
        self.source = source

    def __missing__(self, key: Key) -> Probe:
        reason = self.metadata.get("inconclusive", {}).get("/".join(key))
        if reason is not None:
            raise UserError(f"{self.source}: no probe for {key[1]}, {key[0]} axis: {reason}")
        known = ", ".join(sorted({site for axis, site in self if axis == key[0]})) or "none on this axis"
        raise UserError(f"{self.source}: no probe for {key[1]}, {key[0]} axis; there are {known}")


def save_probes(probes: Mapping[Key, Probe], metadata: dict[str, Any], path: Path) -> None:
    """Write ``{axis}/{site}/{tensor}`` as float32 with ``metadata``, whole or not at all."""
    tensors = {
        f"{axis}/{site}/{name}": np.ascontiguousarray(getattr(probe, name), dtype=np.float32)
        for (axis, site), probe in probes.items()
        for name in (*_TENSORS, *_OPTIONAL)
        if getattr(probe, name) is not None
    }
    strengths = {f"{axis}/{site}": probe.strength for (axis, site), probe in probes.items()}
    described = {**metadata, "strengths": strengths}
    with written_then_renamed(path) as temporary:
        # One entry only: safetensors writes several in an order that changes from run to run.
        save_file(tensors, temporary, metadata={"probes": json.dumps(described, sort_keys=True)})


def load_probes(path: Path) -> Probes:
    """Read probes that :func:`save_probes` wrote.

    Raises:
        UserError: if the file is missing, is no probes file, or is not as its provenance record (if it has one) says.
    """
    again = "delete it and run snakemake again"
    try:
        with Path(path).open("rb") as stream:
            begin = stream.read(4)
    except OSError as error:
        raise unreadable(path, error) from error
    if begin == b"PAR1":
        raise UserError(f"{path}: is a table; the probes themselves are in probes.safetensors beside it")
    verified_digest(Path(path))
    try:
        with safe_open(path, framework="numpy") as stream:
            saved = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); {again}") from error
    if "probes" not in saved:
        raise UserError(f"{path}: safetensors without this workflow's metadata; give the file that the probes stage wrote")
    metadata = json.loads(saved["probes"])
    probes = {}
    try:
        for joined, strength in metadata["strengths"].items():
            axis, site = joined.split("/")
            required = {name: tensors[f"{joined}/{name}"] for name in _TENSORS}
            shuffled = {name: tensors[f"{joined}/{name}"] for name in _OPTIONAL if f"{joined}/{name}" in tensors}
            probes[axis, site] = Probe(**required, **shuffled, strength=strength)
    except KeyError as error:
        raise UserError(f"{path}: probes of another version, without {error.args[0]}; {again}") from error
    return Probes(probes, metadata, str(path))
