"""What made the results: versions, seeds, configuration, compute, and everything that was set aside."""

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.report.results import Results
from vlm_spatial.scenes.pixel_boxes import overlap_along

PACKAGES = (
    "vlm-spatial",
    "torch",
    "transformers",
    "zarr",
    "numpy",
    "scipy",
    "scikit-learn",
    "polars",
    "altair",
    "vl-convert-python",
    "snakemake",
)


def versions(results: Results) -> list[tuple[str, str]]:
    """Versions that made the results, as their records say; else those installed here. Nothing is imported."""
    recorded: dict[str, set[str]] = {}
    for record in results.records.values():
        for name, version in record.packages.items():
            recorded.setdefault(name, set()).add(version)
    found = {name: " and ".join(sorted(versions)) for name, versions in recorded.items()}
    for name in PACKAGES:
        if name not in found:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "not installed here"
    return [("python", platform.python_version()), *sorted(found.items())]


def commit() -> str | None:
    """The commit of the code, with ``and changes`` where files differ from it; None where the code is no repository or git is missing."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parents[1])]
    try:
        # An environment may lie inside of another repository.
        subprocess.run([*git, "ls-files", "--error-unmatch", str(here)], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", errors="replace", check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, encoding="utf-8", errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + (" and changes" if changed.stdout.strip() else "")


def configuration(results: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings behind the results: those of the figures stage, and of every other stage as its records say."""
    shown = {key: settings[key] for key in ("seed", "models", "datasets", "figures") if key in settings}
    for stage, sections in _sections(results).items():
        # One section a stage, unless results of different runs were put together.
        shown[stage] = sections[0] if len(sections) == 1 else sections
    return shown


def _sections(results: Results) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for record in results.records.values():
        section = record.settings.get("stage")
        if section is not None and section not in found.setdefault(record.stage, []):
            found[record.stage].append(section)
    return found


def model_identities(results: Results) -> list[dict[str, str]]:
    """A row a model: its checkpoint and what the manifests of its activations say of its weights."""
    rows = []
    for model in results.models:
        said: dict[str, str] = {}
        for dataset in model.datasets:
            identity = results.manifests.get((model.name, dataset), {}).get("model", {})
            said |= (
                {str(key): str(value) for key, value in identity.items() if value is not None}
                if isinstance(identity, Mapping)
                else {"model": str(identity)}
            )
        rows.append({"model": model.name, "checkpoint": model.checkpoint, "mechanism": model.mechanism or "–", "identity": _pairs(said)})
    return rows


def compute(results: Results) -> list[dict[str, Any]]:
    """A row a stage, from Snakemake's benchmark files: jobs, seconds in all, largest memory in MB."""
    by_stage: dict[str, list[pl.DataFrame]] = {}
    for name, table in sorted(results.benchmarks.items()):
        by_stage.setdefault(name.split(":")[0], []).append(table)
    rows = []
    for stage, parts in by_stage.items():
        seconds = sum(float(part["s"].sum()) for part in parts if "s" in part.columns)
        memory = [float(part["max_rss"].max()) for part in parts if "max_rss" in part.columns and part["max_rss"].drop_nulls().len()]  # type: ignore[arg-type]
        rows.append({"stage": stage, "jobs": len(parts), "seconds": seconds, "memory": max(memory, default=None)})
    return rows


