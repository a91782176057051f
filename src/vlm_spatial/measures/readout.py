"""Whose residuals the answer follows, by layer; whether the question's decide it, and whether they are enough without the picture."""

from collections.abc import Iterator

import polars as pl

from vlm_spatial.measures.behaviour import METHOD, guesses
from vlm_spatial.measures.best_layer import Layers, at_best
from vlm_spatial.measures.crosswise import BROKEN
from vlm_spatial.measures.paired import Against, against, of_values
from vlm_spatial.measures.recovery import SMALLEST_GAP, ratio
from vlm_spatial.measures.routes import ALL_LAYERS
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import Interval, binomial, clustered_mean, clustered_share

UNTOUCHED = "untouched"


def readout(table: pl.DataFrame | None) -> pl.DataFrame:
    """``flip_rate``, ``recovery`` and ``broken`` of every group, layer and source; ``accuracy`` over corrupted pictures."""
    if table is None or table.is_empty():
        return tidy([], "readout")
    rows: list[dict[str, object]] = []
    for axis in (BOTH, *sorted(table["axis"].unique())):
        of_axis = table if axis == BOTH else table.filter(axis=axis)
        rows += [{"axis": axis, **row} for row in (*_usage(of_axis), *_steering(of_axis), *_reading(of_axis), *_sufficiency(of_axis))]
    return tidy([{"counted": "pairs", **row} for row in rows], "readout")


