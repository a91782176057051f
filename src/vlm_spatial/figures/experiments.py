"""Pictures of the experiments, from a dataset's own scenes: what is replaced by what.

Pixels show whose content a token carries. Its dot has the colour of the slot whose code it carries; no dot: it is left alone.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageOps

from vlm_spatial.errors import UserError
from vlm_spatial.figures.theme import CONTROL, SLOT_COLOURS
from vlm_spatial.interventions.displacement import apart, laid_on, permuted
from vlm_spatial.scenes.alone import alone, background_colour, moving
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SLOTS, TokenGrid, matched_blocks

SIDE = 224
"""Longer side of a picture, in pixels."""
LEGEND = "Pixels: whose content a token carries. Dots: the slot whose code it carries, coloured as the slots of the strip maps."
ERASED = "#c9c7c1"
OTHER_RUN = "#D55E00"
TOKEN = 14
"""Height of a token of the prompt, in pixels."""

Cells = Int[np.ndarray, " cells"]
Row = Mapping[str, Any]
Dots = Mapping[int, str]
"""Cell → colour."""


class Panel(NamedTuple):
    """A picture and what stands below it."""

    label: str
    image: Image.Image


@dataclass(frozen=True)
class Drawer:
    """Draws scenes of one dataset with their visual tokens."""

    dataset: Dataset
    grid: TokenGrid

    def edges(self, cell: int, image: Image.Image) -> tuple[int, int, int, int]:
        """Pixels of a cell: left, top, right, bottom."""
        row, col = divmod(cell, self.grid.cols)
        wide, high = image.width / self.grid.cols, image.height / self.grid.rows
        return round(col * wide), round(row * high), round((col + 1) * wide), round((row + 1) * high)

    def laid(self, image: Image.Image, source: Image.Image, to_cells: Cells, from_cells: Cells) -> Image.Image:
        """The image with cells that show what ``source`` has at others."""
        made = image.copy()
        for to, of in zip(to_cells.tolist(), from_cells.tolist(), strict=True):
            made.paste(source.crop(self.edges(of, source)), self.edges(to, image)[:2])
        return made

    def dotted(self, image: Image.Image, dots: Dots, size: float = 1.0) -> Image.Image:
        """The image at its size in the page, lines between its cells, and a dot on each cell of ``dots``; ``size`` 1 is half a cell."""
        scale = SIDE / max(image.size)
        made = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
        over = Image.new("RGBA", made.size)
        draw = ImageDraw.Draw(over)
        for cell in range(self.grid.size):
            left, top, right, bottom = self.edges(cell, made)
            draw.rectangle((left, top, right, bottom), outline="#00000030")
            if cell in dots and size:
                radius = size * min(right - left, bottom - top) / 4
                middle, centre = (left + right) / 2, (top + bottom) / 2
                draw.ellipse((middle - radius, centre - radius, middle + radius, centre + radius), fill=dots[cell], outline="white")
        return Image.alpha_composite(made.convert("RGBA"), over).convert("RGB")

    def prompted(self, image: Image.Image, words: int, colour: str, last: str) -> Image.Image:
        """The image with the tokens of a prompt below it; the last one has a colour of its own."""
        shown = self.dotted(image, {})
        made = Image.new("RGB", (shown.width, shown.height + TOKEN + 4), "#5c5e62")
        made.paste(shown)
        draw = ImageDraw.Draw(made)
        for word in range(words):
            left, right = (round((word + end) * shown.width / words) for end in (0, 1))
            fill = last if word == words - 1 else colour
            draw.rectangle((left + 1, shown.height + 2, right - 2, shown.height + TOKEN), fill=fill)
        return made


def pictures(dataset: Dataset, grid: TokenGrid, wanted: Collection[str] | None = None) -> dict[str, list[Panel]]:
    """The panels of each experiment (of those wanted) that the dataset has scenes for, in the order of the method.

    Args:
        grid: the token grid of all of the dataset's scenes.
    """
    drawer = Drawer(dataset, grid)
    found = {name: draw(drawer) for name, draw in EXPERIMENTS.items() if wanted is None or name in wanted}
    return {name: panels for name, panels in found.items() if panels}


def probes(drawer: Drawer) -> list[Panel]:
    """Object tokens that a probe learns from, and the tokens that it is asked about."""
    wanted = (("main", "learned: object tokens and their slots"), ("main", "asked: every token; right is its strip"))
    moved = ("decorrelated", "asked where slot is not place")
    panels = []
    for place, (variant, label) in enumerate((*wanted, moved)):
        chosen = drawer.dataset.scenes.filter(pl.col("variant") == variant, pl.col("split") == "test").sort("axis", "scene_id")
        if place < chosen.height:
            scene = chosen["scene_id"][place]
            tokens = drawer.dataset.tokens(scene, drawer.grid)
            masks = tokens.objects if place == 0 else tokens.strips
            panels.append(Panel(label, drawer.dotted(drawer.dataset.image(scene), dots(zip(tokens.slots, masks, strict=True)))))
    return panels


def vision(drawer: Drawer) -> list[Panel]:
    """The vision sweep: the counterfactual's values at the same cells."""
    for pair in pairs(drawer, "vision"):
        clean, other = scenes(drawer, pair)
        tokens = drawer.dataset.tokens(pair["clean_scene"], drawer.grid)
        panels = [Panel("clean", drawer.dotted(clean, {})), Panel("counterfactual", drawer.dotted(other, {}))]
        for name, masks in (("object", tokens.objects), ("strip", tokens.strips)):
            of_slot = dict(zip(tokens.slots, masks, strict=True))
            cells = np.flatnonzero(np.any([of_slot[slot] for slot in pair["slots"]], axis=0))
            made = drawer.laid(clean, other, cells, cells)
            panels.append(
                Panel(f"{name} tokens take its values", drawer.dotted(made, dots((slot, of_slot[slot]) for slot in pair["slots"])))
            )
        return panels
    return []


