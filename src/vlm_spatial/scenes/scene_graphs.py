"""Reading the boxes of GQA's scene graphs: ``{image id: {width, height, objects: {id: {name, x, y, w, h}}}}``."""

from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.annotations import Annotated, Annotations, Labelled, is_box
from vlm_spatial.scenes.json_members import members, read_text
from vlm_spatial.scenes.sources.source import SetAside

_NEEDED = ("name", "x", "y", "w", "h")


def read_scene_graphs(path: Path) -> Annotations:
    """The images of ``*_sceneGraphs.json`` as published, each ``{image id}.jpg``. What is not among the objects may yet be in the picture.

    Raises:
        UserError: naming the file and what is wrong, if it cannot be read as that.
    """
    images: dict[str, Annotated] = {}
    set_aside: list[SetAside] = []
    labels: set[str] = set()
    for key, graph in members(read_text(path), path, "GQA's scene graphs, an object of image ids"):
        if not isinstance(graph, dict) or not isinstance(graph.get("objects"), dict):
            set_aside.append(SetAside(f"{Path(path).name}, image {key}", "has no objects"))
            continue
        if key in images:
            images[key].fault = f"id {key} is that of two images in the file"
            continue
        image = images[key] = Annotated(f"{key}.jpg", key, _size(graph))
        for thing in graph["objects"].values():
            fault = _add(thing, image)
            image.fault = image.fault or fault
        labels.update(labelled.label for labelled in image.boxes)
    if not images:
        raise UserError(f"{path}: has no image with objects; must be GQA's scene graphs, an object of image ids")
    return Annotations(list(images.values()), tuple(sorted(labels)), set_aside)


def _size(graph: dict[str, Any]) -> tuple[int, int] | None:
    width, height = graph.get("width"), graph.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 else None


def _add(thing: object, image: Annotated) -> str | None:
    """Add an object's box to its image; what is wrong, if something is."""
    if not isinstance(thing, dict) or not all(name in thing for name in _NEEDED) or not isinstance(thing["name"], str):
        return f"has an object without {', '.join(_NEEDED)}"
    box = [thing[name] for name in _NEEDED[1:]]
    if not is_box(box):
        return f"box {box!r} of {thing['name']!r} must be numbers of pixels"
    x, y, width, height = map(float, box)
    image.boxes.append(Labelled(thing["name"].strip(), (x, y, x + width, y + height)))
    return None
