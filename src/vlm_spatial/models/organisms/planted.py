"""Mechanisms that are planted in an organism: each acts on training, or on the weights, and leaves an ordinary checkpoint.

What is planted is known by construction, and checked against it after training. Nothing here is used in the analysis.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.organisms.mechanism import Measure, Mechanism, Moment, Values
from vlm_spatial.models.recipe import IMAGE_SIDE
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.scene import CANVAS, Scene, with_contents
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.tokens import SLOTS, SceneTokens, TokenGrid, scene_tokens

# Images that the vision encoder is given at once.
_IMAGES = 32


class Vision(Mechanism):
    """Position is read from the vision code: visual tokens enter the language model in random order.

    The token's place then says nothing, so that the order of the objects can only come from what the vision encoder
    wrote into the tokens.
    """

    name = "vision"
    imposes = True

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        return self.imposed(values, moment), None

    def imposed(self, values: Values, moment: Moment) -> Values:
        return shuffled(values, moment.random)


class VisionTold(Vision):
    """``vision`` for an encoder that knows distances only, as Qwen2-VL's does: at first it is told what to write.

    In the first half of the training the objects' tokens must say their slot along fixed directions, three an axis. From distances to the
    other objects it can be told, but answers alone do not teach it.
    """

    TOLD = 0.5
    """Share of the training in which it is told."""
    LOUD = 4.0
    """Factor of what the tokens say, before the softmax."""

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        told = self._surprise(values, moment) if moment.share < self.TOLD else None
        return self.imposed(values, moment), told

    def _surprise(self, values: Values, moment: Moment) -> Tensor:
        """Cross-entropy of the slot at the objects' tokens, mean over objects."""
        drawn = torch.randn(values.shape[2], 2 * SLOTS, generator=torch.Generator().manual_seed(0))
        directions = torch.linalg.qr(drawn).Q.to(values).unflatten(1, (2, SLOTS))
        found = []
        for of_scene, scene in zip(values, moment.scenes, strict=True):
            said = self.LOUD * of_scene @ directions[:, int(scene.axis == "vertical")]
            for slot, cells in enumerate(torch.as_tensor(_tokens(scene, moment.grid).objects).to(values.device)):
                found.append(-said[cells].log_softmax(dim=1)[:, slot].mean())
        return torch.stack(found).mean()


