"""Reading the boxes of photographs: COCO's instances JSON, and CSV.

The published JSON of train2017 has 450 MB, most of it outlines that nothing here needs: its lists are read one element at a time.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.json_members import members, read_text
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.tokens import Box

CSV_COLUMNS = ("image", "label", "x", "y", "width", "height")
CSV_SIZE = ("image_width", "image_height")
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One box of an image, in pixels; ``crowd`` marks a box around several things."""

    label: str
    box: Box
    crowd: bool = False


@dataclass(slots=True)
class Annotated:
    """An image with its boxes.

    Attributes:
        name: its path below the images' folder, as written.
        key: what it is known by (COCO's id, else the name); splits go by it.
        size: width and height as recorded; None where the file does not say.
        fault: why none of it can be used, if so.
    """

    name: str
    key: str
    size: tuple[int, int] | None
    boxes: list[Labelled] = field(default_factory=list)
    fault: str | None = None


@dataclass
class Annotations:
    """All images of an annotations file, its category names, and what of it cannot be used."""

    images: list[Annotated]
    labels: tuple[str, ...]
    set_aside: list[SetAside]


def read_annotations(path: Path) -> Annotations:
    """A COCO JSON or a CSV file, told apart by its suffix.

    Raises:
        UserError: naming the file and what is wrong, if it cannot be read as either.
    """
    text = read_text(path)
    if Path(path).suffix.lower() == ".csv":
        return _from_csv(text, path)
    if Path(path).suffix.lower() == ".json":
        return _from_coco(text, path)
    raise UserError(f"{path}: must end in .json (COCO's instances format) or .csv ({','.join(CSV_COLUMNS)})")


# --- COCO ------------------------------------------------------------------------------------------------------------


def _from_coco(text: str, path: Path) -> Annotations:
    names: dict[Any, str] = {}
    images: dict[Any, Annotated] = {}
    found: list[tuple[Any, Any, Any, bool]] = []
    set_aside: list[SetAside] = []
    seen: set[Any] = set()
    for part, entry in members(text, path, f"COCO's instances JSON, an object with {', '.join(_LISTS)}", _LISTS):
        if part not in _LISTS:
            continue
        seen.add(part)
        if entry is None:
            continue
        if part == "categories":
            if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"].strip():
                names[entry.get("id")] = entry["name"].strip()
        elif part == "images":
            _add_image(entry, images, set_aside)
        elif isinstance(entry, dict):
            # Outlines stay behind here.
            found.append((entry.get("image_id"), entry.get("category_id"), entry.get("bbox"), bool(entry.get("iscrowd", 0))))
    missing = [part for part in _LISTS if part not in seen]
    if missing:
        raise UserError(f"{path}: has no {' and no '.join(missing)}; must be COCO's instances JSON with {', '.join(_LISTS)}")
    strangers = 0
    for image_id, category, box, crowd in found:
        image = images.get(image_id)
        if image is None:
            strangers += 1
        elif category not in names:
            image.fault = image.fault or f"has a box of category {category!r}, which the file gives no name"
        elif not is_box(box):
            image.fault = image.fault or f"box {box!r} of {names[category]!r} must be [x, y, width, height]"
        else:
            x, y, width, height = map(float, box)
            image.boxes.append(Labelled(names[category], (x, y, x + width, y + height), crowd))
    if strangers:
        set_aside.append(SetAside(Path(path).name, f"{strangers} boxes are of images that the file does not list"))
    return Annotations(list(images.values()), tuple(sorted(set(names.values()))), set_aside)


def _add_image(entry: Any, images: dict[Any, Annotated], set_aside: list[SetAside]) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not isinstance(entry.get("id"), int | str):
        set_aside.append(SetAside(f"images entry {len(images) + len(set_aside)}", "needs an id and a file_name"))
        return
    width, height = entry.get("width"), entry.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 else None
    if entry["id"] in images:
        images[entry["id"]].fault = f"id {entry['id']} is that of two images in the file"
        set_aside.append(SetAside(entry["file_name"], f"id {entry['id']} is that of two images in the file"))
        return
    images[entry["id"]] = Annotated(entry["file_name"], str(entry["id"]), size)


