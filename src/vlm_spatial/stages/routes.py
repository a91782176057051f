"""Stage: attention knockout between the image, the question and the answer, and attention heads at the last token."""

import polars as pl

from vlm_spatial.config.routes import RoutesSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.edited_runs import chosen_cases, windows
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.heads import SCHEMA, HeadSweep
from vlm_spatial.interventions.last_token import last_token_cases
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.routes import check_routes, closings, run_routes
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def routes(job: Job) -> None:
    """Write ``routes.parquet`` and ``heads.parquet``, which has no rows where heads are left out."""
    settings = section(job, RoutesSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    adapter = load_adapter(**job.settings["model"])
    depth = len(adapter.language_blocks)
    spans = windows(depth, settings.window, settings.every)
    check_routes(adapter, spans)
    cases = chosen_cases(read_cases(dataset, adapter, "vision"), settings.pairs)
    plan = closings(settings.routes, spans, depth, controls=settings.controls)
    engine = PatchEngine(adapter, memory_gb=settings.memory_gb)
    seed = job.settings["seed"]
    write_parquet(run_routes(engine, dataset, cases, plan, settings.standing, seed), job.outputs["table"])
    heads = pl.DataFrame(schema=SCHEMA)
    if settings.heads:
        last = read_cases(dataset, adapter, "last_token") or last_token_cases(dataset, read_cases(dataset, adapter, "language"))
        heads = HeadSweep(engine, dataset, chosen_cases(last, settings.pairs), settings.standing).run(
            settings.head_draws, seed, settings.question_heads
        )
    write_parquet(heads, job.outputs["heads"])


if __name__ == "__main__":
    run_stage("routes", routes)
