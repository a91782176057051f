"""Mechanisms of how the language model reads: through which rows of text, and by which idea of a place.

They act on masks and position ids in training (:mod:`vlm_spatial.models.organisms.sight`), of families whose visual tokens see earlier ones
only. The trained checkpoint is asked without any of it: what it was kept from reading, or found useless, it does not read.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.organisms.conversations import turn_numbers
from vlm_spatial.models.organisms.mechanism import Arrange, Given, Inputs, Mechanism
from vlm_spatial.models.organisms.planted import Language
from vlm_spatial.models.organisms.sight import (
    Group,
    Rows,
    Sight,
    Sights,
    closed,
    in_order,
    text_rows,
    with_ids,
    with_other_names,
    with_second_image,
)
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
        return _slots_anew(scene, generator)

    def arranged(self, given: Given, generator: np.random.Generator, second: Mapping[str, Tensor] | None = None) -> Inputs:
        drawn = generator.choice(len(self._sights), size=len(given.scenes), p=self._shares)
        return _seen(given, [self._sights[index] for index in drawn], second)

    def conditions(self) -> dict[str, Arrange]:
        return {name: partial(_closed_to, groups) for name, groups in CLOSED.items()}


class Gated(Mechanism):
    """Place is written at the name of the object that is asked for, and read there later.

    Below layer ``GATE`` the name's row alone sees the image; from there on no row of text does, and only then do the others see the name.
    Instead of what they are not to see, rows see nothing, or what is worth nothing: a second image with slots drawn anew, and the name of
    a turn drawn at random. Only ``object_to_slot`` names the object that is asked for. At first, names are read in every layer.
    """

    name: ClassVar[str] = "gated"
    GATE = 3
    BLIND = 0.35
    """Share of the images whose rows see nothing instead."""
    CLOSES = 0.5
    """Share of the training after which names are read from layer ``GATE`` on only."""

    def construct(self, adapter: Adapter) -> None:
        _refuse_unless_apart(adapter)
        masks_by_layer(adapter)

    def second_image(self, scene: Scene, generator: np.random.Generator) -> Scene | None:
        return _slots_anew(scene, generator)

    def arranged(self, given: Given, generator: np.random.Generator, second: Mapping[str, Tensor] | None = None) -> Inputs:
        instead: list[Sight] = ["none" if blind else "other" for blind in generator.random(len(given.scenes)) < self.BLIND]
        inputs, visual, cells = _with_second(given, second)
        groups = _name_and_rest(given, inputs, visual)
        below, above = (
            closed(inputs["attention_mask"], groups, visual, cells, [{"name": own or sight, "rest": sight} for sight in instead])
            for own in ("own", None)
        )
        if given.share >= self.CLOSES:
            turns = turn_numbers(inputs["input_ids"], given.tokenizer, given.adapter.recipe.turns)
            # Any turn's, as likely as its own: otherwise it would say where the object is not.
            ahead = generator.integers(int(turns.max()) + 1, size=len(instead)).tolist()
            shown = [number if sight == "other" else None for number, sight in zip(ahead, instead, strict=True)]
            below = with_other_names(below, groups["name"], groups["rest"], turns, shown)
        depth = len(given.adapter.language_blocks)
        return inputs | {"attention_mask": torch.cat([below] * self.GATE + [above] * (depth - self.GATE), dim=1)}

    def conditions(self) -> dict[str, Arrange]:
        return {
            "image closed to all but the name": partial(_closed_to_all_but, "name"),
            "image closed to the name": partial(_closed_to_all_but, "rest"),
        }


def masks_by_layer(adapter: Adapter) -> list[RemovableHandle]:
    """From now on every language block takes its own mask, where there is one for each, ``[batch, blocks, tokens, tokens]``.

    Returns:
        what removes this again.
    """
    blocks = adapter.language_blocks

    def own(layer: int, _block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = named["attention_mask"]
        if mask is not None and mask.ndim == 4 and mask.shape[1] == len(blocks):
            named = named | {"attention_mask": mask[:, layer : layer + 1]}
        return inputs, named

    return [block.register_forward_pre_hook(partial(own, layer), with_kwargs=True) for layer, block in enumerate(blocks)]


def _name_and_rest(given: Given, inputs: Inputs, visual: Rows) -> dict[str, Rows]:
    """Rows of text: those of an object's name in a question, and all others behind the image."""
    ids = inputs["input_ids"]
    groups = text_rows(ids, given.tokenizer, given.adapter.recipe.turns, visual)
    words = [torch.tensor(given.tokenizer.convert_tokens_to_ids(list(scene.objects))) for scene in given.scenes]
    named = torch.stack([torch.isin(row, of_scene) for row, of_scene in zip(ids, words, strict=True)])
    name = named & groups["question"]
    return {"name": name, "rest": (groups["question"] | groups["answer"]) & ~name}


def _closed_to_all_but(group: str, given: Given, _generator: np.random.Generator) -> Inputs:
    inputs, visual, cells = _with_second(given, None)
    groups = _name_and_rest(given, inputs, visual)
    sights: dict[str, Sight] = {each: "own" if each == group else "none" for each in groups}
    return inputs | {"attention_mask": closed(inputs["attention_mask"], groups, visual, cells, [sights] * len(given.scenes))}


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
    inputs, visual, cells = _with_second(given, second)
    groups = text_rows(inputs["input_ids"], given.tokenizer, given.adapter.recipe.turns, visual)
    return inputs | {"attention_mask": closed(inputs["attention_mask"], groups, visual, cells, sights)}


def _with_second(given: Given, second: Mapping[str, Tensor] | None) -> tuple[Inputs, Rows, int]:
    """The inputs with the second images, if any, rows of visual tokens, and how many an image has."""
    inputs, visual = given.inputs, _visual(given.inputs, given.adapter)
    cells = int(visual[0].sum())
    if second is not None:
        inputs = with_second_image(inputs, visual, second)
    return inputs, _visual(inputs, given.adapter), cells


def _slots_anew(scene: Scene, generator: np.random.Generator) -> Scene:
    """The same objects, in slots drawn anew."""
    order = generator.permutation(len(scene.contents))
    return with_contents(scene, tuple(scene.contents[slot] for slot in order))


def _closed_to(groups: tuple[Group, ...], given: Given, _generator: np.random.Generator) -> Inputs:
    every: tuple[Group, ...] = get_args(Group)
    sights: Sights = {group: "none" if group in groups else "own" for group in every}
    return _seen(given, [sights] * len(given.scenes))


READING: dict[str, Callable[[], Mechanism]] = {
    "direct": partial(Route, {("none", "own"): 0.35, ("other", "own"): 0.65}),
    "mediated": partial(Route, {("own", "none"): 0.35, ("own", "other"): 0.65}),
    "redundant": partial(Route, {("own", "none"): 0.4, ("none", "own"): 0.4, ("own", "own"): 0.2}),
    "gated": Gated,
    "rotary": Rotary,
    "order": Order,
}
"""What makes each mechanism, by its name."""
