"""Every stage that a model goes through, on a tiny random checkpoint of every family.

Tables are whole and finite, untouched runs give what transformers' own forward pass gives, and exchanges and corrections what one pass with
a plain hook gives. What the stages' tables hold beyond that is tested on one or two families, stage by stage.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.preset_stages import run_stages
from transformers import AutoModelForImageTextToText

from stage_inputs import SETTINGS, make_reader
from vlm_spatial.activations.store import Store
from vlm_spatial.amplification.corrections import Projection, probe_basis, probe_centre
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.neutral import NeutralEncoder
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.saved import load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.registry import STAGES, of_scope
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job

pytestmark = [pytest.mark.model, pytest.mark.slow]

SCENES: dict[str, Any] = SETTINGS | {
    "axes": ["horizontal"],
    "templates": ["slot_to_object", "relation_to_object"],
    "scenes": {"train": 4, "validation": 1, "test": 1},
    "pairs": {"vision": 1, "language": 1, "conflict": 1, "last_token": 1},
}
# The second one is there for what is carried from one dataset to another.
ONE, TWO = "one", "two"
ACROSS = ("scenes", "behaviour", "activations", "probes", "amplification", *of_scope("model"))
SECTIONS: dict[str, dict[str, Any]] = {
    "activations": {"sites": ["connector"]},
    "probes": {"strengths": [1.0], "strip_map_scenes": 1, "token_sets": ["object", "background"]},
    "interchange": {
        "vision_sites": ["vision.1", "connector"],
        "language_sites": ["connector", "language.0"],
        "crosswise_sites": ["connector"],
        "last_token_sites": ["language.1"],
        "token_sets": ["object", "all"],
    },
    "ablation": {"questions": 3, "fit_scenes": 2, "crosswise_sets": ["object"], "controls": False},
    # Values that change something, so that what validation chooses does.
    "amplification": {"sites": ["connector"], "projection_alphas": [3.0], "oracle_alphas": [2.0], "questions": 3, "random_draws": 2}
    | {"control_alphas": []},
    "readout": {"enabled": True, "pairs": 1, "sites": ["language.1"], "id_questions": 6, "id_alphas": [1.0], "id_draws": 2},
    "routes": {"enabled": True, "pairs": 1, "routes": ["image_to_question", "object_to_answer"], "head_draws": 1, "question_heads": 1},
    "positions": {"enabled": True, "pairs": 1, "token_sets": ["object"]},
}


@dataclass(frozen=True)
class Ran:
    """A family's results."""

    checkpoint: Path
    adapter: Adapter
    results: Path

    def table(self, name: str) -> pl.DataFrame:
        folder = self.results if name in ("transfer", "generalisation", "between_datasets") else self.results / ONE
        return pl.read_parquet(folder / f"{name}.parquet")

    def dataset(self, name: str = ONE) -> Dataset:
        return Dataset.open(self.results.parent / "scenes" / name)

    @cached_property
    def whole(self) -> Any:
        """The model as transformers loads it."""
        return AutoModelForImageTextToText.from_pretrained(self.checkpoint)

    def log_probabilities(self, scene: str, prompt: str, words: Sequence[str]) -> list[float]:
        """Of ``words`` as the next token, by transformers' own forward pass; positions are the model's own."""
        inputs = self.adapter.prepare([self.dataset().image(scene)], [prompt]).inputs
        with torch.inference_mode():
            logits = self.whole(**{name: value for name, value in inputs.items() if name != "position_ids"}).logits[0, -1]
        return self._of(logits, words)

    def edited(self, scene: str, prompt: str, words: Sequence[str], edit: Any, dataset: str = ONE) -> list[float]:
        """The same in a pass with a hook that edits the connector's values."""
        prepared = self.adapter.prepare([self.dataset(dataset).image(scene)], [prompt])
        return self._of(self.adapter.run(prepared, edits={"connector": edit})[0][0], words)

    def _of(self, logits: torch.Tensor, words: Sequence[str]) -> list[float]:
        # Each word is one token, and no other form of it is known.
        ids = self.adapter.processor.tokenizer.convert_tokens_to_ids(list(words))
        return logits.double().log_softmax(-1)[ids].tolist()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    for seed, name in enumerate((ONE, TWO)):
        scenes(Job({"dataset": SCENES, "name": name, "seed": seed}, {}, {"folder": folder / name}))
    return folder


