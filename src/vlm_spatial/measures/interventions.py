"""What the intervention tables say: flip rates, dominance, ordering peak, backup gain, ablation drop, redundancy.

Works on the tables alone and never imports torch, so that the report can use it. Every number comes with its interval and n.
Pairs that the untouched model does not answer right (``included`` false) enter none of these; ``excluded`` counts them.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from vlm_spatial.interventions.labels import CONNECTOR, CONTENT, INTACT, INTENDED, LANGUAGE_ERASED, joined
from vlm_spatial.interventions.ordering import Ordering, language_sweep
from vlm_spatial.measures.best_layer import AtBest, Layers, at_best
from vlm_spatial.statistics import EMPTY, Interval, binomial, clustered_mean, clustered_share, holm, mcnemar_exact


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
    """Share of included vision pairs whose answer becomes the counterfactual's when ``token_set`` is replaced (exact interval)."""
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


def dominance(table: pl.DataFrame, token_set: str = "strip", *, condition: str = INTACT, axis: str | None = None) -> Interval:
    """``(stay − move) / (stay + move)`` over included conflict pairs: 1 if position is read from the vision code, −1 if from the place.

    Other answers count for neither; ``n`` is stay + move. Twice the share that stays, less one, with that share's exact interval.
    """
    stays = staying(table, token_set, condition=condition, axis=axis)["stays"]
    share = binomial(int(stays.sum()), len(stays))
    return Interval(2 * share.estimate - 1, 2 * share.low - 1, 2 * share.high - 1, share.n)


def staying(table: pl.DataFrame, token_set: str = "strip", *, condition: str = INTACT, axis: str | None = None) -> pl.DataFrame:
    """The included conflict pairs whose answer stays or moves: their rows, with ``stays``."""
    chosen = _included(table, "conflict", condition, axis).filter(
        pl.col("token_set") == token_set, pl.col("outcome").is_in(["stay", "move"])
    )
    return chosen.with_columns(stays=pl.col("outcome") == "stay")


def ordering_rate(
    table: pl.DataFrame, site: str, *, token_set: str = "object", condition: str = INTACT, axis: str | None = None
) -> Interval:
    """Share of included language pairs whose answer follows the ordering code laid on the object tokens at ``site`` (exact interval)."""
    chosen = _on(language_sweep(table, condition, token_set), axis).filter(pl.col("included"), pl.col("site") == site)
    return _share(chosen["outcome"], INTENDED["language"])


def ordering(table: pl.DataFrame, condition: str = INTACT, *, axis: str | None = None) -> Ordering:
    """The included pairs of the language sweep."""
    return Ordering(_on(language_sweep(table, condition), axis))


def ordering_peak(table: pl.DataFrame, *, condition: str = INTACT, axis: str | None = None) -> Interval:
    """Ordering rate at the language layer where it is highest, cross-fitted (:mod:`vlm_spatial.measures.best_layer`)."""
    found = ordering(table, condition, axis=axis)
    if not len(found.pairs) or not len(found.layers):
        return EMPTY
    return at_best(Layers.of(found.follows)).share()


def ordering_peak_layer(table: pl.DataFrame, *, condition: str = INTACT, axis: str | None = None) -> Interval:
    """The layer with the highest ordering rate (the first on a tie); the interval spans every layer that may be the highest.

    A layer may be if the paired difference between the best and it is not significant at 5%, adjusted (Bonferroni) for the layers. Layers
    of equal rate, a plateau, all stay in. ``nan`` if no answer follows the ordering at any layer.
    """
    found = ordering(table, condition, axis=axis)
    n = len(found.pairs)
    if not n or not len(found.layers):
        return EMPTY
    if not found.follows.any():
        return Interval(float("nan"), float("nan"), float("nan"), n)
    kept = found.layers[Layers.of(found.follows).candidates]
    return Interval(float(found.layers[found.best()]), float(kept.min()), float(kept.max()), n)


def backup_gains(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None) -> tuple[list[str], AtBest]:
    """How much more ordering the language layers add to each pair once the vision signal is ablated, from both sweeps together.

    Within a condition, what the language model adds is whether the answer follows the ordering at the best layer (cross-fitted) less
    whether it does at the connector, where nothing has been added yet. A pair's gain is that under ``condition`` minus that of the intact
    model. The pairs are those that the intact model answers right and that were run under both: whether the ablated model still
    answers right is a consequence of the ablation, and choosing pairs by it would leave the few that the ablation did not reach.
    """
    sweeps_of = [_on(language_sweep(table, name), axis) for name in (INTACT, condition)]
    pairs = sorted(set(sweeps_of[0].filter("included")["pair_id"]) & set(sweeps_of[1]["pair_id"]))
    intact, ablated = (Ordering(sweep, pairs) for sweep in sweeps_of)
    if not pairs or any(found.at_connector is None or not len(found.layers) for found in (intact, ablated)):
        return [], AtBest(np.zeros(0), 0.0, [], [])
    added = [Layers.of(found.follows, found.follows - np.asarray(found.at_connector, float)[:, None]) for found in (ablated, intact)]
    return pairs, at_best(*added)


