"""Scenes on token grids of their own, in one store: where their tokens lie."""

import numpy as np
import polars as pl
import pytest

from vlm_spatial.activations.batching import alike
from vlm_spatial.activations.grids import fewest, framed, largest, on_own, own_grid, sizes, with_own_grids
from vlm_spatial.activations.sampling import sampled_tokens
from vlm_spatial.errors import UserError
from vlm_spatial.tokens import TokenGrid, scene_tokens

pytestmark = pytest.mark.unit

FRAME = TokenGrid(4, 3)
BOXES = [[0.0, 10.0, 10.0, 20.0], [30.0, 10.0, 40.0, 20.0], [50.0, 10.0, 60.0, 20.0]]


def scenes(*sides: tuple[int, int]) -> pl.DataFrame:
    """A scene of each width and height, in cells of 10 pixels."""
    return pl.DataFrame(
        [
            {
                "scene_id": f"main-horizontal-test-{number:05d}",
                "axis": "horizontal",
                "split": "test",
                "width": width * 10,
                "height": height * 10,
                "boxes": BOXES,
                "slots": [0, 1, 2],
                "objects": ["a", "b", "c"],
            }
            for number, (width, height) in enumerate(sides)
        ]
    )


def in_tens(width: int, height: int) -> TokenGrid:
    return TokenGrid(height // 10, width // 10)


def test_cells_lie_at_the_top_left() -> None:
    assert TokenGrid(2, 2).within(FRAME).tolist() == [0, 1, 3, 4]
    assert FRAME.within(FRAME).tolist() == list(range(12))
    with pytest.raises(UserError, match="token grid 2×4: does not fit on one of 4×3"):
        TokenGrid(2, 4).within(FRAME)
    assert on_own(np.array([[0, 4], [1, 3]]), TokenGrid(2, 2), FRAME).tolist() == [[0, 3], [1, 2]]


def test_values_are_laid_on_the_store_s_grid() -> None:
    values = np.array([[[1.0], [2.0], [3.0], [4.0]]])
    laid = framed(values, "token", TokenGrid(2, 2), FRAME, 1)
    assert laid[0, :, 0].tolist() == [1, 2, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0]
    # Four patches a token, row by row over the finer grid of 8 × 6.
    fine = framed(np.arange(1.0, 17.0).reshape(1, 16, 1), "patch", TokenGrid(2, 2), FRAME, 4)
    assert fine[0, :, 0].reshape(8, 6)[:4, :4].ravel().tolist() == list(range(1, 17))
    assert not fine[0, :, 0].reshape(8, 6)[4:].any()
    assert not fine[0, :, 0].reshape(8, 6)[:, 4:].any()
    for kept in ("region", "sample"):
        assert framed(values, kept, TokenGrid(2, 2), FRAME, 1) is values


def test_the_store_s_grid_holds_every_scene_s() -> None:
    table, frame = with_own_grids(scenes((6, 4), (6, 4)), in_tens)
    assert (frame, sizes(table), largest(table).height) == (TokenGrid(4, 6), {}, 2)
    table, frame = with_own_grids(scenes((6, 4), (8, 2), (6, 5), (6, 4)), in_tens)
    assert frame == TokenGrid(5, 8)
    assert sizes(table) == {"60x40": [4, 6], "80x20": [2, 8], "60x50": [5, 6]}
    assert [own_grid(row, frame).size for row in table.iter_rows(named=True)] == [24, 16, 30, 24]
    assert (fewest(table, frame), largest(table)["scene_id"].to_list()) == (16, ["main-horizontal-test-00002"])
    with pytest.raises(UserError, match="scenes: none"):
        with_own_grids(scenes((6, 4)).clear(), in_tens)


def test_batches_are_of_one_grid() -> None:
    assert list(alike("aaaabbc", 3, str)) == ["aaa", "a", "bb", "c"]
    assert list(alike("abab", 3, str)) == ["a", "b", "a", "b"]
    assert list(alike("", 3, str)) == []


def test_tokens_kept_are_of_the_scene_s_own_grid() -> None:
    """They stand for all of its tokens, object by object and strip by strip, and lie nowhere else."""
    table, frame = with_own_grids(scenes((6, 4), (8, 9)), in_tens)
    kept = sampled_tokens(table, frame, 12)
    for row, tokens, weights in zip(table.iter_rows(named=True), kept.tokens, kept.weights, strict=True):
        own = own_grid(row, frame)
        boxes = [(left, top, right, bottom) for left, top, right, bottom in BOXES]
        sets = scene_tokens(boxes, own, row["width"], row["height"], "horizontal").framed(frame)
        assert len(set(tokens.tolist())) == 12
        assert set(tokens.tolist()) <= set(own.within(frame).tolist())
        assert weights.sum() == pytest.approx(own.size)
        for slot in range(3):
            of_strip = sets.strips[slot][tokens]
            assert weights[of_strip].sum() == pytest.approx(sets.strips[slot].sum())
            assert sets.objects[slot][tokens].any()


def test_token_sets_on_a_larger_grid() -> None:
    boxes = [(left, top, right, bottom) for left, top, right, bottom in BOXES]
    own = scene_tokens(boxes, TokenGrid(4, 6), 60, 40, "horizontal", picture=(0, 10, 60, 40))
    laid = own.framed(TokenGrid(5, 8))
    cells = own.grid.within(laid.grid)
    assert np.array_equal(laid.objects[:, cells], own.objects)
    assert np.array_equal(laid.strips[:, cells], own.strips)
    assert np.array_equal(laid.inside[cells], own.inside)
    for token_set in ("object", "strip", "rim", "background", "all"):
        assert laid.mask(token_set, [0, 1, 2]).sum() == own.mask(token_set, [0, 1, 2]).sum()
    assert own.framed(own.grid) is own
