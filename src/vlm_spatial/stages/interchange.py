"""Stage: interchange interventions in the vision encoder, at the connector and in the language model."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from vlm_spatial.config.interchange import InterchangeSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.crosswise import crosswise_cases, crosswise_plan, mirror_cases, mirror_plan
from vlm_spatial.interventions.displaced import displaced_cases, displaced_plan
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.language import exchangeable, language_plan
from vlm_spatial.interventions.last_token import EMBEDDING, last_token_cases, last_token_plan
from vlm_spatial.interventions.pairs_on_grid import Case, read_cases
from vlm_spatial.interventions.sweep import ExchangesOf, run_sweep
from vlm_spatial.interventions.vision import vision_plan
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


@dataclass(frozen=True)
class PlannedSweep:
    """One of the stage's sweeps: what is exchanged in which pairs."""

    name: str
    cases: list[Case]
    plan: ExchangesOf


def interchange(job: Job) -> None:
    """Write ``interchange.parquet``: the vision sweep, and over language layers all the other ones."""
    settings = section(job, InterchangeSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    engine = PatchEngine(load_adapter(**job.settings["model"]), memory_gb=settings.memory_gb)
    sweeps = planned_sweeps(engine.adapter, dataset, settings, job.settings["seed"])
    tables = [
        run_sweep(engine, dataset, each.cases, each.plan, description=f"{each.name} interchange", pool=settings.pool) for each in sweeps
    ]
    write_parquet(pl.concat(tables), job.outputs["table"])


def planned_sweeps(adapter: Adapter, dataset: Dataset, settings: InterchangeSettings, seed: int) -> Iterator[PlannedSweep]:
    """The sweeps that the settings ask for, in the order of the table."""
    sources = ("counterfactual", "unrelated") if settings.unrelated_control else ("counterfactual",)
    pairs = read_cases(dataset, adapter, "vision", unrelated=settings.unrelated_control)
    yield PlannedSweep("vision", pairs, vision_plan(adapter.matching_sites(settings.vision_sites), settings.token_sets, sources, seed))
    language_sites = adapter.matching_sites(settings.language_sites)
    ordered = read_cases(dataset, adapter, "language")
    yield PlannedSweep("language", exchangeable(ordered), language_plan(language_sites, seed))
    crosswise_sites = adapter.matching_sites(settings.crosswise_sites)
    if settings.crosswise_sets:
        shift = adapter.quirks.shifted_cells
        plan = crosswise_plan(crosswise_sites, settings.crosswise_sets, seed, settings.crosswise_match, shift)
        yield PlannedSweep("crosswise", crosswise_cases(pairs), plan)
    if settings.last_token_sites:
        sites = [EMBEDDING, *adapter.matching_sites(settings.last_token_sites)]
        five, plan = read_cases(dataset, adapter, "last_token"), last_token_plan(adapter, dataset, sites, settings.last_token_groups)
        yield PlannedSweep("last-token", five or last_token_cases(dataset, ordered), plan)
    if settings.displaced_pairs:
        apart = displaced_cases(dataset, adapter, settings.displaced_pairs, seed)
        yield PlannedSweep("displaced", apart, displaced_plan(language_sites, seed))
    if settings.mirror_sets:
        yield PlannedSweep("mirror", mirror_cases(dataset, pairs), mirror_plan(crosswise_sites, settings.mirror_sets))


if __name__ == "__main__":
    run_stage("interchange", interchange)
