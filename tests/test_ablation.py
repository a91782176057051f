"""Position-neutral re-encoding, and the ablation stage from end to end."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from stage_inputs import make_reader, make_scenes, make_store, run_ablation
from vlm_spatial.activations.store import Store
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.ablation import GridScenes, SceneInputs, language_ablation, vision_erasures
from vlm_spatial.interventions.ablation_check import CHECK_SCHEMA, read_slots
from vlm_spatial.interventions.accuracy import ACCURACY_SCHEMA
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.neutral import NeutralEncoder, Place
from vlm_spatial.interventions.sweep import SCHEMA, Condition
from vlm_spatial.measures import interventions as summaries
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.probe import Probe
from vlm_spatial.scenes.alone import alone, background_colour, centring, moving
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.ablation import ordering_sites
from vlm_spatial.tokens import TokenGrid, object_tokens

pytestmark = pytest.mark.model

SIDE = 96
GRID = TokenGrid(6, 6)


@given(
    left=st.integers(0, 60),
    top=st.integers(0, 60),
    width=st.integers(8, 36),
    height=st.integers(8, 36),
    cells=st.integers(-5, 5),
)
def test_boxes_that_lie_alike_in_their_cells_come_to_lie_on_the_same_cells(
    left: int, top: int, width: int, height: int, cells: int
) -> None:
    box = (left, top, left + width, top + height)
    moved = (left + 16 * cells, top, left + 16 * cells + width, top + height)
    rows, cols = centring(box, GRID, SIDE, SIDE)
    for edge, steps in ((box[0], cols), (box[1], rows)):
        assert edge + 16 * steps >= 0
    assert box[2] + 16 * cols <= SIDE
    assert box[3] + 16 * rows <= SIDE
    # At most half a cell from the centre, which whole cells can always reach here.
    assert abs((box[0] + box[2]) / 2 + 16 * cols - SIDE / 2) <= 8 + 1e-4
    assert abs((box[1] + box[3]) / 2 + 16 * rows - SIDE / 2) <= 8 + 1e-4
    if moved[0] >= 0 and moved[2] <= SIDE:
        assert centring(moved, GRID, SIDE, SIDE) == (rows, cols - cells)
        # The object's tokens are the same cells of the canvas.
        before = np.flatnonzero(object_tokens(box, GRID, SIDE, SIDE)) + rows * 6 + cols
        after = np.flatnonzero(object_tokens(moved, GRID, SIDE, SIDE)) + rows * 6 + cols - cells
        np.testing.assert_array_equal(before, after)


def test_an_object_is_moved_pixel_by_pixel_onto_a_plain_canvas() -> None:
    image = Image.new("RGB", (SIDE, SIDE), (200, 210, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((3, 20, 18, 40), fill=(255, 0, 0))
    draw.rectangle((60, 20, 80, 40), fill=(0, 0, 255))
    boxes = [(3.0, 20.0, 19.0, 41.0), (60.0, 20.0, 81.0, 41.0)]
    colour = background_colour(image, boxes)
    assert colour == (200, 210, 220)
    assert centring(boxes[0], GRID, SIDE, SIDE) == (1, 2)
    canvas = alone(image, boxes[0], GRID, colour, (1, 2))
    expected = Image.new("RGB", (SIDE, SIDE), (200, 210, 220))
    ImageDraw.Draw(expected).rectangle((3 + 32, 20 + 16, 18 + 32, 40 + 16), fill=(255, 0, 0))
    assert np.array_equal(np.asarray(canvas), np.asarray(expected))


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    boxes=st.integers(0, 3),
    levels=st.integers(1, 256),
)
def test_the_background_is_the_median_outside_all_boxes(seed: int, size: tuple[int, int], boxes: int, levels: int) -> None:
    generator, (width, height) = np.random.default_rng(seed), size
    pixels = generator.integers(0, levels, (height, width, 3), dtype=np.uint8)
    outside = np.ones((height, width), dtype=bool)
    drawn = []
    for _ in range(boxes):
        left, right = np.sort(generator.uniform(0, width, 2))
        top, bottom = np.sort(generator.uniform(0, height, 2))
        drawn.append((left, top, right, bottom))
        outside[int(np.floor(top)) : int(np.ceil(bottom)), int(np.floor(left)) : int(np.ceil(right))] = False
    expected = np.median(pixels[outside] if outside.any() else pixels.reshape(-1, 3), axis=0)
    assert background_colour(Image.fromarray(pixels), drawn) == tuple(int(value) for value in expected)


def test_an_object_comes_to_lie_where_another_one_lies() -> None:
    boxes = [(2.0, 20.0, 20.0, 38.0), (39.0, 30.0, 57.0, 48.0), (70.0, 25.0, 88.0, 43.0)]
    for slot, cols in enumerate((0, 2, 4)):
        assert moving(boxes[0], boxes, GRID, SIDE, SIDE, slot) == (0, cols)
    upright = [(top, left, bottom, right) for left, top, right, bottom in boxes]
    assert moving(upright[2], upright, GRID, SIDE, SIDE, 1) == (-2, 0)


def test_where_an_object_is_encoded_says_nothing_of_its_slot(tiny_scenes: Path, tmp_path: Path) -> None:
    """Drawn at random for each object by itself; at the centre all would say the middle."""
    adapter = load_adapter(make_reader(tmp_path / "reader", "gemma3"), device="cpu")
    encoder = NeutralEncoder(adapter, Dataset.open(tiny_scenes), "?")
    boxes = [(16.0 * left, 32.0, 16.0 * left + 16, 48.0) for left in (0, 2, 4)]
    found = np.array(
        [[2 * slot + move[1] for slot, move in enumerate(encoder._moves(str(n), boxes, GRID, (SIDE, SIDE)))] for n in range(600)]
    )
    for slot in range(3):
        counts = np.bincount(found[:, slot] // 2, minlength=3)
        assert counts.sum() == 600
        assert (abs(counts - 200) < 50).all()
    assert abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.15


def test_a_box_as_large_as_the_canvas_stays_where_it_is() -> None:
    assert centring((0.0, 0.0, 96.0, 95.0), GRID, SIDE, SIDE) == (0, 0)


@pytest.fixture(scope="module")
def tiny_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "tiny")


@pytest.mark.parametrize(("family", "place"), [*((family, "random") for family in NAMES), ("gemma3", "centre"), ("qwen2_vl", "own")])
def test_neutral_tokens_hold_the_object_alone_as_it_is_at_another_place(
    tiny_scenes: Path, family: str, place: Place, adapter_of: Callable[[str], Adapter]
) -> None:
    dataset, adapter = Dataset.open(tiny_scenes), adapter_of(family)
    encoder = NeutralEncoder(adapter, dataset, dataset.questions["prompt"][0], batch=4, place=place)
    scene = dataset.scenes.filter(pl.col("variant") == "main")["scene_id"][0]
    grid = adapter.grid(*dataset.size(scene))
    made = encoder.edit(scene)(torch.zeros(2, grid.size, *adapter.site_shape("connector")))
    assert torch.equal(made[0], made[1])
    image, boxes = dataset.image(scene), dataset.boxes(scene)
    colour = background_colour(image, boxes)
    plain = adapter.run_vision(adapter.prepare([Image.new("RGB", image.size, colour)], ["?"]))["connector"][0]
    tokens = dataset.tokens(scene, grid)
    empty = ~tokens.objects.any(axis=0)
    torch.testing.assert_close(made[0][empty], plain[empty], rtol=1e-4, atol=1e-5)
    drawn = np.random.default_rng([0, *scene.encode()]).integers(3, size=3)
    for slot, box in enumerate(boxes):
        of_place = {"own": (0, 0), "centre": centring(box, grid, *image.size)}
        rows, cols = of_place.get(place) or moving(box, boxes, grid, *image.size, int(drawn[slot]))
        canvas = alone(image, box, grid, colour, (rows, cols))
        encoded = adapter.run_vision(adapter.prepare([canvas], ["?"]))["connector"][0]
        cells = np.flatnonzero(tokens.objects[slot])
        torch.testing.assert_close(made[0][cells], encoded[cells + rows * grid.cols + cols], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ablation_from_end_to_end(tiny_scenes: Path, tmp_path: Path) -> None:
    """On one family; all of them are in tests/test_every_family.py."""
    reader = make_reader(tmp_path / "reader", "gemma3")
    inputs = make_store(reader, tiny_scenes, tmp_path)
    stage = {"questions": 9, "fit_scenes": 4}
    tables = run_ablation(reader, tiny_scenes, tmp_path, stage, ["connector", "language.0"], **inputs)
    sweep, asked, check = tables["sweep"], tables["accuracy"], tables["check"]
    assert [dict(table.schema) for table in (sweep, asked, check)] == [SCHEMA, ACCURACY_SCHEMA, CHECK_SCHEMA]
    # The intact sweep is the interchange's; the ablated ones have its pairs, sites and token sets.
    keys = ["pair_id", "site", "token_set"]
    intact = tables["interchange"].filter(experiment="language").select(keys).rows()
    assert {
        name[0]: part.select(keys).rows() for name, part in sweep.filter(experiment="language").group_by("condition", maintain_order=True)
    } == {
        "erasure": intact,
        "neutral": intact,
    }
    assert {"intact", "erasure", "neutral"} <= set(asked["condition"])
    dataset = Dataset.open(tiny_scenes)
    answers = dict(dataset.questions.select("question_id", "answer").iter_rows())
    for row in asked.iter_rows(named=True):
        assert row["correct"] == (row["predicted"] == answers[row["question_id"]])
        assert (row["log_odds"] > 0) == row["correct"]
    assert {"own_place", "erasure_shuffled"} <= set(asked["condition"])
    assert set(sweep["condition"]) == {"erasure", "neutral"}
    assert check.height == 5 * 2 * 2 * 2 * 2 * 3  # conditions, axes, test scenes, token sets, probes, slots
    assert (check["correct"] == (check["predicted"] == check["slot"])).all()
    # Each condition answers the same questions; the ablations do something, and the intact model is the untouched one.
    odds = asked.filter(pl.col("condition").is_in(["intact", "erasure", "neutral"]))
    odds = odds.pivot("condition", index="question_id", values="log_odds")
    assert odds.null_count().sum_horizontal().item() == 0
    assert (odds["intact"] != odds["erasure"]).all()
    assert (odds["intact"] != odds["neutral"]).all()
    adapter = load_adapter(reader, device="cpu")
    question = dataset.questions.row(by_predicate=pl.col("question_id") == asked["question_id"][0], named=True)
    logits = adapter.run(adapter.prepare([dataset.image(question["scene_id"])], [question["prompt"]]))[0][0]
    tokens = list(AnswerReader.of(adapter, question["candidates"]).wanted(()))
    assert asked["predicted"][0] == question["candidates"][int(logits[tokens].argmax())]


@pytest.mark.slow
def test_the_readout_tells_an_ablation_that_works_from_one_that_does_not(tiny_scenes: Path, tmp_path: Path) -> None:
    """Slots written into the connector's values by hand: readable when intact, moved elsewhere, or gone."""
    made = make_reader(tmp_path / "reader", "gemma3")
    inputs = make_store(made, tiny_scenes, tmp_path)
    scenes = GridScenes(load_adapter(made, device="cpu"), Dataset.open(tiny_scenes))
    store = Store.open(inputs["store"], inputs["manifest"])
    features = scenes.adapter.site_shape("connector")[1]

    def written(scene: str, first: int) -> torch.Tensor:
        values = torch.zeros(1, store.grid.size, 1, features)
        for slot in range(3):
            values[0, torch.as_tensor(scenes.tokens(scene).strips[slot]), 0, first + slot] = 1.0
        return values

    conditions = [
        Condition("told", lambda scene: lambda _values: written(scene, 0)),
        Condition("moved", lambda scene: lambda _values: written(scene, 5)),
        Condition("gone", lambda _scene: torch.zeros_like),
    ]
    weight = np.zeros((3, features), dtype=np.float32)
    weight[[0, 1, 2], [0, 1, 2]] = 1
    probe = Probe(weight, np.zeros(3), np.zeros(features), np.ones(features), weight, 1.0)
    table = read_slots(scenes, store, dict.fromkeys(scenes.axes, probe), conditions, 6)
    found = {
        (name, source): summaries.slot_readout(table, name, token_set=token_set, probe=source).estimate
        for name in ("told", "moved", "gone")
        for source in ("saved", "refitted")
        for token_set in ("object", "rim")
    }
    third = pytest.approx(1 / 3)
    assert found == {
        ("told", "saved"): 1,
        ("told", "refitted"): 1,
        ("moved", "saved"): third,
        ("moved", "refitted"): 1,
        ("gone", "saved"): third,
        ("gone", "refitted"): third,
    }


