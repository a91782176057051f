"""Token sets against a slow, exact oracle in fractions, and the properties that every grid and box must have."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vlm_spatial.errors import UserError
from vlm_spatial.tokens import Axis, Box, SceneTokens, TokenGrid, coverage, matched_blocks, object_tokens, scene_tokens, strip_labels

pytestmark = pytest.mark.unit

AXES = st.sampled_from(["horizontal", "vertical"])
GRIDS = st.builds(TokenGrid, st.integers(1, 24), st.integers(1, 24))


@st.composite
def images_with_box(draw: st.DrawFn) -> tuple[int, int, Box]:
    """A size in pixels and a box inside it, of whole pixels or of eighths, as boxes of scaled photos are between pixels."""
    width, height, parts = draw(st.integers(8, 900)), draw(st.integers(8, 900)), draw(st.sampled_from([1, 8]))
    left, top = draw(st.integers(0, width * parts - 1)), draw(st.integers(0, height * parts - 1))
    right, bottom = draw(st.integers(left + 1, width * parts)), draw(st.integers(top + 1, height * parts))
    return width, height, (left / parts, top / parts, right / parts, bottom / parts)


@st.composite
def rows_of_boxes(draw: st.DrawFn) -> tuple[list[Box], int, int, Axis]:
    """Three boxes with increasing centres along the axis, possibly overlapping."""
    axis: Axis = draw(AXES)
    width, height = draw(st.integers(30, 900)), draw(st.integers(30, 900))
    along, across = (width, height) if axis == "horizontal" else (height, width)
    boxes: list[Box] = []
    for _ in range(3):
        start = draw(st.integers(0, along - 1))
        stop = draw(st.integers(start + 1, along))
        low = draw(st.integers(0, across - 1))
        high = draw(st.integers(low + 1, across))
        boxes.append((start, low, stop, high) if axis == "horizontal" else (low, start, high, stop))
    first = 0 if axis == "horizontal" else 1
    boxes.sort(key=lambda box: box[first] + box[first + 2])
    centres = [box[first] + box[first + 2] for box in boxes]
    assume(len(set(centres)) == 3)
    return boxes, width, height, axis


def exact_coverage(box: Box, grid: TokenGrid, width: int, height: int) -> list[Fraction]:
    """Share of each cell's area inside the box, in exact arithmetic."""
    left, top, right, bottom = map(Fraction, box)

    def shares(start: Fraction, stop: Fraction, side: int, cells: int) -> list[Fraction]:
        cell = Fraction(side, cells)
        return [max(min(stop, (k + 1) * cell) - max(start, k * cell), Fraction(0)) / cell for k in range(cells)]

    down, across = shares(top, bottom, height, grid.rows), shares(left, right, width, grid.cols)
    return [part * other for part in down for other in across]


@pytest.mark.slow
@given(images_with_box(), GRIDS)
def test_object_tokens_are_the_half_covered_cells_or_the_first_largest(image: tuple[int, int, Box], grid: TokenGrid) -> None:
    width, height, box = image
    shares = exact_coverage(box, grid, width, height)
    half = [share >= Fraction(1, 2) for share in shares]
    expected = half if any(half) else [index == shares.index(max(shares)) for index in range(grid.size)]
    assert object_tokens(box, grid, width, height).tolist() == expected
    np.testing.assert_allclose(coverage(box, grid, width, height), [float(share) for share in shares], atol=1e-12)


@given(GRIDS, st.data())
def test_a_box_on_cell_borders_takes_exactly_its_cells(grid: TokenGrid, data: st.DataObject) -> None:
    cell = data.draw(st.integers(1, 60))
    first_row, first_col = data.draw(st.integers(0, grid.rows - 1)), data.draw(st.integers(0, grid.cols - 1))
    last_row, last_col = data.draw(st.integers(first_row, grid.rows - 1)), data.draw(st.integers(first_col, grid.cols - 1))
    box = (first_col * cell, first_row * cell, (last_col + 1) * cell, (last_row + 1) * cell)
    expected = np.zeros((grid.rows, grid.cols), dtype=bool)
    expected[first_row : last_row + 1, first_col : last_col + 1] = True
    assert (object_tokens(box, grid, grid.cols * cell, grid.rows * cell) == expected.ravel()).all()


@given(rows_of_boxes(), GRIDS)
def test_strips_partition_the_grid_into_bands_between_midpoints(scene: tuple[list[Box], int, int, Axis], grid: TokenGrid) -> None:
    boxes, width, height, axis = scene
    tokens = scene_tokens(boxes, grid, width, height, axis)
    assert (tokens.strips.sum(axis=0) == 1).all()
    side, first, cells = (width, 0, grid.cols) if axis == "horizontal" else (height, 1, grid.rows)
    centres = [Fraction(int(box[first] + box[first + 2]), 2 * side) for box in boxes]
    edges = [(centres[0] + centres[1]) / 2, (centres[1] + centres[2]) / 2]
    labels = strip_labels(boxes, grid, width, height, axis)
    for token in range(grid.size):
        cell = token % grid.cols if axis == "horizontal" else token // grid.cols
        centre = Fraction(2 * cell + 1, 2 * cells)
        # A centre on an edge belongs to the later slot.
        assert labels[token] == sum(centre >= edge for edge in edges)


