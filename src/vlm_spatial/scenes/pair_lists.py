"""Lists of pairs in a file: which contents stand where in which pair, instead of a draw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError, called
from vlm_spatial.files import read_json
from vlm_spatial.scenes.sources.drawn import DrawnSettings
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source

_EXPERIMENTS = ("vision", "language", "last_token")


@dataclass(frozen=True)
class ListedPair:
    """One entry; ``counterfactual`` is None where the outer contents of ``clean`` are exchanged."""

    experiment: str
    axis: str
    asked: int
    clean: tuple[str, ...]
    counterfactual: tuple[str, ...] | None


def read_pairs(path: Path, settings: DrawnSettings) -> list[ListedPair]:
    """The pairs that a file lists, in its order.

    Raises:
        UserError: naming the file and the entry.
    """
    entries = read_json(path, "give a list of pairs (docs/your_data.md)")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: must be a list of at least one pair, found {called(entries)}")
    words = set(drawn_source(settings.kind).object_words(settings))
    return [_entry(path, number, entry, words, settings) for number, entry in enumerate(entries)]


def _entry(path: Path, number: int, entry: Any, words: set[str], settings: DrawnSettings) -> ListedPair:
    def wrong(what: str) -> UserError:
        return UserError(f"{path}: pair {number}: {what}")

    if not isinstance(entry, dict):
        raise wrong(f"must have experiment, axis, asked and clean, found {called(entry)}")
    allowed: dict[str, tuple[Any, ...]] = {"experiment": _EXPERIMENTS, "axis": settings.axes, "asked": (0, 2)}
    for key, values in allowed.items():
        if entry.get(key) not in values:
            raise wrong(f"{key}: allowed are {', '.join(map(str, values))}, found {entry.get(key)!r}")
    rows = {key: entry.get(key) for key in ("clean", "counterfactual")}
    if (rows["counterfactual"] is None) != (entry["experiment"] == "vision"):
        raise wrong("counterfactual: three contents for language and last_token, and none for vision, which exchanges the outer two")
    for key, row in rows.items():
        if (row is not None or key == "clean") and not (isinstance(row, list) and len(row) == 3 and len(set(map(str, row))) == 3):
            raise wrong(f"{key}: must be three different contents, found {row!r}")
        unknown = sorted(str(word) for word in row or () if word not in words)
        if unknown:
            raise wrong(f"{key}: the dataset has no {', '.join(unknown)}; it has {', '.join(sorted(words))}")
    clean, other = tuple(rows["clean"] or ()), tuple(rows["counterfactual"] or ())
    shared = [(clean[1],), (other[1:2])] if entry["experiment"] == "last_token" else [(), ()]
    if other and (set(clean) & set(other) != set(shared[0]) or shared[0] != tuple(shared[1])):
        rule = "the middle one and no other" if entry["experiment"] == "last_token" else "none"
        raise wrong(f"of its contents clean and counterfactual must share {rule}")
    return ListedPair(entry["experiment"], entry["axis"], entry["asked"], clean, other or None)
