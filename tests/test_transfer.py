"""Corrections carried between datasets: against full forward passes, against counts made by hand, and in the report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import beta

import synthetic_results as synthetic
from stage_inputs import SETTINGS, job, make_reader
from vlm_spatial.amplification.answers import answered
from vlm_spatial.amplification.corrections import Oracle, Projection, probe_basis, probe_centre, slot_directions
from vlm_spatial.amplification.questions import questions_of
from vlm_spatial.amplification.scoring import score
from vlm_spatial.amplification.settings import fits, slots_of_scenes
from vlm_spatial.amplification.sweep import Sweep
from vlm_spatial.amplification.transfer import SCHEMA, at_home
from vlm_spatial.amplification.transfer import carried as carried_settings
from vlm_spatial.config.workflow import Config
from vlm_spatial.figures import correction_transfer
from vlm_spatial.figures.amplification import CORRECTED, NET
from vlm_spatial.figures.amplification_detail import RANDOM_OF
from vlm_spatial.figures.figure import BOTH
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.measures.amplification import RANDOM, at, choose
from vlm_spatial.measures.corrections import accuracies
from vlm_spatial.measures.transfer import pairs
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.saved import load_probes, save_probes
from vlm_spatial.report.results import open_results
from vlm_spatial.report.transfer_sentences import carried
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.amplification import amplification
from vlm_spatial.stages.behaviour import behaviour
from vlm_spatial.stages.figures import figure_rows
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job
from vlm_spatial.stages.transfer import transfer
from vlm_spatial.statistics import mcnemar_exact

pytestmark = pytest.mark.model

# No alpha that changes nothing: a random model's validation might choose it.
STAGE: dict[str, Any] = {
    "sites": ["vision.-1", "connector"],
    "questions": 9,
    "random_draws": 2,
    "projection_alphas": [4.0, 8.0],
    "oracle_alphas": [2.0, 6.0],
    "control_alphas": [],
}


def random_probes(adapter: Adapter, axes: tuple[str, ...], seed: int, path: Path) -> Path:
    generator, made = np.random.default_rng(seed), {}
    for axis in axes:
        for site in (f"vision.{len(adapter.vision_blocks) - 1}", "connector"):
            width = adapter.site_shape(site)[1]
            weight, shuffled, means = (generator.standard_normal((3, width)).astype(np.float32) for _ in range(3))
            zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
            made[axis, site] = Probe(weight, np.zeros(3, np.float32), zeros, ones, means, 1.0, shuffled)
    save_probes(made, {"identity": {"weights": adapter.identity.weights}}, path)
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny reader (``reader``) and two datasets; the probes of ``flat`` know the horizontal axis only."""
    folder = tmp_path_factory.mktemp("transfer")
    found = {"reader": make_reader(folder / "reader", "gemma3")}
    adapter = load_adapter(found["reader"], device="cpu")
    for seed, (name, axes) in enumerate({"both": ("horizontal", "vertical"), "flat": ("horizontal",)}.items()):
        out = folder / name
        scenes(Job({"dataset": SETTINGS, "name": name, "seed": seed}, {}, {"folder": out / "scenes"}))
        behaviour(job(found["reader"], out / "scenes", out, "behaviour", {}))
        probes = random_probes(adapter, axes, seed, out / "probes.safetensors")
        amplification(job(found["reader"], out / "scenes", out, "table", STAGE, probes=probes, behaviour=out / "behaviour.parquet"))
        found |= {f"scenes:{name}": out / "scenes", f"probes:{name}": probes, f"amplification:{name}": out / "table.parquet"}
    return found


def transfer_job(inputs: dict[str, Path], out: Path, checkpoint: Path | None = None) -> Job:
    model = {"checkpoint": str(checkpoint or inputs["reader"]), "device": "cpu"}
    given = {name: path for name, path in inputs.items() if name != "reader"}
    names = [name.partition(":")[2] for name in given if name.startswith("scenes:")]
    return Job({"model": model, "seed": 0, "stage": STAGE, "datasets": names}, given, {"table": out / "transfer.parquet"})