@pytest.mark.slow
def test_a_store_of_another_model_is_refused(tiny_scenes: Path, tmp_path: Path) -> None:
    inputs = make_store(make_reader(tmp_path / "one", "gemma3"), tiny_scenes, tmp_path)
    other = make_reader(tmp_path / "two", "qwen2_vl")
    with pytest.raises(UserError, match="another model"):
        run_ablation(other, tiny_scenes, tmp_path, {}, ["connector"], **inputs)


def sweep_rows(condition: str, layers: dict[int, bool]) -> pl.DataFrame:
    rows = [
        {
            "pair_id": "language-horizontal-00000",
            "experiment": "language",
            "axis": "horizontal",
            "condition": condition,
            "site": f"language.{layer}",
            "layer": layer,
            "token_set": "object",
            "included": True,
            "outcome": "ordering" if follows else "stay",
        }
        for layer, follows in layers.items()
    ]
    return pl.DataFrame(rows)


def test_the_ordering_is_erased_at_the_peak_of_its_own_condition_or_else_of_the_intact_model() -> None:
    intact = sweep_rows("intact", {0: False, 3: True, 5: False})
    none = sweep_rows("neutral", {0: False, 3: False, 5: False})
    own = sweep_rows("neutral", {0: False, 3: False, 5: True})
    model: Any = SimpleNamespace(language_blocks=range(7))
    assert ordering_sites(model, pl.concat([intact, own]), "neutral", "peak") == ["language.5"]
    assert ordering_sites(model, pl.concat([intact, own]), "neutral", "from_peak") == ["language.5", "language.6"]
    assert ordering_sites(model, pl.concat([intact, none]), "neutral", "peak") == ["language.3"]
    assert ordering_sites(model, none, "neutral", "peak") == []


