"""Crosswise interchange: the ordering code moves, the content stays (paper, version 2, section 5).

The counterfactual shows the same picture with the contents of two slots exchanged. Its tokens of slot j are laid on slot i of the clean
run, and the other way round. Each object then stands where it stood, with the code of the other slot. An answer that flips was read from
the code that these cells carry.

The mirror form needs no second picture: the source is the mirrored image, and each cell takes the value of its mirror image. It works on
any photo whose objects stand left and right of each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from vlm_spatial.interventions.language import exchangeable
from vlm_spatial.interventions.pairs_on_grid import Case
from vlm_spatial.interventions.sweep import Exchange, ExchangesOf
from vlm_spatial.models.values import Site
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SceneTokens, TokenGrid, matched_blocks

CrosswiseSet = Literal["object", "strip", "rim", "random_object", "random_strip"]
MirrorSet = Literal["object", "strip", "all"]
Match = Literal["offset", "place"]

Cells = Int[np.ndarray, " cells"]
Blocks = tuple[Cells, Cells]
"""Cells of the first slot and of the second, as many, that change places."""


def crosswise_cases(vision: Iterable[Case]) -> list[Case]:
    """The vision pairs whose two objects cover the same cells relative to their slots; the others are counted on stderr."""
    return exchangeable([replace(case, experiment="crosswise", unrelated_scene=None) for case in vision])


def crosswise_plan(
    sites: Sequence[Site], token_sets: Sequence[CrosswiseSet], seed: int, match: Match = "offset", shift: int = 0
) -> ExchangesOf:
    """Every site × token set. A set that a pair has no cells for is left out.

    ``rim`` is the strip without the object. ``random_object`` is as many cells as ``object`` has, drawn from the background of the two
    strips and exchanged between them; ``random_strip`` as many as ``strip`` has, or all there are, from outside the two strips, one half
    exchanged with the other.

    Args:
        match: which cells of two strips correspond: those with the same offset from their object, or the same place in their strip
            (as published; the two objects then need not meet).
        shift: tokens by which every cell is missed, towards the image's end; what would lie behind it is left out.
    """

    def plan(case: Case) -> list[Exchange]:
        chosen = {token_set: _shifted(crosswise_blocks(case, token_set, seed, match), shift, case) for token_set in token_sets}
        return [
            Exchange(site, token_set, "counterfactual", np.concatenate([first, second]), np.concatenate([second, first]), match)
            for site in sites
            for token_set, (first, second) in chosen.items()
            if len(first)
        ]

    return plan


def _shifted(blocks: Blocks, shift: int, case: Case) -> Blocks:
    first, second = (cells + shift for cells in blocks)
    there = np.maximum(first, second) < case.tokens.grid.size
    return first[there], second[there]


def crosswise_blocks(case: Case, token_set: CrosswiseSet, seed: int, match: Match) -> Blocks:
    """The cells of the pair's two slots that change places, one to one."""
    tokens, slots = case.tokens, case.slots
    blocks = {"object": matched_blocks(tokens, *slots, "object"), "strip": _strips(tokens, slots, match)}
    if token_set == "object" or token_set == "strip":
        return blocks[token_set]
    objects = np.any(tokens.objects, axis=0)
    if token_set == "rim":
        first, second = blocks["strip"]
        keep = ~(objects[first] | objects[second])
        return first[keep], second[keep]
    generator = np.random.default_rng([seed, *case.pair_id.encode()])
    if token_set == "random_object":
        strips = [np.flatnonzero(tokens.mask("strip", [slot]) & ~objects) for slot in slots]
        count = min(len(blocks["object"][0]), *(len(cells) for cells in strips))
        first, second = (generator.choice(cells, size=count, replace=False) for cells in strips)
        return first, second
    outside = np.flatnonzero(~tokens.mask("strip", slots))
    half = min(len(blocks["strip"][0]), len(outside) // 2)
    first, second = np.split(generator.choice(outside, size=2 * half, replace=False), 2)
    return first, second


def _strips(tokens: SceneTokens, slots: tuple[int, int], match: Match) -> Blocks:
    if match == "offset":
        return matched_blocks(tokens, *slots, "strip")
    by_place = []
    for slot in slots:
        cells = np.flatnonzero(tokens.mask("strip", [slot]))
        rows, cols = np.divmod(cells, tokens.grid.cols)
        by_place.append(dict(zip(zip(rows - rows.min(), cols - cols.min(), strict=True), cells, strict=True)))
    shared = sorted(by_place[0].keys() & by_place[1].keys())
    first, second = (np.array([cells[place] for place in shared], dtype=int) for cells in by_place)
    return first, second


def mirror_cases(dataset: Dataset, vision: Iterable[Case]) -> list[Case]:
    """The clean scenes of the horizontal vision pairs that ask about an outer object, whose answer the mirrored image turns round."""
    found = []
    for case in vision:
        asked = case.slots[0]
        row = dataset.row(case.clean_scene)
        slots: list[int] = list(row["slots"])  # type: ignore[call-overload]
        if case.axis != "horizontal" or asked not in (slots[0], slots[-1]):
            continue
        opposite = slots[0] + slots[-1] - asked
        objects: list[str] = list(row["objects"])  # type: ignore[call-overload]
        others = [name for name in case.reader.candidates if name != case.clean_answer]
        # Answers that name no object are places: of two the other one, else the slots' words in their order.
        answers = objects if case.clean_answer in objects else list(case.reader.candidates)
        flipped = others[0] if len(others) == 1 else answers[slots.index(opposite)]
        found.append(
            replace(
                case,
                experiment="mirror",
                counterfactual_scene=case.clean_scene,
                unrelated_scene=None,
                slots=(asked, opposite),
                counterfactual_answer=flipped,
                hypotheses={"stay": case.clean_answer, "flip": flipped},
                counterfactual_tokens=case.tokens,
            )
        )
    return found


def mirror_plan(sites: Sequence[Site], token_sets: Sequence[MirrorSet]) -> ExchangesOf:
    """Every site × token set of the outer objects: each cell takes what the mirrored image has at the mirrored place."""

    def plan(case: Case) -> list[Exchange]:
        chosen = {token_set: np.flatnonzero(case.tokens.mask(token_set, case.slots)) for token_set in token_sets}
        return [
            Exchange(site, token_set, "counterfactual", cells, mirrored_cells(cells, case.tokens.grid))
            for site in sites
            for token_set, cells in chosen.items()
        ]

    return plan


def mirrored_cells(cells: Cells, grid: TokenGrid) -> Cells:
    """Cell (row, col) → (row, cols − 1 − col)."""
    rows, cols = np.divmod(cells, grid.cols)
    return rows * grid.cols + grid.cols - 1 - cols
