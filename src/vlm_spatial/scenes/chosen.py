"""Scenes that boxes of photographs give, before any picture is opened, and what is left out."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vlm_spatial.scenes.annotations import Labelled
from vlm_spatial.scenes.plan import SPLITS, Split
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.tokens import Axis


@dataclass(frozen=True)
class Chosen:
    """A scene that the boxes give: objects in slot order, boxes in pixels of the upright photograph of ``size``.

    Attributes:
        order: a share that follows from the image's name alone; splits and selection go by it.
        absent: names of categories that the image does not show, where the annotations say so of every category.
        subject: slot of the object that a caption says something of; None where there is no caption.
    """

    image: str
    path: Path
    size: tuple[int, int]
    axis: Axis
    objects: tuple[Labelled, ...]
    order: float
    split: Split
    absent: tuple[str, ...] = ()
    subject: int | None = None


@dataclass
class Choices:
    """What will be made, and what not.

    Attributes:
        measured: whether sizes of images were read from their files, since the boxes' file does not say them.
    """

    images: int
    scenes: list[Chosen] = field(default_factory=list)
    items: list[Chosen] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    measured: bool = False

    def files(self) -> list[Path]:
        """The images that are shown."""
        return sorted({chosen.path for chosen in (*self.scenes, *self.items)})

    def outlook(self) -> str:
        """One line on what comes out."""
        counts = Counter((chosen.axis, chosen.split) for chosen in self.scenes)
        axes = dict.fromkeys(chosen.axis for chosen in self.scenes)
        parts = [f"{axis} " + ", ".join(f"{counts[axis, split]} {split}" for split in SPLITS) for axis in axes]
        items = f"; {len(self.items)} items of the list of questions" if self.items else ""
        pairs = sum(1 for chosen in self.scenes if (chosen.axis, chosen.split) == ("horizontal", "test"))
        return f"{self.images} images give {len(self.scenes)} scenes ({'; '.join(parts)}){items}; {pairs} of them can be mirrored for pairs"