def backup_gain(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None) -> Interval:
    """Mean of :func:`backup_gains`."""
    return backup_gains(table, condition, axis=axis)[1].mean()[0]


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


def accuracy(table: pl.DataFrame, condition: str = INTACT, *, axis: str | None = None) -> Interval:
    """Share of spatial questions of ``ablation_accuracy`` answered right; ``n`` counts scenes."""
    return _right(_spatial(_under(table, condition, axis)))


def content_accuracy(table: pl.DataFrame, condition: str = INTACT, *, axis: str | None = None) -> Interval:
    """The same for questions that are not spatial: what an ablation costs beside the layout. Empty where none are asked."""
    return _right(_under(table, condition, axis).filter(pl.col("template") == CONTENT))


def _right(questions: pl.DataFrame) -> Interval:
    scenes = questions["scene_id"].to_list()
    return replace(clustered_share(questions["correct"].to_numpy(), scenes), n=len(set(scenes)))


def _spatial(questions: pl.DataFrame) -> pl.DataFrame:
    return questions.filter(pl.col("template") != CONTENT)


def ablation_drops(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None) -> pl.DataFrame:
    """The spatial questions asked of the intact model and under ``condition``, with ``lost``: 1 if the ablation breaks the answer, −1 if it
    mends it."""
    wide = _accuracies(table, (INTACT, condition), axis)
    return wide.with_columns(lost=pl.col(INTACT).cast(pl.Float64) - pl.col(condition).cast(pl.Float64))


def ablation_drop(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None) -> Interval:
    """Accuracy of the intact model minus that under ``condition``, on the same spatial questions; ``n`` counts scenes."""
    return _mean_of_questions(ablation_drops(table, condition, axis=axis), "lost")


def _mean_of_questions(wide: pl.DataFrame, column: str) -> Interval:
    scenes = wide["scene_id"].to_list()
    return replace(clustered_mean(wide[column].to_numpy(), scenes)[0], n=len(set(scenes)))


def redundancy(table: pl.DataFrame, condition: str = "neutral", *, axis: str | None = None) -> Interval:
    """Interaction of the 2×2 of vision signal and language ordering, each intact or ablated, in accuracy; ``n`` counts scenes.

    It is the accuracy lost by both ablations minus the sum of what each loses alone. Above 0, each mechanism can stand in for the other
    (redundant); below 0, both are needed at once, so that the second ablation finds less left to break (complementary).
    """
    names = (INTACT, condition, joined(INTACT, LANGUAGE_ERASED), joined(condition, LANGUAGE_ERASED))
    intact, vision, language, both = (pl.col(name).cast(pl.Float64) for name in names)
    wide = _accuracies(table, names, axis).with_columns(beyond=(intact - both) - (intact - vision) - (intact - language))
    return _mean_of_questions(wide, "beyond")


def slot_readout(
    table: pl.DataFrame, condition: str = INTACT, *, token_set: str = "object", probe: str = "refitted", axis: str | None = None
) -> Interval:
    """Share of test objects whose slot a linear probe still reads off the connector's output under ``condition`` (``ablation_check``).

    Args:
        token_set: ``object`` or ``rim``.
        probe: ``saved`` (trained on the intact model) or ``refitted`` (under the condition).
    """
    return _right(_under(table, condition, axis).filter(pl.col("token_set") == token_set, pl.col("probe") == probe))


def _of(table: pl.DataFrame, experiment: str, condition: str, axis: str | None) -> pl.DataFrame:
    return _under(table.filter(pl.col("experiment") == experiment), condition, axis)


def _under(table: pl.DataFrame, condition: str, axis: str | None) -> pl.DataFrame:
    return _on(table.filter(pl.col("condition") == condition), axis)


def _on(table: pl.DataFrame, axis: str | None) -> pl.DataFrame:
    return table if axis is None else table.filter(pl.col("axis") == axis)


def _included(table: pl.DataFrame, experiment: str, condition: str, axis: str | None) -> pl.DataFrame:
    return _of(table, experiment, condition, axis).filter(pl.col("included"))


def _share(outcomes: pl.Series, name: str) -> Interval:
    return binomial(int((outcomes == name).sum()), len(outcomes))


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
