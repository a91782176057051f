"""Stage: sweep the corrections over the questions of the validation and test splits."""

import polars as pl

from vlm_spatial.amplification.baselines import attention_edits, choose_adaptive, norm_settings, rotary_settings
from vlm_spatial.amplification.columns import item_probes, item_settings
from vlm_spatial.amplification.edited import score_edited
from vlm_spatial.amplification.questions import item_questions, sample_questions
from vlm_spatial.amplification.role import Strengthened
from vlm_spatial.amplification.scoring import ITEMS_SCHEMA, SCHEMA, score
from vlm_spatial.amplification.settings import fits, random_subspaces, slots_of_scenes
from vlm_spatial.amplification.sweep import Setting, Sweep
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.labels import CONNECTOR
from vlm_spatial.measures.amplification import choose
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.saved import load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def amplification(job: Job) -> None:
    """Score every question under every correction; alpha and site are chosen on validation, controls run on test."""
    settings = section(job, AmplificationSettings)
    adapter = load_adapter(**job.settings["model"])
    probes = load_probes(job.inputs["probes"])
    dataset, sweep = Dataset.open(job.inputs["scenes"]), Sweep(adapter, memory_gb=settings.memory_gb)
    behaviour = read_parquet(job.inputs["behaviour"])
    write_parquet(amplified_items(sweep, dataset, behaviour, settings, job.settings["seed"]), job.outputs["of_items"])
    of_sites = fits(probes, settings.sites, adapter)
    if not of_sites:
        write_parquet(pl.DataFrame(schema=SCHEMA), job.outputs["table"])
        return
    asked = sample_questions(behaviour, dataset, settings.questions, job.settings["seed"])

    slots_of = slots_of_scenes(dataset, adapter)
    main = [
        setting
        for fit in of_sites
        for setting in (*fit.projections(settings.projection_alphas), *fit.oracles(settings.oracle_alphas, slots_of))
    ]
    tables = [score(sweep, dataset, asked.filter(split=split), main, f"amplification, {split}") for split in ("validation", "test")]
    subspaces = random_subspaces(of_sites, settings.random_draws, job.settings["seed"])
    # A random subspace that is to do as well as the form does chooses as the form does.
    rivals = [
        setting for fit in of_sites for alpha in settings.projection_alphas for setting in fit.random_subspaces(subspaces[fit.site], alpha)
    ]
    tables.append(score(sweep, dataset, asked.filter(split="validation"), rivals, "amplification, validation controls"))
    of_draws = [(draw, choose(tables[-1].filter(draw=draw), "random")) for draw in range(settings.random_draws)]
    wanted = {(*choice, draw) for draw, choice in of_draws if choice is not None}
    controls: list[Setting] = []
    for fit in of_sites:
        # Every site gets its controls at its own best alpha, so that sites can be compared.
        best = {method: choose(tables[0].filter(site=fit.site), method) for method in ("projection", "oracle")}
        for alpha in sorted({*settings.control_alphas, *([best["projection"][1]] if best["projection"] else [])}):
            wanted |= {(fit.site, alpha, draw) for draw in range(settings.random_draws)}
            controls += fit.other_subspaces(alpha)
        for alpha in sorted({alpha for site, alpha, _ in wanted if site == fit.site}):
            controls += [
                setting for setting in fit.random_subspaces(subspaces[fit.site], alpha) if (fit.site, alpha, setting.draw) in wanted
            ]
        if best["oracle"]:
            controls += fit.random_directions(subspaces[fit.site], best["oracle"][1], slots_of)
    tables.append(score(sweep, dataset, asked.filter(split="test"), controls, "amplification, test controls"))
    tables += baselines(sweep, dataset, asked, settings, job.settings["seed"])
    write_parquet(pl.concat(tables).sort("split", "method", "site", "draw", "alpha", "question_id"), job.outputs["table"])


def baselines(sweep: Sweep, dataset: Dataset, asked: pl.DataFrame, settings: AmplificationSettings, seed: int) -> list[pl.DataFrame]:
    """What needs no probe, validation and test."""
    engine = PatchEngine(sweep.adapter, memory_gb=settings.memory_gb)
    other = norm_settings(sweep.adapter, dataset, asked, settings.norm_alphas)
    other += rotary_settings(sweep.adapter, dataset, asked, settings.rotary_alphas, settings.rotary_power)
    names = Strengthened.of(sweep.adapter, dataset, settings.role_sites, settings.role_alphas, settings.questions, seed)
    attention = attention_edits(sweep.adapter, settings.attention_factors)
    of_split = {}
    tables = []
    for split in ("validation", "test"):
        part = asked.filter(split=split)
        tables.append(score(sweep, dataset, part, other, f"norms and rotary positions, {split}"))
        tables.append(score_edited(engine, dataset, part, names.edits, f"names, {split}"))
        of_split[split] = score_edited(engine, dataset, part, lambda _question: attention, f"attention scaling, {split}")
    adaptive = choose_adaptive(of_split["validation"])
    return [*tables, *of_split.values(), *([adaptive.rows(each) for each in of_split.values()] if adaptive else [])]


def amplified_items(sweep: Sweep, dataset: Dataset, behaviour: pl.DataFrame, settings: AmplificationSettings, seed: int) -> pl.DataFrame:
    """``amplification_items.parquet``: every two-object item under the published correction and its controls; empty if none are asked."""
    asked = item_questions(behaviour, dataset, settings.items_right_by) if settings.item_alphas else pl.DataFrame()
    if asked.is_empty():
        return pl.DataFrame(schema=ITEMS_SCHEMA)
    probes = item_probes(sweep.adapter, dataset, asked, seed)
    features = sweep.adapter.site_shape(CONNECTOR)[1]
    made = item_settings(probes, features, settings.item_alphas, settings.item_random_draws, seed)
    swept = score(sweep, dataset, asked.filter(pl.col("axis").is_in(list(probes))), made, "amplification, items")
    if settings.items_right_by == "top1_word":
        swept = swept.with_columns(correct=pl.col("top1_correct"))
    items = asked.select("question_id", "item")
    return swept.join(items, on="question_id", how="left", maintain_order="left").select(list(ITEMS_SCHEMA))


if __name__ == "__main__":
    run_stage("amplification", amplification)
