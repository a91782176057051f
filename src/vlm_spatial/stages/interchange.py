"""Stage: interchange interventions in the vision encoder, at the connector and in the language model."""

import polars as pl

from vlm_spatial.config.interchange import InterchangeSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.crosswise import crosswise_cases, crosswise_plan, mirror_cases, mirror_plan
from vlm_spatial.interventions.displaced import displaced_cases, displaced_plan
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.language import exchangeable, language_plan
from vlm_spatial.interventions.last_token import EMBEDDING, last_token_cases, last_token_plan
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.sweep import run_sweep
from vlm_spatial.interventions.vision import vision_plan
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def interchange(job: Job) -> None:
    """Write ``interchange.parquet``: the vision sweep, and over language layers all the other ones."""
    settings = section(job, InterchangeSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    adapter = load_adapter(**job.settings["model"])
    engine = PatchEngine(adapter, memory_gb=settings.memory_gb)
    seed = job.settings["seed"]
    sources = ("counterfactual", "unrelated") if settings.unrelated_control else ("counterfactual",)
    vision = vision_plan(adapter.matching_sites(settings.vision_sites), settings.token_sets, sources, seed)
    language = language_plan(adapter.matching_sites(settings.language_sites), seed)
    crosswise_sites = adapter.matching_sites(settings.crosswise_sites)
    crosswise = crosswise_plan(crosswise_sites, settings.crosswise_sets, seed, settings.crosswise_match)
    pairs = read_cases(dataset, adapter, "vision", unrelated=settings.unrelated_control)
    ordered = exchangeable(read_cases(dataset, adapter, "language"))
    tables = [
        run_sweep(engine, dataset, pairs, vision, description="vision interchange"),
        run_sweep(engine, dataset, ordered, language, description="language interchange"),
    ]
    if settings.crosswise_sets:
        tables.append(run_sweep(engine, dataset, crosswise_cases(pairs), crosswise, description="crosswise interchange"))
    if settings.last_token_sites:
        last_token = last_token_plan([EMBEDDING, *adapter.matching_sites(settings.last_token_sites)])
        asked = last_token_cases(dataset, read_cases(dataset, adapter, "language"))
        tables.append(run_sweep(engine, dataset, asked, last_token, description="last-token interchange"))
    if settings.displaced_pairs:
        apart = displaced_cases(dataset, adapter, settings.displaced_pairs, seed)
        displaced = displaced_plan(adapter.matching_sites(settings.language_sites), seed)
        tables.append(run_sweep(engine, dataset, apart, displaced, description="displaced interchange"))
    if settings.mirror_sets:
        mirrored = mirror_plan(crosswise_sites, settings.mirror_sets)
        tables.append(run_sweep(engine, dataset, mirror_cases(dataset, pairs), mirrored, description="mirror interchange"))
    write_parquet(pl.concat(tables), job.outputs["table"])


if __name__ == "__main__":
    run_stage("interchange", interchange)
