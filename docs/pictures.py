"""The pictures of docs/, drawn by the project's own code from the default run's scenes: ``python docs/pictures.py``. A test holds them so.

With a report, ``python docs/pictures.py results/report.html``, also the picture of its top (needs chromium).
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm_spatial.config.reading import load_config
from vlm_spatial.figures import experiments
from vlm_spatial.figures.experiments import Drawer, Panel, dots
from vlm_spatial.figures.theme import CONTROL, SLOT_COLOURS
from vlm_spatial.files import write_parquet
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.sources.registry import source_of
from vlm_spatial.scenes.tables import pairs_table, questions_table, scenes_table
from vlm_spatial.tokens import TokenGrid

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs" / "images"
GRID = TokenGrid(16, 16)
"""Of Gemma-3 and Qwen2-VL at 448 pixels."""
SHOWN = 8
"""Scenes of each kind that are drawn."""
GAP, LINE = 12, 17
INK = "#1b1c1e"


@cache
def scenes() -> Dataset:
    """The first scenes of each kind, and those of the first pairs, of the default run's ``squares``."""
    config = load_config(REPOSITORY / "workflow_config.yaml")
    settings = config.datasets["squares"]
    planned = source_of(settings.kind).plan(settings, config.seed)
    pairs = [pair for pair in planned.pairs if pair.pair_id.endswith(tuple(f"{index:05d}" for index in range(SHOWN)))]
    of_pairs = {name for pair in pairs for name in (pair.clean_scene, pair.counterfactual_scene)}
    first = tuple(f"test-{index:05d}" for index in range(SHOWN))
    chosen = [
        item for item in planned.scenes if item.scene_id in of_pairs or (item.scene.variant != "pair" and item.scene_id.endswith(first))
    ]
    folder = Path(tempfile.mkdtemp())
    names = {item.scene_id for item in chosen}
    write_images(folder, {name: drawn for name, drawn in planned.drawings.items() if name in names}, planned.draw)
    write_parquet(scenes_table(chosen), folder / "scenes.parquet")
    write_parquet(questions_table(chosen, settings.templates, settings.wording), folder / "questions.parquet")
    write_parquet(pairs_table(pairs), folder / "pairs.parquet")
    return Dataset.open(folder)


def row(panels: Sequence[Panel]) -> Image.Image:
    """Panels side by side, each with its label below."""
    font = ImageFont.load_default(13)
    labels = [wrapped(panel.label, panel.image.width, font) for panel in panels]
    height = max(panel.image.height + 4 + LINE * len(lines) for panel, lines in zip(panels, labels, strict=True))
    made = Image.new("RGB", (sum(panel.image.width + GAP for panel in panels) - GAP, height), "white")
    left = 0
    for panel, lines in zip(panels, labels, strict=True):
        made.paste(panel.image, (left, 0))
        for index, line in enumerate(lines):
            ImageDraw.Draw(made).text((left, panel.image.height + 4 + LINE * index), line, fill=INK, font=font)
        left += panel.image.width + GAP
    return made


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of words that are no wider than ``width`` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def token_sets() -> Image.Image:
    """One scene, its visual tokens, and every token set on them."""
    drawer = Drawer(scenes(), GRID)
    scene = experiments.mains(drawer)[0]
    image, tokens = drawer.dataset.image(scene), drawer.dataset.tokens(scene, GRID)
    boxed = image.copy()
    for slot, box in enumerate(drawer.dataset.boxes(scene)):
        ImageDraw.Draw(boxed).rectangle(box, outline=SLOT_COLOURS[slot], width=6)
    panels = [Panel("boxes, 16 by 16 visual tokens", drawer.dotted(boxed, {}))]
    for name in ("object", "strip", "rim"):
        of_each = [(slot, tokens.mask(name, [slot])) for slot in range(3)]
        panels.append(Panel(name, drawer.dotted(image, dots(of_each))))
    background = dict.fromkeys(np.flatnonzero(tokens.mask("background", [0, 1, 2])).tolist(), CONTROL)
    return row([*panels, Panel("background", drawer.dotted(image, background))])


def variants() -> Image.Image:
    """The kinds of scenes."""
    names = ("main-horizontal", "main-vertical", "decorrelated-horizontal", "decorrelated-vertical", "blank-horizontal")
    return row([Panel(name.replace("-", ", "), scenes().image(f"{name}-test-00000").resize((224, 224))) for name in names])


def experiment(name: str) -> Callable[[], Image.Image]:
    """The picture of an experiment: what is replaced by what."""
    return lambda: row(experiments.EXPERIMENTS[name](Drawer(scenes(), GRID)))


def top_of_report(report: Path, target: Path) -> None:
    """Photograph the first screen of a report."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1000", "--virtual-time-budget=20000"]
    subprocess.run(["chromium", *flags, f"--screenshot={target}", report.resolve().as_uri()], check=True, capture_output=True)
    Image.open(target).quantize(64).save(target, optimize=True)
    print(target)


PICTURES = {"token_sets": token_sets, "variants": variants} | {name: experiment(name) for name in experiments.EXPERIMENTS}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw().save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png")
    for given in sys.argv[1:]:
        top_of_report(Path(given), FOLDER / "report.png")
