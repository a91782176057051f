"""Reading a dataset that the scenes stage wrote."""

import hashlib
import io
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
from PIL import Image, UnidentifiedImageError

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_parquet
from vlm_spatial.tokens import Axis, Box, SceneTokens, TokenGrid, scene_tokens
from vlm_spatial.workflow.provenance import Provenance, read_record

_FILTERS = threading.Lock()
AGAIN = "delete the dataset's folder and run snakemake again"


def picture_of(row: Mapping[str, object]) -> Box | None:
    """Where the photograph of a row of ``scenes.parquet`` lies on its canvas; None where it fills it."""
    edges = row.get("picture")
    if not isinstance(edges, list):
        return None
    left, top, right, bottom = map(float, edges)
    return left, top, right, bottom


def bands_of(row: Mapping[str, object], grid: TokenGrid) -> list[float] | None:
    """Where the strips of a row of ``scenes.parquet`` meet, in pixels along the axis; None for the midpoints between objects.

    Raises:
        UserError: if the scene is laid out for another token grid than ``grid``.
    """
    meant = row.get("grid")
    if isinstance(meant, list) and meant != [grid.rows, grid.cols]:
        raise UserError(
            f"scene {row['scene_id']!r} is laid out for {meant[0]}×{meant[1]} visual tokens, and the model has {grid.rows}×{grid.cols}; "
            "give this model a dataset with the layout of its own grid"
        )
    edges = row.get("bands")
    return [float(edge) for edge in edges] if isinstance(edges, list) else None


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder and its tables; images are read one at a time, and checked if the folder has a provenance record."""

    folder: Path
    scenes: pl.DataFrame
    questions: pl.DataFrame
    pairs: pl.DataFrame

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Read the tables of ``folder``.

        Raises:
            UserError: if one is missing or damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such dataset folder; run the scenes stage first")
        tables = [read_parquet(folder / f"{name}.parquet") for name in ("scenes", "questions", "pairs")]
        return cls(folder, *tables)

    def row(self, scene_id: str) -> dict[str, object]:
        """The scene's row of ``scenes``.

        Raises:
            UserError: if there is no such scene.
        """
        if scene_id not in self._index:
            raise UserError(f"{self.folder}: has no scene {scene_id!r}")
        return self.scenes.row(self._index[scene_id], named=True)

    def image(self, scene_id: str) -> Image.Image:
        """The scene's RGB image, read from its file.

        Raises:
            UserError: naming the file if it is missing, not the bytes that were written, or not of the size recorded.
        """
        row = self.row(scene_id)
        name = str(row["image"])
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
        written = self._record.files.get(name) if self._record else None
        if written and hashlib.sha256(content).hexdigest() != written.sha256:
            raise UserError(f"{path}: its bytes are not those that were written (SHA-256 differs); {AGAIN}")
        try:
            # Filters of warnings are the process's, and several threads may read images.
            with _FILTERS, warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(content))
            image.load()
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UserError(f"{path}: is not a readable image ({error}); {AGAIN}") from error
        if image.size != (row["width"], row["height"]):
            raise UserError(f"{path}: is {image.size[0]}×{image.size[1]}, scenes.parquet says {row['width']}×{row['height']}; {AGAIN}")
        # Pillow copies even an RGB image to convert it.
        return image if image.mode == "RGB" else image.convert("RGB")

    def size(self, scene_id: str) -> tuple[int, int]:
        """Width and height of the scene's image in pixels."""
        row = self.row(scene_id)
        return int(str(row["width"])), int(str(row["height"]))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Every width and height that images have."""
        return self.scenes.select("width", "height").unique().sort("width", "height").rows()

    def boxes(self, scene_id: str) -> list[Box]:
        """Pixel box of each object, in slot order; none where they are not known."""
        boxes: list[list[float]] = self.scenes["boxes"][self._position(scene_id)].to_list()
        return [(left, top, right, bottom) for left, top, right, bottom in boxes]

    def tokens(self, scene_id: str, grid: TokenGrid) -> SceneTokens:
        """Token sets of the scene on ``grid``, by slot."""
        row = self.row(scene_id)
        width, height = self.size(scene_id)
        axis: Axis = "horizontal" if row["axis"] == "horizontal" else "vertical"
        boxes = self.boxes(scene_id)
        if not boxes:
            raise UserError(f"{self.folder}: scene {scene_id!r} has no boxes, so no token sets but 'all'")
        return scene_tokens(boxes, grid, width, height, axis, picture_of(row), bands_of(row, grid), row["slots"])  # type: ignore[arg-type]

    @cached_property
    def _record(self) -> Provenance | None:
        return read_record(self.folder)

    def _position(self, scene_id: str) -> int:
        self.row(scene_id)
        return self._index[scene_id]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {scene_id: index for index, scene_id in enumerate(self.scenes["scene_id"])}
