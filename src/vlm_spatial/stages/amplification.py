"""Stage: sweep the corrections over the questions of the validation and test splits."""

import numpy as np
import polars as pl

from vlm_spatial.amplification.questions import sample_questions
from vlm_spatial.amplification.scoring import SCHEMA, score
from vlm_spatial.amplification.settings import Fit, slots_of_scenes, visual_sites, with_probes
from vlm_spatial.amplification.sweep import Setting, Sweep
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.files import read_parquet, write_parquet
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
    sites = with_probes(visual_sites(adapter, settings.sites), probes)
    if not sites:
        write_parquet(pl.DataFrame(schema=SCHEMA), job.outputs["table"])
        return
    dataset = Dataset.open(job.inputs["scenes"])
    asked = sample_questions(read_parquet(job.inputs["behaviour"]), dataset, settings.questions, job.settings["seed"])

    sweep, slots_of = Sweep(adapter, memory_gb=settings.memory_gb), slots_of_scenes(dataset, adapter)
    fits = [Fit.of(probes, site, adapter) for site in sites]
    main = [
        setting
        for fit in fits
        for setting in (*fit.projections(settings.projection_alphas), *fit.oracles(settings.oracle_alphas, slots_of))
    ]
    tables = [score(sweep, dataset, asked.filter(split=split), main, f"amplification, {split}") for split in ("validation", "test")]
    generator = np.random.default_rng(job.settings["seed"])
    subspaces = {fit.site: fit.random(settings.random_draws, generator) for fit in fits}
    # A random subspace that is to do as well as the form does chooses as the form does.
    rivals = [
        setting for fit in fits for alpha in settings.projection_alphas for setting in fit.random_subspaces(subspaces[fit.site], alpha)
    ]
    tables.append(score(sweep, dataset, asked.filter(split="validation"), rivals, "amplification, validation controls"))
    of_draws = [(draw, choose(tables[-1].filter(draw=draw), "random")) for draw in range(settings.random_draws)]
    wanted = {(*choice, draw) for draw, choice in of_draws if choice is not None}
    controls: list[Setting] = []
    for fit in fits:
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
    write_parquet(pl.concat(tables).sort("split", "method", "site", "draw", "alpha", "question_id"), job.outputs["table"])


if __name__ == "__main__":
    run_stage("amplification", amplification)