def language(drawer: Drawer) -> list[Panel]:
    """The language sweep: a foreign picture's values, crosswise."""
    return crossed(drawer, "language", ("object",))


def crosswise(drawer: Drawer) -> list[Panel]:
    """Crosswise interchange: the picture's own contents, the code of the other slot."""
    return crossed(drawer, "vision", ("object", "strip"))


def mirror(drawer: Drawer) -> list[Panel]:
    """The mirror form: the picture's own contents, the code of the mirrored place."""
    for scene in mains(drawer, "horizontal"):
        image, tokens = drawer.dataset.image(scene), drawer.dataset.tokens(scene, drawer.grid)
        other = ImageOps.mirror(image)
        panels = [Panel("clean", drawer.dotted(image, {})), Panel("its mirror image", drawer.dotted(other, {}))]
        for name, masks in (("object", tokens.objects), ("strip", tokens.strips)):
            cells = np.flatnonzero(masks.any(axis=0))
            rows, cols = np.divmod(cells, drawer.grid.cols)
            made = drawer.laid(image, other, cells, rows * drawer.grid.cols + drawer.grid.cols - 1 - cols)
            given = dots((SLOTS - 1 - slot, mask) for slot, mask in zip(tokens.slots, masks, strict=True))
            panels.append(Panel(f"{name} tokens take the values of the mirrored place", drawer.dotted(made, given)))
        return panels
    return []


def crossed(drawer: Drawer, experiment: str, token_sets: tuple[Literal["object", "strip"], ...]) -> list[Panel]:
    """The counterfactual's values of each of two slots on the cells of the other."""
    for pair in pairs(drawer, experiment):
        clean, other = scenes(drawer, pair)
        panels = [Panel("clean", drawer.dotted(clean, {})), Panel("counterfactual", drawer.dotted(other, {}))]
        for token_set in token_sets:
            blocks = blocks_of(drawer, pair, token_set)
            if blocks is not None:
                panels.append(Panel(f"{token_set} tokens take its values, crossed", swapped(drawer, clean, other, pair, blocks)))
        if len(panels) > 2:
            return panels
    return []


