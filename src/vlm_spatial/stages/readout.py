"""Stage: residuals of the image's tokens, the question's or the answer's taken from another run; which does the answer follow?"""

import polars as pl

from vlm_spatial.config.readout import ReadoutSettings
from vlm_spatial.files import write_parquet
from vlm_spatial.interventions.crosswise import mirror_cases
from vlm_spatial.interventions.edited_runs import chosen_cases, language_sites
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.erasure import fit_erasure_of_rows
from vlm_spatial.interventions.pairs_on_grid import Case, read_cases
from vlm_spatial.interventions.readout import groups_there, plan, run_reading, run_readout, steering
from vlm_spatial.interventions.spatial_ids import TEMPLATE, AtName, Fitted, at_names, every_word, fit_ids, half_of, table_of
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def readout(job: Job) -> None:
    """Write ``readout.parquet`` and ``spatial_ids.parquet``."""
    settings = section(job, ReadoutSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    adapter = load_adapter(**job.settings["model"])
    sites = language_sites(adapter, settings.sites, "readout.sites")
    cases = chosen_cases(read_cases(dataset, adapter, "vision", unrelated=True), settings.pairs)
    depth = len(adapter.language_blocks)
    groups = groups_there(settings.groups, {case.template for case in cases})
    plans = [plan(groups, settings.corrupted, sites, depth, case.unrelated_scene is not None) for case in cases]
    seed, words = job.settings["seed"], every_word(dataset)
    ids: dict[tuple[str, int], Fitted] = {}
    named: list[AtName] = []
    if settings.id_questions:
        ids = fit_ids(adapter, dataset, sites, settings.id_questions, seed, fit_erasure_of_rows if settings.id_erased else None)
        for case, made in zip(cases, plans, strict=True):
            if case.template == TEMPLATE:
                half = half_of(named_object(dataset, case), words)
                made += steering(case, sites, ids, half, settings, seed)
        for axis in sorted({axis for axis, _ in ids}):
            named += at_names(adapter, dataset, sites, "test", axis, settings.id_questions, seed)
    if settings.mirror:
        mirrored = mirror_cases(dataset, cases)
        cases = [*cases, *mirrored]
        plans += [plan(groups, (), sites, depth, unrelated=False)] * len(mirrored)
    engine = PatchEngine(adapter, memory_gb=settings.memory_gb)
    swept = run_readout(engine, dataset, cases, plans, seed)
    write_parquet(pl.concat([swept, run_reading(engine, dataset, named, sites, ids, words)]), job.outputs["table"])
    write_parquet(table_of(ids, sites), job.outputs["ids"])


def named_object(dataset: Dataset, case: Case) -> str:
    """The object in the slot that is asked about."""
    row = dataset.row(case.clean_scene)
    names: dict[int, str] = dict(zip(row["slots"], row["objects"], strict=True))  # type: ignore[call-overload]
    return names[case.slots[0]]


if __name__ == "__main__":
    run_stage("readout", readout)
