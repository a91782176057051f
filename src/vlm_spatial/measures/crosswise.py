"""What crosswise and mirror sweeps say: flips, recovery and probabilities, by site and token set.

``recovery`` is how far the patched answer moved from the clean run to the counterfactual one, in log-odds: the sum of the moves over the
sum of the whole distances, over pairs. It is not clamped: below 0 the answer moved away, above 1 it overshot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from vlm_spatial.interventions.labels import CONNECTOR, INTACT
from vlm_spatial.measures.interventions import sweeps
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import EMPTY, Interval, percentile_interval, resample_counts, wilson

DRAWS = 2000
SMALLEST_GAP = 0.25
"""A pair whose two runs differ by less in log-odds says nothing of recovery."""
BROKEN = 0.5
"""A patched run whose candidates keep less than this share of their probability no longer answers the question."""
CONNECTOR_LAYER = -1
"""Number of the connector among the layers: just before language layer 0."""


@dataclass(frozen=True)
class Flips:
    """Which included pairs flip at which site.

    Attributes:
        layers: of the sites, ascending; the connector is ``CONNECTOR_LAYER``.
        hits: ``[pairs, layers]``.
    """

    layers: Int[np.ndarray, " layers"]
    hits: Bool[np.ndarray, "pairs layers"]

    def over_pairs(
        self, statistic: Callable[[Float[np.ndarray, "draws pairs"]], Float[np.ndarray, " draws"]], draws: int, seed: int
    ) -> Interval:
        """A statistic of how often each pair counts, with its interval over resampled pairs."""
        n = len(self.hits)
        if n == 0 or len(self.layers) == 0:
            return EMPTY
        low, high = percentile_interval(statistic(resample_counts(n, draws=draws, seed=seed)))
        return Interval(float(statistic(np.ones((1, n)))[0]), float(low), float(high), n)

    def rates(self, weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, "draws layers"]:
        counted = weights.sum(-1, keepdims=True)
        return np.divide(weights @ self.hits, counted, out=np.full((len(weights), len(self.layers)), np.nan), where=counted > 0)


def flips(table: pl.DataFrame, token_set: str, *, condition: str = INTACT, experiment: str = "crosswise") -> Flips:
    """The included pairs of one token set, by site; pairs that lack a site are left out."""
    chosen = table.filter(pl.col("included"), experiment=experiment, condition=condition, token_set=token_set)
    wide = chosen.select(
        "pair_id", layer=pl.col("layer").fill_null(CONNECTOR_LAYER).cast(pl.String), hit=pl.col("outcome") == "flip"
    ).pivot("layer", index="pair_id", values="hit")
    layers = np.array(sorted(int(name) for name in wide.columns if name != "pair_id"), dtype=int)
    hits = wide.select([str(layer) for layer in layers]).drop_nulls().to_numpy() if len(layers) else np.zeros((0, 0), dtype=bool)
    return Flips(layers, hits.astype(bool))


def flip_rate(table: pl.DataFrame, token_set: str, *, site: str = CONNECTOR, condition: str = INTACT) -> Interval:
    """Share of included pairs whose answer flips at one site (Wilson)."""
    chosen = table.filter(pl.col("included"), experiment="crosswise", condition=condition, token_set=token_set, site=site)
    return wilson(int((chosen["outcome"] == "flip").sum()), chosen.height)


def highest_flip_rate(table: pl.DataFrame, token_set: str, *, condition: str = INTACT, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Flip rate at the site where it is highest, cross-fitted: it is chosen on one half of the pairs, the rate counted on the other."""
    found = flips(table, token_set, condition=condition)
    half = np.arange(len(found.hits)) % 2 == 0

    def peak(weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, " draws"]:
        hits = np.zeros(len(weights))
        for part in (half, ~half):
            best = (weights * ~part @ found.hits).argmax(-1)
            hits += np.take_along_axis((weights * part) @ found.hits, best[:, None], axis=1)[:, 0]
        return hits / weights.sum(-1)

    return found.over_pairs(peak, draws, seed)


def last_layer(table: pl.DataFrame, token_set: str = "strip", *, condition: str = INTACT, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The last layer at which most answers still flip, with its interval over resampled pairs; the connector is layer −1.

    ``nan`` if most answers flip at no layer.
    """
    found = flips(table, token_set, condition=condition)

    def last(weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, " draws"]:
        most = found.rates(weights) > 0.5
        return np.where(most.any(-1), found.layers[most.shape[1] - 1 - most[:, ::-1].argmax(-1)], np.nan)

    return found.over_pairs(last, draws, seed)


def recovery(table: pl.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Recovery of the included rows of one site and token set, a row a pair: ratio of sums, pairs resampled."""
    chosen = table.filter(pl.col("included"), pl.col("log_odds_source") - pl.col("log_odds_clean") >= SMALLEST_GAP)
    moved = (chosen["log_odds"] - chosen["log_odds_clean"]).to_numpy()
    whole = (chosen["log_odds_source"] - chosen["log_odds_clean"]).to_numpy()
    return _mean(moved, whole, draws, seed)


def crosswise(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Rows of the table of measures: every measure by axis, site, token set and condition, of the crosswise and the mirror form.

    ``flip_rate`` (Wilson), ``recovery``, ``probability_stay`` and ``probability_flip`` (of the clean answer and of the counterfactual's,
    over the whole vocabulary, mean over pairs), ``candidate_mass`` (of all candidates) and ``broken`` (share of pairs that no longer
    answer the question, Wilson).
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
            "flip_rate": wilson(int((kept["outcome"] == "flip").sum()), kept.height),
            "broken": wilson(int(broken.sum()), kept.height),
        }
        means = {
            "recovery": recovery(kept),
            **{name: _mean(kept[name].to_numpy(), ones) for name in ("probability_stay", "probability_flip", "candidate_mass")},
        }
        aside = group.height - kept.height
        for method, found in (("Wilson", shares), ("bootstrap over pairs", means)):
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


def _mean(part: Float[np.ndarray, " pairs"], whole: Float[np.ndarray, " pairs"], draws: int = DRAWS, seed: int = 0) -> Interval:
    """``sum(part) / sum(whole)``, pairs resampled."""
    if len(part) == 0:
        return EMPTY
    weights = resample_counts(len(part), draws=draws, seed=seed)
    low, high = percentile_interval((weights @ part) / (weights @ whole))
    return Interval(float(part.sum() / whole.sum()), float(low), float(high), len(part))
