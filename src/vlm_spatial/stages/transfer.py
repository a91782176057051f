"""Stage ``transfer``: corrections fitted on each dataset of a model, used on its other datasets. One job a model."""

import polars as pl

from vlm_spatial.amplification.questions import questions_of
from vlm_spatial.amplification.scoring import score
from vlm_spatial.amplification.settings import fits, slots_of_scenes
from vlm_spatial.amplification.sweep import Sweep
from vlm_spatial.amplification.transfer import SCHEMA, at_home, carried
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.measures.amplification import choose
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.saved import load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def transfer(job: Job) -> None:
    """Inputs, for each dataset NAME of ``settings["datasets"]``: ``scenes:NAME``, ``probes:NAME``, ``amplification:NAME``.

    Output ``table``. Datasets on which nothing was amplified are left out; with fewer than two others the table has no rows.
    """
    settings = section(job, AmplificationSettings)
    tables = {name: read_parquet(job.inputs[f"amplification:{name}"]) for name in sorted(job.settings["datasets"])}
    swept = {name: table for name, table in tables.items() if choose(table, "projection") is not None}
    found = [pl.DataFrame(schema=SCHEMA)]
    if len(swept) > 1:
        adapter = load_adapter(**job.settings["model"])
        sweep = Sweep(adapter, memory_gb=settings.memory_gb)
        of_sites = {name: fits(load_probes(job.inputs[f"probes:{name}"]), settings.sites, adapter) for name in swept}
        for target, table in swept.items():
            dataset = Dataset.open(job.inputs[f"scenes:{target}"])
            asked, slots_of = questions_of(table, dataset), slots_of_scenes(dataset, adapter)
            for source in swept:
                if source == target:
                    rows = at_home(table)
                else:
                    corrections = carried(of_sites[source], swept[source], slots_of, settings.random_draws, job.settings["seed"])
                    rows = score(sweep, dataset, asked, corrections, f"transfer, {source} to {target}")
                found.append(rows.select(pl.lit(source).alias("fitted_on"), pl.lit(target).alias("applied_to"), pl.all()))
    order = ["fitted_on", "applied_to", "method", "draw", "question_id"]
    write_parquet(pl.concat(found).sort(order), job.outputs["table"])


if __name__ == "__main__":
    run_stage("transfer", transfer)