def values_of(family: str, checkpoint: Path) -> dict[str, Any]:
    models = {family: {"checkpoint": str(checkpoint), "datasets": [ONE, TWO]}}
    return SECTIONS | {"datasets": {ONE: SCENES, TWO: SCENES}, "models": models}


# A second family takes as long as many other tests of make quick.
@pytest.fixture(scope="module", params=[pytest.param(name, marks=[] if name == "gemma3" else pytest.mark.slow) for name in NAMES])
def ran(request: pytest.FixtureRequest, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    checkpoint = make_reader(folder / "checkpoint", family)
    shutil.copytree(drawn, folder / "results/scenes")
    adapter = load_adapter(checkpoint, device="cpu")
    jobs = run_stages(
        values_of(family, checkpoint),
        folder,
        lambda **_: adapter,
        wanted=lambda stage, names: stage != "measures" and (names.get("dataset") != TWO or stage in ACROSS),
        made=["scenes"],
    )
    assert {job.stage for job in jobs} >= set(of_scope("model and dataset", "model", optional=True)) - {"measures"}
    return Ran(checkpoint, adapter, folder / "results" / family)


# Of the first dataset, by hand: 4 scenes are asked, of 6 questions each; 36 cells; 3 language layers of 2 heads.
ROWS = {
    "behaviour": 4 * 6,
    "strip_map": 36,
    "interchange": 2 * 2 * 2 + 2 * 2 + 5 + 3 + 2,  # vision, language, crosswise, mirror, last token and the embedding below it
    "conflict": 2,
    "ablation_accuracy": 3 * 6,  # intact, erasure, neutral
    "ablation_sweep": 2 * (2 * 2 + 1),
    "ablation_check": 3 * 2 * 2 * 3,  # conditions, token sets, probes, slots of the test scene
    "amplification": 6 * (1 + 1 + 2) + 6 * (1 + 1 + 2 + 2 + 3),  # forms and controls; the test split has more of them
    "amplification_items": 0,  # of photographs
    "heads": 2 * 3 + 1,
    "spatial_ids": 0,  # of questions that name an object and ask for its slot
}
WHOLE = [STAGES[name] for name in of_scope("model and dataset", "model", optional=True) if name != "measures"]


def test_tables_are_whole_and_finite(ran: Ran) -> None:
    for name in (name for stage in WHOLE for name in stage.tables):
        table = ran.table(name)
        assert table.height == ROWS.get(name, table.height), name
        assert table.height or ROWS.get(name) == 0, name
        for column in table.select(pl.selectors.float(), pl.selectors.list(pl.selectors.float())).iter_columns():
            values = column.explode() if column.dtype == pl.List else column
            assert values.drop_nulls().is_finite().all(), f"{name}.{column.name}"
        if "log_probabilities" in table.columns:
            assert table["candidate_mass"].is_between(0, 1 + 1e-6).all()
            assert table["log_probabilities"].list.len().equals(table["candidates"].list.len()), name
    assert Store.open(ran.results / ONE / "activations.zarr").sites == ("connector",)


def untouched(ran: Ran) -> Iterator[tuple[str, str, str, Sequence[str], Sequence[float]]]:
    """Where, scene, prompt, candidates and their log-probabilities: rows of runs that nothing was changed in."""
    dataset = ran.dataset()
    intact = ran.table("ablation_accuracy").filter(condition="intact")
    for where, rows in (("behaviour", ran.table("behaviour").sample(3, seed=0)), ("ablation", intact.head(2))):
        for row in rows.join(dataset.questions.select("question_id", "prompt"), on="question_id").iter_rows(named=True):
            yield where, row["scene_id"], row["prompt"], row["candidates"], row["log_probabilities"]
    pairs = dataset.pairs.select("pair_id", "clean_scene", "counterfactual_scene", "unrelated_scene", "prompt")
    swept = pl.concat([ran.table("interchange"), ran.table("conflict")]).filter(pl.col("experiment") != "mirror").join(pairs, on="pair_id")
    for row in swept.unique("experiment", maintain_order=True).iter_rows(named=True):
        yield row["experiment"], row["clean_scene"], row["prompt"], row["candidates"], row["log_probabilities_clean"]
    # All that enters the language model is another scene's.
    for row in swept.filter(experiment="vision", site="connector", token_set="all").iter_rows(named=True):
        yield f"all of {row['source']}", row[f"{row['source']}_scene"], row["prompt"], row["candidates"], row["log_probabilities"]


def test_untouched_runs_and_whole_exchanges_are_transformers_own_passes(ran: Ran) -> None:
    checked = []
    for where, scene, prompt, candidates, found in untouched(ran):
        np.testing.assert_allclose(found, ran.log_probabilities(scene, prompt, candidates), atol=1e-4, err_msg=where)
        checked.append(where)
    assert set(checked) == {"behaviour", "ablation", "vision", "language", "crosswise", "last_token", "conflict"} | {
        "all of counterfactual",
        "all of unrelated",
    }


def test_the_last_vision_block_is_all_that_enters_where_the_family_says_so(ran: Ran) -> None:
    vision = ran.table("interchange").filter(experiment="vision", token_set="all").sort("source")
    block, whole = (vision.filter(site=site)["log_odds"].to_numpy() for site in ("vision.1", "connector"))
    # With DeepStack, earlier blocks' outputs enter besides.
    assert np.allclose(block, whole, atol=1e-4) == (ran.adapter.late_entries == 0)
    assert (abs(vision["log_odds"] - vision["log_odds_clean"]) > 1e-3).all()


def test_an_exchange_of_two_slots_is_a_pass_with_a_hook(ran: Ran) -> None:
    [case] = read_cases(ran.dataset(), ran.adapter, "conflict")
    first, second = (np.flatnonzero(case.tokens.objects[slot]) for slot in case.slots)

    def exchanged(values: torch.Tensor) -> torch.Tensor:
        edited = values.clone()
        edited[:, first], edited[:, second] = values[:, second], values[:, first]
        return edited

    [row] = ran.table("conflict").filter(token_set="object").iter_rows(named=True)
    found = ran.edited(case.clean_scene, case.prompt, row["candidates"], exchanged)
    np.testing.assert_allclose(row["log_probabilities"], found, atol=1e-4)


def test_neutral_tokens_are_a_pass_with_a_hook(ran: Ran) -> None:
    encoder = NeutralEncoder(ran.adapter, ran.dataset(), "?")
    asked = ran.dataset().questions.select("question_id", "prompt")
    for row in ran.table("ablation_accuracy").filter(condition="neutral").join(asked, on="question_id").head(2).iter_rows(named=True):
        found = ran.edited(row["scene_id"], row["prompt"], row["candidates"], encoder.edit(row["scene_id"]))
        np.testing.assert_allclose(row["log_probabilities"], found, atol=1e-4)


def test_a_carried_correction_is_a_pass_with_a_hook(ran: Ran) -> None:
    rows = ran.table("transfer").filter(fitted_on=ONE, applied_to=TWO, method="projection")
    probes = load_probes(ran.results / ONE / "probes.safetensors")
    basis = probe_basis(probes, "connector", ran.adapter.identity.weights, ran.adapter.site_shape("connector")[1])
    correct = Projection(basis, 3.0, probe_centre(probes, "connector"))
    asked = ran.dataset(TWO).questions.select("question_id", "prompt")
    for row in rows.join(asked, on="question_id").head(2).iter_rows(named=True):
        found = ran.edited(row["scene_id"], row["prompt"], row["candidates"], lambda values: correct(values[0])[None], TWO)
        np.testing.assert_allclose(row["log_probabilities"], found, atol=1e-4)
        assert row["correct_before"] != row["correct"] or row["brier_before"] != row["brier"]


def test_no_stage_takes_values_that_are_not_finite_for_answers(ran: Ran) -> None:
    """As of a checkpoint that overflows in float16: whichever stage meets them first names the layer."""
    broken = load_adapter(ran.checkpoint, device="cpu")
    next(weight for name, weight in broken.language_blocks[0].named_parameters() if "down_proj" in name).fill_(1e38)
    stages = [stage.name for stage in STAGES.values() if stage.loads_model and stage.name != "activations"]
    assert len(stages) >= 8
    for stage in stages:
        others = set(STAGES) - {stage}
        with pytest.raises(UserError, match=r"NaN or infinite values in float32, the first at language\.0") as error:
            list(run_stages(values_of(ran.adapter.family, ran.checkpoint), ran.results.parents[1], lambda **_: broken, made=others))
        assert "\n" not in str(error.value), stage