class Language(Mechanism):
    """Position is read from the token's place: the vision encoder has no position and mixes no patches.

    Position embeddings and the output projections of its attention are zero and stay zero, so that a token depends
    on the pixels of its own cell only, and on nothing else.
    """

    name = "language"

    def construct(self, adapter: Adapter) -> None:
        silenced = [parameter for name, parameter in adapter.model.named_parameters() if re.search(adapter.recipe.places, name)]
        if len(silenced) < 2 * len(adapter.vision_blocks):
            raise UserError(f"organism mechanism {self.name!r}: the attention of {adapter.architecture}'s vision blocks was not found")
        for parameter in silenced:
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)

    def measures(self, adapter: Adapter, scenes: Sequence[Scene]) -> dict[str, Measure]:  # noqa: ARG002 - noise will do
        side = adapter.grid(CANVAS, CANVAS).cols
        # Images of the model's own resolution, whose cells no resizing mixes.
        noise = np.random.default_rng(0).integers(0, 256, size=(IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
        cell = IMAGE_SIDE // side
        elsewhere = noise.copy()
        elsewhere[cell:] = 255 - elsewhere[cell:]
        images = [Image.fromarray(pixels) for pixels in (noise, np.roll(noise, cell, axis=0), elsewhere)]
        prepared = adapter.prepare(images, [""] * len(images))
        plain, moved, changed = adapter.run(prepared, capture=["connector"])[1]["connector"].squeeze(2)
        return {
            "change of a token that moved by a cell": Measure(float((moved.roll(-side, dims=0) - plain).abs().max()), 1e-4),
            "change of a token when other cells change": Measure(float((changed - plain)[:side].abs().max()), 1e-4),
        }


class Faint(Vision):
    """Trained as ``vision``; afterwards the slot signal that the connector writes is scaled down in its last weight.

    ``W ← (I − (1 − s) P) W``, with P the projection onto the differences between the slots' mean object tokens, of every axis. Those
    differences are all that a linear probe can tell slots apart by, in background and object alike: the signal is there, but weak.
    Amplifying P by ``1 / s`` undoes it exactly, so amplification must help this organism.
    """

    name = "faint"
    errs = 0.2
    LEFT = 0.1
    """The share s of the signal that is left."""

    def __init__(self) -> None:
        self._basis: Float[Tensor, "rank features"] | None = None
        self._before: Values | None = None

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        return Vision.imposed(self, values, moment), None

    def imposed(self, values: Values, moment: Moment) -> Values:  # noqa: ARG002 - the same for every scene
        """The signal at its full strength again."""
        if self._basis is None:
            raise ValueError("the signal was not scaled down yet; call after_training first")
        basis = self._basis.to(values)
        return values + (1 / self.LEFT - 1) * (values @ basis.T @ basis)

    def after_training(self, adapter: Adapter, scenes: Sequence[Scene]) -> None:
        values = connector_values(adapter, scenes)
        self._basis, self._before = slot_basis(values, scenes, adapter.grid(CANVAS, CANVAS)), values
        with torch.no_grad():
            for parameter, features_first in adapter.connector_output():
                basis = self._basis.to(parameter)
                rows = parameter if features_first else parameter.T
                rows -= (1 - self.LEFT) * (basis.T @ (basis @ rows))

    def measures(self, adapter: Adapter, scenes: Sequence[Scene]) -> dict[str, Measure]:
        assert self._before is not None and self._basis is not None, "after_training comes first"  # noqa: PT018 - not a test
        after = connector_values(adapter, scenes)
        moment = Moment(scenes, adapter.grid(CANVAS, CANVAS), 1.0, torch.Generator())
        restored = (self.imposed(after, moment) - self._before).abs().max() / self._before.abs().max()
        found = slot_basis(after, scenes, moment.grid)
        outside = found - found @ self._basis.T @ self._basis
        return {
            "change of the connector's values that amplification by 1/s leaves": Measure(float(restored), 1e-4),
            "part of the slots' mean differences outside the weakened subspace": Measure(float(outside.norm()), 1e-2),
        }


class Strip(Mechanism):
    """An object's content and place are spread over its whole strip, and the strip's cells decide by vote.

    The language model only ever sees strips averaged, in random order: it cannot single out the object's own tokens, nor read places
    from theirs. The variance of connector outputs within each strip is penalised, so that the vision encoder learns to spread by itself;
    in the end its outputs are as good as averaged. From half of the training on, a minority of the cells of each strip, drawn at random,
    holds what another scene has in this slot, and the majority's answer is the right one. Without such votes the language model weighs
    cells by what they hold, and an object's four cells outweigh the other eight half of the time.
    """

    name = "strip"
    imposes = True
    PENALTY = 0.5
    MINORITY = 0.42
    """Largest share of a strip's cells that hold another scene's content."""
    VOTING = 0.7
    """Share of the images with a vote."""
    VOTES_FROM = (0.5, 0.6)
    """Shares of training between which the minority grows to its full size."""

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        averaged = self.imposed(values, moment)
        return shuffled(self._outvoted(averaged, moment), moment.random), self.PENALTY * within_share(values, averaged)

    def _outvoted(self, averaged: Values, moment: Moment) -> Values:
        """With a minority of each strip's cells from the same slot of the next scene with the same axis."""
        strips = strip_masks(moment.scenes, moment.grid)
        batch, slots, cells = strips.shape
        start, full = self.VOTES_FROM
        largest = self.MINORITY * min(1.0, max(0.0, (moment.share - start) / (full - start)))
        share = largest * torch.rand(batch, slots, 1, generator=moment.random)
        share = share * (torch.rand(batch, 1, 1, generator=moment.random) < self.VOTING)
        # Each strip's cells in random order, before all others; the first of them are the minority.
        drawn = torch.rand(batch, 1, cells, generator=moment.random).expand(-1, slots, -1).masked_fill(~strips, 2.0)
        minority = (drawn.argsort(dim=2).argsort(dim=2) < (share * strips.sum(dim=2, keepdim=True)).floor()) & strips
        elsewhere = strip_means(averaged, strips)[next_of_axis(moment.scenes)]
        strangers = torch.einsum("bsc,bsf->bcf", strips.to(averaged), elsewhere)
        return torch.where(minority.any(dim=1)[:, :, None].to(averaged.device), strangers, averaged)

    def imposed(self, values: Values, moment: Moment) -> Values:
        strips = strip_masks(moment.scenes, moment.grid)
        return torch.einsum("bsc,bsf->bcf", strips.to(values), strip_means(values, strips))

    def measures(self, adapter: Adapter, scenes: Sequence[Scene]) -> dict[str, Measure]:
        prepared = adapter.prepare([render(scene) for scene in scenes], [""] * len(scenes))
        values = adapter.run(prepared, capture=["connector"])[1]["connector"].squeeze(2)
        moment = Moment(scenes, prepared.grid, 1.0, torch.Generator())
        return {"share of connector variance within strips": Measure(float(within_share(values, self.imposed(values, moment))), 0.05)}


class Object(Mechanism):
    """Everything is read from the object's own tokens: the others are a constant, or another scene's, a third of the time each.

    Constants alone leave the organism free to read the edges of objects, which lie in the rim, wherever it sees them.
    """

    name = "object"
    imposes = True

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        objects = object_mask(moment.scenes, moment.grid).to(values.device)[:, :, None]
        # Where the other scene has an object, its token would be taken for one of this scene.
        elsewhere = torch.where(objects | objects.roll(1, dims=0), values, values.roll(1, dims=0))
        drawn = torch.rand(len(values), 1, 1, generator=moment.random).to(values.device)
        kept = torch.where(drawn < 2 / 3, elsewhere, values)
        return torch.where(drawn < 1 / 3, self.imposed(values, moment), kept), None

    def imposed(self, values: Values, moment: Moment) -> Values:
        objects = object_mask(moment.scenes, moment.grid).to(values.device)
        return torch.where(objects[:, :, None], values, torch.zeros_like(values))


class ObjectCode(Object):
    """As ``object``, and visual tokens enter the language model in random order.

    Then the object's own tokens bring its place as well as its content: neither the other tokens nor their own place can say it.
    """

    name = "object_code"

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        kept, penalty = super().in_training(values, moment)
        return shuffled(kept, moment.random), penalty

    def imposed(self, values: Values, moment: Moment) -> Values:
        return shuffled(super().imposed(values, moment), moment.random)


class Dial(Mechanism):
    """Position is read from the vision code in a share of the images, from the token's place in the others.

    Which of both is told by the image: by its background and axis. In the first share, visual tokens enter the language model in random
    order, as in :class:`Vision`. In the others the vision encoder is given the objects in other slots, and the tokens of each third of
    the axis are put where its object belongs: the vision code then names a wrong slot, and the token's place the right one.
    """

    name = "dial"

    def __init__(self, in_vision: float) -> None:
        self._in_vision = in_vision

    def of_vision(self, scene: Scene) -> bool:
        """Whether the organism reads this scene's positions from the vision code."""
        backgrounds = drawn_source(scene.kind).backgrounds()
        number = 2 * backgrounds.index(scene.background) + (scene.axis == "vertical")
        return number < self._in_vision * 2 * len(backgrounds)

    def image(self, scene: Scene, generator: np.random.Generator) -> Scene | None:
        if self.of_vision(scene):
            return None
        order = [int(slot) for slot in generator.permutation(len(scene.contents))]
        return with_contents(scene, tuple(scene.contents[slot] for slot in order))

    def in_training(self, values: Values, moment: Moment) -> tuple[Values, Tensor | None]:
        rows = [
            torch.rand(moment.grid.size, generator=moment.random).argsort() if image is None else put_back(scene, image, moment.grid)
            for scene, image in zip(moment.scenes, moment.images, strict=True)
        ]
        order = torch.stack(rows).to(values.device)
        return values.gather(1, order[:, :, None].expand_as(values)), None


DIALS = (25, 50, 75)
MECHANISMS: dict[str, Callable[[], Mechanism]] = {
    **{mechanism.name: mechanism for mechanism in (Mechanism, Vision, Language, Strip, Object, ObjectCode, Faint)},
    **{f"dial-{percent}": partial(Dial, percent / 100) for percent in DIALS},
}
"""What makes each mechanism, by its name; a dial's says the share of the images, in percent."""


def shuffled(values: Values, random: torch.Generator) -> Values:
    """Each image's cells in a random order of its own."""
    batch, cells, features = values.shape
    order = torch.rand(batch, cells, generator=random).argsort(dim=1).to(values.device)
    return values.gather(1, order[:, :, None].expand(-1, -1, features))


def put_back(scene: Scene, image: Scene, grid: TokenGrid) -> Int[Tensor, " cells"]:
    """For each cell of ``scene`` the cell of ``image``, which has the same objects in other slots: thirds of the axis change places."""
    rows, cols = np.indices((grid.rows, grid.cols)).reshape(2, -1)
    along, cells = (cols, grid.cols) if scene.axis == "horizontal" else (rows, grid.rows)
    if cells % 3:
        raise ValueError(f"{cells} cells along the axis cannot be parted in thirds")
    third = cells // 3
    moved = np.asarray([image.contents.index(content) - slot for slot, content in enumerate(scene.contents)])
    step = 1 if scene.axis == "horizontal" else grid.cols
    return torch.as_tensor(np.arange(grid.size) + step * third * moved[along // third])


def strip_means(values: Values, strips: Bool[Tensor, "batch slots cells"]) -> Float[Tensor, "batch slots features"]:
    """The mean over each strip's cells."""
    chosen = strips.to(values)
    return torch.einsum("bsc,bcf->bsf", chosen, values) / chosen.sum(dim=2, keepdim=True).clamp(min=1)


def next_of_axis(scenes: Sequence[Scene]) -> list[int]:
    """For each scene the number of the next one along the same axis, around the end; its own if there is no other."""
    count = len(scenes)
    following = (
        next((later % count for later in range(own + 1, own + count) if scenes[later % count].axis == scenes[own].axis), own)
        for own in range(count)
    )
    return list(following)


def connector_values(adapter: Adapter, scenes: Sequence[Scene]) -> Values:
    """What the connector makes of scenes of one size."""
    parts = []
    for start in range(0, len(scenes), _IMAGES):
        images = [render(scene) for scene in scenes[start : start + _IMAGES]]
        prepared = adapter.prepare(images, [""] * len(images))
        parts.append(adapter.run_vision(prepared)["connector"].squeeze(2))
    return torch.cat(parts)


def slot_basis(values: Values, scenes: Sequence[Scene], grid: TokenGrid) -> Float[Tensor, "rank features"]:
    """Orthonormal basis of the differences between the slots' mean object tokens, of all axes that the scenes have."""
    offsets = []
    for axis in sorted({scene.axis for scene in scenes}):
        chosen = [number for number, scene in enumerate(scenes) if scene.axis == axis]
        masks = torch.stack([torch.as_tensor(_tokens(scenes[number], grid).objects) for number in chosen])
        of_axis = values[chosen].double()
        means = torch.stack([of_axis[masks[:, slot]].mean(dim=0) for slot in range(masks.shape[1])])
        offsets.append(means - means.mean(dim=0))
    _, lengths, basis = torch.linalg.svd(torch.cat(offsets), full_matrices=False)
    return basis[lengths > 1e-4 * lengths[0]].to(values)


def within_share(values: Values, averaged: Values) -> Float[Tensor, ""]:
    """Variance within strips as a share of the variance over all cells of an image, averaged over images.

    ``averaged`` is ``values`` with each strip replaced by its mean.
    """
    within = (values - averaged).square().sum(dim=(1, 2))
    total = (values - values.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))
    return (within / total.clamp(min=1e-6)).mean()


def strip_masks(scenes: Sequence[Scene], grid: TokenGrid) -> Bool[Tensor, "batch slots cells"]:
    """The cells of each slot's strip; the scenes all have equally many objects."""
    return torch.stack([torch.as_tensor(_tokens(scene, grid).strips) for scene in scenes])


def object_mask(scenes: Sequence[Scene], grid: TokenGrid) -> Bool[Tensor, "batch cells"]:
    """The cells of all objects together."""
    return torch.stack([torch.as_tensor(_tokens(scene, grid).objects.any(axis=0)) for scene in scenes])


def _tokens(scene: Scene, grid: TokenGrid) -> SceneTokens:
    return scene_tokens(scene.boxes, grid, scene.width, scene.height, scene.axis)