@pytest.mark.slow
def test_erasing_at_several_layers_leaves_no_slot_in_the_object_tokens_of_any(tiny_scenes: Path, tmp_path: Path) -> None:
    scenes = GridScenes(load_adapter(make_reader(tmp_path / "reader", "qwen2_vl"), device="cpu"), Dataset.open(tiny_scenes))
    sites = ["language.0", "language.1"]
    edits_of = language_ablation(scenes, SceneInputs(scenes, 4), sites, lambda _scene: {}, limit=6, condition="intact")
    assert edits_of is not None
    prompts = dict(scenes.dataset.questions.select("scene_id", "prompt").iter_rows())
    for site in sites:
        x, y = [], []
        for name in scenes.of("horizontal", "train"):
            prepared = scenes.adapter.prepare([scenes.dataset.image(name)], [prompts[name]])
            edits = dict(edits_of(name))
            last = edits.pop(site)
            captured = scenes.adapter.run(prepared, edits={s: e for s, e in edits.items() if s < site}, capture=[site])[1][site]
            for slot, mask in enumerate(scenes.tokens(name).objects):
                x.append(last(captured)[0, torch.as_tensor(mask), 0].double().numpy())
                y.append(np.eye(3)[[slot] * int(mask.sum())])
        values, slots = np.concatenate(x), np.concatenate(y)
        before = np.abs(values).mean()
        assert np.abs((values - values.mean(0)).T @ (slots - slots.mean(0)) / len(slots)).max() < 1e-4 * before


