"""Two models, or two runs, side by side: ``vlm-spatial compare A B``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json

Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One claim on one dataset, on both sides.

    Attributes:
        apart: whether the two 95% intervals do not touch; None if one side has no estimate.
    """

    dataset: str
    claim: str
    first: Record
    second: Record

    @property
    def apart(self) -> bool | None:
        if any(record["low"] is None or record["high"] is None for record in (self.first, self.second)):
            return None
        return self.first["low"] > self.second["high"] or self.second["low"] > self.first["high"]

    @property
    def change(self) -> float:
        """Second estimate minus first; ``nan`` if one is missing."""
        estimates = (self.second["estimate"], self.first["estimate"])
        return math.nan if None in estimates else estimates[0] - estimates[1]


def compare(first: Sequence[Record], second: Sequence[Record]) -> list[Difference]:
    """Pair the findings of two models by dataset and claim, in the order of the first; claims that one side lacks are left out.

    Raises:
        UserError: if the two have no dataset in common, or a side holds a claim twice.
    """
    for records in (first, second):
        keys = [(record["dataset"], record["claim"]) for record in records]
        if len(set(keys)) < len(keys):
            raise UserError("compare: each side must be one model; name it as FINDINGS:MODEL")
    of_second = {(record["dataset"], record["claim"]): record for record in second}
    found = [
        Difference(record["dataset"], record["claim"], record, of_second[record["dataset"], record["claim"]])
        for record in first
        if (record["dataset"], record["claim"]) in of_second
    ]
    if not found:
        names = [sorted({record["dataset"] for record in records}) for records in (first, second)]
        raise UserError(f"compare: no dataset in common; the first has {', '.join(names[0])}, the second {', '.join(names[1])}")
    return found


# What a comparison needs of a finding; other versions may have written others.
_FIELDS = frozenset({"model", "dataset", "claim", "estimate", "low", "high", "verdict"})


def _records(path: Path) -> list[Record]:
    records = read_json(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) and record.keys() >= _FIELDS for record in records):
        raise UserError(
            f"{path}: not findings of this version, a list of records with {', '.join(sorted(_FIELDS))}; run snakemake to make them again"
        )
    return records


def read_side(name: str, findings: Path) -> list[Record]:
    """Findings of one side: a model in ``findings``, a results folder or findings file, or ``FILE:MODEL``.

    Raises:
        UserError: if there is no such model or file, or the file holds several models and none is named.
    """
    path, model = Path(name), None
    if path.is_dir():
        path = path / "findings.json"
    # A folder may be called as a model is: results/{model}.
    if not path.is_file():
        place, colon, model = name.rpartition(":")
        path = Path(place) if colon else findings
        path = path / "findings.json" if path.is_dir() else path
    records = _records(path)
    models = sorted({record["model"] for record in records})
    if model is None:
        if len(models) > 1:
            raise UserError(f"{path}: holds {', '.join(models)}; name one as {path}:{models[0]}")
        return records
    if model not in models:
        raise UserError(f"{name}: no such model in {path}; it holds {', '.join(models) or 'none'}")
    return [record for record in records if record["model"] == model]
