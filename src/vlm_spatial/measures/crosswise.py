"""What crosswise and mirror sweeps say: flips, recovery and probabilities, by site and token set."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from vlm_spatial.interventions.labels import CONNECTOR, INTACT
from vlm_spatial.measures.best_layer import Layers, at_best
from vlm_spatial.measures.interventions import sweeps
from vlm_spatial.measures.recovery import ratio, recovery
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import EMPTY, Interval, binomial, binomial_limits

BROKEN = 0.5
"""A patched run whose candidates keep less than this share of their probability no longer answers the question."""
CONNECTOR_LAYER = -1
"""Number of the connector among the layers: just before language layer 0."""


@dataclass(frozen=True)
class Flips:
    """Which included pairs flip at which site.

    Attributes:
        pairs: their names.
        layers: of the sites, ascending; the connector is ``CONNECTOR_LAYER``.
        hits: ``[pairs, layers]``.
    """

    pairs: list[str]
    layers: Int[np.ndarray, " layers"]
    hits: Bool[np.ndarray, "pairs layers"]

    def at_connector(self) -> Bool[np.ndarray, "pairs connector"]:
        """Whether each pair flips at the connector, as the only layer; nowhere where that was not run."""
        there = self.hits[:, self.layers == CONNECTOR_LAYER]
        return there if there.shape[1] else np.zeros((len(self.pairs), 1), dtype=bool)

    def at_sites(self) -> Bool[np.ndarray, "pairs layers"]:
        """Whether each pair flips at each site."""
        return self.hits


def flips(table: pl.DataFrame, token_set: str, *, condition: str = INTACT, experiment: str = "crosswise") -> Flips:
    """The included pairs of one token set, by site; pairs that lack a site are left out."""
    chosen = table.filter(pl.col("included"), experiment=experiment, condition=condition, token_set=token_set)
    wide = chosen.select(
        "pair_id", layer=pl.col("layer").fill_null(CONNECTOR_LAYER).cast(pl.String), hit=pl.col("outcome") == "flip"
    ).pivot("layer", index="pair_id", values="hit")
    layers = np.array(sorted(int(name) for name in wide.columns if name != "pair_id"), dtype=int)
    if not len(layers):
        return Flips([], layers, np.zeros((0, 0), dtype=bool))
    whole = wide.drop_nulls().sort("pair_id")
    return Flips(whole["pair_id"].to_list(), layers, whole.select([str(layer) for layer in layers]).to_numpy().astype(bool))


def flip_rate(table: pl.DataFrame, token_set: str, *, site: str = CONNECTOR, condition: str = INTACT) -> Interval:
    """Share of included pairs whose answer flips at one site (exact interval)."""
    chosen = table.filter(pl.col("included"), experiment="crosswise", condition=condition, token_set=token_set, site=site)
    return binomial(int((chosen["outcome"] == "flip").sum()), chosen.height)


def highest_flip_rate(table: pl.DataFrame, token_set: str, *, condition: str = INTACT) -> Interval:
    """Flip rate at the site where it is highest, cross-fitted (:mod:`vlm_spatial.measures.best_layer`)."""
    found = flips(table, token_set, condition=condition)
    return at_best(Layers.of(found.hits)).share() if len(found.pairs) else EMPTY


def last_layer(table: pl.DataFrame, token_set: str = "strip", *, condition: str = INTACT) -> Interval:
    """The last layer at which most answers still flip; the connector is layer −1.

    The interval goes from the last layer at which the exact interval of the rate lies above one half to the last at which it reaches above.
    ``nan`` if most answers flip at no layer.
    """
    found = flips(table, token_set, condition=condition)
    n = len(found.pairs)
    if not n or not len(found.layers):
        return EMPTY
    counts = found.hits.sum(axis=0)
    if not (counts > n / 2).any():
        return Interval(float("nan"), float("nan"), float("nan"), n)
    low, high = binomial_limits(counts, np.full(len(counts), n))

    def last(where: np.ndarray) -> float:
        return float(found.layers[where][-1]) if where.any() else float(found.layers[0])

    return Interval(last(counts > n / 2), last(low > 0.5), last(high > 0.5), n)


def crosswise(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Rows of the table of measures: every measure by axis, site, token set and condition, of the crosswise and the mirror form.

    ``flip_rate`` (exact interval), ``recovery``, ``probability_stay`` and ``probability_flip`` (of the clean answer and of the
    counterfactual's, over the whole vocabulary, mean over pairs), ``candidate_mass`` (of all candidates) and ``broken`` (share of pairs
    that no longer answer the question, exact).
    """
    table = sweeps(tables)
    parts = [tidy([], "crosswise")]
    for experiment in ("crosswise", "mirror"):
        chosen = table if table.is_empty() else table.filter(pl.col("experiment") == experiment)
        if not chosen.is_empty():
            # The mirror form has one axis only, so both axes together would say the same again.
            both = chosen if experiment == "mirror" else pl.concat([chosen, chosen.with_columns(axis=pl.lit(BOTH))])
            parts.append(tidy(_by_site(both, ("axis", "site", "token_set", "condition")), experiment, counted="pairs"))
    return pl.concat(parts)


def _by_site(table: pl.DataFrame, by: tuple[str, ...]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for keys, group in with_probabilities(table).group_by(by, maintain_order=True):
        named = dict(zip(by, keys, strict=True))
        kept = group.filter(pl.col("included"))
        ones = np.ones(kept.height)
        broken = kept["candidate_mass"] < BROKEN * kept["candidate_mass_clean"]
        shares = {
            "flip_rate": binomial(int((kept["outcome"] == "flip").sum()), kept.height),
            "broken": binomial(int(broken.sum()), kept.height),
        }
        means = {
            "recovery": recovery(kept),
            **{name: ratio(kept[name].to_numpy(), ones) for name in ("probability_stay", "probability_flip", "candidate_mass")},
        }
        aside = group.height - kept.height
        for method, found in (("exact interval", shares), ("Student over pairs", means)):
            rows += [{**named, "measure": name, "method": method, "set_aside": aside, **numbers(got)} for name, got in found.items()]
    return rows


def with_probabilities(table: pl.DataFrame) -> pl.DataFrame:
    """Add ``probability_stay``, ``probability_flip`` (of the clean and of the counterfactual run's answer) and ``candidate_mass_clean``."""
    numbered = table.with_row_index("row")
    each = numbered.select("row", "clean_predicted", "counterfactual_predicted", "candidates", "log_probabilities").explode(
        "candidates", "log_probabilities"
    )
    likely = pl.col("log_probabilities").cast(pl.Float64).exp()
    found = each.group_by("row").agg(
        probability_stay=likely.filter(pl.col("candidates") == pl.col("clean_predicted")).first(),
        probability_flip=likely.filter(pl.col("candidates") == pl.col("counterfactual_predicted")).first(),
    )
    before = pl.col("log_probabilities_clean").list.eval(pl.element().cast(pl.Float64).exp()).list.sum()
    return numbered.join(found, on="row", how="left", maintain_order="left").drop("row").with_columns(candidate_mass_clean=before)
