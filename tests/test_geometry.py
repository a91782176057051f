"""Layouts: inside their thirds, in order, aligned where pairs need it, and decorrelated where they must be."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_spatial.scenes.geometry import (
    ALIGNED_CENTRES,
    ALIGNED_GRIDS,
    ALIGNED_SPILL,
    aligned_boxes,
    slotted_boxes,
    travelling_aligned_boxes,
    travelling_boxes,
)
from vlm_spatial.scenes.scene import CANVAS
from vlm_spatial.scenes.sources.drawn import Difficulty
from vlm_spatial.tokens import Axis, TokenGrid, coverage, matched_blocks, scene_tokens

pytestmark = pytest.mark.unit

AXES = st.sampled_from(["horizontal", "vertical"])
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def difficulties(draw: st.DrawFn) -> Difficulty:
    low = draw(st.floats(0.05, 0.3))
    return Difficulty(object_size=(low, draw(st.floats(low, 0.3))), jitter=draw(st.floats(0, 1)))


def along(boxes: tuple, axis: Axis) -> list[tuple[float, float]]:
    first = 0 if axis == "horizontal" else 1
    return [(box[first], box[first + 2]) for box in boxes]


@given(difficulties(), AXES, SEEDS)
def test_main_objects_keep_to_their_third_and_to_the_canvas(difficulty: Difficulty, axis: Axis, seed: int) -> None:
    boxes = slotted_boxes(difficulty, axis, np.random.default_rng(seed))
    for slot, (start, stop) in enumerate(along(boxes, axis)):
        assert slot * CANVAS / 3 <= start < stop <= (slot + 1) * CANVAS / 3
    for box in boxes:
        assert min(box) >= 0
        assert max(box) <= CANVAS
        assert all(edge == int(edge) for edge in box)


@given(difficulties(), AXES, SEEDS)
def test_travelling_objects_stand_apart_and_in_order(difficulty: Difficulty, axis: Axis, seed: int) -> None:
    boxes = travelling_boxes(difficulty, axis, np.random.default_rng(seed))
    spans = along(boxes, axis)
    assert all(later[0] - earlier[1] >= 8 for earlier, later in pairwise(spans))
    assert all(min(box) >= 0 and max(box) <= CANVAS for box in boxes)


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
@pytest.mark.slow
def test_decorrelated_slots_are_not_told_by_position(axis: Axis) -> None:
    """The best rule from the absolute centre alone tells the slot of main scenes always, of decorrelated ones often not."""
    accuracies = {}
    for name, place in (("main", slotted_boxes), ("decorrelated", travelling_boxes), ("pairs", travelling_aligned_boxes)):
        generator = np.random.default_rng(3)
        scenes = [along(place(Difficulty(), axis, generator), axis) for _ in range(1500)]
        centres = np.array([[sum(span) / 2 for span in scene] for scene in scenes])
        cuts = np.linspace(0, CANVAS, 60)
        accuracies[name] = max((np.searchsorted([low, high], centres) == [0, 1, 2]).mean() for low, high in combinations(cuts, 2))
    assert accuracies["main"] == 1
    assert 0.5 < accuracies["decorrelated"] < 0.7
    assert 0.5 < accuracies["pairs"] < 0.8


@given(difficulties(), AXES, SEEDS)
@pytest.mark.slow
def test_travelling_objects_of_pairs_cover_the_same_cells_of_their_slots(difficulty: Difficulty, axis: Axis, seed: int) -> None:
    boxes = travelling_aligned_boxes(difficulty, axis, np.random.default_rng(seed))
    assert all(later[0] > earlier[1] for earlier, later in pairwise(along(boxes, axis)))
    # Not all three stand in the third that their slot has in main scenes.
    assert [int((start + stop) / 2 * 3 // CANVAS) for start, stop in along(boxes, axis)] != [0, 1, 2]
    for side in ALIGNED_GRIDS:
        tokens = scene_tokens(boxes, TokenGrid(side, side), CANVAS, CANVAS, axis)
        for box, own in zip(boxes, tokens.objects, strict=True):
            assert coverage(box, tokens.grid, CANVAS, CANVAS)[~own].max() <= ALIGNED_SPILL
        for first, second in combinations(range(3), 2):
            ours, theirs = matched_blocks(tokens, first, second, "object")
            assert len(ours) == len(theirs) == tokens.objects[first].sum() == tokens.objects[second].sum()


@settings(deadline=None)
@given(difficulties(), AXES, SEEDS)
@pytest.mark.slow
def test_aligned_objects_cover_the_same_cells_of_their_slots(difficulty: Difficulty, axis: Axis, seed: int) -> None:
    boxes = aligned_boxes(difficulty, axis, np.random.default_rng(seed))
    assert len({(box[2] - box[0], box[3] - box[1]) for box in boxes}) == 1
    for slot, (start, stop) in enumerate(along(boxes, axis)):
        assert (start + stop) / 2 == CANVAS * ALIGNED_CENTRES[slot]
    for side in ALIGNED_GRIDS:
        tokens = scene_tokens(boxes, TokenGrid(side, side), CANVAS, CANVAS, axis)
        for box, own in zip(boxes, tokens.objects, strict=True):
            assert coverage(box, tokens.grid, CANVAS, CANVAS)[~own].max() <= ALIGNED_SPILL
        for first, second in combinations(range(3), 2):
            ours, _ = matched_blocks(tokens, first, second, "object")
            assert len(ours) == tokens.objects[first].sum()
            # The strips' shared part holds the whole objects and most of either strip.
            ours, theirs = matched_blocks(tokens, first, second, "strip")
            assert tokens.objects[first].sum() <= len(ours)
            assert min(len(ours), len(theirs)) > 0.59 * max(tokens.strips[first].sum(), tokens.strips[second].sum())
