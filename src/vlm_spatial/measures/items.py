"""Two-object items under the published correction: counted as published, and with what that count cannot see. No torch here.

An item is right if both of its questions are, which differ in the order of their options (strict). As published, of the items that are
wrong only the failed questions are asked again: one is fixed if all of these become right. α is the one that fixes most of the same items,
or any α. Beside it, all items are asked again, so that broken ones are seen, and each half of the pictures is judged at the α that the
other half chose.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from vlm_spatial.measures.table import BOTH, numbers, tidy
from vlm_spatial.statistics import Interval, clustered_mean, clustered_share

PROBE, RANDOM, MATCHED = "probe_columns", "random_columns", "matched_columns"
UNTOUCHED = "untouched"
GUESS = "two guesses between two options"
_EXACT = "exact interval, n lowered for items that agree within a picture (Korn and Graubard)"
_HALVES = f"α chosen on the other half of the pictures; {_EXACT}; change: Student with two added pairs (Bonett and Price)"


class Swept:
    """One method and draw on some items.

    Attributes:
        scenes: of each item.
        alphas: ascending.
        before: whether each item is right, untouched.
        after: ``[items, alphas]``, whether both questions are right.
        fixed: ``[items, alphas]``, whether it was wrong, and every question that failed is right.
    """

    def __init__(self, rows: pl.DataFrame) -> None:
        repaired = pl.col("correct") | pl.col("correct_before")
        by_item = (
            rows.group_by("item", "alpha")
            .agg(
                scene=pl.col("scene_id").first(),
                before=pl.col("correct_before").all(),
                after=pl.col("correct").all(),
                repaired=repaired.all(),
            )
            .sort("item", "alpha")
        )
        first = by_item.group_by("item", maintain_order=True).first()
        self.scenes: list[str] = first["scene"].to_list()
        self.before: Bool[np.ndarray, " items"] = first["before"].to_numpy()
        self.alphas: Float[np.ndarray, " alphas"] = by_item["alpha"].unique().sort().to_numpy()
        shape = (len(self.scenes), len(self.alphas))
        self.after: Bool[np.ndarray, "items alphas"] = by_item["after"].to_numpy().reshape(shape)
        self.fixed: Bool[np.ndarray, "items alphas"] = by_item["repaired"].to_numpy().reshape(shape) & ~self.before[:, None]

    def best(self) -> int:
        """Place of the α that fixes most of the items, of equals the smallest; 0 is a check, not a choice."""
        counts = np.where(self.alphas > 0, self.fixed.sum(axis=0), -1)
        return int(counts.argmax())

    def held_out(self) -> tuple[Bool[np.ndarray, " items"], list[float]]:
        """Whether each item is right at the α that is best for the other half of the pictures, and the two αs.

        Best is what leaves most items right; of equals the smallest α.
        """
        names = sorted(set(self.scenes))
        half = np.isin(self.scenes, names[::2])
        right, chosen = self.before.copy(), []
        for part in (half, ~half):
            others = self.after[~part] if (~part).any() else self.after
            place = int(others.sum(axis=0).argmax())
            right[part] = self.after[part, place]
            chosen.append(float(self.alphas[place]))
        return right, chosen


def items(table: pl.DataFrame | None) -> pl.DataFrame:
    """``amplification_items.parquet`` → rows of the table of measures, by axis and both together.

    ``strict_accuracy``: untouched, and of each method at held-out α, with items corrected and broken. ``published_best_alpha`` and
    ``published_any_alpha``: right before or fixed, as a share of all items, as published. The matched columns are the mean over draws.
    """
    if table is None or table.is_empty():
        return tidy([], "items")
    rows: list[dict[str, object]] = []
    for axis in [BOTH, *sorted(table["axis"].unique())]:
        part = table if axis == BOTH else table.filter(axis=axis)
        swept = {
            method: [Swept(draw) for _, draw in sorted(of_method.partition_by("draw", as_dict=True).items())]
            for (method,), of_method in part.partition_by("method", as_dict=True, maintain_order=True).items()
        }
        one = swept[PROBE][0]
        untouched = _share(one.before, one.scenes)
        rows.append({"axis": axis, "measure": "strict_accuracy", "condition": UNTOUCHED, "method": _EXACT, **untouched})
        for method, draws in swept.items():
            rows += _of_method(axis, method, draws, swept.get(MATCHED, []))
    return tidy(rows, "items", counted="items")


def _of_method(axis: str, method: str, draws: Sequence[Swept], matched: Sequence[Swept]) -> list[dict[str, object]]:
    one = draws[0]
    where = {"axis": axis, "correction": method}
    if method == MATCHED:
        share = [float(each.held_out()[0].mean()) for each in draws]
        mean = Interval(float(np.mean(share)), min(share), max(share), len(one.before))
        return [{**where, "measure": "strict_accuracy", "method": "mean and range of the draws, each at its own α", **numbers(mean)}]
    best = one.best()
    published = {
        "published_best_alpha": (one.fixed[:, best], float(one.alphas[best])),
        "published_any_alpha": (one.fixed[:, one.alphas > 0].any(axis=1), None),
    }
    found: list[dict[str, object]] = [
        {
            **where,
            "measure": measure,
            "alpha": alpha,
            "method": f"as published, α chosen on the same items; {_EXACT}",
            "errors": int((~one.before).sum()),
            "corrected": int(fixed.sum()),
            **_share(one.before | fixed, one.scenes),
        }
        for measure, (fixed, alpha) in published.items()
    ]
    right, chosen = one.held_out()
    change, p = clustered_mean(right.astype(float) - one.before, one.scenes)
    row: dict[str, object] = {
        **where,
        "measure": "strict_accuracy",
        "method": _HALVES,
        "errors": int((~one.before).sum()),
        "corrected": int((right & ~one.before).sum()),
        "broken": int((one.before & ~right).sum()),
        "difference": change.estimate,
        "difference_low": change.low,
        "difference_high": change.high,
        "p": p,
        "note": f"α {' and '.join(f'{alpha:g}' for alpha in chosen)}",
        **_share(right, one.scenes),
    }
    if method == PROBE and matched:
        share = [float(each.held_out()[0].mean()) for each in matched]
        row |= {"control": "random columns that move as far", "control_estimate": float(np.mean(share))}
        row |= {"control_low": min(share), "control_high": max(share), "control_n": len(share)}
    return [*found, row]


def _share(right: Bool[np.ndarray, " items"], scenes: Sequence[str]) -> dict[str, object]:
    interval = clustered_share(right, list(scenes))
    guess = {"control": GUESS, "control_estimate": 0.25}
    return {**guess, **numbers(interval), "n": len(right), "clusters": len(set(scenes))}
