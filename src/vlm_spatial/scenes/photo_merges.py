"""What photos become: a two-object picture as it was taken, or a three-object picture joined from two, and how each is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.boxed_photos import SAME_SHAPE, BoxedPhoto
from vlm_spatial.scenes.merge import FRAME, Join, Window, framed, join, plan_merge, plan_window
from vlm_spatial.scenes.photos import HEIGHT, Pixels, open_photo
from vlm_spatial.scenes.plan import Planned, Split
from vlm_spatial.scenes.scene import Content, Scene, Variant
from vlm_spatial.scenes.sources.source import SetAside
from vlm_spatial.tokens import Box


@dataclass(frozen=True)
class PhotoDrawing:
    """What one image is cut from: one photo, or two joined; mirrored last."""

    first: Path
    second: Path | None
    width: int
    plan: Join | None
    window: Window
    flipped: bool = False


@lru_cache(maxsize=64)
def _opened(path: Path, width: int) -> Pixels:
    """Each photo is in many pictures."""
    pixels = open_photo(path, width)
    pixels.setflags(write=False)
    return pixels


def draw_photo(drawing: PhotoDrawing) -> Image.Image:
    """The RGB image of a planned scene, ``FRAME`` pixels in size."""
    picture = _opened(drawing.first, drawing.width)
    if drawing.plan is not None and drawing.second is not None:
        picture = join(picture, _opened(drawing.second, drawing.width), drawing.plan)
    image = framed(picture, drawing.window)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawing.flipped else image


def photo_scene(variant: Variant, words: Sequence[str], boxes: Sequence[Box], reference: str, middle: int = 0) -> Scene:
    """The scene that a frame shows; ``boxes`` in pixels of the frame, ``reference`` the reference object's word."""
    return Scene(
        kind="whatsup",
        variant=variant,
        axis="horizontal",
        contents=tuple(Content(word, word, word) for word in words),
        slots=(0, 1, 2) if len(words) == 3 else (0, 2),
        boxes=tuple(boxes),
        background=reference,
        middle_reference=middle,
        width=FRAME[0],
        height=FRAME[1],
    )


@dataclass(frozen=True)
class Merge:
    """A planned three-object picture: left photo's object, the shared reference, right photo's object."""

    first: BoxedPhoto
    second: BoxedPhoto
    plan: Join
    window: Window

    @property
    def words(self) -> tuple[str, str, str]:
        """The objects, in slot order."""
        return (self.first.photo.object, self.first.photo.reference, self.second.photo.object)

    @property
    def boxes(self) -> tuple[Box, Box, Box]:
        """The objects' boxes in pixels of the frame, in slot order."""
        first, second, third = map(self.window.box, self.plan.boxes)
        return first, second, third

    def scene(self, variant: Variant, middle: int = 0) -> Scene:
        """The scene that this merge shows."""
        return photo_scene(variant, self.words, self.boxes, self.first.photo.reference, middle)

    def planned(self, name: str, split: Split, scene: Scene) -> Planned:
        """``scene`` with its place in the dataset."""
        quality = min(self.first.boxes.quality, self.second.boxes.quality)
        return Planned(name, split, scene, self.first.boxes.source, quality)

    @property
    def drawing(self) -> PhotoDrawing:
        """How to draw it."""
        return PhotoDrawing(self.first.photo.path, self.second.photo.path, self.first.width, self.plan, self.window)


def merges(boxed: Sequence[BoxedPhoto], set_aside: list[SetAside]) -> list[Merge]:
    """Every merge of two photos with one reference and different objects; those that cannot be made are added to ``set_aside``."""
    lefts = [item for item in boxed if item.photo.relation == "left_of"]
    rights = [item for item in boxed if item.photo.relation == "right_of"]
    found = []
    for first in lefts:
        for second in rights:
            if first.photo.reference == second.photo.reference and first.photo.object != second.photo.object:
                try:
                    found.append(_merge(first, second))
                except UserError as error:
                    set_aside.append(SetAside(f"{first.photo.name} + {second.photo.name}", str(error)))
    return found


def answers_differ(words: Sequence[str]) -> bool:
    """Whether no two of the words begin with the same one, by which an answer is told."""
    return len({word.split()[0] for word in words}) == len(words)


def _merge(first: BoxedPhoto, second: BoxedPhoto) -> Merge:
    words = (first.photo.object, first.photo.reference, second.photo.object)
    if not answers_differ(words):
        raise UserError(f"objects {', '.join(words)}: two answers begin with the same word")
    if abs(first.width / second.width - 1) > SAME_SHAPE:
        raise UserError(f"photos are {first.width} and {second.width} px wide at height {HEIGHT}: not from one camera")
    stretch = first.width / second.width
    boxes = replace(second.boxes, left=_stretched(second.boxes.left, stretch), right=_stretched(second.boxes.right, stretch))
    plan = plan_merge(first.boxes, boxes, first.width)
    return Merge(first, second, plan, plan_window(plan.boxes, plan.width, HEIGHT))


def _stretched(box: Box, factor: float) -> Box:
    return (box[0] * factor, box[1], box[2] * factor, box[3])
