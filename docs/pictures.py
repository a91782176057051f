"""The pictures of docs/concepts.md, drawn by the project's own code: ``python docs/pictures.py``. A test holds them to it.

With a report, ``python docs/pictures.py results/report.html``, also the picture of its top (needs chromium).
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.figures.theme import SLOT_COLOURS
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.pairs import plan_pairs
from vlm_spatial.scenes.scene import Scene
from vlm_spatial.scenes.sources.settings import Pairs
from vlm_spatial.tokens import SceneTokens, TokenGrid, matched_blocks, scene_tokens

FOLDER = Path(__file__).parent / "images"
GRID = TokenGrid(16, 16)
SIDE, GAP, LABEL = 224, 12, 22
INK, NEUTRAL = "#1b1c1e", "#5c5e62"
SETTINGS = dataset_settings(kind="squares", pairs=Pairs(vision=1, language=1, conflict=1))


def panel(image: Image.Image, label: str) -> Image.Image:
    """A picture with its label below."""
    made = Image.new("RGB", (SIDE, SIDE + LABEL), "white")
    made.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    ImageDraw.Draw(made).text((0, SIDE + 4), label, fill=INK, font=ImageFont.load_default(14))
    return made


def row(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels side by side."""
    made = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE + LABEL), "white")
    for index, one in enumerate(panels):
        made.paste(one, (index * (SIDE + GAP), 0))
    return made


def tokens_of(scene: Scene) -> SceneTokens:
    return scene_tokens(scene.boxes, GRID, scene.width, scene.height, scene.axis)


def washed(image: Image.Image, cells: dict[int, str], boxes: bool, scene: Scene) -> Image.Image:
    """The picture with cells washed in colours, over the grid of visual tokens."""
    wide, high = scene.width / GRID.cols, scene.height / GRID.rows
    over = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(over)
    for token in range(GRID.size):
        place = (token % GRID.cols * wide, token // GRID.cols * high)
        box = (*place, place[0] + wide - 1, place[1] + high - 1)
        colour = cells.get(token)
        draw.rectangle(box, fill=None if colour is None else colour + "b0", outline="#00000040")
    if boxes:
        for slot, box in enumerate(scene.boxes):
            draw.rectangle(box, outline=SLOT_COLOURS[slot], width=5)
    return Image.alpha_composite(image.convert("RGBA"), over).convert("RGB")


def token_sets() -> Image.Image:
    """One scene, its visual tokens, and every token set on them."""
    scene = sample_scene(SETTINGS, "horizontal", "main", np.random.default_rng(4))
    image, tokens = render(scene), tokens_of(scene)
    panels = [panel(washed(image, {}, True, scene), "boxes, 16 by 16 visual tokens")]
    for name in ("object", "strip", "rim"):
        cells = {int(t): SLOT_COLOURS[slot] for slot in range(3) for t in np.flatnonzero(tokens.mask(name, [slot]))}
        panels.append(panel(washed(image, cells, False, scene), name))
    background = dict.fromkeys(np.flatnonzero(tokens.mask("background", [0, 1, 2])).tolist(), NEUTRAL)
    panels.append(panel(washed(image, background, False, scene), "background"))
    return row(panels)


def variants() -> Image.Image:
    """The kinds of scenes."""
    generator = np.random.default_rng(11)
    main = sample_scene(SETTINGS, "horizontal", "main", generator)
    vertical = sample_scene(SETTINGS, "vertical", "main", generator)
    moved = [sample_scene(SETTINGS, "horizontal", "decorrelated", generator) for _ in range(2)]
    blank = sample_scene(SETTINGS, "horizontal", "blank", generator)
    labelled = [(main, "main, horizontal"), (vertical, "main, vertical"), *((scene, "decorrelated") for scene in moved), (blank, "blank")]
    return row([panel(render(scene), label) for scene, label in labelled])


def exchanges() -> Image.Image:
    """A pair of each experiment: what is replaced by what."""
    scenes, pairs = plan_pairs(SETTINGS, seed=0)
    by_name = {planned.scene_id: planned.scene for planned in scenes}
    rows = []
    for experiment in ("vision", "language", "conflict"):
        pair = next(pair for pair in pairs if pair.experiment == experiment and pair.axis == "horizontal")
        clean, other = by_name[pair.clean_scene], by_name[pair.counterfactual_scene]
        first, second = pair.slots
        tokens = tokens_of(clean)
        if experiment == "conflict":
            blocks = matched_blocks(tokens, first, second, "strip")
            cells = {int(t): SLOT_COLOURS[slot] for slot, block in zip((first, second), blocks, strict=True) for t in block}
            swapped = {int(t): SLOT_COLOURS[slot] for slot, block in zip((second, first), blocks, strict=True) for t in block}
            labels = ["conflict: a picture", "its blocks of tokens", "exchanged at the connector"]
            shown = [render(clean), washed(render(clean), cells, False, clean), washed(render(clean), swapped, False, clean)]
        else:
            of = "strip" if experiment == "vision" else "object"
            crossed = experiment == "language"
            # The colour says whose slot's values a cell gets.
            given = dict(zip(pair.slots, reversed(pair.slots) if crossed else pair.slots, strict=True))
            cells = {int(t): SLOT_COLOURS[given[slot]] for slot in pair.slots for t in np.flatnonzero(tokens.mask(of, [slot]))}
            labels = [f"{experiment}: clean", "counterfactual", f"{of} tokens take its values" + (", crossed" if crossed else "")]
            shown = [render(clean), render(other), washed(render(clean), cells, False, clean)]
        rows.append(row([panel(image, label) for image, label in zip(shown, labels, strict=True)]))
    made = Image.new("RGB", (rows[0].width, len(rows) * (rows[0].height + GAP) - GAP), "white")
    for index, one in enumerate(rows):
        made.paste(one, (0, index * (one.height + GAP)))
    return made


def top_of_report(report: Path, target: Path) -> None:
    """Photograph the first screen of a report."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1000", "--virtual-time-budget=20000"]
    subprocess.run(["chromium", *flags, f"--screenshot={target}", report.resolve().as_uri()], check=True, capture_output=True)
    Image.open(target).quantize(64).save(target, optimize=True)
    print(target)


PICTURES = {"token_sets": token_sets, "variants": variants, "exchanges": exchanges}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw().save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png")
    for given in sys.argv[1:]:
        top_of_report(Path(given), FOLDER / "report.png")
