"""The measures stage: every table of a model on a dataset to one table of estimates, intervals, controls and verdicts.

Inputs: ``scenes``, the dataset's folder, whose name is the dataset's; and every table of the model on the dataset by its name
(``behaviour``, ``probes``, ...), and of a model with several datasets ``generalisation``, ``between_datasets`` and ``transfer``. A table
may be missing, and then the measures that need it are. Output: ``table``, ``measures.parquet`` (docs/measures.md). No torch here.
"""

from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.measures.everything import measured
from vlm_spatial.stages.stage import Job, run_stage


def measures(job: Job) -> None:
    """Every estimate, interval, control and verdict, computed once."""
    tables = {name: read_parquet(path) for name, path in job.inputs.items() if name not in ("scenes", "strip_map")}
    scenes = job.inputs["scenes"]
    tables |= {name: read_parquet(scenes / f"{name}.parquet") for name in ("pairs", "questions", "scenes")}
    write_parquet(measured(tables, scenes.name), job.outputs["table"])


if __name__ == "__main__":
    run_stage("measures", measures)