def test_inputs_are_made_once_where_they_may_be_kept_and_are_the_same(
    tiny_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = GridScenes(load_adapter(make_reader(tmp_path / "reader", "gemma3"), device="cpu"), Dataset.open(tiny_scenes))
    names = scenes.of("horizontal", "train", 5)
    read: list[str] = []
    image = Dataset.image
    monkeypatch.setattr(Dataset, "image", lambda self, scene: read.append(scene) or image(self, scene))
    kept, forgetful = SceneInputs(scenes, 2), SceneInputs(scenes, 2, limit=0)
    for inputs, times in ((kept, 1), (forgetful, 2)):
        read.clear()
        passes = [list(inputs.batches(names, "inputs")) for _ in range(2)]
        assert sorted(read) == sorted(names * times)
        for (group, prepared), (again, other), start in zip(*passes, range(0, len(names), 2), strict=True):
            assert group == again == tuple(names[start : start + 2])
            prompts = [scenes.dataset.questions.filter(pl.col("scene_id") == name)["prompt"][0] for name in group]
            expected = scenes.adapter.prepare([image(scenes.dataset, name) for name in group], prompts)
            for key, value in expected.inputs.items():
                assert torch.equal(prepared.inputs[key], value)
                assert torch.equal(other.inputs[key], value)


@pytest.mark.slow
def test_photos_too_few_to_train_on_leave_the_erasures_out(tiny_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_reader(tmp_path / "reader", "gemma3")
    inputs = make_store(made, tiny_scenes, tmp_path)
    opened = Dataset.open(tiny_scenes)
    untrained = Dataset(opened.folder, opened.scenes.filter(pl.col("split") != "train"), opened.questions, opened.pairs)
    scenes = GridScenes(load_adapter(made, device="cpu"), untrained)
    assert vision_erasures(scenes, Store.open(inputs["store"], inputs["manifest"])) is None
    assert language_ablation(scenes, SceneInputs(scenes, 4), ["language.0"], lambda _scene: {}, limit=6, condition="intact") is None
    assert capsys.readouterr().err.count("no training scene on the horizontal and vertical axis") == 2


@pytest.mark.slow
def test_nothing_to_ablate_gives_an_empty_table(tiny_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_reader(tmp_path / "reader", "gemma3")
    photos = tmp_path / "photos"
    shutil.copytree(tiny_scenes, photos)
    for name in ("scenes", "questions", "pairs"):
        table = pl.read_parquet(tiny_scenes / f"{name}.parquet")
        keep = pl.col("split") != "test" if name != "pairs" else pl.lit(False)
        table.filter(keep).write_parquet(photos / f"{name}.parquet")
    inputs = make_store(made, photos, tmp_path)
    tables = run_ablation(made, photos, tmp_path, {}, ["connector"], **inputs)
    for name, schema in (("sweep", SCHEMA), ("accuracy", ACCURACY_SCHEMA), ("check", CHECK_SCHEMA)):
        assert tables[name].is_empty()
        assert dict(tables[name].schema) == schema
    assert "nothing to ablate" in capsys.readouterr().err
