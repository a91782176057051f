"""Published numbers beside ours: ``vlm-spatial compare MODEL --published NAME``.

``published.csv`` holds figures of arXiv 2603.22278 and of its authors' repository with source and n: facts only. Those that have a
counterpart in the table of measures are held against it; the others are listed with the reason why not.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_parquet
from vlm_spatial.measures.table import BOTH

FILE = Path(__file__).parent / "published.csv"
"""Columns: experiment, model, dataset, axis, condition, layer, measure, value, n, source_file, note."""

_AXES = {"all": BOTH, "horizontal": "horizontal", "vertical": "vertical"}
# What the published name of an experiment and measure is among our measures.
_OURS: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("table1_behaviour", "top-1 accuracy"): (
        "behaviour",
        {"measure": "top1_accuracy", "variant": "main", "template": "relation_to_object", "slot": "all slots"},
    ),
    ("table5_ablation", "top-1 accuracy"): ("ablation", {"measure": "top1_accuracy", "condition": "neutral"}),
    ("probing", "test accuracy on object cells"): (
        "probes",
        {
            "measure": "accuracy",
            "condition": "published",
            "site": "connector",
            "token_set": "object",
            "trained_on": "main",
            "variant": "main",
        },
    ),
    ("table2_coco", "strict accuracy"): ("items", {"measure": "strict_accuracy", "condition": "untouched"}),
    ("last_token", "layer after which the counterfactual's answer takes over"): ("claims", {"measure": "last_token_takeover"}),
    ("criss_cross", "last layer at which the answer still flips"): ("claims", {"measure": "crosswise_last_layer"}),
}
_DATASETS = {"COCO two-object": "coco"}
"""Published names of datasets that ours cannot have."""
# A direction of an axis is the slot that is asked about; of behaviour ours are by slot, too.
_SLOTS = {"left": "slot 0", "above": "slot 0", "right": "slot 2", "below": "slot 2"}
_LEFT_OUT = {
    "table1_behaviour": "no counterpart among the measures",
    "table5_ablation": "one direction of an axis; ours are by axis",
    "probing": "a training loss, not a result",
    "pixtral_geometry": "tuning of another model's pictures",
    "pixtral_precision": "tuning of another model's precision",
    "pixtral_prompt": "tuning of another model's prompt",
    "table2_coco": "the published repository holds no figure of it",
    "pairs_pool": "the size of their pool of pairs, not a result",
    "last_token": "curves are published as pictures only; layers in prose",
    "criss_cross": "curves are published as pictures only; layers in prose",
    "criss_cross_ablated": "curves are published as pictures only; layers in prose",
}


@dataclass(frozen=True)
class Beside:
    """One published figure, and ours if there is one.

    Attributes:
        theirs: None if what is published is no single number.
        said: what is published, in its words.
        left_out: why there is no number of ours; empty if there is one.
    """

    dataset: str
    what: str
    theirs: float | None
    said: str
    their_n: int | None
    source: str
    note: str
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    our_n: int | None = None
    left_out: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus theirs."""
        return None if self.ours is None or self.theirs is None else self.ours - self.theirs

    @property
    def covered(self) -> bool | None:
        """Whether our 95% interval covers their number."""
        if self.theirs is None or self.low is None or self.high is None:
            return None
        return self.low <= self.theirs <= self.high


def published() -> pl.DataFrame:
    """All published figures, in the order of the file."""
    return pl.read_csv(FILE, infer_schema=False)


def names() -> list[str]:
    """Models that figures are published of."""
    return published()["model"].drop_nulls().unique(maintain_order=True).to_list()


def beside(name: str, measures_of: Callable[[str], pl.DataFrame | None]) -> list[Beside]:
    """Every figure published of a model, or of all together, with ours beside it.

    Args:
        name: of the model, as published.
        measures_of: dataset → our table of measures, None if the dataset was not analysed.

    Raises:
        UserError: if nothing is published of that name.
    """
    if name not in names():
        raise UserError(f"published: no figures of {name!r}; there are some of {', '.join(names())}")
    tables: dict[str, pl.DataFrame | None] = {}
    found = []
    for row in published().filter((pl.col("model") == name) | pl.col("model").is_null()).iter_rows(named=True):
        dataset = _DATASETS.get(row["dataset"], row["dataset"])
        if dataset not in tables:
            tables[dataset] = measures_of(dataset)
        found.append(_beside(row, tables[dataset]))
    return found


def _beside(row: dict[str, str | None], table: pl.DataFrame | None) -> Beside:
    experiment, condition = str(row["experiment"]), row["condition"] or ""
    told = Beside(
        dataset=_DATASETS.get(str(row["dataset"]), str(row["dataset"])),
        what=", ".join(part for part in (experiment, row["axis"], row["measure"], condition) if part),
        theirs=_number(row["value"]),
        said=row["value"] or "",
        their_n=None if row["n"] is None else int(row["n"]),
        source=row["source_file"] or "",
        note=row["note"] or "",
    )
    known = _OURS.get((experiment, str(row["measure"])))
    asked = re.search(r"direction=(left|right|above|below)", condition)
    if asked and known is not None and "slot" in known[1]:
        known = (known[0], {**known[1], "slot": _SLOTS[asked[1]]})
    elif asked:
        known = None
    if known is None:
        return _with(told, left_out=_LEFT_OUT.get(experiment, "no counterpart among the measures"))
    if table is None:
        return _with(told, left_out=f"no results of a dataset called {row['dataset']!r}")
    kind, columns = known
    of_kind = table.filter(pl.col("experiment") == kind)
    wanted = of_kind.filter(*(pl.col(name) == value for name, value in columns.items()))
    if kind != "claims":
        axis = _AXES.get(str(row["axis"]), BOTH)
        # A dataset of one axis has that axis only.
        axes = set(of_kind["axis"])
        wanted = wanted.filter(pl.col("axis") == (axis if axis in axes or len(axes) != 1 else next(iter(axes))))
    wanted = wanted.drop_nulls("estimate")
    if wanted.height != 1:
        return _with(told, left_out="not measured here")
    ours = wanted.row(0, named=True)
    return _with(told, ours=ours["estimate"], low=ours["low"], high=ours["high"], our_n=ours["n"])


def dataset_named(names: Iterable[str], published_name: str) -> str | None:
    """Our dataset of a published name: the one called so, or the only one whose name goes on behind it (``squares-336``)."""
    longer = [name for name in names if name.startswith(f"{published_name}-")]
    return published_name if published_name in names else longer[0] if len(longer) == 1 else None


def _with(told: Beside, **values: object) -> Beside:
    return Beside(**{**told.__dict__, **values})  # type: ignore[arg-type]


def _number(text: str | None) -> float | None:
    words = (text or "").removeprefix("about ")
    try:
        return float(words)
    except ValueError:
        return None


def measures_below(folder: Path, model: str) -> Callable[[str], pl.DataFrame | None]:
    """Tables of measures of one model, by dataset, in a results folder.

    Raises:
        UserError: if the folder has none of that model.
    """
    there = sorted(path.parent.name for path in (folder / model).glob("*/measures.parquet"))
    if not there:
        raise UserError(f"{folder / model}: holds no measures.parquet of any dataset; run snakemake first, or name another model")

    def measures_of(dataset: str) -> pl.DataFrame | None:
        ours = dataset_named(there, dataset)
        return None if ours is None else read_parquet(folder / model / ours / "measures.parquet")

    return measures_of
