"""Scenes that boxes of photographs give, before any picture is opened, and what is left out."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vlm_spatial.scenes.pixel_boxes import overlap_along
from vlm_spatial.scenes.plan import SPLITS, Split
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.tokens import Axis, Box


def order_of(key: str, seed: int) -> float:
    """A share from 0 to 1 that follows from an image's name alone, so that it stays when images are added."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Chosen:
    """A scene that a photograph of ``size``, upright, gives.

    Attributes:
        labels: of its objects, in slot order.
        boxes: in pixels, one an object; empty where boxes are missing or do not stand as the caption says.
        order: a share that follows from the image's name alone; splits and selection go by it.
        absent: names of categories that the image does not show, where the annotations say so of every category.
        subject: slot of the object that a caption says something of; None where there is no caption.
    """

    image: str
    path: Path
    size: tuple[int, int]
    axis: Axis
    labels: tuple[str, ...]
    boxes: tuple[Box, ...]
    order: float
    split: Split
    absent: tuple[str, ...] = ()
    subject: int | None = None


@dataclass
class Choices:
    """What will be made, and what not.

    Attributes:
        listed: entries of the list of questions, those set aside counted.
        measured: whether sizes of images were read from their files, since the boxes' file does not say them.
    """

    images: int
    scenes: list[Chosen] = field(default_factory=list)
    items: list[Chosen] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    measured: bool = False
    listed: int = 0

    def files(self) -> list[Path]:
        """The images that are shown."""
        return sorted({chosen.path for chosen in (*self.scenes, *self.items)})

    def outlook(self) -> str:
        """One line on what comes out."""
        counts = Counter((chosen.axis, chosen.split) for chosen in self.scenes)
        axes = dict.fromkeys(chosen.axis for chosen in self.scenes)
        parts = [f"{axis} " + ", ".join(f"{counts[axis, split]} {split}" for split in SPLITS) for axis in axes]
        items = f"; {self._of_items()}" if self.listed else ""
        pairs = sum(1 for chosen in self.scenes if (chosen.axis, chosen.split) == ("horizontal", "test"))
        scenes = f"{self.images} images give {len(self.scenes)} scenes ({'; '.join(parts)})"
        return f"{scenes}{items}; {pairs} of the scenes can be mirrored for pairs"

    def _of_items(self) -> str:
        unboxed = sum(1 for item in self.items if not item.boxes)
        overlapping = sum(1 for item in self.items if item.boxes and overlap_along(item.axis, item.boxes))
        notes = [f"{overlapping} with boxes that overlap along the axis"] if overlapping else []
        notes += [f"{unboxed} without boxes that stand as the caption says"] if unboxed else []
        told = f" ({', '.join(notes)})" if notes else ""
        return f"{len(self.items)} of {self.listed} items of the list of questions{told}, of which no pairs are made"
