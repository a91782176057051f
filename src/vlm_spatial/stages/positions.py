"""Stage: visual tokens and their position ids exchanged apart; is a token's place its rotary index, or its turn in the sequence?"""

from vlm_spatial.config.positions import PositionsSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.edited_runs import chosen_cases, windows
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.language import exchangeable
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.positions import moves, run_positions
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def positions(job: Job) -> None:
    """Write ``positions.parquet``."""
    settings = section(job, PositionsSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    adapter = load_adapter(**job.settings["model"])
    spans = windows(len(adapter.language_blocks), settings.window, settings.every)
    cases = chosen_cases(exchangeable(read_cases(dataset, adapter, "conflict")), settings.pairs)
    plans = [moves(case, adapter, settings, spans, job.settings["seed"]) for case in cases]
    engine = PatchEngine(adapter, memory_gb=settings.memory_gb)
    write_parquet(run_positions(engine, dataset, cases, plans, settings.shift), job.outputs["table"])


if __name__ == "__main__":
    run_stage("positions", positions)
