"""Which pairs of the language sweep follow the ordering, layer by layer. No torch here."""

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from vlm_spatial.interventions.labels import CONNECTOR, INTACT


def language_sweep(table: pl.DataFrame, condition: str = INTACT, token_set: str = "object") -> pl.DataFrame:
    """The rows of the language sweep that exchange ``token_set`` under ``condition``."""
    return table.filter(pl.col("experiment") == "language", pl.col("condition") == condition, pl.col("token_set") == token_set)


class Ordering:
    """What the answers of pairs follow at every language layer and at the connector, under one condition.

    Args:
        sweep: rows of :func:`language_sweep`.
        pairs: those to look at, in this order; by default the ones that are included.

    Attributes:
        pairs: the pairs.
        layers: the language layers, ascending.
        follows: ``[pairs, layers]``, whether the answer follows the ordering.
        content: ``[pairs, layers]``, whether it follows the place that the content was put at.
        at_connector: ``[pairs]``, whether it follows the ordering after the same exchange at the connector; None where that was not run.
        changed: ``[layers]``, whether the exchange changes the log-odds of any pair. It does not at the last layer, which nothing reads.
    """

    def __init__(self, sweep: pl.DataFrame, pairs: list[str] | None = None) -> None:
        self.pairs = sorted(set(sweep.filter("included")["pair_id"])) if pairs is None else pairs
        sweep = sweep.filter(pl.col("pair_id").is_in(self.pairs))
        at_layers = sweep.filter(pl.col("site").str.starts_with("language."))
        self.layers: Int[np.ndarray, " layers"] = np.array(sorted(set(at_layers["layer"])), dtype=int)
        self.follows: Bool[np.ndarray, "pairs layers"] = self._outcomes(at_layers, "ordering")
        self.content: Bool[np.ndarray, "pairs layers"] = self._outcomes(at_layers, "content")
        there = dict(sweep.filter(pl.col("site") == CONNECTOR).select("pair_id", pl.col("outcome") == "ordering").iter_rows())
        self.at_connector: Bool[np.ndarray, " pairs"] | None = (
            np.array([there[name] for name in self.pairs], dtype=bool) if set(self.pairs) <= set(there) else None
        )
        self.changed = np.ones(len(self.layers), dtype=bool)
        if {"log_odds", "log_odds_clean"} <= set(sweep.columns):
            moved = at_layers.group_by("layer").agg(((pl.col("log_odds") - pl.col("log_odds_clean")).abs() > 0).any().alias("moved"))
            found = dict(moved.select("layer", "moved").iter_rows())
            self.changed = np.array([bool(found.get(layer)) for layer in self.layers], dtype=bool)

    def _outcomes(self, rows: pl.DataFrame, outcome: str) -> Bool[np.ndarray, "pairs layers"]:
        row = {name: number for number, name in enumerate(self.pairs)}
        column = {layer: number for number, layer in enumerate(self.layers)}
        found = np.zeros((len(self.pairs), len(self.layers)), dtype=bool)
        for name, layer in rows.filter(pl.col("outcome") == outcome).select("pair_id", "layer").iter_rows():
            found[row[name], column[layer]] = True
        return found

    def best(self) -> int:
        """Place among ``layers`` of the one that most pairs follow the ordering at, the first on a tie."""
        return int(self.follows.mean(axis=0).argmax())


def best_layer(table: pl.DataFrame, condition: str) -> int | None:
    """The layer with the highest ordering rate under ``condition``, the first on a tie; None if no answer follows the ordering."""
    found = Ordering(language_sweep(table, condition))
    return int(found.layers[found.best()]) if found.follows.any() else None
