"""Pictures of the experiments: pixels show whose content a cell carries, dots whose slot's code."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from natural_set import write_natural_set
from vlm_spatial.figures.catalogue import FIGURES
from vlm_spatial.figures.experiments import EXPERIMENTS, OF_FIGURE, SIDE, Drawer, Panel, mains, pairs, pictures
from vlm_spatial.figures.theme import SLOT_COLOURS
from vlm_spatial.report.sketches import parts_of_one_grid
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.unit

GRID = TokenGrid(16, 16)
DOTS = [ImageColor.getrgb(colour) for colour in SLOT_COLOURS]
SETTINGS = {
    "kind": "squares",
    "axes": ["horizontal"],
    "scenes": {"train": 1, "validation": 1, "test": 2},
    "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 12}},
}


def run(folder: Path, pairs: int) -> Dataset:
    settings = SETTINGS | {"pairs": dict.fromkeys(("vision", "language", "conflict"), pairs)}
    scenes_stage(Job({"dataset": settings, "name": "test", "seed": 0}, {}, {"folder": folder}))
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return run(tmp_path_factory.mktemp("scenes") / "squares", pairs=2)


@pytest.fixture(scope="module")
def drawn(dataset: Dataset) -> dict[str, list[Panel]]:
    return pictures(dataset, GRID)


def cell_of(drawer: Drawer, scene: str, slot: int) -> int:
    """A cell inside an object of a pair, whose objects have 4 × 4 cells."""
    return int(np.flatnonzero(drawer.dataset.tokens(scene, GRID).objects[slot])[5])


def shown(image: Image.Image, cell: int, grid: TokenGrid = GRID) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Colours of a cell: beside its dot, and at its centre."""
    wide, high = image.width / grid.cols, image.height / grid.rows
    row, col = divmod(cell, grid.cols)
    # A fifth of the side from the corner lies outside of the dot and of the lines between cells.
    beside = image.getpixel((round((col + 0.2) * wide), round((row + 0.2) * high)))
    centre = image.getpixel((round((col + 0.5) * wide), round((row + 0.5) * high)))
    assert isinstance(beside, tuple)
    assert isinstance(centre, tuple)
    return beside, centre


# Experiment, panel, whose pair; then for the two slots: slot of the picture whose content is shown, whether it is the
# counterfactual's, and slot of the dot. This is what docs/method.md says of each experiment.
CASES = [
    ("vision", -1, "vision", ((0, True, 0), (1, True, 1))),
    ("vision", 2, "vision", ((0, True, 0), (1, True, 1))),
    ("language", -1, "language", ((1, True, 1), (0, True, 0))),
    ("crosswise", 2, "vision", ((0, False, 1), (1, False, 0))),
    ("crosswise", -1, "vision", ((0, False, 1), (1, False, 0))),
    ("conflict", 0, "conflict", ((0, False, 0), (1, False, 1))),
    ("conflict", -1, "conflict", ((1, False, 1), (0, False, 0))),
]


@pytest.mark.parametrize(("name", "panel", "experiment", "expected"), CASES)
def test_content_and_code_go_where_the_experiment_puts_them(
    name: str, panel: int, experiment: str, expected: tuple[tuple[int, bool, int], ...], dataset: Dataset, drawn: dict[str, list[Panel]]
) -> None:
    drawer = Drawer(dataset, GRID)
    pair = pairs(drawer, experiment)[0]
    image = drawn[name][panel].image
    for slot, (content, foreign, code) in zip(pair["slots"], expected, strict=True):
        source = pair["counterfactual_scene"] if foreign else pair["clean_scene"]
        plain = drawer.dotted(dataset.image(source), {})
        own = cell_of(drawer, pair["clean_scene"], slot)
        beside, centre = shown(image, own)
        assert beside == shown(plain, cell_of(drawer, source, pair["slots"][content]))[0]
        assert centre == DOTS[pair["slots"][code]]


def test_the_third_slot_is_left_alone(dataset: Dataset, drawn: dict[str, list[Panel]]) -> None:
    drawer = Drawer(dataset, GRID)
    for name, experiment in (("vision", "vision"), ("language", "language"), ("crosswise", "vision"), ("conflict", "conflict")):
        pair = pairs(drawer, experiment)[0]
        [third] = {0, 1, 2} - set(pair["slots"])
        cell = cell_of(drawer, pair["clean_scene"], third)
        assert shown(drawn[name][-1].image, cell) == shown(drawer.dotted(dataset.image(pair["clean_scene"]), {}), cell)


