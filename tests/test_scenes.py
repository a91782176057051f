"""The scenes stage on rendered datasets: tables, splits, pairs, images, the reader, and every way to break them."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.pairs import EXPERIMENTS, plan_pairs
from vlm_spatial.scenes.plan import plan_scenes
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN
from vlm_spatial.scenes.tables import PAIRS_SCHEMA, QUESTIONS_SCHEMA, SCENES_SCHEMA, SET_ASIDE_SCHEMA
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid, matched_blocks
from vlm_spatial.workflow.provenance import MadeBy, write_record

pytestmark = pytest.mark.unit

SPLITS = {"train": 5, "validation": 3, "test": 4}
SETTINGS = {
    "kind": "squares",
    "scenes": SPLITS,
    "variants": {"decorrelated": {"train": 2, "validation": 1, "test": 3}, "single": 6, "mirror": True},
    "pairs": {"vision": 16, "language": 7, "conflict": 16},
}


def run(folder: Path, seed: int = 0, **changes: object) -> Path:
    scenes_stage(Job({"dataset": SETTINGS | changes, "name": "test", "seed": seed}, {}, {"folder": folder}))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(run(tmp_path_factory.mktemp("scenes") / "squares"))


@pytest.fixture
def copy(tmp_path: Path) -> Dataset:
    """A small dataset in a folder of its own, with its record, to be damaged."""
    folder = run(tmp_path / "copy", pairs={"vision": 1, "language": 0, "conflict": 0}, axes=["horizontal"])
    write_record(folder, MadeBy(stage="scenes"))
    return Dataset.open(folder)


def test_tables_have_the_documented_columns(dataset: Dataset) -> None:
    schemas = {"scenes": SCENES_SCHEMA, "questions": QUESTIONS_SCHEMA, "pairs": PAIRS_SCHEMA, "set_aside": SET_ASIDE_SCHEMA}
    documented = (Path(__file__).parents[1] / "docs/formats.md").read_text(encoding="utf-8")
    for name, schema in schemas.items():
        table = pl.read_parquet(dataset.folder / f"{name}.parquet")
        assert table.schema == pl.Schema(schema)
        section = documented.split(f"### {name}.parquet", 1)[1].split("\n##", 1)[0]
        missing = [column for column in schema if column not in section]
        assert not missing, f"{name}.parquet: {missing} not in docs/formats.md"


def test_every_scene_asked_for_is_there_once(dataset: Dataset) -> None:
    table = dataset.scenes
    assert table["scene_id"].n_unique() == table.height
    expected = {("main", split): count for split, count in SPLITS.items()}
    expected |= {("decorrelated", split): count for split, count in SETTINGS["variants"]["decorrelated"].items()}
    expected |= {("mirror", "test"): 4, ("single", "test"): 6, ("blank", "test"): 1}
    # Three scenes a vision or language pair, two a conflict pair.
    expected |= {("pair", "test"): 3 * 16 + 3 * 7 + 2 * 16}
    for axis in ("horizontal", "vertical"):
        found = table.filter(pl.col("axis") == axis).group_by("variant", "split").len()
        assert {(variant, split): count for variant, split, count in found.rows()} == expected
    singles = table.filter(pl.col("variant") == "single")
    assert Counter(singles["slots"].list.first()) == {0: 4, 1: 4, 2: 4}


def test_splits_share_no_scene(dataset: Dataset) -> None:
    drawn = dataset.scenes.filter(pl.col("variant").is_in(["main", "decorrelated"]))
    assert len({hashlib.sha256((dataset.folder / image).read_bytes()).digest() for image in drawn["image"]}) == drawn.height
    geometry = drawn.select(
        pl.concat_str([pl.col("boxes").cast(pl.List(pl.List(pl.String))).list.eval(pl.element().list.join(",")).list.join(";")])
    )
    assert geometry.n_unique() == drawn.height


def test_mirrors_name_what_they_mirror_and_their_answers_are_flipped(dataset: Dataset) -> None:
    flip = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "middle": "middle"}
    mirrors = dataset.scenes.filter(pl.col("variant") == "mirror")
    assert mirrors.height == 8
    asked = {row["question_id"]: row for row in dataset.questions.iter_rows(named=True)}
    for scene_id, original in mirrors.select("scene_id", "mirrored_from").rows():
        row = dataset.row(original)
        turn = Image.Transpose.FLIP_LEFT_RIGHT if row["axis"] == "horizontal" else Image.Transpose.FLIP_TOP_BOTTOM
        assert dataset.image(scene_id).tobytes() == dataset.image(original).transpose(turn).tobytes()
        for slot in range(3):
            there, here = asked[f"{original}/object_to_slot/{slot}"], asked[f"{scene_id}/object_to_slot/{2 - slot}"]
            assert here["prompt"] == there["prompt"]
            assert here["answer"] == flip[there["answer"]]
            assert asked[f"{scene_id}/slot_to_object/{2 - slot}"]["answer"] == asked[f"{original}/slot_to_object/{slot}"]["answer"]


def test_questions_ask_every_slot_by_every_template(dataset: Dataset) -> None:
    counts = dataset.questions.group_by("scene_id").len()
    assert set(counts["len"]) == {9}
    variants = set(dataset.questions["variant"])
    assert variants == {"main", "decorrelated", "mirror", "pair"}
    assert counts.height == dataset.scenes.filter(pl.col("variant").is_in(list(variants))).height
    assert dataset.questions["question_id"].n_unique() == dataset.questions.height
    right = dataset.questions.filter(pl.col("answer").is_in(pl.col("candidates")))
    assert right.height == dataset.questions.height


@pytest.mark.parametrize(("kind", "decorrelated"), [*((source.kind, False) for source in DRAWN), ("squares", True)])
def test_pairs_are_comparable_and_their_hypotheses_differ(kind: str, decorrelated: bool) -> None:
    wanted = {"vision": 54, "language": 50, "conflict": 54, "last_token": 50, "decorrelated": decorrelated}
    settings = dataset_settings({"kind": kind, "pairs": wanted})
    planned, pairs = plan_pairs(settings, seed=4)
    scenes = {item.scene_id: item.scene for item in planned}
    assert len(scenes) == len(planned)
    for experiment in EXPERIMENTS:
        assert sum(pair.experiment == experiment for pair in pairs) >= 100
    for pair in pairs:
        clean, other, unrelated = (scenes[name] for name in (pair.clean_scene, pair.counterfactual_scene, pair.unrelated_scene))
        asked, exchanged = pair.slots
        assert (pair.prompt == pair.counterfactual_prompt) == (pair.experiment != "last_token")
        assert clean.boxes == other.boxes == unrelated.boxes
        assert (clean.background, clean.seed) == (other.background, other.seed)
        assert not set(unrelated.objects) & set(clean.objects + other.objects)
        answers = list(pair.hypotheses.values())
        assert len(set(answers)) == len(answers)
        assert set(answers) | {pair.clean_answer, pair.counterfactual_answer} <= set(pair.candidates)
        names = ("left", "middle", "right") if pair.axis == "horizontal" else ("top", "middle", "bottom")
        by_slot = names if pair.template == "object_to_slot" else clean.objects
        assert pair.hypotheses["stay"] == pair.clean_answer == by_slot[asked]
        match pair.experiment:
            case "vision":
                assert other.objects[asked] == clean.objects[exchanged]
                assert other.objects[exchanged] == clean.objects[asked]
                assert pair.hypotheses == {"stay": by_slot[asked], "flip": by_slot[exchanged]}
                assert pair.counterfactual_answer == by_slot[exchanged]
            case "last_token":
                # Five contents: the middle one is shared, and both prompts name it.
                assert sorted(pair.slots) == [0, 2]
                assert len(set(clean.objects + other.objects)) == 5
                assert other.objects[1] == clean.objects[1]
                assert all(clean.contents[1].phrase in prompt for prompt in (pair.prompt, pair.counterfactual_prompt))
                assert pair.hypotheses == {
                    "stay": clean.objects[asked],
                    "ordinal": clean.objects[exchanged],
                    "attribute": other.objects[exchanged],
                }
                assert pair.counterfactual_answer == other.objects[exchanged]
            case "language":
                assert not set(other.objects) & set(clean.objects)
                assert pair.hypotheses == {
                    "stay": clean.objects[asked],
                    "ordering": other.objects[asked],
                    "content": other.objects[exchanged],
                }
                assert pair.counterfactual_answer == other.objects[asked]
                assert set(pair.candidates) == set(clean.objects + other.objects)
            case "conflict":
                assert pair.clean_scene == pair.counterfactual_scene
                assert pair.hypotheses == {"stay": by_slot[asked], "move": by_slot[exchanged]}
        if pair.template == "relation_to_object":
            (third,) = {0, 1, 2} - set(pair.slots)
            assert clean.phrases[third] in pair.prompt
            assert abs(third - asked) == 1
    turns = Counter((pair.experiment, pair.template, pair.slots) for pair in pairs)
    for experiment in ("vision", "conflict"):
        for template, kinds in (("slot_to_object", 6), ("object_to_slot", 6), ("relation_to_object", 4)):
            found = [count for key, count in turns.items() if key[:2] == (experiment, template)]
            assert len(found) == kinds
            assert max(found) - min(found) <= 2


@pytest.mark.parametrize("side", [6, 16])
def test_blocks_of_written_pairs_can_be_exchanged(dataset: Dataset, side: int) -> None:
    for scene_id, slots in dataset.pairs.select("clean_scene", "slots").rows():
        tokens = dataset.tokens(scene_id, TokenGrid(side, side))
        ours, theirs = matched_blocks(tokens, slots[0], slots[1], "object")
        assert len(ours) == len(theirs) == tokens.objects[slots[0]].sum()


def test_language_pairs_need_their_template() -> None:
    with pytest.raises(UserError, match=r"pairs.language: needs 'slot_to_object' among templates"):
        plan_pairs(dataset_settings(kind="squares", templates=("object_to_slot",)), 0)


@pytest.mark.slow
def test_content_questions_are_asked_but_make_no_pairs(tmp_path: Path) -> None:
    dataset = Dataset.open(run(tmp_path / "content", templates=["slot_to_object", "content"]))
    assert set(dataset.pairs["template"]) == {"slot_to_object"}
    content = dataset.questions.filter(pl.col("template") == "content")
    assert content.height == dataset.questions.height / 2
    assert set(content["answer"]) == {"yes", "no"}


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    few = {item.scene_id: item.scene for item in plan_scenes(dataset_settings(SETTINGS), 0)}
    more = SETTINGS | {"scenes": {"train": 9, "validation": 9, "test": 9}, "axes": ["vertical", "horizontal"]}
    many = {item.scene_id: item.scene for item in plan_scenes(dataset_settings(more), 0)}
    assert all(many[name] == scene for name, scene in few.items())
    other = {item.scene_id: item.scene for item in plan_scenes(dataset_settings(SETTINGS), 1)}
    assert all(other[name] != scene for name, scene in few.items())


@pytest.mark.slow
def test_images_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    settings = dataset_settings(SETTINGS | {"scenes": {"train": 60, "validation": 1, "test": 1}, "difficulty": {"distractors": 3}})
    drawings = {item.scene_id: item.scene for item in plan_scenes(settings, 3)}
    written = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        write_images(folder, drawings, render, workers=workers)
        written.append({path.stem: path.read_bytes() for path in (folder / "images").iterdir()})
    alone, together = written
    assert alone == together
    assert set(alone) == set(drawings)


@pytest.mark.slow
def test_the_stage_repeats_itself_byte_for_byte(dataset: Dataset, tmp_path: Path) -> None:
    again = run(tmp_path / "again")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(dataset.folder) for path in dataset.folder.rglob("*") if path.is_file())
    for path in files:
        assert (again / path).read_bytes() == (dataset.folder / path).read_bytes(), path


def test_the_reader_gives_images_boxes_and_tokens(dataset: Dataset) -> None:
    row = dataset.scenes.filter(pl.col("variant") == "main").row(0, named=True)
    image = dataset.image(row["scene_id"])
    assert image.mode == "RGB"
    assert image.size == dataset.size(row["scene_id"]) == (448, 448)
    assert dataset.boxes(row["scene_id"]) == [tuple(box) for box in row["boxes"]]
    assert dataset.tokens(row["scene_id"], TokenGrid(16, 16)).strips.shape == (3, 256)
    for word, box in zip(row["objects"], dataset.boxes(row["scene_id"]), strict=True):
        colours = np.asarray(image.crop(tuple(int(edge) for edge in box))).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) == 1, word


def test_damage_is_named(copy: Dataset) -> None:
    row = copy.scenes.row(0, named=True)
    path = copy.folder / row["image"]
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    with pytest.raises(UserError, match=rf"{row['scene_id']}.png: its bytes are not those that were written"):
        copy.image(row["scene_id"])
    path.unlink()
    with pytest.raises(UserError, match=rf"{row['scene_id']}.png: cannot be read"):
        copy.image(row["scene_id"])
    path.write_bytes(b"no image")
    write_record(copy.folder, MadeBy(stage="scenes"))
    with pytest.raises(UserError, match="is not a readable image"):
        Dataset.open(copy.folder).image(row["scene_id"])
    path.write_bytes(good)
    write_record(copy.folder, MadeBy(stage="scenes"))
    other_size = copy.scenes.with_columns(width=pl.lit(99, pl.Int32))
    with pytest.raises(UserError, match=r"is 448×448, scenes.parquet says 99×448"):
        Dataset(copy.folder, other_size, copy.questions, copy.pairs).image(row["scene_id"])
    with pytest.raises(UserError, match="has no scene 'main-sideways'"):
        copy.image("main-sideways")
    blank = copy.scenes.filter(pl.col("variant") == "blank")["scene_id"][0]
    with pytest.raises(UserError, match="has no boxes"):
        copy.tokens(blank, TokenGrid(4, 4))
    (copy.folder / "pairs.parquet").unlink()
    with pytest.raises(UserError, match=r"pairs.parquet: no such file"):
        Dataset.open(copy.folder)
    with pytest.raises(UserError, match="no such dataset folder"):
        Dataset.open(copy.folder / "nowhere")


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"settings.dataset.colour: Extra inputs"):
        run(tmp_path / "bad", colour="red")
    assert not (tmp_path / "bad").exists()


def test_the_contact_sheet_shows_every_axis_and_variant(dataset: Dataset) -> None:
    sheet = Image.open(dataset.folder / "contact_sheet.png")
    rows = dataset.scenes.filter(pl.col("split") == "test").select("axis", "variant").n_unique()
    assert rows == 12
    assert sheet.height > rows * 168
    # A third of the sheet at least is pictures, not paper.
    assert (np.asarray(sheet.convert("L")) < 250).mean() > 0.33
