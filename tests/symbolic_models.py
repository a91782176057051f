"""Models made of symbols, whose mechanism is known: each visual token holds a content and an ordering code, and a rule reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import Tensor

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SceneTokens, TokenGrid

# One of the grids that pairs are aligned on (the test checkpoints' own).
GRID = TokenGrid(6, 6)


class NamedDataset(Dataset):
    """Hands out images that remember which scene they are of."""

    def image(self, scene_id: str) -> Image.Image:
        image = Image.new("RGB", (1, 1))
        image.info["scene"] = scene_id
        return image


@dataclass(frozen=True)
class State:
    """What a symbolic model holds at every visual token: a content and an ordering code, -1 where it holds none."""

    content: np.ndarray
    code: np.ndarray


Reader = Callable[[State, SceneTokens, int], int]


def by_code(state: State, tokens: SceneTokens, slot: int) -> int:
    """The content of the object tokens that carry the code of the slot asked for, wherever they stand."""
    return int(state.content[tokens.objects.any(axis=0) & (state.code == slot)][0])


def by_place(state: State, tokens: SceneTokens, slot: int) -> int:
    return int(state.content[tokens.objects[slot]][0])


def by_strip(state: State, tokens: SceneTokens, slot: int) -> int:
    """What most tokens of the strip hold."""
    return int(np.bincount(state.content[tokens.strips[slot]]).argmax())


def by_sight(state: State, tokens: SceneTokens, slot: int) -> int:
    """The object that shows in the strip, wherever in it."""
    held = state.content[tokens.strips[slot]]
    return int(np.bincount(held[held >= 0]).argmax())


class SymbolicEngine:
    """Answers with ``reader`` from the symbols at the visual tokens."""

    def __init__(self, dataset: Dataset, reader: Reader, spread: bool = False, grid: TokenGrid = GRID) -> None:
        self.dataset = dataset
        self.grid = grid
        self.reader = reader
        self.spread = spread
        self.words = sorted({word for row in dataset.scenes["objects"] for word in row})
        self.adapter: Any = SimpleNamespace(
            grid=lambda *_size: grid,
            vocabulary=len(self.words),
            cache=SimpleNamespace(
                image=lambda _image: {}, answers=AnswerSettings(), answer_forms=lambda answer, _template: ((self.words.index(answer),),)
            ),
        )

    def state(self, scene: str) -> State:
        tokens = self.dataset.tokens(scene, self.grid)
        state = State(np.full(self.grid.size, -1), np.full(self.grid.size, -1))
        for slot, word in enumerate(self.dataset.row(scene)["objects"]):  # type: ignore[arg-type, var-annotated]
            held = tokens.strips[slot] if self.spread else tokens.objects[slot]
            state.content[held] = self.words.index(word)
            state.code[held] = slot
        return state

    def clean(self, pairs: Sequence[PairRuns]) -> Tensor:
        return torch.stack([self._answer(pair, self.state(pair.clean.image.info["scene"])) for pair in pairs])

    def run(self, pairs: Sequence[PairRuns], patches: Sequence[Patch]) -> Tensor:
        rows = []
        for patch in patches:
            pair = pairs[patch.pair]
            source = pair.clean if patch.source == CLEAN else pair.sources[patch.source]
            before, other = self.state(pair.clean.image.info["scene"]), self.state(source.image.info["scene"])
            from_cells = patch.to_cells if patch.from_cells is None else patch.from_cells
            before.content[patch.to_cells] = other.content[from_cells]
            before.code[patch.to_cells] = other.code[from_cells]
            rows.append(self._answer(pair, before))
        return torch.stack(rows)

    def _answer(self, pair: PairRuns, state: State) -> Tensor:
        row = self.dataset.pairs.row(by_predicate=pl.col("pair_id") == pair.pair_id, named=True)
        tokens = self.dataset.tokens(row["clean_scene"], self.grid)
        logits = torch.zeros(len(self.words))
        logits[self.reader(state, tokens, row["slots"][0])] = 5.0
        return logits
