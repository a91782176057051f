"""Are spatial IDs the same vectors for other objects? How many directions hold them?"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Float

from vlm_spatial.measures.table import BOTH, tidy

Ids = dict[tuple[str, int], Float[np.ndarray, " features"]]
"""One half's, by axis and slot."""


def spatial_ids(table: pl.DataFrame | None) -> pl.DataFrame:
    """``id_cosine`` and ``id_directions`` of every layer and axis; IDs that only one half of the objects has do not count."""
    if table is None or table.is_empty():
        return tidy([], "readout")
    rows: list[dict[str, object]] = []
    for (site,), of_site in table.group_by("site", maintain_order=True):
        first, second = (
            {(row["axis"], row["slot"]): np.array(row["vector"]) for row in of_site.filter(half=half).to_dicts()} for half in (0, 1)
        )
        for axis in (BOTH, *of_site["axis"].unique(maintain_order=True)):
            shared = [key for key in first if key in second and axis in (BOTH, key[0])]
            one, other = ({key: ids[key] for key in shared} for ids in (first, second))
            found = [*_cosine(one, other), *_directions(one, other)] if len(shared) > 1 else []
            rows += [{"axis": axis, "site": site, "token_set": "word.target", "source": "id", **row} for row in found]
    return tidy([{"counted": "IDs", **row} for row in rows], "readout")


def _cosine(one: Ids, other: Ids) -> Iterator[dict[str, object]]:
    """Cosine of each slot's ID with the ID that the other objects give it, and with their ID of another slot of the same axis."""
    same = [_between(one[key], other[key]) for key in one]
    crossed = [_between(one[key], other[against]) for key in one for against in other if key[0] == against[0] and key != against]
    yield {
        "measure": "id_cosine",
        "estimate": float(np.mean(same)),
        "n": len(same),
        "control": "another slot's",
        "control_estimate": float(np.mean(crossed)) if crossed else None,
        "control_n": len(crossed),
    }


def _directions(one: Ids, other: Ids) -> Iterator[dict[str, object]]:
    """Share of an ID's squared length along the first directions of the other half's IDs: mean over the IDs of both halves."""
    halves = [np.stack(list(ids.values())) for ids in (one, other)]
    bases = [np.linalg.svd(ids, full_matrices=False)[2] for ids in halves]
    for count in range(1, min(np.linalg.matrix_rank(ids) for ids in halves) + 1):
        shares = [
            (np.square(ids @ basis[:count].T).sum(axis=1) / np.square(ids).sum(axis=1)).mean()
            for ids, basis in zip(halves, reversed(bases), strict=True)
        ]
        yield {"measure": "id_directions", "condition": f"first {count}", "estimate": float(np.mean(shares)), "n": len(one)}


def _between(one: Float[np.ndarray, " features"], other: Float[np.ndarray, " features"]) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
