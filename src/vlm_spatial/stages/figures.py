"""The figures stage: every table of every model to figures, report.html and findings.json.

Settings (one dict of plain builtins)::

    {"figures": {...the config's figures section...},
     "models": {name: {"datasets": [...], "checkpoint": str, "mechanism": str | None}},
     "datasets": {name: {...}}, "seed": int,
     "config_files": [str, ...]}                          the files of --configfile, if any were given

Inputs, by name; a name's parts are joined by ``:``. Scenes and measures are needed, everything else may be missing (the report says
which file was not there)::

    scenes:{dataset}=folder
    measures:{model}:{dataset}=measures.parquet
    behaviour:{model}:{dataset}=behaviour.parquet
    probes:{model}:{dataset}=probes.parquet
    strip_map:{model}:{dataset}=strip_map.parquet
    geometry:{model}:{dataset}=geometry.parquet
    interchange:{model}:{dataset}=interchange.parquet
    conflict:{model}:{dataset}=conflict.parquet
    routes:{model}:{dataset}=routes.parquet             where the stage is turned on
    ablation_sweep:{model}:{dataset}=ablation_sweep.parquet
    ablation_accuracy:{model}:{dataset}=ablation_accuracy.parquet
    ablation_check:{model}:{dataset}=ablation_check.parquet
    amplification:{model}:{dataset}=amplification.parquet
    amplification_items:{model}:{dataset}=amplification_items.parquet
    generalisation:{model}=generalisation.parquet       of models of several datasets
    between_datasets:{model}=between_datasets.parquet
    transfer:{model}=transfer.parquet
    manifest:{model}:{dataset}=activations.json
    training:{model}=training.parquet
    benchmark:{stage}:{anything}=a Snakemake benchmark file (tab separated)

Outputs::

    figures=folder     {model}/{figure}.svg, .pdf, .csv and .md (caption); _comparison/ holds the figures of all models together
                       and, where a mechanism was planted, truth.csv: what must be found and what was
    report=report.html one self-contained page
    findings=findings.json

This stage never imports torch.
"""

from pathlib import Path
from typing import Any

import polars as pl

from vlm_spatial.config.figures import FiguresSettings
from vlm_spatial.figures import amplified_accuracy, amplified_models, comparison, paper, sizes, strip_maps
from vlm_spatial.figures.catalogue import FIGURES
from vlm_spatial.files import write_json, written_then_renamed
from vlm_spatial.measures.claims import CLAIMS
from vlm_spatial.measures.findings import adjusted, findings
from vlm_spatial.progress import progress
from vlm_spatial.report.page import page
from vlm_spatial.report.results import Model, Results, open_results
from vlm_spatial.report.truth import truth_table
from vlm_spatial.stages.stage import Job, run_stage, section

COMPARISON = "_comparison"
PAPER_SCENES = 2
"""Scenes an axis and dataset in the strip map figure."""


def figures(job: Job) -> None:
    """Findings of every model and dataset, figures for paper, and the page that shows them."""
    settings = section(job, FiguresSettings, "figures")
    results = open_results(job.settings["models"], job.inputs)
    records = judged(results)
    truth = truth_table(results, records)
    rows = {model.name: figure_rows(results, model) for model in results.models}
    cells = {model.name: strip_cells(results, model) for model in results.models}

    with written_then_renamed(job.outputs["figures"]) as folder:
        for model in progress(results.models, "figures"):
            write_model(results, model, rows[model.name], cells[model.name], folder / model.name, settings)
        write_comparison(results, records, rows, folder / COMPARISON, settings)
        if truth:
            pl.DataFrame(truth).write_csv(folder / COMPARISON / "truth.csv")
    text = page(results, records, rows, cells, truth, settings, job.settings)
    with written_then_renamed(job.outputs["report"]) as target:
        target.write_text(text, encoding="utf-8")
    write_json(records, job.outputs["findings"])


