"""Behaviour, interchange and conflict from end to end, on a tiny dataset and tiny random models.

Every family goes through every stage in tests/test_every_family.py.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from stage_inputs import job, make_reader, make_scenes
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.labels import INTENDED
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.sweep import SCHEMA
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.behaviour import behaviour
from vlm_spatial.stages.conflict import conflict
from vlm_spatial.stages.interchange import interchange

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def tiny_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "tiny")


@pytest.fixture(scope="module", params=["gemma3", "qwen2_vl"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reader(tmp_path_factory.mktemp("readers") / request.param, request.param)


@pytest.mark.slow
def test_behaviour_equals_each_question_asked_alone(tiny_scenes: Path, reader: Path, tmp_path: Path) -> None:
    behaviour(job(reader, tiny_scenes, tmp_path, "behaviour", {"batch": 7, "splits": ["test"]}))
    table = pl.read_parquet(tmp_path / "behaviour.parquet")
    dataset = Dataset.open(tiny_scenes)
    asked = dataset.questions.filter((pl.col("split") == "test") & (pl.col("variant") != "pair"))
    assert set(table["question_id"]) == set(asked["question_id"])
    adapter = load_adapter(reader, device="cpu")
    for row in table.join(asked.select("question_id", "prompt"), on="question_id").sample(6, seed=1).iter_rows(named=True):
        logits = adapter.run(adapter.prepare([dataset.image(row["scene_id"])], [row["prompt"]]))[0][0]
        tokens = list(AnswerReader.of(adapter, row["candidates"]).wanted(()))
        expected = logits.double().log_softmax(-1)[tokens]
        np.testing.assert_allclose(row["log_probabilities"], expected.numpy(), rtol=1e-3, atol=1e-4)
        right = row["candidates"].index(row["answer"])
        assert row["predicted"] == row["candidates"][int(expected.argmax())]
        assert row["correct"] == (row["predicted"] == row["answer"])
        assert row["answer_probability"] == pytest.approx(float(expected.softmax(0)[right]), abs=1e-4)
        others = [float(value) for index, value in enumerate(expected) if index != right]
        assert row["margin"] == pytest.approx(float(expected[right]) - max(others), abs=1e-3)
        assert row["top1"] == adapter.processor.tokenizer.decode([int(logits.argmax())])
        assert row["top1_correct"] == (int(logits.argmax()) == tokens[right])
    assert table["blind_correct"].is_null().all()


@pytest.mark.slow
def test_drawn_scenes_are_asked_without_pictures_where_it_is_said(tiny_scenes: Path, tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "reader", "gemma3")
    behaviour(job(reader, tiny_scenes, tmp_path, "behaviour", {"splits": ["test"], "blind": "all"}))
    dataset, adapter = Dataset.open(tiny_scenes), load_adapter(reader, device="cpu")
    table = pl.read_parquet(tmp_path / "behaviour.parquet").join(dataset.questions.select("question_id", "prompt"), on="question_id")
    for row in table.sample(6, seed=1).iter_rows(named=True):
        grey = Image.new("RGB", dataset.size(row["scene_id"]), (127, 127, 127))
        logits = adapter.run(adapter.prepare([grey], [row["prompt"]]))[0][0]
        best = int(logits[list(AnswerReader.of(adapter, row["candidates"]).wanted(()))].argmax())
        assert row["blind_predicted"] == row["candidates"][best]
        assert row["blind_correct"] == (row["blind_predicted"] == row["answer"])


@pytest.mark.slow
def test_interchange_of_everything_is_the_other_run(tiny_scenes: Path, reader: Path, tmp_path: Path) -> None:
    """Replacing all visual tokens by a source's makes the patched run the source's own, whatever the model."""
    stage = {"vision_sites": ["vision.1", "connector"], "language_sites": ["connector", "language.0"]}
    interchange(job(reader, tiny_scenes, tmp_path, "table", stage))
    table = pl.read_parquet(tmp_path / "table.parquet")
    assert dict(table.schema) == SCHEMA
    vision = table.filter(pl.col("experiment") == "vision")
    assert vision.height == 2 * 4 * 2 * 8 * 2  # axes, pairs, sites, token sets, sources
    dataset = Dataset.open(tiny_scenes)
    adapter = load_adapter(reader, device="cpu")
    # With DeepStack, what earlier vision blocks hand over stays the clean run's; at the connector all of it is replaced.
    whole = vision.filter((pl.col("token_set") == "all") & ((pl.col("site") == "connector") | (adapter.late_entries == 0)))
    copied = whole.filter(pl.col("source") == "counterfactual")
    assert not copied.is_empty()
    assert (copied["predicted"] == copied["counterfactual_predicted"]).all()

    cases = {case.pair_id: case for case in read_cases(dataset, adapter, "vision", unrelated=True)}
    chosen = whole.sample(8, seed=0)
    for row in chosen.iter_rows(named=True):
        case = cases[row["pair_id"]]
        scene = case.counterfactual_scene if row["source"] == "counterfactual" else case.unrelated_scene
        logits = adapter.run(adapter.prepare([dataset.image(str(scene))], [case.prompt]))[0][0]
        first, second = AnswerReader.of(adapter, [case.hypotheses["flip"], case.hypotheses["stay"]]).wanted(())
        assert row["log_odds"] == pytest.approx(float(logits[first] - logits[second]), abs=1e-3)

    sizes = vision.pivot("token_set", index=["pair_id", "site", "source"], values="tokens")
    assert (sizes["random"] == sizes["strip"]).all()
    assert (sizes["rim"] + sizes["object"] == sizes["strip"]).all()
    assert (sizes["all"] == 36).all()
    language = table.filter(pl.col("experiment") == "language")
    assert set(language["site"]) == {"connector", "language.0"}
    assert set(language["token_set"]) == {"object", "random"}
    by_set = language.pivot("token_set", index=["pair_id", "site"], values="tokens")
    assert (by_set["object"] == by_set["random"]).all()
    _check_outcomes(table, dataset)


@pytest.mark.slow
def test_conflict_exchanges_the_blocks_of_one_image(tiny_scenes: Path, reader: Path, tmp_path: Path) -> None:
    conflict(job(reader, tiny_scenes, tmp_path, "table", {}))
    table = pl.read_parquet(tmp_path / "table.parquet")
    dataset = Dataset.open(tiny_scenes)
    assert table.height == 2 * 4 * 2
    _check_outcomes(table, dataset)

    adapter = load_adapter(reader, device="cpu")
    for case in read_cases(dataset, adapter, "conflict")[:3]:
        first, second = (np.flatnonzero(case.tokens.objects[slot]) for slot in case.slots)

        def exchanged(values, first=first, second=second):  # type: ignore[no-untyped-def]
            edited = values.clone()
            edited[:, first], edited[:, second] = values[:, second], values[:, first]
            return edited

        prepared = adapter.prepare([dataset.image(case.clean_scene)], [case.prompt])
        logits = adapter.run(prepared, edits={"connector": exchanged})[0][0]
        move, stay = AnswerReader.of(adapter, [case.hypotheses["move"], case.hypotheses["stay"]]).wanted(())
        row = table.filter((pl.col("pair_id") == case.pair_id) & (pl.col("token_set") == "object"))
        assert row["log_odds"].item() == pytest.approx(float(logits[move] - logits[stay]), abs=1e-3)
        assert row["tokens"].item() == len(first) + len(second)


def _check_outcomes(table: pl.DataFrame, dataset: Dataset) -> None:
    """Outcome, inclusion and the sign of the log-odds follow from the pairs' own answers."""
    pairs = dataset.pairs.select("pair_id", "hypotheses", "clean_answer", "counterfactual_answer")
    # Pairs with the mirror image and those of the last token have hypotheses of their own.
    for row in table.filter(~pl.col("experiment").is_in(["mirror", "last_token"])).join(pairs, on="pair_id").iter_rows(named=True):
        agreeing = [name for name, answer in row["hypotheses"].items() if answer == row["predicted"]]
        assert row["outcome"] == (agreeing[0] if agreeing else "other")
        right = row["clean_predicted"] == row["clean_answer"] and row["counterfactual_predicted"] == row["counterfactual_answer"]
        assert row["included"] == right
        if row["outcome"] == INTENDED[row["experiment"]]:
            assert row["log_odds"] >= 0
        # Every hypothesis of a pair has its log-odds, before and after.
        third = row["experiment"] == "language"
        assert (row["content_log_odds"] is not None) == (row["content_log_odds_clean"] is not None) == third
        if row["outcome"] == "content":
            assert row["content_log_odds"] >= max(0, row["log_odds"])


def test_a_setting_that_does_not_exist_is_named(tiny_scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage.token_set"):
        interchange(job(tmp_path, tiny_scenes, tmp_path, "table", {"token_set": ["object"]}))


@pytest.mark.slow
def test_sites_that_the_model_lacks_are_named(tiny_scenes: Path, tmp_path: Path) -> None:
    reader = make_reader(tmp_path / "reader", "gemma3")
    with pytest.raises(UserError, match=r"language\.99"):
        interchange(job(reader, tiny_scenes, tmp_path, "table", {"language_sites": ["language.99"]}))
