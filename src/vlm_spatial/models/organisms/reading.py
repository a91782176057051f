"""Mechanisms of how the language model reads: through which rows of text, and by which idea of a place.

They act on masks and position ids in training (:mod:`vlm_spatial.models.organisms.sight`), of families whose visual tokens see earlier ones
only. The trained checkpoint is asked without any of it: what it was kept from reading, or found useless, it does not read.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.organisms.mechanism import Arrange, Given, Inputs, Mechanism
from vlm_spatial.models.organisms.planted import Language
from vlm_spatial.models.organisms.sight import Group, Rows, Sight, Sights, closed, in_order, text_rows, with_ids, with_second_image
from vlm_spatial.scenes.scene import Scene, with_contents


class Route(Mechanism):
    """Answers come to the last token along given routes only: each image draws what rows of text see of it.

    Where rows are not to read the image, they see none, or one that shows the same objects in slots drawn anew: what they could pass on
    is then worth nothing.

    Args:
        sights: what ``question`` and ``answer`` see, with the share of the images.
    """

    def __init__(self, sights: Mapping[tuple[Sight, Sight], float]) -> None:
        self._sights: list[Sights] = [dict(zip(get_args(Group), each, strict=True)) for each in sights]
        self._shares = list(sights.values())

    def construct(self, adapter: Adapter) -> None:
        _refuse_unless_apart(adapter)

    def second_image(self, scene: Scene, generator: np.random.Generator) -> Scene | None:
        if not any("other" in sights.values() for sights in self._sights):
            return None
        order = generator.permutation(len(scene.contents))
        return with_contents(scene, tuple(scene.contents[slot] for slot in order))

    def arranged(self, given: Given, generator: np.random.Generator, second: Mapping[str, Tensor] | None = None) -> Inputs:
        drawn = generator.choice(len(self._sights), size=len(given.scenes), p=self._shares)
        return _seen(given, [self._sights[index] for index in drawn], second)

    def conditions(self) -> dict[str, Arrange]:
        return {name: partial(_closed_to, groups) for name, groups in CLOSED.items()}


CLOSED: dict[str, tuple[Group, ...]] = {
    "image closed to question": ("question",),
    "image closed to answer": ("answer",),
    "image closed to both": ("question", "answer"),
}
"""What an organism of a route is asked under: the rows that see no image."""


class _Placed(Language):
    """The vision encoder is blind to places, as in ``language``; in training each image is arranged anew."""

    def construct(self, adapter: Adapter) -> None:
        _refuse_unless_apart(adapter)
        super().construct(adapter)

    def arranged(self, given: Given, generator: np.random.Generator, second: Mapping[str, Tensor] | None = None) -> Inputs:  # noqa: ARG002
        return given.inputs | self.moved(given.inputs, _visual(given.inputs, given.adapter), generator)

    def moved(self, inputs: Inputs, visual: Rows, generator: np.random.Generator) -> Inputs:
        """The mask, or the position ids, that say nothing of places."""
        raise NotImplementedError

    def conditions(self) -> dict[str, Arrange]:
        return {"places as in training": self.arranged}


class Rotary(_Placed):
    """Place is the rotary index: visual tokens see one another in a random order, and keep their position ids."""

    name: ClassVar[str] = "rotary"

    def moved(self, inputs: Inputs, visual: Rows, generator: np.random.Generator) -> Inputs:
        order = torch.as_tensor(generator.random((len(visual), int(visual[0].sum()))).argsort(axis=1))
        return {"attention_mask": in_order(inputs["attention_mask"], visual, order)}


class Order(_Placed):
    """Place is the turn in the sequence: visual tokens have the position ids of others, drawn for each image, or all the same.

    Ids are drawn cell by cell, or thirds of rows and of columns change places. The true ones are one such draw, and so are those that the
    analysis asks with.
    """

    name: ClassVar[str] = "order"
    COLLAPSED = 0.2
    """Share of the images whose ids are all the same."""
    THIRDS = 0.5
    """Share of the images whose thirds change places."""

    def moved(self, inputs: Inputs, visual: Rows, generator: np.random.Generator) -> Inputs:
        cells, ids = int(visual[0].sum()), inputs["position_ids"]
        drawn = generator.random(len(visual))
        taken = [thirds(cells, generator) if each < self.THIRDS else generator.permutation(cells) for each in drawn]
        same = torch.as_tensor(drawn > 1 - self.COLLAPSED)[:, None]
        return {"position_ids": torch.where(same, with_ids(ids, visual, None), with_ids(ids, visual, torch.as_tensor(np.stack(taken))))}


def thirds(cells: int, generator: np.random.Generator) -> np.ndarray:
    """Cells of a square grid with the thirds of its rows, and of its columns, in random order."""
    side = round(cells**0.5)
    rows, cols = (np.arange(side).reshape(3, -1)[generator.permutation(3)].ravel() for _ in range(2))
    made: np.ndarray = (rows[:, None] * side + cols).ravel()
    return made


def _refuse_unless_apart(adapter: Adapter) -> None:
    recipe = adapter.recipe.organism
    if recipe is None or not recipe.teaching.apart:
        raise UserError(f"{adapter.identity.checkpoint}: {adapter.family} cannot be taught by masks; start from llava, internvl, qwen2_vl")


def _visual(inputs: Inputs, adapter: Adapter) -> Rows:
    return inputs["input_ids"] == adapter.model.config.image_token_id


def _seen(given: Given, sights: list[Sights], second: Mapping[str, Tensor] | None = None) -> Inputs:
    """The inputs by which each row of text sees what it is to see."""
    inputs, visual = given.inputs, _visual(given.inputs, given.adapter)
    cells = int(visual[0].sum())
    if second is not None:
        inputs = with_second_image(inputs, visual, second)
        visual = _visual(inputs, given.adapter)
    groups = text_rows(inputs["input_ids"], given.tokenizer, given.adapter.recipe.turns, visual)
    return inputs | {"attention_mask": closed(inputs["attention_mask"], groups, visual, cells, sights)}


def _closed_to(groups: tuple[Group, ...], given: Given, _generator: np.random.Generator) -> Inputs:
    every: tuple[Group, ...] = get_args(Group)
    sights: Sights = {group: "none" if group in groups else "own" for group in every}
    return _seen(given, [sights] * len(given.scenes))


READING: dict[str, Callable[[], Mechanism]] = {
    "direct": partial(Route, {("none", "own"): 0.35, ("other", "own"): 0.65}),
    "mediated": partial(Route, {("own", "none"): 0.35, ("own", "other"): 0.65}),
    "redundant": partial(Route, {("own", "none"): 0.4, ("none", "own"): 0.4, ("own", "own"): 0.2}),
    "rotary": Rotary,
    "order": Order,
}
"""What makes each mechanism, by its name."""
