"""What the intervention tables say: flip rates, dominance, ordering peak, backup gain, ablation drop, redundancy.

Works on the tables alone and never imports torch, so that the report can use it. Every number comes with its interval and n.
Pairs that the untouched model does not answer right (``included`` false) enter none of these; ``excluded`` counts them.
"""

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from vlm_spatial.interventions.labels import CONNECTOR, CONTENT, INTACT, INTENDED, LANGUAGE_ERASED, joined
from vlm_spatial.statistics import (
    DRAWS,
    EMPTY,
    Interval,
    bootstrap,
    cluster_bootstrap,
    clustered_share,
    holm,
    mcnemar_exact,
    percentile_interval,
    resample_counts,
    wilson,
)


def sweeps(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The sweeps of the intact model and those under the ablations, in one table; of either alone if the other is missing."""
    found = [tables[name] for name in ("interchange", "ablation_sweep") if name in tables and not tables[name].is_empty()]
    return pl.concat(found, how="diagonal_relaxed") if found else pl.DataFrame()


def excluded(table: pl.DataFrame, experiment: str, condition: str = INTACT) -> int:
    """How many pairs of an experiment were left out because the model, unpatched, answers one of their scenes wrong."""
    chosen = table.filter(pl.col("experiment") == experiment, pl.col("condition") == condition, ~pl.col("included"))
    return chosen["pair_id"].n_unique()


def flip_rate(
    table: pl.DataFrame,
    token_set: str,
    *,
    site: str = CONNECTOR,
    source: str = "counterfactual",
    condition: str = INTACT,
    axis: str | None = None,
) -> Interval:
    """Share of included vision pairs whose answer becomes the counterfactual's when ``token_set`` is replaced at ``site`` (Wilson)."""
    chosen = _included(table, "vision", condition, axis).filter(
        pl.col("token_set") == token_set, pl.col("site") == site, pl.col("source") == source
    )
    return _share(chosen["outcome"], INTENDED["vision"])


def objects_covered(table: pl.DataFrame, token_set: str = "random") -> float | None:
    """Share of the exchanged objects' cells that ``token_set`` replaces in the vision sweep, mean over pairs; None without rows.

    On a small grid the strips of two slots are most of the cells, and so are as many random ones: that control then replaces much
    of the objects, too, and a set has to beat it by more than it would on a large grid.
    """
    pairs = table.filter(
        pl.col("experiment") == "vision", pl.col("token_set").is_in([token_set, "object"]), pl.col("source") == "counterfactual"
    )
    wide = pairs.pivot("token_set", index=["pair_id", "site"], values="object_tokens", aggregate_function="first")
    if token_set not in wide.columns or "object" not in wide.columns:
        return None
    return float(np.mean(wide[token_set].to_numpy() / wide["object"].to_numpy()))


def rates(
    table: pl.DataFrame, by: tuple[str, ...] = ("experiment", "condition", "axis", "site", "layer", "token_set", "source")
) -> pl.DataFrame:
    """Rate of the intended outcome in every group of included pairs: columns ``by``, then ``estimate``, ``low``, ``high``, ``n``."""
    rows = []
    kept = table.filter(pl.col("included"), pl.col("experiment").is_in(list(INTENDED)))
    for keys, group in kept.group_by([*dict.fromkeys(["experiment", *by])], maintain_order=True):
        named = dict(zip(dict.fromkeys(["experiment", *by]), keys, strict=True))
        share = _share(group["outcome"], INTENDED[str(named["experiment"])])
        rows.append({**named, "estimate": share.estimate, "low": share.low, "high": share.high, "n": share.n})
    columns = {name: table.schema[name] for name in dict.fromkeys(["experiment", *by])}
    return pl.DataFrame(rows, schema={**columns, "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64})


def dominance(
    table: pl.DataFrame, token_set: str = "strip", *, condition: str = INTACT, axis: str | None = None, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """``(stay − move) / (stay + move)`` over included conflict pairs: 1 if position is read from the vision code, −1 if from the place.

    Other answers count for neither; ``n`` is stay + move. The interval resamples pairs; where all of them stay or all move, it is
    that of Wilson for the share that stays.
    """
    chosen = _included(table, "conflict", condition, axis).filter(
        pl.col("token_set") == token_set, pl.col("outcome").is_in(["stay", "move"])
    )
    sign = np.where((chosen["outcome"] == "stay").to_numpy(), 1.0, -1.0)
    if len(sign) and abs(sign.sum()) == len(sign):
        stay = wilson(int((sign > 0).sum()), len(sign))
        return Interval(2 * stay.estimate - 1, 2 * stay.low - 1, 2 * stay.high - 1, stay.n)
    return bootstrap(len(sign), lambda index: sign[index].mean(-1), draws=draws, seed=seed)


def ordering_rate(
    table: pl.DataFrame, site: str, *, token_set: str = "object", condition: str = INTACT, axis: str | None = None
) -> Interval:
    """Share of included language pairs whose answer follows the ordering code laid on the object tokens at ``site`` (Wilson)."""
    chosen = _blocks(table, condition, axis, token_set).filter(pl.col("included"), pl.col("site") == site)
    return _share(chosen["outcome"], INTENDED["language"])


def ordering_peak(table: pl.DataFrame, *, condition: str = INTACT, axis: str | None = None, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Ordering rate at the language layer where it is highest, cross-fitted; the interval resamples pairs.

    The layer is chosen on one half of the pairs and the rate counted on the other, and the other way round: the highest of many
    noisy rates, taken at face value, would lie above the truth.
    """
    pairs = _Ordering(_blocks(table, condition, axis).filter(pl.col("included")))
    return _over_pairs(pairs.n, pairs.peak_rate, draws, seed)


def ordering_peak_layer(
    table: pl.DataFrame, *, condition: str = INTACT, axis: str | None = None, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The layer with the highest ordering rate (the first on a tie), with the interval of that layer over resampled pairs.

    ``nan`` if no answer follows the ordering at any layer.
    """
    pairs = _Ordering(_blocks(table, condition, axis).filter(pl.col("included")))

    def peak(weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, " draws"]:
        layer_rates = pairs.layer_rates(weights)
        return np.where(layer_rates.max(-1) > 0, pairs.layers[layer_rates.argmax(-1)], np.nan)

    return _over_pairs(pairs.n, peak, draws, seed)


def backup_gain(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None, draws: int = DRAWS, seed: int = 0) -> Interval:
    """How much more ordering the language layers add once the vision signal is ablated, from the sweeps intact and ablated together.

    Within a condition, what the language model adds is the highest ordering rate over its layers (cross-fitted, as in
    :func:`ordering_peak`) minus the ordering rate at the connector, where nothing has been added yet. The gain is that under
    ``condition`` minus that of the intact model; it is positive if a backup emerges (paper: Qwen2-VL layers 13–17). Pairs are
    resampled, the same ones for both conditions; a pair counts in the conditions under which it is included.
    """
    tables = [_blocks(table, name, axis) for name in (INTACT, condition)]
    names = sorted(set(tables[0]["pair_id"]) | set(tables[1]["pair_id"]))
    intact, ablated = (_Ordering(chosen, names) for chosen in tables)
    if not (intact.included.any() and ablated.included.any()) or not (intact.complete and ablated.complete):
        return EMPTY

    def gain(weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, " draws"]:
        added = [pairs.peak_rate(weights) - pairs.connector_rate(weights) for pairs in (ablated, intact)]
        return added[0] - added[1]

    found = _over_pairs(len(names), gain, draws, seed)
    return Interval(found.estimate, found.low, found.high, int((intact.included | ablated.included).sum()))


def compare_sites(
    table: pl.DataFrame, reference: str = CONNECTOR, *, experiment: str = "language", token_set: str = "object", condition: str = INTACT
) -> pl.DataFrame:
    """Every site against ``reference`` on the same included pairs: exact McNemar, Holm-corrected over the sites.

    Columns: ``site``, ``gained`` and ``lost`` (pairs that have the intended outcome only there, only at ``reference``), ``p``, ``p_holm``.
    """
    chosen = _included(table, experiment, condition, None).filter(pl.col("token_set") == token_set)
    return _compared(chosen, "site", reference, experiment)


def compare_token_sets(table: pl.DataFrame, reference: str = "random", *, site: str = CONNECTOR, condition: str = INTACT) -> pl.DataFrame:
    """Every token set of the vision sweep against ``reference`` at one site, on the same included pairs, as :func:`compare_sites`."""
    chosen = _included(table, "vision", condition, None).filter(pl.col("site") == site)
    return _compared(chosen, "token_set", reference, "vision")


def _compared(chosen: pl.DataFrame, column: str, reference: str, experiment: str) -> pl.DataFrame:
    hits = chosen.filter(pl.col("source") != "unrelated").with_columns(hit=pl.col("outcome") == INTENDED[experiment])
    wide = hits.pivot(column, index="pair_id", values="hit")
    schema = {column: pl.String, "gained": pl.Int64, "lost": pl.Int64, "p": pl.Float64}
    if reference not in wide.columns:
        return pl.DataFrame(schema={**schema, "p_holm": pl.Float64})
    rows: list[dict[str, object]] = []
    p_values: list[float] = []
    for name in (name for name in wide.columns if name not in ("pair_id", reference)):
        gained = int((wide[name] & ~wide[reference]).sum())
        lost = int((~wide[name] & wide[reference]).sum())
        p_values.append(mcnemar_exact(gained, lost))
        rows.append({column: name, "gained": gained, "lost": lost, "p": p_values[-1]})
    return pl.DataFrame(rows, schema=schema).with_columns(p_holm=pl.Series(holm(p_values), dtype=pl.Float64))


def accuracy(table: pl.DataFrame, condition: str = INTACT, *, axis: str | None = None, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Share of spatial questions of ``ablation_accuracy`` answered right; the interval resamples whole scenes, ``n`` counts scenes."""
    return _right(_spatial(_under(table, condition, axis)), draws, seed)


def content_accuracy(
    table: pl.DataFrame, condition: str = INTACT, *, axis: str | None = None, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The same for questions that are not spatial: what an ablation costs beside the layout. Empty where none are asked."""
    return _right(_under(table, condition, axis).filter(pl.col("template") == CONTENT), draws, seed)


def _right(questions: pl.DataFrame, draws: int, seed: int) -> Interval:
    return clustered_share(questions["correct"].to_numpy(), questions["scene_id"].to_list(), draws=draws, seed=seed)


def _spatial(questions: pl.DataFrame) -> pl.DataFrame:
    return questions.filter(pl.col("template") != CONTENT)


def ablation_drop(
    table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Accuracy of the intact model minus that under ``condition``, on the same spatial questions; whole scenes are resampled."""
    wide = _accuracies(table, (INTACT, condition), axis)
    change = wide[INTACT].to_numpy().astype(float) - wide[condition].to_numpy()
    return cluster_bootstrap(change, wide["scene_id"].to_list(), draws=draws, seed=seed)


def redundancy(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interaction of the 2×2 of vision signal and language ordering, each intact or ablated, in accuracy.

    It is the accuracy lost by both ablations minus the sum of what each loses alone. Above 0, each mechanism can stand in for the other
    (redundant); below 0, both are needed at once, so that the second ablation finds less left to break (complementary).
    """
    names = (INTACT, condition, joined(INTACT, LANGUAGE_ERASED), joined(condition, LANGUAGE_ERASED))
    wide = _accuracies(table, names, axis)
    intact, vision, language, both = (wide[name].to_numpy().astype(float) for name in names)
    return cluster_bootstrap((intact - both) - (intact - vision) - (intact - language), wide["scene_id"].to_list(), draws=draws, seed=seed)


def slot_readout(
    table: pl.DataFrame,
    condition: str = INTACT,
    *,
    token_set: str = "object",
    probe: str = "refitted",
    axis: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Share of test objects whose slot a linear probe still reads off the connector's output under ``condition`` (``ablation_check``).

    Args:
        token_set: ``object`` or ``rim``.
        probe: ``saved`` (trained on the intact model) or ``refitted`` (under the condition).
    """
    chosen = _under(table, condition, axis).filter(pl.col("token_set") == token_set, pl.col("probe") == probe)
    return _right(chosen, draws, seed)


def _of(table: pl.DataFrame, experiment: str, condition: str, axis: str | None) -> pl.DataFrame:
    return _under(table.filter(pl.col("experiment") == experiment), condition, axis)


def _under(table: pl.DataFrame, condition: str, axis: str | None) -> pl.DataFrame:
    chosen = table.filter(pl.col("condition") == condition)
    return chosen if axis is None else chosen.filter(pl.col("axis") == axis)


def _blocks(table: pl.DataFrame, condition: str, axis: str | None, token_set: str = "object") -> pl.DataFrame:
    return _of(table, "language", condition, axis).filter(pl.col("token_set") == token_set)


def _included(table: pl.DataFrame, experiment: str, condition: str, axis: str | None) -> pl.DataFrame:
    return _of(table, experiment, condition, axis).filter(pl.col("included"))


def _share(outcomes: pl.Series, name: str) -> Interval:
    return wilson(int((outcomes == name).sum()), len(outcomes))


def _accuracies(table: pl.DataFrame, conditions: tuple[str, ...], axis: str | None) -> pl.DataFrame:
    """One row a question that was asked under all ``conditions``, one column (right or not) a condition."""
    parts = [
        _spatial(_under(table, name, axis)).select("question_id", "scene_id", pl.col("correct").alias(name)).sort("question_id")
        for name in conditions
    ]
    wide = parts[0]
    for part in parts[1:]:
        wide = wide.join(part.drop("scene_id"), on="question_id", how="inner", maintain_order="left")
    return wide


class _Ordering:
    """Which included language pairs follow the ordering, at every language layer and at the connector.

    Attributes:
        layers: the language layers, ascending.
        hits: ``[pairs, layers]``, whether the answer follows the ordering; False where the pair is not included.
        connector: ``[pairs]``, the same at the connector.
    """

    def __init__(self, chosen: pl.DataFrame, names: list[str] | None = None) -> None:
        self.names = sorted(set(chosen["pair_id"])) if names is None else names
        row = {name: number for number, name in enumerate(self.names)}
        sites = chosen.filter(pl.col("site").str.starts_with("language."))
        self.layers: Int[np.ndarray, " layers"] = np.array(sorted(set(sites["layer"])), dtype=int)
        column = {layer: number for number, layer in enumerate(self.layers)}
        self.included: Bool[np.ndarray, " pairs"] = np.zeros(len(self.names), dtype=bool)
        self.hits: Bool[np.ndarray, "pairs layers"] = np.zeros((len(self.names), len(self.layers)), dtype=bool)
        self.connector: Bool[np.ndarray, " pairs"] = np.zeros(len(self.names), dtype=bool)
        self.complete = bool(len(self.layers)) and CONNECTOR in set(chosen["site"])
        for name, site, layer, included, outcome in chosen.select("pair_id", "site", "layer", "included", "outcome").iter_rows():
            hit = included and outcome == INTENDED["language"]
            self.included[row[name]] |= included
            if site == CONNECTOR:
                self.connector[row[name]] = hit
            elif layer in column:
                self.hits[row[name], column[layer]] = hit

    @property
    def n(self) -> int:
        """Number of pairs; 0 if there is no language layer to tell of."""
        return len(self.names) if len(self.layers) else 0

    def layer_rates(self, weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, "draws layers"]:
        return _divided(weights @ self.hits, weights @ self.included[:, None])

    def peak_rate(self, weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, " draws"]:
        """Rate at the layer that is best on the other half of the pairs; halves are every other pair, in the order of their names."""
        half = np.arange(len(self.names)) % 2 == 0
        hits = np.zeros(len(weights))
        for part in (half, ~half):
            best = self.layer_rates(weights * ~part).argmax(-1)
            hits += np.take_along_axis((weights * part) @ self.hits, best[:, None], axis=1)[:, 0]
        return _divided(hits, weights @ self.included)

    def connector_rate(self, weights: Float[np.ndarray, "draws pairs"]) -> Float[np.ndarray, " draws"]:
        return _divided(weights @ self.connector, weights @ self.included)


def _divided(part: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _over_pairs(
    n: int, statistic: Callable[[Float[np.ndarray, "draws pairs"]], Float[np.ndarray, " draws"]], draws: int, seed: int
) -> Interval:
    """A statistic of how often each of ``n`` pairs counts: once for the estimate, as often as it is drawn for the interval."""
    if n == 0:
        return EMPTY
    low, high = percentile_interval(statistic(resample_counts(n, draws=draws, seed=seed)))
    return Interval(float(statistic(np.ones((1, n)))[0]), float(low), float(high), n)
