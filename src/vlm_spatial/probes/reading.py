"""Many probes read over the scenes of a group, each scene read once."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from vlm_spatial.probes.layout import Features, Group
from vlm_spatial.probes.probe import Probe, StackedProbes, softmax
from vlm_spatial.tokens import SLOTS

BATCH = 32
"""Scenes in memory at once."""

Key = TypeVar("Key", bound=Hashable)


def answers(
    features: Features, site: str, scenes: Group, probes: Mapping[Key, Probe], mapped: Key | None = None
) -> tuple[dict[Key, Int[np.ndarray, "scenes tokens"]], Float[np.ndarray, "scenes tokens slots"] | None]:
    """Predicted slot of every token by each of ``probes`` (of one site), and the probabilities that ``mapped``, one of them, gives."""
    predicted = {key: np.zeros(scenes.strips.shape, dtype=np.int8) for key in probes}
    if not probes:
        return predicted, None
    probability = np.zeros((*scenes.strips.shape, SLOTS), dtype=np.float32) if mapped in probes else None
    read, start = StackedProbes(list(probes.values())), 0
    for ids, values in features.batches(site, scenes.scene_ids, BATCH):
        rows = slice(start, start + len(ids))
        scores = read(values)
        named = scores.argmax(axis=-1)
        for number, key in enumerate(probes):
            predicted[key][rows] = named[..., number]
            if probability is not None and key == mapped:
                probability[rows] = softmax(scores[..., number, :])
        start += len(ids)
    return predicted, probability