@given(rows_of_boxes(), GRIDS)
@pytest.mark.slow
def test_object_and_rim_make_the_strip_where_the_object_lies_in_it(scene: tuple[list[Box], int, int, Axis], grid: TokenGrid) -> None:
    boxes, width, height, axis = scene
    tokens = scene_tokens(boxes, grid, width, height, axis)
    for slot in range(3):
        strip, rim, own = (tokens.mask(name, [slot]) for name in ("strip", "rim", "object"))
        assert not (rim & own).any()
        assert ((rim | own) == (strip | own)).all()
        if (own <= strip).all():
            assert ((rim | own) == strip).all()
    everything = tokens.mask("object", [0, 1, 2]) | tokens.mask("background", [0])
    assert everything.all()
    assert not (tokens.mask("object", [0, 1, 2]) & tokens.mask("background", [])).any()
    assert tokens.mask("all", []).all()


@given(rows_of_boxes(), GRIDS, st.one_of(st.integers(2, 7), st.floats(0.05, 20)))
def test_scaling_image_and_boxes_together_changes_nothing(scene: tuple[list[Box], int, int, Axis], grid: TokenGrid, factor: float) -> None:
    boxes, width, height, axis = scene
    plain = scene_tokens(boxes, grid, width, height, axis)
    larger = [tuple(edge * factor for edge in box) for box in boxes]
    scaled = scene_tokens(larger, grid, width * factor, height * factor, axis)
    assert (plain.objects == scaled.objects).all()
    assert (plain.strips == scaled.strips).all()


@given(rows_of_boxes(), GRIDS)
def test_turning_the_image_swaps_the_axes(scene: tuple[list[Box], int, int, Axis], grid: TokenGrid) -> None:
    boxes, width, height, axis = scene
    tokens = scene_tokens(boxes, grid, width, height, axis)
    turned_boxes = [(box[1], box[0], box[3], box[2]) for box in boxes]
    turned = scene_tokens(
        turned_boxes, TokenGrid(grid.cols, grid.rows), height, width, "vertical" if axis == "horizontal" else "horizontal"
    )
    for slot in range(3):
        assert (tokens.strips[slot].reshape(grid.rows, grid.cols) == turned.strips[slot].reshape(grid.cols, grid.rows).T).all()
        # The fallback cell of a tiny object is the first in reading order, which turning changes.
        if coverage(boxes[slot], grid, width, height).max() > 0.5:
            assert (tokens.objects[slot].reshape(grid.rows, grid.cols) == turned.objects[slot].reshape(grid.cols, grid.rows).T).all()


@given(rows_of_boxes(), GRIDS, st.permutations([0, 1, 2]), st.sampled_from(["object", "strip"]))
def test_matched_blocks_pair_cells_of_equal_offset(
    scene: tuple[list[Box], int, int, Axis], grid: TokenGrid, order: list[int], token_set: str
) -> None:
    boxes, width, height, axis = scene
    tokens = scene_tokens(boxes, grid, width, height, axis)
    first, second = order[:2]
    offsets = []
    for slot in (first, second):
        cells = np.argwhere(tokens.objects[slot].reshape(grid.rows, grid.cols))
        offsets.append((cells.min(axis=0), {tuple(cell) for cell in cells - cells.min(axis=0)}))
    if offsets[0][1] != offsets[1][1]:
        with pytest.raises(UserError, match="cover different cells"):
            matched_blocks(tokens, first, second, token_set)
        return
    ours, theirs = matched_blocks(tokens, first, second, token_set)
    assert len(ours) == len(theirs) == len(set(ours)) == len(set(theirs))
    masks = tokens.objects if token_set == "object" else tokens.strips
    assert masks[first][ours].all()
    assert masks[second][theirs].all()
    shift = offsets[1][0] - offsets[0][0]
    for mine, other in zip(ours, theirs, strict=True):
        assert (np.array(divmod(other, grid.cols)) - np.array(divmod(mine, grid.cols)) == shift).all()
    if token_set == "object":
        assert len(ours) == tokens.objects[first].sum()
    # Going back undoes the exchange.
    back, forth = matched_blocks(tokens, second, first, token_set)
    assert dict(zip(ours.tolist(), theirs.tolist(), strict=True)) == dict(zip(forth.tolist(), back.tolist(), strict=True))


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (3, 3, 2, 5), (-1, 0, 5, 5), (0, 0, 11, 5), (0, 0, 5, 11)])
def test_a_box_that_is_empty_or_outside_is_named(box: Box) -> None:
    with pytest.raises(UserError, match="must be non-empty and inside the 10×10 image"):
        coverage(box, TokenGrid(2, 2), 10, 10)


def test_boxes_out_of_slot_order_are_refused() -> None:
    with pytest.raises(UserError, match="centres must increase along the horizontal axis"):
        scene_tokens([(5, 0, 6, 1), (0, 0, 1, 1)], TokenGrid(2, 2), 10, 10, "horizontal")


def test_unknown_token_set_and_empty_grid_are_named() -> None:
    tokens: SceneTokens = scene_tokens([(0, 0, 5, 5)], TokenGrid(2, 2), 10, 10, "horizontal")
    with pytest.raises(UserError, match="'middle': allowed are object, strip, rim, background, all"):
        tokens.mask("middle", [0])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="token grid 0×3"):
        TokenGrid(0, 3)
