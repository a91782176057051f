"""Stage: exchange of two slots' visual tokens at the connector of one image; does the answer stay or move?"""

from vlm_spatial.config.conflict import ConflictSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.language import conflict_plan, exchangeable
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.sweep import run_sweep
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def conflict(job: Job) -> None:
    """Write ``conflict.parquet``."""
    settings = section(job, ConflictSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    adapter = load_adapter(**job.settings["model"])
    cases = exchangeable(read_cases(dataset, adapter, "conflict"))
    engine = PatchEngine(adapter, memory_gb=settings.memory_gb)
    table = run_sweep(engine, dataset, cases, conflict_plan(settings.token_sets), description="conflict")
    write_parquet(table, job.outputs["table"])


if __name__ == "__main__":
    run_stage("conflict", conflict)
