"""``findings.json``: the claims of a report as records, and the verdicts that stand after Holm's adjustment."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from vlm_spatial.statistics import (
    CONFIDENCE,
    holm,
)

_NUMBERS = ("estimate", "low", "high", "n")


def findings(model: str, dataset: str, measures: pl.DataFrame) -> list[dict[str, Any]]:
    """One record a claim of ``measures.parquet``, verdicts not yet adjusted; plain builtins, null where a number is not known."""
    rows = measures.filter(experiment="claims").iter_rows(named=True)
    parts = {str(claim): part for (claim,), part in measures.filter(experiment="strata").partition_by("measure", as_dict=True).items()}
    return [_record(model, dataset, row, parts.get(row["measure"])) for row in rows]


def _record(model: str, dataset: str, row: Mapping[str, Any], parts: pl.DataFrame | None) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": dataset,
        "claim": row["measure"],
        **{name: _plain(row[name]) for name in _NUMBERS},
        "control": {"name": row["control"], **{name: _plain(row[f"control_{name}"]) for name in _NUMBERS}},
        "difference": {name: _plain(row[column]) for name, column in zip(_NUMBERS[:3], _DIFFERENCE, strict=True)},
        "recovery": {name: _plain(row[column]) for name, column in zip(_NUMBERS[:3], _RECOVERY, strict=True)},
        "smallest": row["smallest"],
        "strata": None
        if parts is None
        else {
            "p": _plain(row["strata_p"]),
            "number": parts.height,
            "lowest": _plain(parts["estimate"].min()),
            "highest": _plain(parts["estimate"].max()),
        },
        "p": _plain(row["p"]),
        "verdict": row["verdict"],
    }


_RECOVERY = ("recovery", "recovery_low", "recovery_high")
_DIFFERENCE = ("difference", "difference_low", "difference_high")


def adjusted(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``findings.json``: the records of a whole report, with ``p_holm`` and the verdicts that stand after Holm's adjustment.

    A verdict ``supported`` or ``refuted`` whose adjusted p is not below 5% is ``inconclusive``; ``verdict_unadjusted`` keeps the other.
    The place of a peak has no p of its own: it stands if the peak does.
    """
    tested = [record["p"] for record in records if record["p"] is not None]
    after = iter(holm(tested))
    made = []
    for record in records:
        p_holm = None if record["p"] is None else _plain(float(next(after)))
        lost = p_holm is not None and p_holm >= 1 - CONFIDENCE and record["verdict"] in ("supported", "refuted")
        verdict = "inconclusive" if lost else record["verdict"]
        made.append(record | {"p_holm": p_holm, "verdict_unadjusted": record["verdict"], "verdict": verdict})
    peaks = {(r["model"], r["dataset"]): r["verdict"] for r in made if r["claim"] == "language_ordering_peak"}
    for record in made:
        if record["claim"] == "language_peak_layer" and peaks.get((record["model"], record["dataset"])) != "supported":
            record["verdict"] = "inconclusive"
    return made


def _plain(value: Any) -> Any:
    # Twelve digits: the last ones of a double may differ between machines.
    return float(f"{value:.12g}") if isinstance(value, float) else value