@pytest.fixture(scope="module")
def table(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    out = tmp_path_factory.mktemp("out")
    transfer(transfer_job(inputs, out))
    return pl.read_parquet(out / "transfer.parquet")


@pytest.mark.slow
def test_every_ordered_pair_has_both_forms_and_their_controls(table: pl.DataFrame, inputs: dict[str, Path]) -> None:
    assert dict(table.schema) == SCHEMA
    columns = (
        (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8").split("### transfer.parquet")[1].split("###")[0]
    )
    assert "fitted_on" in columns
    assert "applied_to" in columns
    for source in ("both", "flat"):
        for target in ("both", "flat"):
            part = table.filter(fitted_on=source, applied_to=target)
            assert {method: part.filter(method=method)["draw"].n_unique() for method in part["method"].unique()} == {
                "projection": 1,
                "oracle": 1,
                "random": 2,
                "oracle_random": 2,
            }
            swept = pl.read_parquet(inputs[f"amplification:{target}"]).filter(split="test")
            asked = swept["question_id"].unique().sort()
            assert part.filter(method="projection")["question_id"].sort().equals(asked)
            # An oracle that was fitted on one axis cannot be used on another.
            horizontal = swept.filter(axis="horizontal")["question_id"].unique().sort()
            assert part.filter(method="oracle")["question_id"].sort().equals(horizontal if source == "flat" else asked)


@pytest.mark.slow
def test_a_dataset_and_itself_are_the_rows_of_its_amplification(table: pl.DataFrame, inputs: dict[str, Path]) -> None:
    swept = pl.read_parquet(inputs["amplification:both"])
    home = table.filter(fitted_on="both", applied_to="both")
    for form, control in RANDOM.items():
        choice = choose(swept, form)
        assert choice is not None
        # Random subspaces chose for themselves; the oracle's controls have no choice of their own.
        chosen = {draw: choose(swept.filter(draw=draw), control) or choice for draw in range(STAGE["random_draws"])}
        expected = pl.concat(at(swept.filter(draw=draw), "test", control, *own) for draw, own in chosen.items())
        for method, rows in ((form, at(swept, "test", form, *choice)), (control, expected)):
            assert home.filter(method=method).drop("fitted_on", "applied_to").equals(rows.sort("draw", "question_id"))


@pytest.mark.slow
def test_each_random_subspace_is_carried_at_the_setting_that_it_chose(table: pl.DataFrame, inputs: dict[str, Path]) -> None:
    swept = pl.read_parquet(inputs["amplification:both"])
    away = table.filter(fitted_on="both", applied_to="flat", method="random")
    for draw in range(STAGE["random_draws"]):
        assert away.filter(draw=draw).select("site", "alpha").unique().rows() == [choose(swept.filter(draw=draw), "random")]


@pytest.mark.slow
def test_carried_random_subspaces_are_those_that_chose(inputs: dict[str, Path]) -> None:
    """Carried to the dataset that they come from, they give the rows that its amplification has."""
    adapter, swept = load_adapter(inputs["reader"], device="cpu"), pl.read_parquet(inputs["amplification:both"])
    dataset = Dataset.open(inputs["scenes:both"])
    slots_of, of_sites = slots_of_scenes(dataset, adapter), fits(load_probes(inputs["probes:both"]), STAGE["sites"], adapter)
    settings = [made for made in carried_settings(of_sites, swept, slots_of, STAGE["random_draws"], 0) if made.method == "random"]
    rows = score(Sweep(adapter), dataset, questions_of(swept, dataset), settings, "again")
    keys = ["draw", "question_id"]
    expected = at_home(swept).filter(method="random").sort(keys)["answer_probability"].to_list()
    assert len(expected) > 0
    assert rows.sort(keys)["answer_probability"].to_list() == pytest.approx(expected, abs=1e-6)


def full_passes(inputs: dict[str, Path], source: str, target: str, method: str) -> Iterator[tuple[str, float]]:
    """Each question's answer probability by one full forward pass with a hook, from the files alone."""
    adapter = load_adapter(inputs["reader"], device="cpu")
    probes, dataset = load_probes(inputs[f"probes:{source}"]), Dataset.open(inputs[f"scenes:{target}"])
    choice = choose(pl.read_parquet(inputs[f"amplification:{source}"]), method)
    assert choice is not None
    site, alpha = choice
    basis = probe_basis(probes, site, adapter.identity.weights, adapter.site_shape(site)[1])
    asked = pl.read_parquet(inputs[f"amplification:{target}"]).filter(split="test")["question_id"].unique()
    for question in dataset.questions.filter(pl.col("question_id").is_in(asked.implode())).iter_rows(named=True):
        prepared = adapter.prepare([dataset.image(question["scene_id"])], [question["prompt"]])
        if method == "oracle":
            if (question["axis"], site) not in probes:
                continue
            slots = dataset.tokens(question["scene_id"], prepared.grid).strips.argmax(axis=0)
            correct = Oracle(slot_directions(probes[question["axis"], site].class_mean, basis), slots, alpha)
        else:
            correct = Projection(basis, alpha, probe_centre(probes, site))
        logits = adapter.run(prepared, edits={site: lambda values, correct=correct: correct(values[0])[None]})[0][0]
        reader = AnswerReader.of(adapter, question["candidates"])
        given = answered(reader.log_probabilities(logits[None]), reader.candidates, question["answer"])
        yield question["question_id"], given.answer_probability


@pytest.mark.slow
@pytest.mark.parametrize("method", ["projection", "oracle"])
@pytest.mark.parametrize(("source", "target"), [("both", "flat"), ("flat", "both")])
def test_equal_to_full_forward_passes_with_the_other_datasets_correction(
    table: pl.DataFrame, inputs: dict[str, Path], source: str, target: str, method: str
) -> None:
    expected = dict(full_passes(inputs, source, target, method))
    found = dict(table.filter(fitted_on=source, applied_to=target, method=method).select("question_id", "answer_probability").iter_rows())
    assert found.keys() == expected.keys()
    assert len(found) >= 9
    assert found == pytest.approx(expected, abs=1e-5)
    own = dict(table.filter(fitted_on=target, applied_to=target, method=method).select("question_id", "answer_probability").iter_rows())
    assert any(abs(own[question] - value) > 1e-3 for question, value in found.items() if question in own)


@pytest.mark.slow
def test_with_nothing_to_carry_the_table_is_empty_and_no_model_is_loaded(inputs: dict[str, Path], tmp_path: Path) -> None:
    unswept = tmp_path / "unswept.parquet"
    pl.read_parquet(inputs["amplification:flat"]).clear().write_parquet(unswept)
    alone = {name: path for name, path in inputs.items() if not name.endswith(":flat")}
    for given in ({**inputs, "amplification:flat": unswept}, alone):
        transfer(transfer_job(given, tmp_path, checkpoint=tmp_path / "nowhere"))
        assert pl.read_parquet(tmp_path / "transfer.parquet").equals(pl.DataFrame(schema=SCHEMA))


def _rows(source: str, target: str, method: str, before: str, after: str, draw: int = 0) -> pl.DataFrame:
    """One question a letter, each of a scene of its own; 1 is right."""
    return pl.DataFrame(
        {
            "fitted_on": source,
            "applied_to": target,
            "question_id": [f"q{place:02d}" for place in range(len(before))],
            "scene_id": [f"s{place}" for place in range(len(before))],
            "split": "test",
            "axis": "horizontal",
            "template": "slot_to_object",
            "site": "connector",
            "method": method,
            "draw": draw,
            "alpha": 4.0,
            "correct": [letter == "1" for letter in after],
            "correct_before": [letter == "1" for letter in before],
        }
    )


def test_pairs_by_hand() -> None:
    errors = "0" * 10 + "1" * 10
    table = pl.concat(
        [
            _rows("a", "a", "projection", errors, "1" * 20),
            _rows("a", "b", "projection", errors, "1" * 8 + "0" * 2 + "1" * 10),
            _rows("b", "a", "projection", errors, "1" * 3 + "0" * 7 + "1" * 8 + "0" * 2),
            _rows("b", "b", "projection", errors, errors),
            *(_rows("a", "b", "random", errors, "1" * draw + "0" * (10 - draw) + "1" * 10, draw) for draw in range(3)),
        ]
    )
    found = {(row["fitted_on"], row["applied_to"]): row for row in pairs(table).iter_rows(named=True)}
    assert {pair: (row["errors"], row["corrected"], row["broken"], row["n"]) for pair, row in found.items()} == {
        ("a", "a"): (10, 10, 0, 20),
        ("a", "b"): (10, 8, 0, 20),
        ("b", "a"): (10, 3, 2, 20),
        ("b", "b"): (10, 0, 0, 20),
    }
    away = found["a", "b"]
    assert away["p_value"] == pytest.approx(2 * 0.5**8)
    assert found["b", "a"]["p_value"] == pytest.approx(mcnemar_exact(3, 2)) == pytest.approx(1.0)
    # Two tests: those of different datasets.
    assert away["p_holm"] == pytest.approx(2 * away["p_value"])
    assert found["a", "a"]["p_holm"] is None
    assert away["share_estimate"] == pytest.approx(0.8)
    assert away["net_estimate"] == pytest.approx(0.4)
    assert away["net_low"] < 0.4 < away["net_high"]
    assert (away["random_share_estimate"], away["controls"]) == (pytest.approx(0.1), 3)
    assert away["random_net_estimate"] == pytest.approx(0.05)


def test_accuracies_before_and_after_by_hand() -> None:
    """On b: fitted there, half of 4 errors are corrected; fitted on a, one is and one answer breaks. What was carried to a is not of b."""
    own = _rows("b", "b", "projection", "0000111111", "1100111111").drop("fitted_on", "applied_to")
    swept = pl.concat([own, own.with_columns(split=pl.lit("validation"))])
    moved = pl.concat(
        [
            _rows("a", "b", "projection", "0000111111", "1000111110"),
            _rows("b", "b", "projection", "0000111111", "1100111111"),
            _rows("b", "a", "projection", "1111111111", "1111111111"),
            _rows("a", "b", "random", "0000111111", "1111111111"),
        ]
    )
    found = accuracies(swept, moved, "b").filter(axis=BOTH)
    shares = {(row["fitted_on"], row["correction"]): row["estimate"] for row in found.iter_rows(named=True)}
    expected = {("b", "untouched"): 0.6, ("b", "projection"): 0.8, ("a", "untouched"): 0.6, ("a", "projection"): 0.6}
    assert shares == pytest.approx(expected)
    assert set(found["n"]) == set(found["clusters"]) == {10}
    assert accuracies(swept, None, "b").filter(axis=BOTH).height == 2
    assert accuracies(None, None, "b").is_empty()


@pytest.mark.slow
def test_the_report_tells_what_travels_and_what_does_not(tmp_path: Path) -> None:
    done = synthetic.write_results(tmp_path, {"strip": synthetic.STRIP, "natural": synthetic.NATURAL})
    # Other figures take their time and have their own tests.
    given = {name: path for name, path in done.inputs.items() if name.startswith(("scenes:", "transfer:", "measures:"))}
    results = open_results(done.settings["models"], given)
    natural, strip = results.models
    rows = figure_rows(results, strip)[correction_transfer.FIGURE.name]
    shares = rows.filter(dataset="shapes", axis=BOTH, series="projection", measure=CORRECTED)
    assert dict(shares.select("fitted_on", "estimate").iter_rows()) == pytest.approx({"shapes": 7 / 12, "squares": 4 / 12}, abs=1e-6)
    assert set(rows["series"]) == {*RANDOM_OF, *RANDOM_OF.values()}
    away = rows.filter((pl.col("fitted_on") != pl.col("dataset")) & pl.col("series").is_in(list(RANDOM_OF)) & (pl.col("measure") == NET))
    assert away["p_holm"].is_not_null().all()
    [sentence] = carried(rows, "shapes")
    # The 12 errors are those of four scenes: the exact interval is that of a third of four.
    low, high = (f"{100 * beta.ppf(*end):.1f}%" for end in ((0.025, 4 / 3, 4 - 4 / 3 + 1), (0.975, 4 / 3 + 1, 4 - 4 / 3)))
    head, share = "The correction fitted on squares (α = 3 at connector)", f"33.3% [{low}, {high}] of 12 errors (random subspaces 0%)"
    assert sentence.startswith(f"{head} leaves open whether it corrects errors here: {share}, net accuracy +3.3 pts [")
    # So few cannot say more; what is said of more follows the verdict.
    for verdict, words in (
        ("supported", "corrects errors here that random pushes do not"),
        ("refuted", "corrects no more errors here than random pushes do"),
    ):
        [judged] = carried(rows.with_columns(verdict=pl.lit(verdict)), "shapes")
        assert judged.startswith(f"{head} {words}: {share}, ")
    assert "after Holm" in sentence
    assert "n = 120 questions" in correction_transfer.caption(rows.filter(axis=BOTH))
    nothing = figure_rows(results, natural)[correction_transfer.FIGURE.name]
    [sentence] = carried(nothing, "squares")
    assert sentence == "Validation on shapes chose no amplification, so there is no correction to carry here."
    assert carried(pl.DataFrame(), "squares") == []
    # One dataset left: what the other one left over is not shown.
    models = {"strip": {**done.settings["models"]["strip"], "datasets": ["squares"]}}
    left = {name: done.inputs[name] for name in ("scenes:squares", "amplification:strip:squares")}
    synthetic.write_measures(left, "strip", "squares", tmp_path / "alone.parquet")
    measured = {"measures:strip:squares": left["measures:strip:squares"]}
    alone = open_results(models, {"scenes:squares": left["scenes:squares"], "transfer:strip": given["transfer:strip"], **measured})
    assert figure_rows(alone, alone.models[0])[correction_transfer.FIGURE.name].is_empty()


def test_a_dataset_cannot_be_called_as_a_table_of_a_model() -> None:
    config = {"datasets": {"transfer.parquet": {"kind": "squares"}}, "models": {"m": {"checkpoint": "c", "datasets": ["transfer.parquet"]}}}
    with pytest.raises(ValueError, match=r"datasets\.transfer\.parquet: .*choose another name"):
        Config.model_validate(config)