def warnings(results: Results) -> list[str]:
    """Everything a reader must know before trusting a number: what is missing, set aside, or not well measured."""
    found = _quirks(results)
    found += [
        f"{name}: this table was not made; claims that need it are inconclusive"
        for name in results.missing
        if not name.endswith("/geometry")
    ]
    found += [
        f"{stage}: results made under {len(of)} different settings are put together"
        for stage, of in _sections(results).items()
        if len(of) > 1
    ]
    for (model, dataset), tables in results.tables.items():
        found += _set_aside(f"{model} on {dataset}", tables, results.datasets[dataset].pairs)
        found += _probe_notes(f"{model} on {dataset}", tables)
    for name, table in sorted(results.set_aside.items()):
        if not table.is_empty():
            first = table.row(0, named=True)
            found.append(
                f"{name}: {table.height} files or pairs of files set aside (set_aside.parquet lists them); the first is "
                f"{first['file']}: {first['reason']}"
            )
    for name, opened in sorted(results.datasets.items()):
        measured = opened.scenes.filter(pl.col("box_source") != "rendered", pl.col("boxes").list.len() > 0)
        if not measured.is_empty():
            sources = ", ".join(sorted(measured["box_source"].unique()))
            found.append(
                f"{name}: boxes of {measured.height} of {opened.scenes.height} scenes were not rendered but found "
                f"({sources}); lowest quality {measured['box_quality'].to_numpy().min():.2f}"
            )
        merged = opened.scenes.filter(pl.col("variant") == "main", pl.col("split") == "test").height
        photos = opened.scenes.filter(pl.col("photograph").is_null(), variant="photo", split="test").height
        if photos:
            found.append(
                f"{name}: the {merged} main test scenes are merges of {photos} photos; scenes that share a photo are not independent, so "
                f"intervals over scenes, and over pairs of them, are too narrow"
            )
        found += _items(name, opened.scenes.filter(pl.col("photograph").is_not_null(), variant="photo"))
    return found


def _items(name: str, items: pl.DataFrame) -> list[str]:
    """What boxes say of the items of a list of questions, where they do not tell the two objects apart."""
    boxed = items.filter(pl.col("boxes").list.len() == 2)
    overlapping = sum(overlap_along(*row) for row in boxed.select("axis", "boxes").iter_rows())
    of = f"{name}: {{}} of {items.height} items of the list of questions"
    said = f"{of} have boxes that overlap along the axis: tokens of both boxes count for either object; no exchange is made of items"
    missing = f"{of} have no boxes that stand as their caption says: they are asked, no probe learns from them, and they have no token sets"
    return [line.format(count) for line, count in ((said, overlapping), (missing, items.height - boxed.height)) if count]


def _quirks(results: Results) -> list[str]:
    """What was done as in the published run, though the paper says otherwise."""
    said: dict[str, None] = {}
    for record in results.records.values():
        model = record.settings.get("model", {})
        for sentence in QuirkSettings.model_validate(model.get("quirks", {})).named():
            said[f"quirk of the published run, {model['checkpoint']}: {sentence}"] = None
    return sorted(said)


def _set_aside(where: str, tables: Mapping[str, pl.DataFrame], pairs: pl.DataFrame) -> list[str]:
    lines = []
    for name, experiments in (("interchange", ("vision", "language")), ("conflict", ("conflict",))):
        table = tables.get(name)
        if table is None or "pair_id" not in table.columns:
            continue
        for experiment in experiments:
            # An experiment none of whose pairs could be run has no row here.
            part = table.filter(experiment=experiment)
            out, all_pairs = part.filter(~pl.col("included"))["pair_id"].n_unique(), part["pair_id"].n_unique()
            planned = pairs.filter(experiment=experiment).height
            if planned > all_pairs:
                lines.append(
                    f"{where}: {planned - all_pairs} of {planned} {experiment} pairs not run, because their objects do not cover the "
                    f"same cells of their slots on this model's token grid (the stage's log names one)"
                )
            if out:
                lines.append(
                    f"{where}: {out} of {all_pairs} {experiment} pairs set aside, because the untouched model answers one of "
                    f"their scenes wrong"
                )
    return lines


def _probe_notes(where: str, tables: Mapping[str, pl.DataFrame]) -> list[str]:
    table = tables.get("probes")
    if table is None or table.is_empty() or "note" not in table.columns:
        return []
    notes = table.drop_nulls("note").group_by("note").len().sort("note")
    return [f"{where}: {count} probe scores are missing: {note}" for note, count in notes.iter_rows()]


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value if len(value) <= 24 else value[:16] + '…'}" for key, value in sorted(values.items())) or "–"
