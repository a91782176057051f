"""report.html: one file that needs nothing else, made from the findings and the rows of the figures."""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
import vl_convert

from vlm_spatial.config.figures import FiguresSettings
from vlm_spatial.figures import (
    ablated,
    amplified_accuracy,
    amplified_models,
    comparison,
    correction_transfer,
    merge_effect,
    sizes,
    strip_maps,
)
from vlm_spatial.figures.catalogue import FIGURES
from vlm_spatial.figures.paper import VEGA_LITE
from vlm_spatial.figures.screen import named, specification
from vlm_spatial.figures.sites import site_order
from vlm_spatial.figures.theme import DARK, SLOT_COLOURS, config
from vlm_spatial.measures.claims import BY_NAME, CLAIMS
from vlm_spatial.report import conclusions, numbers, provenance
from vlm_spatial.report.datasets import described
from vlm_spatial.report.explorer import explorer
from vlm_spatial.report.field_terms import CLAIM_TERMS, GROUPS, TERMS, ClaimTerms
from vlm_spatial.report.packing import columns, packed
from vlm_spatial.report.published import Beside, beside, dataset_named
from vlm_spatial.report.results import Results
from vlm_spatial.report.sketches import LEGEND, sketches
from vlm_spatial.report.transfer_sentences import carried
from vlm_spatial.report.truth import on_amplification

TEMPLATES = Path(__file__).parent / "templates"
MAIN_VERSIONS = ("python", "torch", "transformers", "snakemake")
GLYPHS = {"supported": "✓", "refuted": "✗", "mixed": "±", "inconclusive": "?"}
CONTROL_LABELS = {
    "tokens": "Tokens exchanged",
    "variant": "Scenes",
    "trained_on": "Probe trained on",
    "control_for": "Controls shown for",
    "source": "Values taken from",
    "outcome": "Answer follows",
    "measure": "Measure",
    "site": "Corrected at",
    "subspace": "Subspace",
    "against": "Other dataset",
    "condition": "Condition",
    "form": "Code of",
    "routes": "Routes",
    "replaced": "Heads are",
}

Rows = Mapping[str, Mapping[str, pl.DataFrame]]
"""Model → figure → rows of all its datasets."""


def page(
    results: Results,
    records: Sequence[dict[str, Any]],
    rows: Rows,
    strip_cells: Mapping[str, pl.DataFrame],
    truth: Sequence[dict[str, Any]],
    settings: FiguresSettings,
    job_settings: Mapping[str, Any],
) -> str:
    """The page as text; everything that comes from data or configuration is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": numbers.shown, "interval": numbers.interval}
    models = [
        {
            "name": model.name,
            "mechanism": model.mechanism,
            "checkpoint": model.checkpoint,
            "datasets": [_dataset(records, model.name, dataset, rows[model.name], truth) for dataset in model.datasets],
        }
        for model in results.models
    ]
    captions = {
        model: {figure.name: figure.caption(rows[model][figure.name]) for figure in FIGURES if not rows[model][figure.name].is_empty()}
        | {strip_maps.NAME: strip_maps.caption(strip_cells[model])}
        for model in rows
    }
    listed = [
        {"name": figure.name, "title": figure.title, "question": figure.question, "controls": _own(figure.controls)} for figure in FIGURES
    ]
    # Strip maps are drawn from pictures.
    listed.append({"name": strip_maps.NAME, "title": strip_maps.TITLE, "question": strip_maps.QUESTION, "controls": []})
    figures = {str(entry["name"]): entry | TERMS[str(entry["name"])]._asdict() for entry in listed}
    data = _data(results, records, rows, captions, settings)
    return environment.get_template("report.html.j2").render(
        title=settings.title,
        models=models,
        model_names=[model.name for model in results.models],
        columns=[(model.name, dataset) for model in results.models for dataset in model.datasets],
        # Those of an experiment that is not run by default are there if it was.
        claims=[claim for claim in CLAIMS if claim.name in {record["claim"] for record in records}],
        by_size=[BY_NAME[name] for name in data["sizes"]["claims"]],
        amplified=data["amplified_models"]["datasets"],
        records={(r["model"], r["dataset"], r["claim"]): r for r in records},
        glyphs=GLYPHS,
        truth=truth,
        published=[_published(results, model, name) for model, name in settings.published.items()],
        figures=figures,
        groups=list(GROUPS.items()),
        claim_terms={claim.name: CLAIM_TERMS.get(claim.name, ClaimTerms()) for claim in CLAIMS},
        sketches=sketches(results),
        legend=LEGEND,
        controls=CONTROL_LABELS,
        datasets=described(results),
        bar=_bar,
        versions=provenance.versions(results),
        main_versions=[(name, version) for name, version in provenance.versions(results) if name in MAIN_VERSIONS],
        identities=provenance.model_identities(results),
        compute=provenance.compute(results),
        commit=provenance.commit(),
        warnings=provenance.warnings(results),
        config_files=job_settings.get("config_files", []),
        config=provenance.configuration(results, job_settings),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=_script(),
        data=packed(data),
    )


def _published(results: Results, model: str, name: str) -> dict[str, Any]:
    """Figures published of ``name`` with those of our model beside them, and those that have none of ours, by the reason."""

    def measures_of(dataset: str) -> pl.DataFrame | None:
        ours = dataset_named([other for one, other in results.tables if one == model], dataset)
        return None if ours is None else results.tables[model, ours].get("measures")

    rows = beside(name, measures_of)
    left_out: dict[str, list[Beside]] = defaultdict(list)
    for row in rows:
        if row.left_out:
            left_out[row.left_out].append(row)
    return {
        "model": model,
        "name": name,
        "rows": [row for row in rows if not row.left_out],
        "left_out": sorted(left_out.items(), key=lambda reason: -len(reason[1])),
        "of": len(rows),
    }


def _own(controls: Sequence[str]) -> list[str]:
    """Controls of one figure alone; dataset and axis hold for the whole page."""
    return [name for name in controls if name not in ("dataset", "axis")]


def _dataset(
    records: Sequence[dict[str, Any]], model: str, dataset: str, rows: Mapping[str, pl.DataFrame], truth: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    found = conclusions.by_claim(records, model, dataset)
    ablations, merges = (
        shown if shown.is_empty() else shown.filter(dataset=dataset)
        for shown in (rows[ablated.FIGURE.name], rows[merge_effect.FIGURE.name])
    )
    said = [
        *conclusions.sentences(found),
        conclusions.two_by_two(ablations),
        conclusions.merging(merges),
        *carried(rows[correction_transfer.FIGURE.name], dataset),
        *on_amplification(truth, model, dataset),
    ]
    return {
        "name": dataset,
        "headline": conclusions.headline(found),
        "answer": conclusions.answer(found),
        "sure": conclusions.how_sure(found),
        "carriers": conclusions.carriers(found),
        "sentences": [text for text in said if text],
        "records": found,
    }


def _bar(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Positions, in percent of the bar's width, of an estimate, its interval and its control; None without an estimate."""
    if record["estimate"] is None or record["low"] is None:
        return None
    unit, control = BY_NAME[record["claim"]].unit, record["control"]
    first, last = {"share": (0.0, 1.0), "change": (-1.0, 1.0), "index": (-1.0, 1.0)}.get(
        unit, (control["low"] or 0.0, control["high"] or 1.0)
    )
    if unit == "change":
        # Changes are small: the bar is as wide as the largest number needs, the same on both sides.
        reach = max(0.05, *(abs(value) for value in (record["low"], record["high"], control["low"] or 0, control["high"] or 0)))
        first, last = -reach, reach

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * min(1.0, max(0.0, (value - first) / ((last - first) or 1.0))), 2)

    shown = {name: place(record[name]) for name in ("estimate", "low", "high")}
    of_control = {f"control_{name}": place(control[name]) for name in ("low", "high")}
    return shown | of_control | {"zero": place(0.0) if first < 0 else None}