def conflict(drawer: Drawer) -> list[Panel]:
    """The conflict: two blocks of one picture change places."""
    for pair in pairs(drawer, "conflict"):
        clean, _ = scenes(drawer, pair)
        blocks = blocks_of(drawer, pair, "strip")
        if blocks is not None:
            own = {int(cell): SLOT_COLOURS[slot] for slot, cells in zip(pair["slots"], blocks, strict=True) for cell in cells}
            return [
                Panel("the blocks of two slots", drawer.dotted(clean, own)),
                Panel("exchanged at the connector", swapped(drawer, clean, clean, pair, blocks)),
            ]
    return []


def displaced(drawer: Drawer) -> list[Panel]:
    """The displaced interchange: a foreign scene's objects, permuted, in a scene whose slots stand elsewhere."""
    dataset = drawer.dataset
    asked = dataset.questions.filter(variant="decorrelated", split="test", template="slot_to_object", axis="horizontal")
    contents = {str(name): frozenset(of["answer"].to_list()) for (name,), of in sorted(asked.group_by("scene_id"))}
    tokens = {name: dataset.tokens(name, drawer.grid) for name in contents}
    for clean in contents:
        for source, slot, there in apart(clean, list(contents), tokens, contents, "horizontal"):
            others = [each for each in range(SLOTS) if each != slot]
            onto = permuted(slot, SLOTS - slot - there, others)
            made = dataset.image(clean)
            given: dict[int, str] = {}
            for to, of in onto.items():
                to_cells, from_cells = laid_on(tokens[clean].objects[to], tokens[source].objects[of], drawer.grid)
                made = drawer.laid(made, dataset.image(source), to_cells, from_cells)
                given |= dict.fromkeys(to_cells.tolist(), SLOT_COLOURS[of])
            own = [dots(zip(tokens[name].slots, tokens[name].objects, strict=True)) for name in (clean, source)]
            return [
                Panel("clean: its objects and their slots", drawer.dotted(dataset.image(clean), own[0])),
                Panel("source: one object stands where another slot stands there", drawer.dotted(dataset.image(source), own[1])),
                Panel("its objects laid on the clean ones, permuted", drawer.dotted(made, given)),
            ]
    return []


def last_token(drawer: Drawer) -> list[Panel]:
    """The last token: the residual of another run's last position."""
    for pair in pairs(drawer, "language"):
        clean, other = scenes(drawer, pair)
        asked = drawer.dataset.questions.filter(scene_id=pair["counterfactual_scene"], template="slot_to_object", slot=pair["slots"][1])
        if not asked.is_empty():
            prompt = asked["prompt"][0]
            here, there = len(pair["prompt"].split()), len(prompt.split())
            return [
                Panel(f"source: {prompt}", drawer.prompted(other, there, OTHER_RUN, OTHER_RUN)),
                Panel(f"clean: {pair['prompt']}", drawer.prompted(clean, here, CONTROL, CONTROL)),
                Panel("its last token takes the source's value", drawer.prompted(clean, here, CONTROL, OTHER_RUN)),
            ]
    return []


def ablation(drawer: Drawer) -> list[Panel]:
    """What erasure and neutral re-encoding leave of a scene."""
    for scene in mains(drawer):
        image, tokens, boxes = drawer.dataset.image(scene), drawer.dataset.tokens(scene, drawer.grid), drawer.dataset.boxes(scene)
        every = dots(zip(tokens.slots, tokens.strips, strict=True))
        colour = background_colour(image, boxes)
        neutral = Image.new("RGB", image.size, colour)
        # One draw of the places that are drawn at random: each object where the next one stands.
        moves = [moving(box, boxes, drawer.grid, *image.size, (slot + 1) % len(boxes)) for slot, box in enumerate(boxes)]
        canvases = [alone(image, box, drawer.grid, colour, move) for box, move in zip(boxes, moves, strict=True)]
        for mask, canvas, (rows, cols) in zip(tokens.objects, canvases, moves, strict=True):
            cells = np.flatnonzero(mask)
            neutral = drawer.laid(neutral, canvas, cells, cells + rows * drawer.grid.cols + cols)
        return [
            Panel("intact: tokens carry their slot", drawer.dotted(image, every)),
            Panel("erasure: the slot is taken out of each", drawer.dotted(image, dict.fromkeys(every, ERASED))),
            Panel("neutral: each object encoded alone, at a random slot's place", drawer.dotted(canvases[0], {})),
            Panel("neutral: its tokens laid back", drawer.dotted(neutral, {})),
        ]
    return []


