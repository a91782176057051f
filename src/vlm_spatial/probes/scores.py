"""From predictions to probes.parquet: accuracies with scene-clustered intervals, each beside its controls."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from vlm_spatial.probes.layout import Group
from vlm_spatial.statistics import Interval, difference_of_sums, ratio_above, share_of_sums
from vlm_spatial.tokens import TokenSet

SLOT_KINDS = ("logistic", "centroid", "difference")
CELL_SITE, PIXEL_SITE = "cell", "pixels"
OTHER_SCENE = "other_scene"

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("site", "kind", "axis", "trained_on", "scored_on", "split", "token_set"), pl.String),
    **dict.fromkeys(("strength", "accuracy", "low", "high"), pl.Float64),
    "n": pl.Int64,
    "chance": pl.Float64,
    "control": pl.String,
    **dict.fromkeys(("control_accuracy", "margin", "margin_low", "margin_high"), pl.Float64),
    **dict.fromkeys(("selectivity", "selectivity_low", "selectivity_high"), pl.Float64),
    **dict.fromkeys(("position_share", "position_share_low", "position_share_high"), pl.Float64),
    **dict.fromkeys(("blank_share", "blank_share_low", "blank_share_high"), pl.Float64),
    "note": pl.String,
}


@dataclass(frozen=True)
class Score:
    """Right answers of one probe on one group of scenes, scene by scene.

    Attributes:
        correct, total: ``[scenes]``, tokens named right and tokens scored; None where the input cannot bear a score.
        exchanged: ``[scenes]``, tokens expected to be named right by the probe's answers for the same cells of another scene:
            what it would score if it went by absolute position alone (:func:`by_other_scenes`).
        chance: accuracy of the best constant answer on these tokens.
        note: why there is no score.
    """

    site: str
    kind: str
    axis: str
    trained_on: str
    scored_on: str
    token_set: str
    strength: float | None
    correct: Float[np.ndarray, " scenes"] | Int[np.ndarray, " scenes"] | None
    total: Int[np.ndarray, " scenes"] | Float[np.ndarray, " scenes"] | None
    chance: float
    exchanged: Float[np.ndarray, " scenes"] | None = None
    note: str | None = None

    @property
    def accuracy(self) -> float:
        return float(self.correct.sum() / self.total.sum()) if self.correct is not None and self.total is not None else float("nan")


def score_groups(
    predicted: Int[np.ndarray, "scenes tokens"] | None,
    scenes: Group,
    token_sets: Sequence[TokenSet],
    slots: int,
    labels: Callable[[TokenSet], Int[np.ndarray, "scenes tokens"]] | None = None,
    reason: str | None = None,
    **names: Any,
) -> Iterable[Score]:
    """One score for each token set; ``labels`` replaces the slot labels (for the control task)."""
    for token_set in token_sets:
        mask = scenes.mask(token_set)
        # Of a scene with some tokens only, each counts for those that it stands for.
        weights = None if scenes.weights is None else mask * scenes.weights
        right = (labels or scenes.labels)(token_set)
        counts = np.bincount(right[mask], None if weights is None else weights[mask], minlength=slots)
        chance = float(counts.max() / counts.sum()) if counts.sum() else float("nan")
        missing = [str(slot) for slot in scenes.slots if not counts[slot]]
        note = reason or (f"no {token_set} token of slot {', '.join(missing)} among the scored scenes" if missing else None)
        if note or predicted is None:
            yield Score(**names, token_set=token_set, correct=None, total=None, chance=chance, note=note or "no prediction")
        else:
            agreeing, counted = (predicted == right) & mask, mask if weights is None else weights
            correct = (agreeing if weights is None else agreeing * weights).sum(axis=1)
            elsewhere = by_other_scenes(predicted, right, mask, slots, weights, 1 / len(scenes.slots))
            yield Score(**names, token_set=token_set, correct=correct, total=counted.sum(axis=1), chance=chance, exchanged=elsewhere)


def exchanged(
    predicted: Int[np.ndarray, "scenes tokens"],
    right: Int[np.ndarray, "scenes tokens"],
    mask: Bool[np.ndarray, "scenes tokens"],
    slots: int,
    weights: Float[np.ndarray, "scenes tokens"] | None = None,
    guess: float | None = None,
) -> Float[np.ndarray, " scenes"]:
    """Expected right answers of each scene if every cell's answer came from another scene, drawn at random, that scores this cell.

    It keeps how often the probe gives each answer at each place and breaks the tie to the scene (a permutation test's
    null, in expectation). A cell that no other scene scores gets a guess, right in one of ``slots`` cases if not said otherwise.
    """
    answers = np.stack([((predicted == slot) & mask).sum(axis=0) for slot in range(slots)])
    agreeing = np.take_along_axis(answers, np.where(mask, right, 0).astype(np.int64), axis=0) - ((predicted == right) & mask)
    others = mask.sum(axis=0) - mask
    share = np.where(others > 0, agreeing / np.maximum(others, 1), 1 / slots if guess is None else guess)
    return (share * (mask if weights is None else weights)).sum(axis=1)


def by_other_scenes(
    predicted: Int[np.ndarray, "scenes tokens"],
    right: Int[np.ndarray, "scenes tokens"],
    mask: Bool[np.ndarray, "scenes tokens"],
    slots: int,
    weights: Float[np.ndarray, "scenes tokens"] | None = None,
    guess: float | None = None,
) -> Float[np.ndarray, " scenes"]:
    """:func:`exchanged`, each scene's part in how much the sum varies with the scenes that were drawn.

    The sum is the same. A scene enters it twice: other scenes' answers are given for it, and its own for others. So how often its own are
    right there is added, less the mean (the projection of a U-statistic).
    """
    of_it = exchanged(predicted, right, mask, slots, weights, guess)
    for_others = exchanged(right, predicted, mask, slots, weights, guess)
    total = (mask if weights is None else weights).sum(axis=1)
    return of_it + for_others - total * (for_others.sum() / max(total.sum(), 1e-12))


class Table:
    """Collects scores and lays out probes.parquet.

    Accuracies have exact intervals of as many independent tokens as say as much, differences and shares of a score above chance paired
    ones over scenes.
    """

    def __init__(self) -> None:
        self._scores: dict[tuple[str, ...], Score] = {}

    def add(self, scores: Iterable[Score]) -> None:
        for score in scores:
            self._scores[_key(score)] = score

    def frame(self) -> pl.DataFrame:
        """One row a score, in the order in which they were added; ``other_scene`` follows the logistic score it belongs to."""
        rows = []
        for score in self._scores.values():
            rows.append(self._row(score))
            if score.kind == "logistic" and score.scored_on != "blank":
                rows.append(self._row(_of_other_scene(score)) | {"kind": OTHER_SCENE})
        return pl.DataFrame(rows, schema=SCHEMA)

    def _row(self, score: Score) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(SCHEMA)
        row |= {name: getattr(score, name) for name in ("site", "kind", "axis", "trained_on", "scored_on", "token_set", "strength")}
        row |= {"split": "test", "chance": _number(score.chance), "note": score.note, "n": 0}
        if score.correct is None or score.total is None:
            return row
        found = share_of_sums(score.correct, score.total)
        row |= {"accuracy": found.estimate, "low": _number(found.low), "high": _number(found.high), "n": found.n}
        if score.scored_on == "blank":
            # Resampling scenes says nothing of how another empty canvas would fare: a control, read through blank_share.
            return row
        if score.kind not in SLOT_KINDS:
            return row | self._above(score, {"chance": None})
        row |= self._above(score, self._controls(score))
        task = self._find(score, kind="control_task")
        if task is not None:
            row |= _difference("selectivity", score, task.correct)
        if row["low"] > score.chance:
            row |= self._share("position_share", score, _of_other_scene(score))
            blank = self._find(score, scored_on="blank") if score.scored_on == "main" else None
            if blank is not None:
                row |= self._share("blank_share", score, blank)
        return row

    def _controls(self, score: Score) -> dict[str, Score | None]:
        found = {
            "shuffled": self._find(score, kind="shuffled"),
            OTHER_SCENE: _of_other_scene(score),
            "pixels": self._find(score, kind="pixels", site=PIXEL_SITE),
        }
        return {"chance": None} | {name: control for name, control in found.items() if control is not None and control.correct is not None}

    def _above(self, score: Score, controls: dict[str, Score | None]) -> dict[str, Any]:
        """Distance from the strongest control, with a paired interval."""
        accuracies = {name: score.chance if control is None else control.accuracy for name, control in controls.items()}
        name = max(accuracies, key=lambda key: accuracies[key])
        control = controls[name]
        margin = _difference("margin", score, None if control is None else control.correct)
        return margin | {"control": name, "control_accuracy": accuracies[name]}

    def _share(self, name: str, score: Score, other: Score) -> dict[str, Any]:
        """Share of the score above chance that ``other`` reaches, in [0, 1]."""
        assert score.correct is not None
        assert score.total is not None
        assert other.correct is not None
        return _named(name, ratio_above(other.correct, score.correct, score.total, score.chance))

    def _find(self, score: Score, **changed: str) -> Score | None:
        found = self._scores.get(_key(score, **changed))
        usable = found is not None and found.correct is not None and score.correct is not None and len(found.correct) == len(score.correct)
        return found if usable else None


def _of_other_scene(score: Score) -> Score:
    return replace(score, kind=f"{score.kind}/{OTHER_SCENE}", correct=score.exchanged, exchanged=None)


def _key(score: Score, **changed: str) -> tuple[str, ...]:
    names = ("site", "kind", "axis", "trained_on", "scored_on", "token_set")
    return tuple(changed.get(name, getattr(score, name)) for name in names)


def _difference(name: str, score: Score, control: np.ndarray | None) -> dict[str, float | None]:
    """How far a score lies above right answers of a control, or above chance."""
    assert score.correct is not None
    assert score.total is not None
    other = score.chance * score.total if control is None else control
    return _named(name, difference_of_sums(score.correct, other, score.total))


def _named(name: str, found: Interval) -> dict[str, float | None]:
    return {name: _number(found.estimate), f"{name}_low": _number(found.low), f"{name}_high": _number(found.high)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