@functools.cache
def _script() -> str:
    """Vega, Vega-Lite and vega-embed, and the page's own script. No file and no address is needed."""
    libraries = vl_convert.javascript_bundle("globalThis.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    script = libraries + "\n" + (TEMPLATES / "report.js").read_text(encoding="utf-8")
    # Inside a script element these would end it or open a comment; in JavaScript strings and patterns the escape means the same.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _data(
    results: Results, records: Sequence[dict[str, Any]], rows: Rows, captions: Mapping[str, Mapping[str, str]], settings: FiguresSettings
) -> dict[str, Any]:
    datasets = sorted(results.datasets)
    compared = comparison.rows(records, {claim.name: claim.title for claim in CLAIMS})
    by_size = sizes.rows(compared, results.manifests)
    amplified = amplified_models.rows({model: of_model[amplified_accuracy.FIGURE.name] for model, of_model in rows.items()})
    sites = {
        model: sorted({site for table in of_model.values() if "site" in table.columns for site in table["site"].unique()}, key=site_order)
        for model, of_model in rows.items()
    }
    return {
        "models": {model.name: {"datasets": list(model.datasets), "sites": sites[model.name]} for model in results.models},
        "figures": {
            figure.name: {
                "spec": specification(figure, settings.palette),
                "controls": list(figure.controls),
                "preferred": dict(figure.paper or {}),
                "bySite": figure.by_site,
                "ofModel": figure.of_model,
                "optional": figure.optional,
            }
            for figure in FIGURES
        },
        "rows": {model: {name: columns(table) for name, table in of_model.items()} for model, of_model in rows.items()},
        "captions": captions,
        "comparison": {
            "spec": named(comparison.draw(settings.palette, datasets), max(120, 34 * len(results.models) * max(1, len(datasets)))),
            "rows": columns(compared),
        },
        "sizes": {
            "spec": named(sizes.draw(settings.palette, sorted(by_size["family"].unique()), datasets), 260),
            "rows": columns(by_size),
            "claims": by_size["claim"].unique(maintain_order=True).to_list(),
        },
        "amplified_models": {
            "spec": named(amplified_models.draw(settings.palette), max(120, 40 * len(results.models))),
            "rows": columns(amplified),
            "datasets": sorted(amplified["dataset"].unique()),
        },
        "explorer": explorer(results, settings.explorer_scenes),
        "slotColours": list(SLOT_COLOURS),
        "themes": {"light": config(), "dark": config(dark=True)},
        "darkColours": DARK,
    }
