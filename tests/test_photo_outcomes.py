"""Experiments 3 to 6 on merged photos, whose pairs differ from drawn ones: boxes of their own, one axis, a grid that is not square."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from photo_set import THINGS, write_photo_set
from stage_inputs import job, make_store, run_ablation
from symbolic_models import NamedDataset, Reader, SymbolicEngine, by_code, by_place, by_sight, by_strip
from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.labels import INTENDED
from vlm_spatial.interventions.language import conflict_plan, exchangeable, language_plan
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.sweep import SCHEMA, run_sweep
from vlm_spatial.interventions.vision import vision_plan
from vlm_spatial.measures import interventions as summaries
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.report.provenance import warnings
from vlm_spatial.report.results import Model, Results
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.photo_alignment import PHOTO_GRIDS
from vlm_spatial.scenes.questions import vocabulary
from vlm_spatial.stages.conflict import conflict
from vlm_spatial.stages.interchange import interchange
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = [pytest.mark.model, pytest.mark.slow]

REFERENCES = ("plate", "book")
PAIRS = {"vision": 6, "language": 6, "conflict": 6}
FAMILIES = ("gemma3", "qwen2_vl")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of six things with two references, and the file of their boxes."""
    folder = tmp_path_factory.mktemp("photos")
    things = tuple(thing for thing in THINGS if thing not in REFERENCES)
    truth = write_photo_set(folder, REFERENCES, things, relations=("left_of", "right_of"))
    (folder / "boxes.json").write_text(json.dumps(truth), encoding="utf-8")
    return folder


def made(root: Path, folder: Path, scenes: dict[str, int]) -> Path:
    dataset = {"kind": "whatsup", "root": str(root), "boxes": str(root / "boxes.json"), "scenes": scenes, "pairs": PAIRS}
    scenes_stage(Job({"dataset": dataset, "name": "photos", "seed": 0}, {}, {"folder": folder}))
    return folder


