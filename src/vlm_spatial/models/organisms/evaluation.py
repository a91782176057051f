"""How often an organism answers right on scenes that it was not trained on, for each kind of question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.organisms.mechanism import Arrange, Given
from vlm_spatial.models.organisms.sight import whole_mask
from vlm_spatial.models.values import Edit
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.questions import ask
from vlm_spatial.scenes.scene import Scene, Variant
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.statistics import binomial
from vlm_spatial.tokens import TokenGrid

# Streams of held-out scenes, apart from those of training steps, which count from 0. What a training curve says may steer the
# training (Teaching.by_errors), so the finished organism is scored on other scenes.
CURVE, FINISHED = 2**31, 2**31 + 1
_ROWS = 96

ConnectorEdit = Callable[[Sequence[Scene], TokenGrid, np.random.Generator], Edit]
"""Makes the edit of a batch's connector values; for asking what an organism does under its own construction."""


@dataclass(frozen=True)
class Score:
    """Accuracy among the candidates on one kind of question, with its 95% interval.

    ``condition`` is ``intact``, ``construction`` if the connector's values were edited, or how the inputs were arranged.
    """

    dataset: str
    variant: str
    condition: str
    axis: str
    template: str
    accuracy: float
    low: float
    high: float
    n: int

    def row(self) -> dict[str, Any]:
        """A row of ``accuracy.parquet``."""
        return asdict(self)


def evaluate(
    adapter: Adapter,
    datasets: Mapping[str, DatasetSettings],
    scenes: int,
    seed: int,
    variants: Sequence[Variant] = ("main",),
    edit: ConnectorEdit | None = None,
    stream: int = FINISHED,
    arranged: tuple[str, Arrange] | None = None,
) -> list[Score]:
    """Score an organism on ``scenes`` held-out scenes of each dataset, variant and axis, all slots and templates.

    The scenes come from ``seed`` and ``stream`` and are none of the training scenes, which are drawn from other streams.

    Args:
        arranged: a condition's name, and how it arranges the model's inputs.
    """
    scores = []
    condition = "construction" if edit else arranged[0] if arranged else "intact"
    for dataset, (name, settings) in enumerate(datasets.items()):
        for number, variant in enumerate(variants):
            for axis in settings.axes:
                generator = np.random.default_rng([seed, stream, dataset, number, int(axis == "vertical")])
                drawn = [sample_scene(settings, axis, variant, generator) for _ in range(scenes)]
                right = _right(adapter, settings, drawn, generator, edit, arranged[1] if arranged else None)
                for template, count in right.items():
                    share = binomial(count, scenes * 3)
                    scores.append(Score(name, variant, condition, axis, template, share.estimate, share.low, share.high, share.n))
    return scores


def _right(
    adapter: Adapter,
    settings: DatasetSettings,
    scenes: Sequence[Scene],
    generator: np.random.Generator,
    edit: ConnectorEdit | None,
    arrange: Arrange | None,
) -> dict[str, int]:
    """How many of the scenes' questions of each template are answered right, three a scene."""
    images = [render(scene) for scene in scenes]
    right: dict[str, int] = {}
    for template in settings.templates:
        rows = [
            (scene, image, ask(scene, template, slot, settings.wording))
            for scene, image in zip(scenes, images, strict=True)
            for slot in range(3)
        ]
        right[template] = 0
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            prepared = adapter.prepare([image for _, image, _ in part], [question.prompt for _, _, question in part])
            if arrange is not None:
                inputs = {name: value.cpu() for name, value in prepared.inputs.items()}
                inputs["attention_mask"] = whole_mask(inputs["attention_mask"])
                given = Given(inputs, [scene for scene, _, _ in part], adapter, adapter.processor.tokenizer)
                made = {name: value.to(adapter.device) for name, value in arrange(given, generator).items()}
                prepared = replace(prepared, inputs=made)
            edits = {"connector": edit([scene for scene, _, _ in part], prepared.grid, generator)} if edit else None
            logits = adapter.run(prepared, edits=edits)[0]
            for (_, _, question), of_row in zip(part, logits, strict=True):
                # An organism knows each word in one form, one token long.
                best = int(of_row[[adapter.cache.answer_forms(word)[0][0] for word in question.candidates]].argmax())
                right[template] += question.candidates[best] == question.answer
    return right
