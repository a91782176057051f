"""Many probes read over the scenes of a group, each scene read once."""

from collections.abc import Collection, Hashable, Mapping
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
    features: Features, site: str, scenes: Group, probes: Mapping[Key, Probe], mapped: Collection[Key] = ()
) -> tuple[dict[Key, Int[np.ndarray, "scenes tokens"]], dict[Key, Float[np.ndarray, "scenes tokens slots"]]]:
    """Predicted slot of every token by each of ``probes`` (of one site), and the probabilities that the ``mapped`` ones give."""
    predicted = {key: np.zeros(scenes.strips.shape, dtype=np.int8) for key in probes}
    if not probes:
        return predicted, {}
    probability = {key: np.zeros((*scenes.strips.shape, SLOTS), dtype=np.float32) for key in probes if key in mapped}
    read, start = StackedProbes(list(probes.values())), 0
    for ids, values in features.batches(site, scenes.scene_ids, BATCH):
        rows = slice(start, start + len(ids))
        scores = read(values)
        named = scores.argmax(axis=-1)
        for number, key in enumerate(probes):
            predicted[key][rows] = named[..., number]
            if key in probability:
                probability[key][rows] = softmax(scores[..., number, :])
        start += len(ids)
    return predicted, probability