@pytest.fixture(scope="module")
def merged(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes of all photos, in the test split."""
    return made(root, tmp_path_factory.mktemp("scenes") / "photos", {"train": 0, "validation": 0, "test": 6})


@pytest.fixture(scope="module")
def dataset(merged: Path) -> NamedDataset:
    """Only pairs that ask for the object in a slot, which is all that the symbolic models understand."""
    opened = Dataset.open(merged)
    return NamedDataset(opened.folder, opened.scenes, opened.questions, opened.pairs.filter(template="slot_to_object"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random checkpoint of each family that knows the photos' words."""
    words = [*vocabulary(dataset_settings(kind="objects")), *THINGS]
    return {name: new_checkpoint(tmp_path_factory.mktemp("readers") / name, name, words, seed=3) for name in FAMILIES}  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", PHOTO_GRIDS, ids=lambda grid: f"{grid.rows}x{grid.cols}")
@pytest.mark.parametrize(("read", "ordering", "moves"), [(by_code, "ordering", "stay"), (by_place, "content", "move")])
def test_language_and_conflict_tell_code_from_place(
    dataset: NamedDataset, grid: TokenGrid, read: Reader, ordering: str, moves: str
) -> None:
    engine = SymbolicEngine(dataset, read, grid=grid)
    language = exchangeable(read_cases(dataset, engine.adapter, "language"))
    table = run_sweep(engine, dataset, language, language_plan(["connector", "language.0", "language.1"], seed=0))
    assert set(table.filter(token_set="object")["outcome"]) == {ordering}
    assert set(table.filter(token_set="random")["outcome"]) == {"stay"}
    rate = summaries.ordering_rate(table, "language.1")
    assert (rate.estimate, rate.n) == (float(ordering == "ordering"), PAIRS["language"])
    assert summaries.ordering_peak(table).n == PAIRS["language"]
    disagreeing = exchangeable(read_cases(dataset, engine.adapter, "conflict"))
    table = run_sweep(engine, dataset, disagreeing, conflict_plan(("object",)))
    assert set(table["outcome"]) == {moves}
    found = summaries.dominance(table, "object", axis="horizontal")
    assert (found.estimate, found.n) == (1 if moves == "stay" else -1, len(disagreeing))
    assert summaries.dominance(table, "object", axis="vertical").n == 0


@pytest.mark.parametrize("grid", PHOTO_GRIDS, ids=lambda grid: f"{grid.rows}x{grid.cols}")
def test_vision_tells_objects_from_strips_though_the_two_photos_differ(dataset: NamedDataset, grid: TokenGrid) -> None:
    sets = ("object", "strip", "rim", "background", "all")
    flips = {}
    for read, spread in ((by_sight, False), (by_strip, True)):
        engine = SymbolicEngine(dataset, read, spread, grid)
        cases = read_cases(dataset, engine.adapter, "vision")
        table = run_sweep(engine, dataset, cases, vision_plan(["connector"], sets, ("counterfactual",), 0))
        assert table["included"].all()
        rates = {name: summaries.flip_rate(table, name, axis="horizontal") for name in sets}
        assert {rate.n for rate in rates.values()} == {len(cases)} == {2}
        flips[spread] = {name: rate.estimate for name, rate in rates.items()}
    assert flips[False] == {"object": 1, "strip": 1, "rim": 0, "background": 0, "all": 1}
    assert {name: flips[True][name] for name in ("strip", "all")} == {"strip": 1, "all": 1}
    # On coarse grids a photo's object is most of its strip.
    assert flips[True]["object"] == 0 or grid.size < 200


@pytest.mark.parametrize("family", FAMILIES)
def test_interchange_and_conflict_from_end_to_end(merged: Path, reader: dict[str, Path], family: str, tmp_path: Path) -> None:
    stage = {"vision_sites": ["vision.1", "connector"], "language_sites": ["connector", "language.0"]}
    for name in ("interchange", "conflict"):
        (tmp_path / name).mkdir()
    interchange(job(reader[family], merged, tmp_path / "interchange", "table", stage))
    conflict(job(reader[family], merged, tmp_path / "conflict", "table", {}))
    pairs = Dataset.open(merged).pairs
    swept, exchanged = (pl.read_parquet(tmp_path / name / "table.parquet") for name in ("interchange", "conflict"))
    for table in (swept, exchanged):
        assert dict(table.schema) == SCHEMA
        assert set(table["axis"]) == {"horizontal"}
    # Pairs × sites × token sets × sources; pairs × sites × (blocks, random); pairs × (object, strip).
    heights = Counter(swept["experiment"].to_list() + exchanged["experiment"].to_list())
    # Photos whose objects lie on unlike cells have no crosswise form, but always the mirror form (see test_crosswise.py).
    heights.pop("crosswise", 0)
    assert heights.pop("mirror") > 0
    assert heights.pop("last_token") > 0
    swept = swept.filter(pl.col("experiment").is_in(["vision", "language"]))
    assert heights == {"vision": 6 * 2 * 8 * 2, "language": 6 * 2 * 2, "conflict": 6 * 2}
    whole = swept.filter(experiment="vision", token_set="all", source="counterfactual")
    assert (whole["predicted"] == whole["counterfactual_predicted"]).all()
    told = pl.concat([swept, exchanged]).join(pairs.select("pair_id", "hypotheses", "clean_answer", "counterfactual_answer"), on="pair_id")
    for row in told.iter_rows(named=True):
        assert row["outcome"] == next((name for name, answer in row["hypotheses"].items() if answer == row["predicted"]), "other")
        right = row["clean_predicted"] == row["clean_answer"] and row["counterfactual_predicted"] == row["counterfactual_answer"]
        assert row["included"] == right
        if row["outcome"] == INTENDED[row["experiment"]]:
            assert row["log_odds"] >= 0
        if row["outcome"] == "content":
            assert row["content_log_odds"] >= max(0, row["log_odds"])
    answered = swept.filter(experiment="vision", token_set="strip", site="connector", source="counterfactual")
    rate = summaries.flip_rate(swept, "strip")
    assert rate.n == answered["included"].sum()
    assert summaries.excluded(swept, "vision") == 6 - rate.n


def test_ablation_from_end_to_end(root: Path, reader: dict[str, Path], tmp_path: Path) -> None:
    """On a grid that is not square: 4 × 7 cells."""
    folder = made(root, tmp_path / "photos", {"train": 12, "validation": 4, "test": 24})
    inputs = make_store(reader["qwen2_vl"], folder, tmp_path)
    stage = {"questions": 108, "fit_scenes": 4}
    tables = run_ablation(reader["qwen2_vl"], folder, tmp_path, stage, ["connector", "language.0"], **inputs)
    answers, dataset = tables["accuracy"], Dataset.open(folder)
    asked = dataset.questions.filter(variant="main", split="test")
    assert asked.height == 12 * 9
    assert set(answers["axis"]) == set(tables["sweep"]["axis"]) == {"horizontal"}
    for condition in ("intact", "erasure", "neutral"):
        given = answers.filter(condition=condition)
        assert sorted(given["question_id"]) == sorted(asked["question_id"])
        told = given.join(asked, on="question_id")
        assert ((told["predicted"] == told["answer"]) == told["correct"]).all()
        assert summaries.accuracy(answers, condition).n == 12
        assert summaries.ablation_drop(answers, "neutral", axis="vertical").n == 0
    for condition in ("erasure", "neutral"):
        swept = tables["sweep"].filter(experiment="language", condition=condition, token_set="object")
        assert swept["pair_id"].n_unique() == dataset.pairs.filter(experiment="language").height > 0
        assert set(swept["site"]) == {"connector", "language.0"}
    odds = answers.pivot("condition", index="question_id", values="log_odds")
    assert (odds["intact"] != odds["erasure"]).all()
    assert (odds["intact"] != odds["neutral"]).all()


def stretched(folder: Path, copy: Path, count: int) -> Path:
    """The dataset with the box of the slot asked about made large in the scenes of the first ``count`` conflict pairs."""
    opened = Dataset.open(folder)
    chosen = opened.pairs.filter(experiment="conflict").head(count)
    slots = dict(chosen.select("clean_scene", pl.col("slots").list.first()).iter_rows())
    boxes = [
        [
            [max(0.0, left - 60), 0.0, min(672.0, right + 60), 448.0] if slot == slots.get(name) else [left, top, right, bottom]
            for slot, (left, top, right, bottom) in enumerate(of_scene)
        ]
        for name, of_scene in opened.scenes.select("scene_id", "boxes").iter_rows()
    ]
    copy.mkdir()
    (copy / "images").symlink_to(folder / "images")
    opened.scenes.with_columns(boxes=pl.Series(boxes, dtype=opened.scenes.schema["boxes"])).write_parquet(copy / "scenes.parquet")
    opened.questions.write_parquet(copy / "questions.parquet")
    opened.pairs.write_parquet(copy / "pairs.parquet")
    return copy


@pytest.mark.parametrize("count", [1, 6])
def test_pairs_whose_objects_cover_unlike_cells_are_set_aside_and_counted(
    merged: Path, reader: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    folder = stretched(merged, tmp_path / "photos", count)
    conflict(job(reader["gemma3"], folder, tmp_path, "table", {}))
    table = pl.read_parquet(tmp_path / "table.parquet")
    assert dict(table.schema) == SCHEMA
    assert table["pair_id"].n_unique() == 6 - count
    assert f"{count} of 6 conflict pairs set aside, such as conflict-horizontal-00000: " in capsys.readouterr().err
    # The report counts them, also where none is left.
    model = Model("m", ("photos",), "", None)
    results = Results((model,), {"photos": Dataset.open(folder)}, {("m", "photos"): {"conflict": table}}, {}, {})
    told = "\n".join(warnings(results))
    assert f"m on photos: {count} of 6 conflict pairs not run, because their objects do not cover the same cells" in told
    assert "the 6 main test scenes are merges of 24 photos" in told


def test_pairs_whose_photos_give_different_grids_are_refused_by_name(dataset: NamedDataset) -> None:
    name = dataset.pairs.filter(experiment="language")["counterfactual_scene"][0]
    wider = pl.when(pl.col("scene_id") == name).then(pl.lit(896, pl.Int32)).otherwise(pl.col("width"))
    other = Dataset(dataset.folder, dataset.scenes.with_columns(width=wider), dataset.questions, dataset.pairs)
    adapter: Any = SimpleNamespace(
        grid=lambda width, height: TokenGrid(height // 112, width // 112),
        cache=SimpleNamespace(answers=AnswerSettings(), answer_forms=lambda answer, _template: (tuple(answer.encode()),)),
    )
    with pytest.raises(
        UserError, match=r"pair language-horizontal-00000: its scenes give token grids .*rows=4, cols=6.*rows=4, cols=8.*need the same grid"
    ):
        read_cases(other, adapter, "language")
