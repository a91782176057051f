"""How many times fewer operations than plain hooks are possible? ``python -m benchmarks.bound``; counts only, nothing runs.

For the patch sweep's mid-size Qwen2-VL and token sets, by formula: what the engine does, what it would do if no batch computed a
position in vain, if the entry block's queries, keys and values were mixed from the two cached runs instead of computed (they depend
on their own position alone), and both. What is left then is needed: every position from the first patched one on changes in every
later block.
"""

from dataclasses import dataclass

import numpy as np

from vlm_spatial.tokens import Axis, TokenGrid, TokenSet, scene_tokens

TOKEN_SETS: tuple[TokenSet, ...] = ("object", "strip", "background", "all")
AXES: tuple[Axis, ...] = ("horizontal", "vertical")
SLOTS = ((0, 1), (1, 2), (0, 2))
LAYERS, WIDTH, MLP, KEYS = 16, 512, 1536, 128
# Prompt tokens before and after the image; a batch's rows may start at most this share of positions apart.
BEFORE, AFTER, WASTE = 5, 14, 0.08
LENGTH = BEFORE + 256 + AFTER
ROWS, POSITIONS = 4, 4096


@dataclass(frozen=True)
class Row:
    """A patched run: the first position to compute, the first block to run."""

    start: int
    entry: int


def sweep(pairs: int) -> list[Row]:
    """Every patch but those of the last block, which change nothing."""
    rows = []
    for pair in range(pairs):
        along = [(start, 174, start + 100, 274) for start in (30, 174, 318)]
        boxes = along if AXES[pair % 2] == "horizontal" else [(top, left, bottom, right) for left, top, right, bottom in along]
        tokens = scene_tokens(boxes, TokenGrid(16, 16), 448, 448, AXES[pair % 2])
        for name in TOKEN_SETS:
            cells = np.flatnonzero(tokens.mask(name, SLOTS[pair % 3]))
            # Covered from the image's first token on: these positions follow the other run.
            followed = int((cells == np.arange(len(cells))).cumprod().sum())
            rows += [Row(BEFORE + (followed or int(cells.min())), layer + 1) for layer in range(LAYERS - 1)]
    return rows


def batched(rows: list[Row], waste: float) -> list[Row]:
    """The rows as the engine computes them: all of a batch from its earliest start on."""
    left, made = sorted(rows, key=lambda row: row.start), []
    while left:
        positions = LENGTH - left[0].start
        alike = [row for row in left if row.start - left[0].start <= waste * positions]
        left = left[len(alike) :]
        alike.sort(key=lambda row: row.entry)
        count = -(-len(alike) // max(ROWS, POSITIONS // positions))
        for part in np.array_split(np.arange(len(alike)), count):
            first = min(alike[index].start for index in part)
            made += [Row(first, alike[index].entry) for index in part]
    return made


def projections(positions: int) -> int:
    """Queries, keys and values of a block."""
    return positions * 2 * WIDTH * (WIDTH + 2 * KEYS)


def block(positions: int) -> int:
    """One block on ``positions`` that attend to the whole sequence."""
    return projections(positions) + positions * (2 * WIDTH * WIDTH + 6 * WIDTH * MLP) + 4 * positions * LENGTH * WIDTH


def patched(row: Row, mixed: bool) -> int:
    """A patched run to its logits: the last block for one position, with the keys and values of all."""
    positions = LENGTH - row.start
    blocks = max(0, LAYERS - 1 - row.entry)
    last = block(1) + (0 if mixed and blocks == 0 else 2 * positions * WIDTH * 2 * KEYS)
    return blocks * block(positions) + last - (projections(positions) if mixed and blocks else 0)


def main() -> None:
    print("pairs, vision share of a pass: fewer operations now, without waste, with mixing, with both")
    for pairs in (2, 3):
        for share in (0.4, 0.3):
            language = LAYERS * block(LENGTH)
            vision = language * share / (1 - share)
            rows = sweep(pairs)
            plain = (len(rows) * LAYERS / (LAYERS - 1) + pairs) * (language + vision)
            untouched = 2 * pairs * ((LAYERS - 1) * block(LENGTH) + 2 * LENGTH * WIDTH * 2 * KEYS + block(1) + vision)
            found = [
                plain / (untouched + sum(patched(row, mixed) for row in batched(rows, waste)))
                for mixed in (False, True)
                for waste in (WASTE, 0.0)
            ]
            print(f"{pairs}, {share}: {found[0]:.2f}, {found[1]:.2f}, {found[2]:.2f}, {found[3]:.2f}")


if __name__ == "__main__":
    main()
