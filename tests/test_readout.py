"""Whose residuals the answer follows: words in prompts, exact identities, an organism, and measures of planted answers."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import synthetic_results as synthetic
from stage_inputs import job, make_reader, make_scenes
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.patch import Patch
from vlm_spatial.interventions.readout import corrupt, plan, run_readout
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.interventions.token_groups import text_groups, word_position
from vlm_spatial.measures.claims import judged
from vlm_spatial.measures.readout import readout as measured
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import Begun
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.readout import readout
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"
PICTURE = Image.new("RGB", (96, 96), "red")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(make_scenes(tmp_path_factory.mktemp("scenes") / "tiny"))


def test_the_word_is_found_in_every_family(adapter: Adapter) -> None:
    words = ["red", "green", "blue"]
    prompt = "where is the green square ?"
    ids = adapter.tokens(PICTURE, prompt)[0][0]
    position = word_position(adapter, PICTURE, prompt, words)
    assert position is not None
    assert adapter.processor.tokenizer.decode(ids[position : position + 1]).strip() == "green"
    assert word_position(adapter, PICTURE, Begun(prompt, (3,)), words) == position
    # None, several, twice, and a part of a longer word.
    for other in ("what is left ?", "red or green ?", "green green ?", "the greenish square ?"):
        assert word_position(adapter, PICTURE, other, words) is None


def test_corrupted_pictures() -> None:
    image = Image.new("RGB", (40, 20), "red")
    assert corrupt(image, "grey", [0]).getcolors() == [(800, (128, 128, 128))]
    noise = [np.asarray(corrupt(image, "noise", [seed])) for seed in (0, 0, 1)]
    assert noise[0].shape == (20, 40, 3)
    assert (noise[0] == noise[1]).all()
    assert (noise[0] != noise[2]).mean() > 0.9


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
def test_of_random_models(tiny: Dataset, tmp_path: Path, family: str) -> None:
    """After the last layer the answer's tokens give the source's answer, exactly, and others nothing; a plain pass agrees."""
    adapter = load_adapter(make_reader(tmp_path / "reader", family), device="cpu")
    depth = len(adapter.language_blocks)
    sites = [f"language.{layer}" for layer in range(depth)]
    cases = [case for case in read_cases(tiny, adapter, "vision", unrelated=True) if case.template != "slot_to_object"][:2]
    plans = [plan(("image", "question", "word", "answer"), ("grey",), sites, depth, True) for _ in cases]
    engine = PatchEngine(adapter)
    table = run_readout(engine, tiny, cases, plans, 0)
    last = table.filter(site=sites[-1])
    by_group = {group: rows["margin"].to_list() for (group,), rows in last.group_by("group")}
    assert by_group["answer"] == pytest.approx(last.filter(group="answer")["margin_source"].to_list(), abs=1e-5)
    for group in ("image", "question"):
        assert by_group[group] == pytest.approx(last.filter(group=group)["margin_clean"].to_list(), abs=1e-5)
    assert set(last["group"]) == {"image", "question", "answer", "word.target", "word.reference"}
    # Everything between image and answer, of all layers, in one plain hooked pass over the grey picture.
    case = cases[0]
    [run] = case.runs({scene: tiny.image(scene) for scene in case.shown})
    grey = Image.new("RGB", run.clean.image.size, (128, 128, 128))
    pair = type(run)("grey", type(run.clean)(grey, run.clean.prompt), {"original": run.clean})
    question = text_groups(adapter, grey, case.prompt)["question"]
    [logits] = run_plain(adapter, [pair], [[Patch(0, site, source="original", to_positions=question) for site in sites]])
    scores = case.reader.log_probabilities(logits[None])
    [row] = table.filter(pair_id=case.pair_id, picture="grey", group="question").iter_rows(named=True)
    assert row["margin"] == pytest.approx(case.reader.log_odds(scores, case.counterfactual_answer, case.clean_answer), abs=1e-4)
    bare = case.reader.log_probabilities(adapter.run(adapter.prepare([grey], [case.prompt]))[0])
    [row] = table.filter(pl.col("group").is_null(), pair_id=case.pair_id).iter_rows(named=True)
    assert row["margin"] == pytest.approx(case.reader.log_odds(bare, case.counterfactual_answer, case.clean_answer), abs=1e-4)


def test_an_organism_looks_at_the_image(tiny: Dataset) -> None:
    adapter = load_adapter(ORGANISMS / "natural-gemma3", device="cpu")
    cases = read_cases(tiny, adapter, "vision", unrelated=True)
    depth = len(adapter.language_blocks)
    plans = [plan(("image", "answer"), ("grey",), ["language.0", f"language.{depth - 1}"], depth, True) for _ in cases]
    table = run_readout(PatchEngine(adapter), tiny, cases, plans, 0)
    found = measured(table).filter(axis="both axes", measure="flip_rate", source="counterfactual")
    rates = {(row["token_set"], row["site"]): row["estimate"] for row in found.iter_rows(named=True)}
    assert rates["image", "language.0"] > 0.8
    assert rates["answer", f"language.{depth - 1}"] == 1.0
    assert rates["image", f"language.{depth - 1}"] == 0.0
    unrelated = measured(table).filter(axis="both axes", measure="flip_rate", source="unrelated")
    assert unrelated["estimate"].max() < 0.5  # type: ignore[operator]


def test_measures_of_planted_answers() -> None:
    table = synthetic.readout()
    found = measured(table).filter(axis="both axes")
    flips = found.filter(measure="flip_rate", source="counterfactual")
    rates = {(row["token_set"], row["site"]): row["estimate"] for row in flips.iter_rows(named=True)}
    assert (rates["image", "language.2"], rates["image", "language.3"], rates["question", "language.3"]) == (1.0, 0.0, 1.0)
    assert rates["question", "all layers"] == pytest.approx(41 / 46)
    assert found.filter(measure="recovery", site="all layers")["estimate"].item() == pytest.approx(41 / 46)
    right = found.filter(measure="accuracy").select("token_set", "estimate", "control_estimate").rows()
    assert right == [
        ("question", pytest.approx(32 / 46), pytest.approx(1 / 3)),
        ("untouched", pytest.approx(14 / 46), pytest.approx(1 / 3)),
    ]
    verdicts = dict(judged({"readout": table}).filter(experiment="claims").select("measure", "verdict").iter_rows())
    assert (verdicts["text_decides"], verdicts["text_suffices"]) == ("supported", "supported")
    turned = table.with_columns(outcome=pl.lit("stay"), right_after=pl.col("pair_id").str.ends_with("0"))
    verdicts = dict(judged({"readout": turned}).filter(experiment="claims").select("measure", "verdict").iter_rows())
    assert (verdicts["text_decides"], verdicts["text_suffices"]) == ("refuted", "refuted")


def test_the_stage_writes_its_table_and_refuses_what_it_does_not_know(tiny: Dataset, tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "reader", "qwen2_vl")
    settings = {"enabled": True, "pairs": 1, "groups": ["image"], "corrupted": ["noise"], "sites": ["language.1"]}
    asked = job(reader, tiny.folder, tmp_path, "table", settings)
    readout(asked)
    # Two axes, one pair: one group at one layer, the question twice in all, and two of the noise.
    assert pl.read_parquet(asked.outputs["table"]).height == 2 * 5
    for wrong, says in (
        ({"groups": ["text"]}, r"stage\.groups"),
        ({"corrupted": ["black"]}, r"stage\.corrupted"),
        ({"sites": ["language.9"]}, "site 'language.9': this model has"),
        ({"sites": ["connector"]}, r"readout\.sites: connector holds visual tokens only"),
    ):
        with pytest.raises(UserError, match=says):
            readout(Job({**asked.settings, "stage": wrong}, asked.inputs, asked.outputs))
