"""What a scene is: its contents, where they stand, and what else is needed to draw it again, pixel for pixel."""

from dataclasses import dataclass, replace
from typing import Literal

from vlm_spatial.tokens import Axis, Box

CANVAS = 448
"""Side of a rendered scene in pixels: a multiple of what every supported family's patches need."""

Variant = Literal["main", "decorrelated", "single", "blank", "mirror", "pair", "photo", "self_merge"]


@dataclass(frozen=True)
class Content:
    """One object, wherever it stands.

    Attributes:
        word: the answer that names it, one word.
        phrase: how a question refers to it.
        look: what is drawn, read by the renderer of its kind.
    """

    word: str
    phrase: str
    look: str


@dataclass(frozen=True)
class Scene:
    """Objects along one axis, in slot order (left to right, top to bottom).

    Attributes:
        kind: of the dataset, which says how it is drawn.
        slots: slot of each object, ``(0, 1, 2)`` for three objects.
        boxes: pixel box of each object; none at all where they are not known.
        seed: of everything random in the drawing that is not an object (texture, marks, noise).
        distractors: number of nameless marks on the background.
        clutter: number of nameless grey patches behind the objects.
        blur: standard deviation in pixels of a Gaussian blur of the whole image, before noise.
        noise: standard deviation of Gaussian pixel noise, as a share of full scale.
        middle_reference: the neighbour (slot 0 or 2) by which a relation question finds the middle object.
        asking, stem: the question for an object by its place, and the same as an unfinished sentence.
        vocabulary: contents of other scenes, which a question about what is not there may name.
        named: whether questions name the objects that are meant, as in a picture that shows more.
        both_orders: whether every question is asked with its options in either order.
        asked: the slots that questions ask about; None for every one.
        picture: where the photograph lies on the canvas; what surrounds it is padding. None where it fills the canvas.
        photograph: name of the one photograph shown, of which there may be several scenes; None for what is drawn or merged.
        flipped: whether the drawing is mirrored along the axis (``boxes`` are of the mirrored image).
        grid: rows and columns of visual tokens that the picture is laid out for; None where any grid will do.
        bands: pixels along the axis where the strips meet; None for the midpoints between objects.
    """

    kind: str
    variant: Variant
    axis: Axis
    contents: tuple[Content, ...]
    slots: tuple[int, ...]
    boxes: tuple[Box, ...]
    background: str
    seed: int = 0
    distractors: int = 0
    clutter: int = 0
    blur: float = 0.0
    noise: float = 0.0
    middle_reference: int = 0
    asking: str = "Which object is {place}?"
    stem: str = "The object {place} is a"
    vocabulary: tuple[Content, ...] = ()
    flipped: bool = False
    named: bool = False
    both_orders: bool = False
    asked: tuple[int, ...] | None = None
    picture: Box | None = None
    photograph: str | None = None
    width: int = CANVAS
    height: int = CANVAS
    grid: tuple[int, int] | None = None
    bands: tuple[float, float] | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """Answer word of each object."""
        return tuple(content.word for content in self.contents)

    @property
    def phrases(self) -> tuple[str, ...]:
        """How a question refers to each object."""
        return tuple(content.phrase for content in self.contents)


def flip_box(box: Box, axis: Axis, width: float, height: float) -> Box:
    """The box of the same object after the image is mirrored along ``axis``."""
    left, top, right, bottom = box
    return (width - right, top, width - left, bottom) if axis == "horizontal" else (left, height - bottom, right, height - top)


def mirrored(scene: Scene) -> Scene:
    """The scene flipped along its axis: the object of slot 0 now stands in slot 2."""
    side = scene.width if scene.axis == "horizontal" else scene.height
    return replace(
        scene,
        variant="mirror",
        contents=scene.contents[::-1],
        slots=tuple(2 - slot for slot in scene.slots[::-1]),
        boxes=tuple(flip_box(box, scene.axis, scene.width, scene.height) for box in scene.boxes[::-1]),
        flipped=not scene.flipped,
        middle_reference=2 - scene.middle_reference,
        asked=scene.asked and tuple(2 - slot for slot in scene.asked),
        picture=scene.picture and flip_box(scene.picture, scene.axis, scene.width, scene.height),
        bands=scene.bands and (side - scene.bands[1], side - scene.bands[0]),
    )


def with_contents(scene: Scene, contents: tuple[Content, ...]) -> Scene:
    """The same geometry, background and noise, with other objects in the slots."""
    return replace(scene, contents=contents)
