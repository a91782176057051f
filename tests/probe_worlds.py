"""Small made-up datasets and stores in which what a probe must find is known by construction."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from PIL import Image

from vlm_spatial.activations.sampling import Sample, sampled_tokens
from vlm_spatial.tokens import SceneTokens, TokenGrid, scene_tokens

SIZE = 120
WORDS = ("red", "green", "blue", "yellow", "purple", "orange")
GRID = TokenGrid(6, 6)


@dataclass
class World:
    """Stands for a dataset: three square objects a scene, in the middle of thirds (main) or anywhere (decorrelated)."""

    scenes: pl.DataFrame
    drawn: list[str] = field(default_factory=list)

    def tokens(self, scene_id: str, grid: TokenGrid) -> SceneTokens:
        row = self.row(scene_id)
        return scene_tokens([tuple(box) for box in row["boxes"]], grid, SIZE, SIZE, row["axis"], slots=row["slots"])

    def image(self, scene_id: str) -> Image.Image:
        self.drawn.append(scene_id)
        return Image.new("RGB", (SIZE, SIZE), "grey")

    def row(self, scene_id: str) -> dict:
        return self.scenes.row(by_predicate=pl.col("scene_id") == scene_id, named=True)


def world(
    seed: int = 0,
    axes: Sequence[str] = ("horizontal",),
    main: tuple[int, int, int] = (40, 20, 30),
    decorrelated: tuple[int, int, int] = (40, 20, 30),
) -> World:
    generator = np.random.default_rng(seed)
    rows = []
    for axis in axes:
        for variant, counts in (("main", main), ("decorrelated", decorrelated)):
            for split, count in zip(("train", "validation", "test"), counts, strict=True):
                rows += [_scene(generator, axis, variant, split, index) for index in range(count)]
        rows.append(_row(f"blank-{axis}-test-00000", axis, "blank", "test", [], []))
    return World(
        pl.DataFrame(
            rows, schema_overrides={"boxes": pl.List(pl.List(pl.Float32)), "slots": pl.List(pl.Int32), "objects": pl.List(pl.String)}
        )
    )


def _scene(generator: np.random.Generator, axis: str, variant: str, split: str, index: int) -> dict:
    if variant == "main":
        starts = np.array([10, 50, 90]) + generator.integers(-8, 9, size=3)
    else:
        starts = np.cumsum([0, 22, 22]) + np.sort(generator.integers(0, SIZE - 3 * 22, size=3))
    across = generator.integers(0, SIZE - 20, size=3)
    boxes = [[s, a, s + 20, a + 20] if axis == "horizontal" else [a, s, a + 20, s + 20] for s, a in zip(starts, across, strict=True)]
    words = list(generator.choice(WORDS, size=3, replace=False))
    return _row(f"{variant}-{axis}-{split}-{index:05d}", axis, variant, split, boxes, words)


def _row(scene_id: str, axis: str, variant: str, split: str, boxes: list, words: list) -> dict:
    slots = list(range(len(words)))
    return {
        "scene_id": scene_id,
        "axis": axis,
        "variant": variant,
        "split": split,
        "boxes": boxes,
        "objects": [str(w) for w in words],
        "slots": slots,
    }


@dataclass
class MemoryStore:
    """Stands for an activation store: ``code[site](row of the scene, generator) -> [tokens, features]``."""

    world: World
    code: dict[str, Callable[[dict, np.random.Generator], np.ndarray]]
    asked: list[tuple[str, str]] = field(default_factory=list)
    largest: int = 0
    grid: TokenGrid = GRID
    tokens: int | None = None
    """Kept of each scene that is none of the first ``whole`` test scenes of its kind; None: all."""
    whole: int = 4
    own_grids: dict[str, TokenGrid] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.code)

    @property
    def scenes(self) -> pl.DataFrame:
        return self.world.scenes

    def batches(self, site: str, scene_ids: Sequence[str], size: int) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        for start in range(0, len(scene_ids), size):
            part = scene_ids[start : start + size]
            self.largest = max(self.largest, len(part))
            values, kept = self.read(site, part), self.kept(site, part)
            yield part, values if kept is None else np.take_along_axis(values, kept.tokens[..., None].astype(int), axis=1)

    def kept(self, site: str, scene_ids: Sequence[str]) -> Sample | None:
        if self.tokens is None or site == "connector":
            return None
        rows = pl.DataFrame([self.world.row(name) for name in scene_ids], schema=self.scenes.schema)
        return sampled_tokens(rows.with_columns(width=SIZE, height=SIZE), self.grid, self.tokens)

    @property
    def whole_scenes(self) -> tuple[str, ...]:
        number = pl.int_range(pl.len()).over("axis", "variant")
        chosen = self.scenes.filter(split="test").filter((number < self.whole) | (pl.col("variant") == "blank"))
        return tuple((self.scenes if self.tokens is None else chosen)["scene_id"])

    def read(self, site: str, scene_ids: Sequence[str]) -> np.ndarray:
        self.asked += [(site, scene_id) for scene_id in scene_ids]
        return np.stack([self._values(site, scene_id) for scene_id in scene_ids]).astype(np.float32)

    def _values(self, site: str, scene_id: str) -> np.ndarray:
        stream = [ord(letter) for letter in scene_id] + [self.sites.index(site)]
        return self.code[site](self.world.row(scene_id), np.random.default_rng(stream))


def noise(generator: np.random.Generator, features: int = 12) -> np.ndarray:
    return generator.normal(size=(GRID.size, features))


def layout_code(row: dict, generator: np.random.Generator) -> np.ndarray:
    """Every cell, background too, knows the slot of its strip; a blank canvas has no strips."""
    values = 0.3 * noise(generator)
    if row["boxes"]:
        values[:, :3] += scene_tokens([tuple(b) for b in row["boxes"]], GRID, SIZE, SIZE, row["axis"]).strips.T * 3.0
    return values


def position_code(row: dict, generator: np.random.Generator) -> np.ndarray:
    """Every cell knows its absolute place along the axis, and nothing of the scene."""
    return 0.1 * noise(generator) + np.outer(GRID.centres(row["axis"]), np.ones(12)) * np.linspace(1, 4, 12)


def object_code(row: dict, generator: np.random.Generator) -> np.ndarray:
    """Only object cells know their slot; elsewhere there is noise."""
    values = 0.3 * noise(generator)
    if row["boxes"]:
        tokens = scene_tokens([tuple(b) for b in row["boxes"]], GRID, SIZE, SIZE, row["axis"])
        values[:, :3] += tokens.objects.T * 3.0
    return values


def content_code(row: dict, generator: np.random.Generator) -> np.ndarray:
    """Object cells know their colour and not their slot."""
    values = 0.3 * noise(generator)
    if row["boxes"]:
        tokens = scene_tokens([tuple(b) for b in row["boxes"]], GRID, SIZE, SIZE, row["axis"])
        for slot, word in enumerate(row["objects"]):
            values[tokens.objects[slot], 3 + WORDS.index(word)] += 3.0
    return values


def nothing(row: dict, generator: np.random.Generator) -> np.ndarray:
    """Noise."""
    del row
    return noise(generator)


def constant(row: dict, generator: np.random.Generator) -> np.ndarray:
    """The same everywhere."""
    del row, generator
    return np.full((GRID.size, 12), 2.5)
