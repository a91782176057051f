"""Many probes read over the scenes of a group, each scene read once."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from vlm_spatial.probes.layout import Activations, Features, Group
from vlm_spatial.probes.probe import Probe, StackedProbes, softmax
from vlm_spatial.tokens import SLOTS

BATCH = 32
"""Scenes in memory at once."""


@dataclass(frozen=True)
class Whole:
    """The features of a store's whole scenes: every token."""

    store: Activations

    def kept(self, site: str, scene_ids: Sequence[str]) -> None:  # noqa: ARG002 - nothing is left out
        return None

    def batches(
        self, site: str, scene_ids: Sequence[str], size: int
    ) -> Iterator[tuple[Sequence[str], Float[np.ndarray, "scene token feature"]]]:
        for start in range(0, len(scene_ids), size):
            part = scene_ids[start : start + size]
            yield part, self.store.read(site, part)


Key = TypeVar("Key", bound=Hashable)


def answers(
    features: Features, site: str, scenes: Group, probes: Mapping[Key, Probe], mapped: Collection[Key] = ()
) -> tuple[dict[Key, Int[np.ndarray, "scenes tokens"]], dict[Key, Float[np.ndarray, "scenes tokens slots"]]]:
    """Predicted slot of every token by each of ``probes`` (of one site), and the probabilities that the ``mapped`` ones give.

    ``mapped`` is for features that hold every token of the scenes.
    """
    kept = features.kept(site, scenes.scene_ids)
    # A token that is not stored has no answer.
    predicted = {key: np.full(scenes.strips.shape, 0 if kept is None else -1, dtype=np.int8) for key in probes}
    if not probes:
        return predicted, {}
    probability = {key: np.zeros((*scenes.strips.shape, SLOTS), dtype=np.float32) for key in probes if key in mapped}
    read, start = StackedProbes(list(probes.values())), 0
    for ids, values in features.batches(site, scenes.scene_ids, BATCH):
        rows = slice(start, start + len(ids))
        scores = read(values)
        named = scores.argmax(axis=-1)
        for number, key in enumerate(probes):
            if kept is None:
                predicted[key][rows] = named[..., number]
            else:
                np.put_along_axis(predicted[key][rows], kept.tokens[rows].astype(np.int64), named[..., number].astype(np.int8), axis=1)
            if key in probability:
                probability[key][rows] = softmax(scores[..., number, :])
        start += len(ids)
    return predicted, probability
