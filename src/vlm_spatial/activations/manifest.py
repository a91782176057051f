"""What a store holds and what computed it, beside the store: ``activations.json``.

The checksums of its files, and the code, settings and inputs behind them, are in the store's provenance record.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json, write_json


class Manifest(BaseModel):
    """``activations.json``.

    Attributes:
        identity: hash of everything that decides the values; two stores of one identity hold the same arrays.
        shape, rows: of every site: its shape, and what its middle dimension counts (token, patch, region or sample).
        dtype: of the stored values; ``model["dtype"]`` is what the model computed in.
        grid: ``{"rows": …, "cols": …}`` of the visual tokens.
        patches: vision patches a visual token.
        whole_scenes: first scenes of which arrays ``<site>.whole`` hold every token.
        model, processor: what computed the values, and ``config``: the prompt, the batch and the machine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    identity: str
    sites: tuple[str, ...]
    shape: dict[str, tuple[int, int, int]]
    rows: dict[str, Literal["token", "patch", "region", "sample"]]
    dtype: Literal["float32"]
    pooling: Literal["none", "cell", "token_set"]
    grid: dict[str, int]
    patches: int
    whole_scenes: int = 0
    model: dict[str, Any]
    processor: dict[str, Any]
    config: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(self.model_dump(mode="json"), path)

    @classmethod
    def read(cls, path: Path, readable: Sequence[int]) -> "Manifest":
        """Read a manifest of one of the formats ``readable``.

        Raises:
            UserError: if it is missing (then the store beside it is not whole), of another format, or not a manifest.
        """
        if not path.exists():
            raise UserError(f"{path}: no such manifest; a store without one is not whole: run snakemake to make it")
        said = read_json(path)
        if isinstance(said, dict) and said.get("format") not in readable:
            raise UserError(
                f"{path}: format {said.get('format')}, this version reads {', '.join(map(str, readable))}; "
                "run snakemake to extract the activations again, or read it with the version that wrote it"
            )
        if isinstance(said, dict) and said["format"] == 1:
            # Since then in the store's provenance record.
            said = {key: value for key, value in said.items() if key not in ("chunks", "code")}
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path}: {key}: {first['msg']}; delete it and run snakemake again") from error


def default_manifest_path(store: Path) -> Path:
    """``activations.zarr`` → ``activations.json``."""
    return store.with_suffix(".json")