def is_box(box: Any) -> bool:
    """Whether it is four finite numbers."""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(number, int | float) for number in box)
    return numbers and all(abs(number) < float("inf") for number in box)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _from_csv(text: str, path: Path) -> Annotations:
    rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(rows, [])]
    wanted = ",".join(CSV_COLUMNS)
    if not set(CSV_COLUMNS) <= set(header) or len(set(header)) != len(header):
        raise UserError(f"{path}: line 1 must name the columns {wanted} (and {','.join(CSV_SIZE)}, if known), found {','.join(header)!r}")
    images: dict[str, Annotated] = {}
    labels: set[str] = set()
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise UserError(f"{path}: line {rows.line_num} has {len(row)} cells, the header {len(header)}; quote labels with commas")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        name, label = cells["image"], cells["label"]
        if not name or not label:
            raise UserError(f"{path}: line {rows.line_num} has no {'label' if name else 'image'}")
        size = None
        if all(cells.get(column) for column in CSV_SIZE):
            width, height = (int(_number(cells[column], column, path, rows.line_num)) for column in CSV_SIZE)
            size = (width, height)
        x, y, width_, height_ = (_number(cells[column], column, path, rows.line_num) for column in CSV_COLUMNS[2:])
        image = images.setdefault(name, Annotated(name, name, size))
        if image.size != size:
            image.fault = f"is recorded as of two sizes, {image.size} and {size}"
        image.boxes.append(Labelled(label, (x, y, x + width_, y + height_)))
        labels.add(label)
    if not images:
        raise UserError(f"{path}: has a header and no boxes")
    return Annotations(list(images.values()), tuple(sorted(labels)), [])


def _number(cell: str, column: str, path: Path, line: int) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise UserError(f"{path}: line {line}: {column} is {cell!r}, must be a number of pixels")
    return number


# --- units -----------------------------------------------------------------------------------------------------------

# From this many boxes on, all of them alike are no accident.
_SURELY = 3


def check_units(images: Sequence[Annotated], sizes: dict[str, tuple[int, int]], path: Path) -> None:
    """Refuse boxes that are not left, top, width and height in pixels of these images, as a whole.

    Args:
        sizes: width and height of the images' files, by name, as far as they are known.

    Raises:
        UserError: saying which unit, order of numbers or resolution they look like.
    """
    known = [(image, sizes.get(image.name) or image.size, labelled.box) for image in images for labelled in image.boxes]
    boxes = [(size, box) for _, size, box in known if size is not None]
    if not boxes:
        return
    where = f"{path}: boxes must be left, top, width and height in pixels"
    if max(box[2] for _, box in boxes) <= 1.001 and max(box[3] for _, box in boxes) <= 1.001:
        raise UserError(f"{where}; all of them lie within 0 to 1, so they look like shares of the image's sides: multiply by its size")
    edges = [(box[2], box[3]) for _, box in boxes]
    if len(boxes) >= _SURELY and max(max(edge) for edge in edges) <= 100.5 < min(min(size) for size, _ in boxes) / 1.5:
        raise UserError(f"{where}; all of them lie within 0 to 100, so they look like percent of the sides: multiply by the size / 100")
    swapped = [box for _, box in boxes if box[2] <= box[0] or box[3] <= box[1]]
    if len(swapped) * 2 > len(boxes):
        raise UserError(f"{where}; {len(swapped)} of {len(boxes)} have a width or height of 0 or less, so their corners look swapped")
    outside = [(size, box) for size, box in boxes if box[2] > size[0] + 1 or box[3] > size[1] + 1]
    # x + width and y + height: what was written as width and height are then the far corner.
    corners = [(size, box) for size, box in boxes if box[0] < box[2] - box[0] <= size[0] + 1 and box[1] < box[3] - box[1] <= size[1] + 1]
    some = f"{len(outside)} of {len(boxes)} end outside"
    if outside and len(boxes) >= _SURELY and len(corners) == len(boxes):
        raise UserError(f"{where}; {some}, so they look like left, top, right, bottom: subtract left and top")
    if len(outside) * 3 > len(boxes):
        size, box = outside[0]
        raise UserError(
            f"{where}; {some} their image (such as at {box[2]:g}, {box[3]:g} of {size[0]}×{size[1]}), "
            "so they look like those of another resolution: scale them to the files"
        )
