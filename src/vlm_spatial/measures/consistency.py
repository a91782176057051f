"""Is the same question answered alike where only its wording or the picture's side changes?

A right answer may be a lucky one. Three pairs of questions must both be answered right to count: the options in either order (``strict``),
a picture and its mirror image (``mirror``), and the relation of two objects asked from either side (``reversal``).
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from vlm_spatial.measures.behaviour import guesses, with_pictures
from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import clustered_share

STRICT, MIRROR, REVERSAL = "option order", "mirror image", "reversed roles"
BOTH_RIGHT, AGREE = "both_right", "agree"
GUESS = "two guesses among the candidates"
_METHOD = "exact interval, n lowered for answers that agree within a picture (Korn and Graubard)"
_KEPT = ("correct", "predicted", "answer", "guess")


def consistency(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Rows of ``both_right`` and ``agree``, a kind of pair, axis, template and variant each; test split.

    ``agree``: the two answers could both be right, whether they are or not. Pairs with one right answer to both pictures are left out, as
    they need no look at the picture's sides.
    """
    table, questions, scenes = tables.get("behaviour"), tables.get("questions"), tables.get("scenes")
    if table is None or questions is None or scenes is None or table.is_empty():
        return tidy([], "consistency")
    asked = with_pictures(table.filter(split="test"), scenes).join(
        questions.select("question_id", "prompt", "option_order"), on="question_id", how="inner", maintain_order="left"
    )
    asked = asked.with_columns(guess=guesses(asked))
    pairs = pl.concat([_either_order(asked), _mirrored(asked), _reversed(asked)])
    rows = []
    for axis in [BOTH, *sorted(pairs["axis"].unique())]:
        of_axis = pairs if axis == BOTH else pairs.filter(axis=axis)
        for (kind, variant, template), part in sorted(of_axis.partition_by("condition", "variant", "template", as_dict=True).items()):
            where = {"axis": axis, "condition": kind, "variant": variant, "template": template}
            pictures = part["cluster"].to_list()
            right = (part["correct"] & part["correct_other"]).to_numpy()
            # The same answer to both orders; elsewhere the two right answers differ, and so must the two given.
            agree = ((part["predicted"] == part["predicted_other"]) == (part["answer"] == part["answer_other"])).to_numpy()
            for measure, hits, guess in (
                (BOTH_RIGHT, right, part["guess"] * part["guess_other"]),
                (AGREE, agree, _alike_by_chance(part)),
            ):
                found = numbers(clustered_share(hits, pictures))
                rows.append(
                    {
                        **where,
                        "measure": measure,
                        **found,
                        "clusters": len(set(pictures)),
                        "control_estimate": float(np.mean(guess.to_numpy())),
                    }
                )
    return tidy(rows, "consistency", counted="pairs of questions", method=_METHOD, control=GUESS)


def _either_order(asked: pl.DataFrame) -> pl.DataFrame:
    first, second = (asked.filter(option_order=order) for order in (0, 1))
    return _paired(first, second, ["scene_id", "template", "slot"], STRICT)


def _mirrored(asked: pl.DataFrame) -> pl.DataFrame:
    """The same words asked of a picture and of its mirror image, where the right answers differ."""
    twins = asked.filter(pl.col("mirrored_from").is_not_null()).with_columns(scene_id="mirrored_from")
    originals = asked.filter(pl.col("mirrored_from").is_null())
    pairs = _paired(originals, twins, ["scene_id", "template", "prompt"], MIRROR)
    return pairs.filter(pl.col("answer") != pl.col("answer_other"))


def _reversed(asked: pl.DataFrame) -> pl.DataFrame:
    """Where A is of B, and where B is of A: relations of two objects."""
    relations = asked.filter(pl.col("objects").list.len() == 2, template="relation_to_object")
    relations = relations.with_columns(pl.col("option_order").fill_null(-1))
    first, second = (relations.filter(slot=slot) for slot in (0, 2))
    return _paired(first, second, ["scene_id", "template", "option_order"], REVERSAL)


def _paired(first: pl.DataFrame, second: pl.DataFrame, on: list[str], kind: str) -> pl.DataFrame:
    pairs = first.join(second.select(*on, *_KEPT, "candidates"), on=on, how="inner", suffix="_other", maintain_order="left")
    shown = [*_KEPT, *(f"{name}_other" for name in _KEPT), "candidates", "candidates_other"]
    return pairs.select("axis", "variant", "template", "cluster", *shown, condition=pl.lit(kind))


def _alike_by_chance(part: pl.DataFrame) -> pl.Series:
    """How often two guesses agree: among k candidates they are the same one in 1 of k cases."""
    same = part["answer"] == part["answer_other"]
    return pl.select(pl.when(same).then(part["guess"]).otherwise(1 - part["guess"])).to_series()
