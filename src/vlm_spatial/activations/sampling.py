"""Which visual tokens of a scene a store keeps at sites where it does not keep all of them.

Every scene gives the same number of tokens. In a test scene they are spread over the objects and the rest of each strip, since every token
set is scored there; in a training or validation scene the objects' come first, since probes learn from these. Within an object or a strip
they are drawn at random, by the scene's name alone.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from vlm_spatial.activations.grids import own_grid
from vlm_spatial.scenes.dataset import bands_of, picture_of
from vlm_spatial.tokens import TokenGrid, object_tokens, picture_tokens, scene_tokens


@dataclass(frozen=True)
class Sample:
    """Tokens that are kept of some scenes.

    Attributes:
        tokens: ``[scenes, sample]``, ascending in each scene.
        weights: how many of the scene's tokens each stands for: those of its object, or of the rest of its strip, shared out evenly. 0 for
            padding, which is kept where a photograph has too few other tokens.
    """

    tokens: Int[np.ndarray, "scenes sample"]
    weights: Float[np.ndarray, "scenes sample"]


def sampled_tokens(scenes: pl.DataFrame, grid: TokenGrid, count: int) -> Sample:
    """``count`` tokens of each scene, all of which have as many.

    Args:
        scenes: rows of ``scenes.parquet``.
        grid: the store's; where a scene's own is smaller, its tokens are counted on the store's.
    """
    drawn = [_drawn(row, grid, count) for row in scenes.iter_rows(named=True)]
    shape = (len(drawn), count)
    tokens = np.array([tokens for tokens, _ in drawn], dtype=np.int32).reshape(shape)
    return Sample(tokens, np.array([weights for _, weights in drawn], dtype=np.float32).reshape(shape))


def _drawn(row: dict[str, object], frame: TokenGrid, count: int) -> tuple[np.ndarray, np.ndarray]:
    grid = own_grid(row, frame)
    objects, others, inside = _parts(row, grid)
    generator = np.random.default_rng(list(str(row["scene_id"]).encode()))
    rounds = [[*objects, *others]] if row["split"] == "test" else [objects, others]
    chosen: list[int] = []
    weights: list[float] = []
    for parts in (*rounds, [~inside]):
        orders = [generator.permutation(np.flatnonzero(part)) for part in parts]
        sizes = _shared_out(count - len(chosen), [len(order) for order in orders])
        for order, size in zip(orders, sizes, strict=True):
            if size:
                chosen += order[:size].tolist()
                weights += [len(order) / size if inside[order[0]] else 0.0] * size
    ascending = np.argsort(chosen)
    return grid.within(frame)[np.array(chosen)[ascending]], np.array(weights)[ascending]


def _parts(row: dict[str, object], grid: TokenGrid) -> tuple[list[np.ndarray], list[np.ndarray], Bool[np.ndarray, " tokens"]]:
    """Tokens of each object, the other ones strip by strip, and all that are no padding."""
    boxes, width, height = row["boxes"], row["width"], row["height"]
    # One object alone has no strip, nor have objects whose boxes are not known.
    several = len(boxes) > 1  # type: ignore[arg-type]
    bands = scene_tokens(boxes, grid, width, height, row["axis"], picture_of(row), bands_of(row, grid)) if several else None  # type: ignore[arg-type]
    taken = np.zeros(grid.size, dtype=bool)
    inside = picture_tokens(taken[None], grid, width, height, picture_of(row)) if bands is None else bands.inside  # type: ignore[arg-type]
    objects = []
    for box in boxes:  # type: ignore[attr-defined]
        # A token of two objects counts for the first, as labels do.
        own = object_tokens(box, grid, width, height) & ~taken & inside  # type: ignore[arg-type]
        taken |= own
        objects.append(own)
    strips = [np.ones(grid.size, dtype=bool)] if bands is None else list(bands.strips)
    return objects, [strip & inside & ~taken for strip in strips], inside


def _shared_out(count: int, sizes: list[int]) -> list[int]:
    """``count`` shared out as evenly as the sizes allow, the first parts first."""
    given = [0] * len(sizes)
    while count > 0 and given != sizes:
        for part, size in enumerate(sizes):
            if count > 0 and given[part] < size:
                given[part] += 1
                count -= 1
    return given
