"""The measures stage: every table of a model on a dataset to one table of estimates, intervals, controls and verdicts.

Settings: ``{"dataset": str}``. Inputs, by name; each may be missing, and then the measures that need it are::

    behaviour, probes, geometry, interchange, conflict, ablation_sweep, ablation_accuracy, amplification
        parquet tables of the model on the dataset
    generalisation, between_datasets, transfer
        those of the model, if it has several datasets

Output: ``table``, ``measures.parquet`` (docs/measures.md). This stage never imports torch.
"""

from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.measures.everything import measured
from vlm_spatial.stages.stage import Job, run_stage


def measures(job: Job) -> None:
    """Every estimate, interval, control and verdict, computed once."""
    tables = {name: read_parquet(path) for name, path in job.inputs.items()}
    write_parquet(measured(tables, job.settings["dataset"]), job.outputs["table"])


if __name__ == "__main__":
    run_stage("measures", measures)
