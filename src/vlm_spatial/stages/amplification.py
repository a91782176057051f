"""Stage: sweep the corrections over the questions of the validation and test splits."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.amplification.answers import answered
from vlm_spatial.amplification.corrections import (
    Basis,
    NormMatched,
    Oracle,
    Projection,
    probe_basis,
    random_basis,
    slot_directions,
)
from vlm_spatial.amplification.outcomes import choose
from vlm_spatial.amplification.sweep import Asked, Setting, Sweep, by_scene
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.interventions.answers import Readout
from vlm_spatial.interventions.patch import Run
from vlm_spatial.models.adapter import Adapter, Site
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.saved import Probes, load_probes
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def amplification(job: Job) -> None:
    """Score every question under every correction; alpha and site are chosen on validation, controls run on test."""
    settings = section(job, AmplificationSettings)
    adapter = load_adapter(**job.settings["model"])
    probes = load_probes(job.inputs["probes"])
    sites = with_probes(visual_sites(adapter, settings.sites), probes)
    if not sites:
        write_parquet(pl.DataFrame(schema=SCHEMA), job.outputs["table"])
        return
    dataset = Dataset.open(job.inputs["scenes"])
    asked = sample_questions(read_parquet(job.inputs["behaviour"]), dataset, settings.questions, job.settings["seed"])

    sweep = Sweep(adapter, memory_gb=settings.memory_gb)
    main = [setting for site in sites for setting in main_settings(dataset, adapter, probes, site, settings)]
    tables = [run(sweep, dataset, asked.filter(split=split), main, split) for split in ("validation", "test")]
    generator = np.random.default_rng(job.settings["seed"])
    controls = []
    for site in sites:
        # Every site gets its controls at its own best alpha, so that sites can be compared.
        choice = choose(tables[0].filter(site=site), "projection")
        alphas = sorted({*settings.control_alphas, *([choice[1]] if choice else [])})
        controls += control_settings(adapter, probes, site, settings.random_draws, alphas, generator)
    tables.append(run(sweep, dataset, asked.filter(split="test"), controls, "test controls"))
    write_parquet(pl.concat(tables).sort("split", "method", "site", "draw", "alpha", "question_id"), job.outputs["table"])


def with_probes(sites: Sequence[Site], probes: Probes) -> tuple[Site, ...]:
    """The sites that have a probe on some axis; those whose data could not bear one (few photos) are left out with a word on stderr.

    A site that was never probed stays, and is an error where it is used.
    """
    kept = []
    for site in sites:
        reasons = [reason for key, reason in probes.metadata.get("inconclusive", {}).items() if key.partition("/")[2] == site]
        if reasons and not any(where == site for _, where in probes):
            print(f"amplification: nothing to amplify at {site}: {reasons[0]}", file=sys.stderr, flush=True)
        else:
            kept.append(site)
    return tuple(kept)


def visual_sites(adapter: Adapter, patterns: Sequence[str]) -> tuple[Site, ...]:
    """The sites to correct.

    Raises:
        UserError: if one of them is in the language model.
    """
    sites = adapter.matching_sites(patterns)
    for site in sites:
        if site.startswith("language."):
            raise UserError(
                f"amplification.sites: {site} is in the language model; the vision signal is corrected at vision.<layer> or connector"
            )
    return sites


def sample_questions(behaviour: pl.DataFrame, dataset: Dataset, limit: int, seed: int) -> pl.DataFrame:
    """Questions of whole main scenes, drawn at random until an axis and split have about ``limit``."""
    rows = behaviour.filter((pl.col("variant") == "main") & pl.col("split").is_in(["validation", "test"]))
    if rows.is_empty():
        raise UserError("behaviour table: has no questions of main scenes in the validation and test splits; add both to behaviour.splits")
    generator = np.random.default_rng(seed)
    parts = []
    for _, group in sorted(rows.partition_by("split", "axis", as_dict=True).items()):
        scenes = generator.permutation(group["scene_id"].unique().sort().to_numpy())
        a_scene = group.height / len(scenes)
        parts.append(group.filter(pl.col("scene_id").is_in(list(scenes[: max(1, round(limit / a_scene))]))))
    columns = ["question_id", "scene_id", "split", "axis", "template", "slot", "answer", "correct", "confidence_before", "brier_before"]
    drawn = pl.concat(parts)
    certainty = [answered(*row) for row in drawn.select("logits", "candidates", "answer").iter_rows()]
    return (
        drawn.with_columns(
            confidence_before=pl.Series([one.confidence for one in certainty], dtype=pl.Float64),
            brier_before=pl.Series([one.brier for one in certainty], dtype=pl.Float64),
        )
        .select(columns)
        .rename({"correct": "correct_before"})
        .join(dataset.questions.select("question_id", "prompt", "candidates"), on="question_id", how="left", maintain_order="left")
        .sort("split", "axis", "question_id")
    )


def main_settings(dataset: Dataset, adapter: Adapter, probes: Probes, site: Site, settings: AmplificationSettings) -> list[Setting]:
    """The label-free and the oracle form over their grids of alpha."""
    basis = probe_basis(probes, site, adapter.identity.weights, adapter.site_shape(site)[1])
    axis_of = dict(dataset.scenes.select("scene_id", "axis").iter_rows())
    directions = {axis: slot_directions(probe.class_mean, basis) for (axis, where), probe in probes.items() if where == site}

    def projection(alpha: float) -> Setting:
        return Setting(site, "projection", 0, alpha, lambda _scene: Projection(basis, alpha))

    def oracle(alpha: float) -> Setting:
        def make(scene_id: str) -> Oracle:
            width, height = dataset.size(scene_id)
            strips = dataset.tokens(scene_id, adapter.grid(width, height)).strips
            return Oracle(directions[axis_of[scene_id]], strips.argmax(axis=0), alpha)

        return Setting(site, "oracle", 0, alpha, make)

    return [projection(a) for a in settings.projection_alphas] + [oracle(a) for a in settings.oracle_alphas]


def control_settings(
    adapter: Adapter, probes: Probes, site: Site, draws: int, alphas: Sequence[float], generator: np.random.Generator
) -> list[Setting]:
    """Random subspaces of equal rank and move, the complement, and the subspace of a probe for shuffled labels."""
    weights, features = adapter.identity.weights, adapter.site_shape(site)[1]
    basis = probe_basis(probes, site, weights, features)
    shuffled = probe_basis(probes, site, weights, features, shuffled=True)
    bases = [random_basis(len(basis), features, generator) for _ in range(draws)]

    def matched(method: str, draw: int, other: Basis, alpha: float) -> Setting:
        correction = NormMatched(basis, other, alpha, complement=method == "complement")
        return Setting(site, method, draw, alpha, lambda _scene: correction)

    return [
        setting
        for alpha in alphas
        for setting in (
            *(matched("random", draw, other, alpha) for draw, other in enumerate(bases)),
            matched("complement", 0, basis, alpha),
            matched("shuffled", 0, shuffled, alpha),
        )
    ]


def run(sweep: Sweep, dataset: Dataset, asked: pl.DataFrame, settings: Sequence[Setting], what: str) -> pl.DataFrame:
    """Rows of ``amplification.parquet`` for these questions and settings."""
    if asked.is_empty() or not settings:
        return pl.DataFrame(schema=SCHEMA)
    questions = asked.rows(named=True)
    readouts = [Readout.of(sweep.adapter, row["candidates"]) for row in questions]
    named = object_tokens(sweep.adapter, dataset.questions)
    rows: list[dict[str, Any]] = []
    scenes = list(by_scene(asked["scene_id"].to_list()))
    for scene, places in progress(scenes, f"amplification, {what}"):
        image = Run(dataset.image(scene), questions[places[0]]["prompt"])
        posed = [Asked(questions[place]["question_id"], questions[place]["prompt"], (*readouts[place].tokens, *named)) for place in places]
        # Untouched once more, for what it names: one of many settings, and controls come without their own.
        every = sweep.scores(image, scene, posed, [*settings, Setting("connector", "projection", 0, 1.0, lambda _scene: _unchanged)])
        for place, scores in zip(places, every, strict=True):
            rows += list(_rows(questions[place], readouts[place], named, settings, scores.double().numpy()))
    return pl.DataFrame(rows, schema=SCHEMA)


def object_tokens(adapter: Adapter, questions: pl.DataFrame) -> list[int]:
    """First tokens of every object word of the dataset."""
    named = questions.filter(pl.col("template").is_in(NAMING))["candidates"].explode().drop_nulls().unique().sort()
    return sorted({token for word in named for token in adapter.answer_tokens([word])})


def _unchanged(values: Float[Tensor, "cells patches features"]) -> Float[Tensor, "cells patches features"]:
    return values


def _rows(
    question: dict[str, Any],
    readout: Readout,
    named: Sequence[int],
    settings: Sequence[Setting],
    scores: Float[np.ndarray, "settings tokens"],
) -> Iterator[dict[str, Any]]:
    count = len(readout.candidates)
    # The candidates of such a question are the objects of its picture.
    there = np.isin(np.asarray(named)[scores[:, count:].argmax(axis=1)], readout.tokens) if question["template"] in NAMING else None
    for number, setting in enumerate(settings):
        given = answered(scores[number, :count], readout.candidates, question["answer"])
        yield {
            **{key: question[key] for key in FROM_QUESTION},
            "site": setting.site,
            "method": setting.method,
            "draw": setting.draw,
            "alpha": setting.alpha,
            "predicted": given.predicted,
            "correct": given.predicted == question["answer"],
            "answer_probability": given.answer_probability,
            "confidence": given.confidence,
            "brier": given.brier,
            "present": None if there is None else bool(there[number]),
            "present_before": None if there is None else bool(there[-1]),
        }


NAMING = ("slot_to_object", "relation_to_object")
"""Templates that are answered with the name of an object."""
FROM_QUESTION = (
    "question_id",
    "scene_id",
    "split",
    "axis",
    "template",
    "slot",
    "correct_before",
    "confidence_before",
    "brier_before",
)
SCHEMA = {
    "question_id": pl.String,
    "scene_id": pl.String,
    "split": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "slot": pl.Int32,
    "site": pl.String,
    "method": pl.String,
    "draw": pl.Int32,
    "alpha": pl.Float64,
    "predicted": pl.String,
    "correct": pl.Boolean,
    "correct_before": pl.Boolean,
    "answer_probability": pl.Float64,
    "confidence_before": pl.Float64,
    "confidence": pl.Float64,
    "brier_before": pl.Float64,
    "brier": pl.Float64,
    "present_before": pl.Boolean,
    "present": pl.Boolean,
}


if __name__ == "__main__":
    run_stage("amplification", amplification)
