"""Interchange of the last token: at which layers it carries the slot that is asked for, and at which the object there."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.measures.verdicts import MOST
from vlm_spatial.statistics import EMPTY, Interval, binomial_limits

OUTCOMES = ("ordinal", "attribute")


@dataclass(frozen=True)
class Carried:
    """What the answers of included pairs follow, by language layer.

    Attributes:
        pairs: their names; those that lack a layer are left out.
        layers: ascending.
        ordinal: ``[pairs, layers]``, whether the answer is the own picture's object in the source's slot.
        attribute: ``[pairs, layers]``, whether it is the source's own answer.
    """

    pairs: list[str]
    layers: Int[np.ndarray, " layers"]
    ordinal: Bool[np.ndarray, "pairs layers"]
    attribute: Bool[np.ndarray, "pairs layers"]

    def follows(self, outcome: str) -> Bool[np.ndarray, "pairs layers"]:
        """The hits of one of ``OUTCOMES``."""
        return self.ordinal if outcome == "ordinal" else self.attribute


def carried(table: pl.DataFrame, group: str = "last") -> Carried:
    """Of ``interchange.parquet``, at one group of positions.

    What enters the language model is no layer: there the last token knows nothing yet.
    """
    chosen = table.filter(pl.col("included"), pl.col("layer").is_not_null(), experiment="last_token", token_set=group)
    wide = chosen.select("pair_id", "outcome", layer=pl.col("layer").cast(pl.String)).pivot("layer", index="pair_id", values="outcome")
    layers = np.array(sorted(int(name) for name in wide.columns if name != "pair_id"), dtype=int)
    if not len(layers):
        return Carried([], layers, *(np.zeros((0, 0), dtype=bool) for _ in OUTCOMES))
    whole = wide.drop_nulls().sort("pair_id")
    outcomes = whole.select([str(layer) for layer in layers]).to_numpy()
    return Carried(whole["pair_id"].to_list(), layers, *(outcomes == outcome for outcome in OUTCOMES))


def takeover(found: Carried) -> Interval:
    """The first layer from which on most answers are the source's own.

    The interval goes from the first layer that may be it to the first that surely is, by exact limits of the rates. ``nan`` if most answers
    of the last layer are not.
    """
    n = len(found.pairs)
    if not n:
        return EMPTY
    counts = found.attribute.sum(axis=0)
    low, high = binomial_limits(counts, np.full(len(counts), n))

    def first(where: Bool[np.ndarray, " layers"]) -> float:
        """Of the layers behind the last one that is not in ``where``."""
        missing = np.flatnonzero(~where)
        after = 0 if not len(missing) else int(missing[-1]) + 1
        return float(found.layers[after]) if after < len(where) else float("nan")

    estimate = first(counts > MOST * n)
    sure = first(low > MOST)
    return Interval(estimate, first(high > MOST), float(found.layers[-1]) if np.isnan(sure) else sure, n)


def layers(table: pl.DataFrame | None) -> pl.DataFrame:
    """``ordinal_layers`` and ``attribute_layers``, a row an axis and group of positions: the layer with the highest rate.

    ``low`` and ``high`` are the first and the last layer at which most pairs surely have the outcome (exact limits). Null if there is none.
    """
    table = None if table is None or table.is_empty() else table.filter(experiment="last_token")
    rows: list[dict[str, object]] = []
    if table is not None:
        for axis, group in product([BOTH, *sorted(table["axis"].unique())], sorted(table["token_set"].unique())):
            found = carried(table if axis == BOTH else table.filter(axis=axis), group)
            rows += [{"token_set": group, **row} for row in _layers_of(found, axis)]
    return tidy(rows, "last_token", counted="pairs", method="layers whose exact interval lies above ½")


def _layers_of(found: Carried, axis: str) -> Iterator[dict[str, object]]:
    n = len(found.pairs)
    for outcome in OUTCOMES if n else ():
        counts = found.follows(outcome).sum(axis=0)
        surely = found.layers[binomial_limits(counts, np.full(len(counts), n))[0] > MOST]
        low, high = (float(surely[0]), float(surely[-1])) if len(surely) else (float("nan"), float("nan"))
        highest = float(found.layers[counts.argmax()]) if len(surely) else float("nan")
        yield {"axis": axis, "outcome": outcome, "measure": f"{outcome}_layers", **numbers(Interval(highest, low, high, n))}
