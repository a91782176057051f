"""Stage: sweep the corrections over the questions of the validation and test splits."""

from collections.abc import Sequence

import numpy as np
import polars as pl

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
from vlm_spatial.amplification.sweep import Asked, Setting, sweep
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.interventions.engine import PatchEngine
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
    sites = adapter.matching_sites(settings.sites)
    dataset = Dataset.open(job.inputs["scenes"])
    asked = sample_questions(read_parquet(job.inputs["behaviour"]), dataset, settings.questions, job.settings["seed"])

    engine = PatchEngine(adapter, memory_gb=settings.memory_gb)
    main = [setting for site in sites for setting in main_settings(dataset, adapter, probes, site, settings)]
    tables = [run(engine, dataset, asked.filter(split=split), main, split) for split in ("validation", "test")]
    choice = choose(tables[0], "projection")
    controls = [
        setting
        for site in sites
        for setting in control_settings(
            probes, adapter.identity.weights, site, settings, choice, np.random.default_rng(job.settings["seed"])
        )
    ]
    tables.append(run(engine, dataset, asked.filter(split="test"), controls, "test controls"))
    write_parquet(pl.concat(tables).sort("split", "method", "site", "draw", "alpha", "question_id"), job.outputs["table"])


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
    columns = ["question_id", "scene_id", "split", "axis", "template", "slot", "answer", "correct"]
    return (
        pl.concat(parts)
        .select(columns)
        .rename({"correct": "correct_before"})
        .join(dataset.questions.select("question_id", "prompt", "candidates"), on="question_id", how="left", maintain_order="left")
        .sort("split", "axis", "question_id")
    )


def main_settings(dataset: Dataset, adapter: Adapter, probes: Probes, site: Site, settings: AmplificationSettings) -> list[Setting]:
    """The label-free and the oracle form over their grids of alpha."""
    basis = probe_basis(probes, site, adapter.identity.weights)
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
    probes: Probes,
    weights: str,
    site: Site,
    settings: AmplificationSettings,
    choice: tuple[Site, float] | None,
    generator: np.random.Generator,
) -> list[Setting]:
    """Random subspaces of equal rank and move, the complement, and the subspace of a probe for shuffled labels."""
    basis = probe_basis(probes, site, weights)
    rank, features = basis.shape
    shuffled = probe_basis(probes, site, weights, shuffled=True)
    bases = [random_basis(rank, features, generator) for _ in range(settings.random_draws)]
    alphas = sorted({*settings.control_alphas, *([choice[1]] if choice else [])})

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


def run(engine: PatchEngine, dataset: Dataset, asked: pl.DataFrame, settings: Sequence[Setting], what: str) -> pl.DataFrame:
    """Rows of ``amplification.parquet`` for these questions and settings."""
    adapter = engine.adapter
    by_id = {row["question_id"]: row for row in asked.iter_rows(named=True)}
    # One image object a scene, so that the vision encoder runs once for all of its questions.
    images = {scene: dataset.image(scene) for scene in asked["scene_id"].unique(maintain_order=True)}
    questions = [Asked(q["question_id"], q["scene_id"], Run(images[q["scene_id"]], q["prompt"])) for q in by_id.values()]
    if not questions or not settings:
        return pl.DataFrame(schema=SCHEMA)
    cells = adapter.grid(*questions[0].run.image.size).size
    rows = []
    chunk = 32
    chunks = sweep(engine, questions, settings, cells, chunk)
    for part, logits in progress(chunks, f"amplification, {what}", total=-(-len(questions) // chunk)):
        for question, of_question in zip(part, logits, strict=True):
            row = by_id[question.question_id]
            candidates = row["candidates"]
            scores = of_question[:, adapter.answer_tokens(candidates)].double().log_softmax(-1).exp().numpy()
            for setting, probability in zip(settings, scores, strict=True):
                predicted = candidates[int(probability.argmax())]
                rows.append(
                    {
                        **{key: row[key] for key in ("question_id", "scene_id", "split", "axis", "template", "slot")},
                        "site": setting.site,
                        "method": setting.method,
                        "draw": setting.draw,
                        "alpha": setting.alpha,
                        "predicted": predicted,
                        "correct": predicted == row["answer"],
                        "correct_before": row["correct_before"],
                        "answer_probability": float(probability[candidates.index(row["answer"])]),
                    }
                )
    return pl.DataFrame(rows, schema=SCHEMA)


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
}


if __name__ == "__main__":
    run_stage("amplification", amplification)