def judged(results: Results) -> list[dict[str, Any]]:
    """Findings of every model and dataset, their verdicts adjusted over all of them."""
    of_each = [findings(model, dataset, tables["measures"]) for (model, dataset), tables in results.tables.items()]
    return adjusted([record for records in of_each for record in records])


def figure_rows(results: Results, model: Model) -> dict[str, pl.DataFrame]:
    """Rows of every figure, with a column ``dataset`` unless they are of the model alone."""
    found = {}
    of_model = {"training": results.training[model.name]} if model.name in results.training else {}
    for figure in FIGURES:
        if figure.of_model:
            found[figure.name] = figure.rows(of_model)
            continue
        parts = [figure.rows(results.tables[model.name, dataset]) for dataset in model.datasets]
        named = [part.with_columns(dataset=pl.lit(name)) for part, name in zip(parts, model.datasets, strict=True) if not part.is_empty()]
        found[figure.name] = pl.concat(named, how="diagonal") if named else pl.DataFrame()
    return found


def strip_cells(results: Results, model: Model) -> pl.DataFrame:
    """Cells of the strip map figure, with a column ``dataset``."""
    parts = []
    for dataset in model.datasets:
        tables = results.tables[model.name, dataset]
        scenes = [scene for chosen in strip_maps.scenes_shown(tables, PAPER_SCENES).values() for scene in chosen]
        parts.append(strip_maps.rows(tables, scenes).with_columns(dataset=pl.lit(dataset)))
    parts = [part for part in parts if not part.is_empty()]
    return pl.concat(parts) if parts else pl.DataFrame()


def write_model(
    results: Results, model: Model, rows: dict[str, pl.DataFrame], cells: pl.DataFrame, folder: Path, settings: FiguresSettings
) -> None:
    """All figures of one model: SVG, PDF, caption, data."""
    folder.mkdir(parents=True)
    for figure in FIGURES:
        shown = paper.on_paper(figure, rows[figure.name])
        if not shown.is_empty():
            paper.export(paper.printed(figure, shown, settings.palette), folder, figure.name, shown)
            paper.write_beside(folder, figure.name, figure.title, figure.caption(shown), rows[figure.name])
    for dataset in model.datasets:
        shown = cells.filter(dataset=dataset) if not cells.is_empty() else cells
        chart = strip_maps.draw(shown, results.datasets[dataset])
        if chart is not None:
            name = f"{strip_maps.NAME}-{dataset}"
            paper.export(chart, folder, name, shown.with_columns(predicted="slot " + pl.col("predicted").cast(pl.String)))
            paper.write_beside(folder, name, strip_maps.TITLE, strip_maps.caption(shown), shown)


def write_comparison(
    results: Results,
    records: list[dict[str, Any]],
    rows: dict[str, dict[str, pl.DataFrame]],
    folder: Path,
    settings: FiguresSettings,
) -> None:
    """All models in one figure: one panel a claim; the same against the models' sizes; accuracy before and after amplification."""
    folder.mkdir(parents=True)
    shown = comparison.rows(records, {claim.name: claim.title for claim in CLAIMS})
    chart = comparison.printed(shown, settings.palette, sorted(results.datasets))
    if chart is not None:
        paper.export(chart, folder, comparison.NAME, shown.drop_nulls("estimate"))
        paper.write_beside(folder, comparison.NAME, comparison.TITLE, comparison.caption(shown), shown)
    by_size = sizes.rows(shown, results.manifests)
    chart = sizes.printed(by_size, settings.palette)
    if chart is not None:
        paper.export(chart, folder, sizes.NAME, by_size)
        paper.write_beside(folder, sizes.NAME, sizes.TITLE, sizes.caption(by_size), by_size)
    amplified = amplified_models.rows({model: of_model[amplified_accuracy.FIGURE.name] for model, of_model in rows.items()})
    chart = amplified_models.printed(amplified, settings.palette)
    if chart is not None:
        paper.export(chart, folder, amplified_models.NAME, amplified)
        paper.write_beside(folder, amplified_models.NAME, amplified_models.TITLE, amplified_models.caption(amplified), amplified)


if __name__ == "__main__":
    run_stage("figures", figures)