def test_the_mirrored_code_comes_to_the_content_that_stays(dataset: Dataset, drawn: dict[str, list[Panel]]) -> None:
    drawer = Drawer(dataset, GRID)
    scene = mains(drawer, "horizontal")[0]
    objects = dataset.tokens(scene, GRID).objects
    for slot in range(3):
        cell = int(np.flatnonzero(objects[slot])[0])
        assert shown(drawn["mirror"][2].image, cell)[1] == DOTS[2 - slot]


def test_displaced_objects_bring_the_code_of_their_own_slot(drawn: dict[str, list[Panel]]) -> None:
    panels = [np.asarray(panel.image) for panel in drawn["displaced"]]
    dotted = [[(pixels == colour).all(axis=2) for colour in DOTS] for pixels in panels]
    assert all(mask.any() for of_panel in dotted for mask in of_panel)
    # Permuted: at most one slot's code lies where the same slot's lay before.
    assert sum((before & after).any() for before, after in zip(dotted[0], dotted[-1], strict=True)) <= 1


def test_every_experiment_has_its_picture(drawn: dict[str, list[Panel]]) -> None:
    assert list(drawn) == list(EXPERIMENTS)
    assert all(max(panel.image.width, panel.image.height - 18) <= SIDE for panels in drawn.values() for panel in panels)
    assert OF_FIGURE.keys() <= {figure.name for figure in FIGURES}
    # The mirror form is in the figure of the crosswise one.
    assert set(OF_FIGURE.values()) == set(EXPERIMENTS) - {"mirror"}


def test_neutral_scenes_show_every_object_in_its_slot(dataset: Dataset) -> None:
    drawer = Drawer(dataset, GRID)
    intact, _, alone, laid = (panel.image for panel in pictures(dataset, drawer.grid)["ablation"])
    assert intact.size == alone.size == laid.size
    scene = dataset.scenes.filter(variant="main", split="test", axis="horizontal").sort("scene_id")["scene_id"][0]
    plain = drawer.dotted(dataset.image(scene), {})
    for slot, box in enumerate(dataset.boxes(scene)):
        middle = tuple(round((box[edge] + box[edge + 2]) / 2 * SIDE / 448) + 3 for edge in (0, 1))
        assert laid.getpixel(middle) == plain.getpixel(middle), slot


def test_an_experiment_without_pairs_has_no_picture(tmp_path: Path) -> None:
    none = run(tmp_path / "squares", pairs=0)
    assert set(pictures(none, GRID)) == {"probes", "mirror", "displaced", "ablation", "amplification"}


@pytest.mark.slow
def test_scenes_with_grids_of_their_own_are_drawn_on_them(tmp_path: Path) -> None:
    """Photographs of three shapes, each on a canvas of its own."""
    write_natural_set(tmp_path, 12)
    settings = {
        "kind": "coco",
        "images": str(tmp_path / "photos"),
        "annotations": str(tmp_path / "instances.json"),
        "canvas": "native",
        "axes": ["horizontal"],
        "scenes": {"train": 0, "validation": 0, "test": 12},
        "pairs": {"vision": 12, "language": 0, "conflict": 0},
    }
    scenes_stage(Job({"dataset": settings, "name": "test"}, {}, {"folder": tmp_path / "scenes"}))
    dataset = Dataset.open(tmp_path / "scenes")
    own = {f"{width}x{height}": [height // 28, width // 28] for width, height in dataset.scenes.select("width", "height").rows()}
    parts = list(parts_of_one_grid(dataset, TokenGrid(16, 16), own))
    assert {(grid.rows, grid.cols) for _, grid in parts} == {(12, 16), (16, 12), (16, 16)}
    assert sum(part.pairs.height for part, _ in parts) == dataset.pairs.height == 12
    for part, grid in parts:
        pair = pairs(Drawer(part, grid), "vision")[0]
        strips = dict(zip((0, 1, 2), part.tokens(pair["clean_scene"], grid).strips, strict=True))
        image = pictures(part, grid, ["vision"])["vision"][-1].image
        assert image.width * grid.rows == pytest.approx(image.height * grid.cols, rel=0.02)
        for slot in range(3):
            dotted = [shown(image, cell, grid)[1] == DOTS[slot] for cell in range(grid.size)]
            assert dotted == (strips[slot].tolist() if slot in pair["slots"] else [False] * grid.size)
    # One grid for all: the dataset as it is.
    assert list(parts_of_one_grid(dataset, GRID, {})) == [(dataset, GRID)]