def _usage(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    sites = pl.when("all_layers").then(pl.lit(ALL_LAYERS)).otherwise("site")
    named = table.filter(experiment="usage").with_columns(place=sites)
    by = ("group", "place", "source")
    for keys, group in named.group_by(by, maintain_order=True):
        kept = group.filter("included")
        moved = kept.filter(pl.col("margin_source") - pl.col("margin_clean") >= SMALLEST_GAP)
        clean = moved["margin_clean"].to_numpy()
        of = dict(zip(("token_set", "site", "source"), keys, strict=True)) | {"set_aside": group.height - kept.height}
        exact, student = {"method": "exact interval"}, {"method": "Student over pairs"}
        yield {**of, "measure": "flip_rate", **exact, **numbers(_share(kept["outcome"] == "flip"))}
        yield {**of, "measure": "broken", **exact, **numbers(_share(kept["candidate_mass"] < BROKEN * kept["candidate_mass_clean"]))}
        if keys[2] != "unrelated":
            recovered = ratio(moved["margin"].to_numpy() - clean, moved["margin_source"].to_numpy() - clean)
            yield {**of, "measure": "recovery", **student, **numbers(recovered)}


def _steering(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Flips under an added vector, by layer and strength, and right answers lost where the slot is removed."""
    by = ("experiment", "group", "site", "source", "alpha")
    for (experiment, *keys), group in table.filter(pl.col("experiment").is_in(["steer", "erase"])).group_by(by, maintain_order=True):
        of = dict(zip(("token_set", "site", "source", "alpha"), keys, strict=True))
        kept = group.filter("included")
        of |= {"set_aside": group.filter(~pl.col("included"))["pair_id"].n_unique()}
        of_experiment = ("flip_rate", kept["outcome"] == "flip") if experiment == "steer" else ("damage", ~kept["right_after"])
        for measure, hits in (of_experiment, ("broken", kept["candidate_mass"] < BROKEN * kept["candidate_mass_clean"])):
            condition = {"condition": "slot removed"} if experiment == "erase" else {}
            yield {**of, **condition, "measure": measure, **_over_draws(kept, hits)}


def _over_draws(kept: pl.DataFrame, hits: pl.Series) -> dict[str, object]:
    """A share of pairs; of random vectors each pair counts once, with the mean over its draws."""
    if kept["draw"].is_null().all():
        return {"method": "exact interval", **numbers(_share(hits))}
    means = kept.select("pair_id", hit=hits.cast(pl.Float64)).group_by("pair_id", maintain_order=True).agg(pl.col("hit").mean())
    return {"method": "Student over pairs, mean of the draws", **numbers(clustered_mean(means["hit"].to_numpy())[0])}


def _reading(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    """By layer: IDs that say the truth where the model answers right, and the given answer and the truth where it answers wrong."""
    for (site,), group in table.filter(experiment="read").group_by("site", maintain_order=True):
        of = {"site": site, "token_set": "word.target", "source": "id", "counted": "questions", "method": METHOD}
        right, wrong = group.filter("right_after"), group.filter(~pl.col("right_after"))
        for measure, outcome, part in (("id_accuracy", "truth", right), ("id_on_errors", "given", wrong), ("id_on_errors", "truth", wrong)):
            found = clustered_share((part["outcome"] == outcome).to_numpy(), scenes_of(part))
            yield {**of, "measure": measure, "outcome": outcome if part is wrong else None, **numbers(found)}


def scenes_of(read: pl.DataFrame) -> list[str]:
    """The scenes of rows of ``read``, whose ``pair_id`` is a question's: it begins with its scene's."""
    return read["pair_id"].str.split("/").list.first().to_list()


def faithful(table: pl.DataFrame) -> Against | None:
    """Where the model answers wrong: IDs that agree with its answer, against those that agree with the truth.

    The layer is the one that is best where the model answers right.
    """
    read = table.filter(experiment="read")
    right = read.filter("right_after").group_by("site", maintain_order=True).agg(hits=(pl.col("outcome") == "truth").mean())
    if right.is_empty():
        return None
    best = right.sort("hits", descending=True, maintain_order=True)["site"][0]
    wrong = read.filter(~pl.col("right_after"), site=best)
    given, truth = (pl.col("outcome") == name for name in ("given", "truth"))
    return None if wrong.is_empty() else of_values(wrong.select("axis", "template", hit=given, other=truth), scenes_of(wrong))


def id_swap(table: pl.DataFrame) -> Against | None:
    """Answers that become the other slot's when its spatial ID is exchanged for it, at the largest strength and each pair's best layer.

    The layer is chosen on the other half of the pairs. The control: random vectors at the same layer, mean of the draws.
    """
    kept = table.filter("included", experiment="steer", group="word.target").with_columns(hit=pl.col("outcome") == "flip")
    most = kept.filter(source="id").filter(pl.col("alpha") == pl.col("alpha").max())
    if most.is_empty():
        return None
    sites = most["site"].unique(maintain_order=True).to_list()
    random = kept.filter(source="random").group_by("pair_id", "site", maintain_order=True).agg(pl.col("hit").mean())
    wide = most.pivot("site", index=["pair_id", "axis", "template"], values="hit").join(
        random.pivot("site", index="pair_id", values="hit"), on="pair_id", suffix=" drawn", maintain_order="left"
    )
    hits, drawn = wide.select(sites).to_numpy(), wide.select(f"{site} drawn" for site in sites).to_numpy()
    beyond = at_best(Layers.of(hits, hits - drawn))
    difference, p = beyond.mean()
    values = wide.select("axis", "template", value=pl.Series(beyond.values))
    own, control = at_best(Layers.of(hits)), Layers.of(hits, drawn).chosen()
    return Against(own.share(), clustered_mean(control, alike=beyond.alike)[0], difference, p, values, own.alike)


def _sufficiency(table: pl.DataFrame) -> Iterator[dict[str, object]]:
    corrupted = table.filter(experiment="sufficiency").with_columns(pl.col("group").fill_null(UNTOUCHED))
    for (picture, taken), group in corrupted.group_by("picture", "group", maintain_order=True):
        kept = group.filter("included")
        of = {"condition": picture, "token_set": taken, "set_aside": group.height - kept.height, "method": "exact interval"}
        chance = {"control": "a guess", "control_estimate": guess(kept)}
        yield {**of, **chance, "measure": "accuracy", **numbers(_share(kept["right_after"]))}


def guess(table: pl.DataFrame) -> float:
    """Accuracy of a guess among the candidates."""
    return float(guesses(table).to_numpy().mean()) if table.height else float("nan")


def _share(hits: pl.Series) -> Interval:
    return binomial(int(hits.sum()), len(hits))


def text_decides(table: pl.DataFrame) -> Against | None:
    """Answers that follow the question's residuals of every layer: the counterfactual run's, against an unrelated one's."""
    kept = table.filter("included", "all_layers", experiment="usage", group="question").with_columns(hit=pl.col("outcome") == "flip")
    return against(
        kept.filter(source="counterfactual").select("pair_id", "axis", "template", "hit"),
        kept.filter(source="unrelated").select("pair_id", "hit"),
    )


def over_grey(table: pl.DataFrame) -> pl.DataFrame:
    """Pairs over a grey picture: ``hit``, right with the question's residuals of the real one; ``alone``, right without; ``guess``."""
    kept = table.filter("included", experiment="sufficiency", picture="grey")
    alone = kept.filter(pl.col("group").is_null()).select("pair_id", alone="right_after")
    both = kept.filter(group="question").join(alone, on="pair_id", maintain_order="left")
    return both.select("axis", "template", "alone", hit="right_after", guess=guesses(both))
