"""How often the untouched model answers right, by template and slot; and what merging photos does to that."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from vlm_spatial.interventions.labels import CONTENT
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import Interval, clustered_mean, clustered_share

ALL_SLOTS = "all slots"
GUESS = "a guess among the candidates"
METHOD = "exact interval, n lowered for answers that agree within a scene (Korn and Graubard)"
STUDENT = "Student with two added differences (Bonett and Price), for as many independent questions"
PICTURES = ("photo", "self_merge", "main")
"""Kinds of picture that the measures of merging compare: a photo, the photo merged with itself, two photos merged."""
MERGING_ALONE = "self_merge − photo"
ALL_TEMPLATES = "asked of all three"
_KEY = ("photo", "template", "slot")


def accuracy(table: pl.DataFrame) -> Interval:
    """Share of right answers, interval over scenes (questions of one scene are not independent); n counts scenes."""
    scenes = table["scene_id"].to_list()
    return replace(clustered_share(table["correct"].to_numpy(), scenes), n=len(set(scenes)))


def guesses(table: pl.DataFrame) -> pl.Series:
    """How often a guess among the candidates is right, question by question, by the template that asks.

    The object that a relation question refers to is never its answer, so one candidate less is left to guess from. Questions that name
    their options leave it out themselves, and have two candidates.
    """
    count = table["candidates"].list.len().cast(pl.Int64)
    return 1 / (count - ((table["template"] == "relation_to_object") & (count > 2)).cast(pl.Int64))


def chance(table: pl.DataFrame) -> float:
    """Accuracy of a guess among the candidates, mean over questions."""
    return float(np.mean(guesses(table).to_numpy())) if table.height else 0.0


def with_pictures(table: pl.DataFrame, scenes: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table of questions with ``cluster``: the photograph shown, or the drawn scene; a mirror image is its original's.

    Also ``mirrored_from``, and ``objects`` and ``slots`` of the scene.
    """
    known = scenes.select(
        "scene_id",
        "mirrored_from",
        "objects",
        "slots",
        "photograph",
        cluster=pl.coalesce("photograph", "mirrored_from", "scene_id"),
    )
    return table.join(known, on="scene_id", how="inner", maintain_order="left")


def accuracies(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """``behaviour.parquet`` → a row a variant, axis, template and slot, test split; questions on one photograph are one cluster."""
    table, scenes = tables.get("behaviour"), tables.get("scenes")
    if table is None or table.is_empty():
        return tidy([], "behaviour")
    test = table.filter(pl.col("split") == "test")
    if scenes is not None:
        test = with_pictures(test, scenes).with_columns(scene_id=pl.coalesce("photograph", "scene_id"))
    both = pl.concat([test, test.with_columns(axis=pl.lit(BOTH))])
    by_slot = pl.concat([both.with_columns(of=pl.lit(ALL_SLOTS)), both.with_columns(of="slot " + pl.col("slot").cast(pl.String))])
    rows = []
    for (variant, axis, template, slot), part in sorted(by_slot.partition_by("variant", "axis", "template", "of", as_dict=True).items()):
        where = {"variant": variant, "axis": axis, "template": template, "slot": slot}
        rows.append({**where, **_answers(accuracy(part), part.height, chance(part))})
    found = tidy(rows, "behaviour", measure="accuracy", counted="questions", method=METHOD, control=GUESS)
    return pl.concat([found, _top1(table)], how="diagonal_relaxed")


def _top1(table: pl.DataFrame) -> pl.DataFrame:
    """Share of questions, of every split that was asked, whose likeliest next token of all is the word; by axis, template and slot."""
    both = pl.concat([table, table.with_columns(axis=pl.lit(BOTH))]).with_columns(correct="top1_correct")
    by_slot = pl.concat([both.with_columns(of=pl.lit(ALL_SLOTS)), both.with_columns(of="slot " + pl.col("slot").cast(pl.String))])
    rows = []
    for (variant, axis, template, slot), part in sorted(by_slot.partition_by("variant", "axis", "template", "of", as_dict=True).items()):
        where = {"variant": variant, "axis": axis, "template": template, "slot": slot}
        rows.append({**where, **numbers(accuracy(part)), "n": part.height, "clusters": accuracy(part).n})
    return tidy(rows, "behaviour", measure="top1_accuracy", counted="questions", method=METHOD)


def _answers(interval: Interval, questions: int, guess: float) -> dict[str, object]:
    return {**numbers(interval), "n": questions, "clusters": interval.n, "control_estimate": guess}


def merging(table: pl.DataFrame | None) -> pl.DataFrame:
    """A row a template and kind of picture, and one for the paired difference; test split, none for datasets without photos."""
    if table is None or table.filter(variant="photo").is_empty():
        return tidy([], "merging")
    asked = table.filter(pl.col("split") == "test", pl.col("variant").is_in(PICTURES), pl.col("template") != CONTENT)
    if asked.is_empty():
        return tidy([], "merging")
    # Relations are asked of three objects only; what is compared must be asked of every kind of picture.
    templates = set.intersection(*(set(part["template"]) for part in asked.partition_by("variant")))
    rows = []
    for template, part in [
        (ALL_TEMPLATES, asked.filter(pl.col("template").is_in(list(templates)))),
        *((name, asked.filter(template=name)) for name in sorted(asked["template"].unique())),
    ]:
        for variant in PICTURES:
            of_variant = part.filter(variant=variant)
            if not of_variant.is_empty():
                found = _answers(accuracy(of_variant), of_variant.height, chance(of_variant))
                rows.append({"measure": "accuracy", "template": template, "variant": variant, "control": GUESS, **found})
        change, questions, photos = merging_alone(part)
        if questions:
            found = {**numbers(change), "n": questions, "clusters": photos, "control_estimate": 0.0}
            rows.append({"measure": "change", "template": template, "variant": MERGING_ALONE, "control": "no change", **found})
    return tidy(
        rows, "merging", axis="horizontal", counted="questions", method=f"{METHOD}; change: Student with two added pairs (Bonett and Price)"
    )


def merging_alone(asked: pl.DataFrame) -> tuple[Interval, int, int]:
    """Accuracy on self-merges less that on the same photos, the same questions; how many questions, and about how many photos.

    A photo and its self-merge have the same number in their scene ids; photos without a self-merge are left out. Questions of
    one photo are one cluster.
    """
    numbered = asked.with_columns(photo=pl.col("scene_id").str.split("-").list.last())
    both = numbered.filter(variant="photo").join(numbered.filter(variant="self_merge"), on=_KEY, suffix="_merged").sort(_KEY)
    change = both["correct_merged"].cast(pl.Float64) - both["correct"].cast(pl.Float64)
    found, _ = clustered_mean(change.to_numpy(), both["photo"].to_list())
    return found, both.height, both["photo"].n_unique()