def amplification(drawer: Drawer) -> list[Panel]:
    """How strongly tokens carry their slot at three strengths."""
    for scene in mains(drawer):
        image, tokens = drawer.dataset.image(scene), drawer.dataset.tokens(scene, drawer.grid)
        every = dots(zip(tokens.slots, tokens.strips, strict=True))
        sizes = (("alpha 0: the slot's part removed", 0.0), ("alpha 1: untouched", 0.7), ("alpha 4: the slot's part times four", 1.8))
        return [Panel(label, drawer.dotted(image, every, size)) for label, size in sizes]
    return []


EXPERIMENTS: dict[str, Callable[[Drawer], list[Panel]]] = {
    "probes": probes,
    "vision": vision,
    "language": language,
    "crosswise": crosswise,
    "mirror": mirror,
    "displaced": displaced,
    "last_token": last_token,
    "conflict": conflict,
    "ablation": ablation,
    "amplification": amplification,
}
OF_FIGURE = {
    "probes": "probes",
    "vision_flips": "vision",
    "language_flips": "language",
    "crosswise": "crosswise",
    "displaced": "displaced",
    "last_token": "last_token",
    "dominance": "conflict",
    "ablation": "ablation",
    "amplification": "amplification",
}
"""Figure of the report → the experiment that is pictured beside it."""


def mains(drawer: Drawer, axis: str | None = None) -> list[str]:
    """The main test scenes (of one axis), horizontal ones first."""
    chosen = drawer.dataset.scenes.filter(pl.col("variant") == "main", pl.col("split") == "test")
    chosen = chosen if axis is None else chosen.filter(axis=axis)
    return chosen.sort("axis", "scene_id")["scene_id"].to_list()


def pairs(drawer: Drawer, experiment: str) -> Sequence[Row]:
    """An experiment's pairs, horizontal ones that ask for an object first."""
    chosen = drawer.dataset.pairs.filter(experiment=experiment)
    return chosen.sort("axis", pl.col("template") != "slot_to_object", "pair_id").to_dicts()


def scenes(drawer: Drawer, pair: Row) -> tuple[Image.Image, Image.Image]:
    return drawer.dataset.image(pair["clean_scene"]), drawer.dataset.image(pair["counterfactual_scene"])


def blocks_of(drawer: Drawer, pair: Row, token_set: Literal["object", "strip"]) -> tuple[Cells, Cells] | None:
    """The cells of the pair's two slots that change places; None where the experiment leaves the pair out, on this grid."""
    first, second = pair["slots"]
    try:
        return matched_blocks(drawer.dataset.tokens(pair["clean_scene"], drawer.grid), first, second, token_set)
    except UserError:
        return None


def swapped(drawer: Drawer, clean: Image.Image, source: Image.Image, pair: Row, blocks: tuple[Cells, Cells]) -> Image.Image:
    """Each block takes what ``source`` has at the other, code and all."""
    to, of = np.concatenate(blocks), np.concatenate(blocks[::-1])
    given = {int(cell): SLOT_COLOURS[slot] for slot, cells in zip(reversed(pair["slots"]), blocks, strict=True) for cell in cells}
    return drawer.dotted(drawer.laid(clean, source, to, of), given)


def dots(masks: Iterable[tuple[int, np.ndarray]]) -> dict[int, str]:
    """Every cell of each slot's mask in the slot's colour."""
    return {int(cell): SLOT_COLOURS[slot] for slot, mask in masks for cell in np.flatnonzero(mask)}
