"""One picture that shows what a dataset holds."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.labels import LINE, Font, label

_THUMBNAIL = 168
_GAP = 6
_LETTERS = 11
_LINES = 3
_LABEL = 20 + _LINES * LINE
_COLUMNS = 6
_BOX_COLOURS = ("#0072B2", "#E69F00", "#CC79A7")


def contact_sheet(dataset: Dataset) -> Image.Image:
    """For each axis and variant a row of its first test scenes, boxes outlined by slot, objects named below."""
    font = ImageFont.load_default(_LETTERS)
    groups = [
        (key, group.head(_COLUMNS))
        for key, group in dataset.scenes.sort("axis", "scene_id").group_by("axis", "variant", "split", maintain_order=True)
        if key[2] == "test"
    ]
    height = max(
        (round(row[1] * _THUMBNAIL / max(row)) for row in dataset.scenes.select("width", "height").unique().iter_rows()), default=0
    )
    sheet = Image.new("RGB", (_COLUMNS * (_THUMBNAIL + _GAP) + _GAP, len(groups) * (height + _LABEL + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (key, group) in enumerate(groups):
        top = _GAP + row * (height + _LABEL + _GAP)
        for column, scene in enumerate(group.iter_rows(named=True)):
            left = _GAP + column * (_THUMBNAIL + _GAP)
            sheet.paste(_thumbnail(dataset, scene), (left, top + 14))
            if column == 0:
                draw.text((left, top), " · ".join(str(part) for part in key), fill="black", font=font)
            named, fitting = label(", ".join(scene["objects"]) or "(empty)", _LETTERS)
            for line, text in enumerate(_wrapped(named, fitting)):
                draw.text((left, top + 16 + height + line * LINE), text, fill="#444444", font=fitting)
    return sheet


def _wrapped(text: str, font: Font) -> list[str]:
    """The text in lines as wide as a thumbnail, broken between words; what does not fit into ``_LINES`` is left out."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= _THUMBNAIL:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:_LINES]


def _thumbnail(dataset: Dataset, scene: Mapping[str, object]) -> Image.Image:
    image = dataset.image(str(scene["scene_id"]))
    scale = _THUMBNAIL / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(small)
    slots: list[int] = list(scene["slots"])  # type: ignore[call-overload]
    # Objects whose boxes are not known have none to outline.
    for slot, box in zip(slots, dataset.boxes(str(scene["scene_id"])), strict=False):
        draw.rectangle([edge * scale for edge in box], outline=_BOX_COLOURS[slot], width=1)
    return small


def write_contact_sheet(folder: Path, scenes: pl.DataFrame, questions: pl.DataFrame, pairs: pl.DataFrame) -> None:
    """Draw the sheet of the dataset in ``folder`` and write it there as ``contact_sheet.png``."""
    contact_sheet(Dataset(folder, scenes, questions, pairs)).save(folder / "contact_sheet.png")
