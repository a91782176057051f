"""Boxes of the two objects of a photo, found by comparing the photos of one object set.

The photos of one object set share a camera, a table and the light; only the objects move. So what most of the photos
show at a pixel is background, and what differs from it is an object. Nothing is learned, and each box has a quality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from vlm_spatial.tokens import Box

GOOD = 0.5
"""Boxes of lower quality are set aside."""

# Pixels at height 448: blur before comparing, specks removed, gaps within an object closed.
_BLUR, _SPECK, _GAP = 1.5, 2, 6
# Bounds of the difference (0 to 255) that separates objects from background: less is noise, more would cut pale objects.
_LOWEST, _HIGHEST = 25.0, 80.0
_SMALLEST_SHARE = 0.002


@dataclass(frozen=True)
class ObjectBoxes:
    """The boxes of a photo's left and right object, at the scale of the pixels they were found in.

    Attributes:
        quality: product of the factors in ``factors``, 0 to 1.
        factors: why it is what it is, by name.
    """

    left: Box
    right: Box
    source: str
    quality: float
    factors: Mapping[str, float]


def background(photos: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Float[np.ndarray, "height width 3"]:
    """What the photos of one object set show where no object stands.

    A table and a wall look alike along a row, and objects fill less than half of a row over all photos, so the row's
    median is a first guess; at each pixel the photo nearest to it is background.
    """
    levelled = _levelled(photos)
    guess = _row_medians(levelled)
    nearest = np.abs(levelled - guess[None, :, None]).max(axis=-1).argmin(axis=0)
    chosen = np.take_along_axis(levelled, nearest[None, :, :, None], axis=0)[0]
    return ndimage.median_filter(chosen, size=(5, 5, 1))


def _levelled(photos: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Float[np.ndarray, "photo height width 3"]:
    """Blurred photos, each shifted to the brightness that they have in common (cameras expose each photo anew)."""
    stack = np.stack([ndimage.gaussian_filter(photo.astype(np.float32), (_BLUR, _BLUR, 0)) for photo in photos])
    guess = _row_medians(stack)
    return stack - np.median(stack - guess[None, :, None], axis=(1, 2), keepdims=True)


def _row_medians(stack: Float[np.ndarray, "photo height width 3"]) -> Float[np.ndarray, "height 3"]:
    height = stack.shape[1]
    return np.median(stack.transpose(1, 0, 2, 3).reshape(height, -1, 3), axis=1)


def find_boxes(photos: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[ObjectBoxes | None]:
    """Boxes in each photo of one object set (at least two photos of equal size); None where two objects cannot be told.

    Quality is the product of: ``separate`` (the third largest difference is small beside the second), ``apart``
    (the two objects do not overlap along the row), ``inside`` (neither touches the border), ``contrast`` (they
    differ from the background clearly).
    """
    if len(photos) < 2:
        return [None] * len(photos)
    empty = background(photos)
    differences = np.abs(_levelled(photos) - empty).max(axis=-1)
    return [_boxes(difference) for difference in differences]


def _boxes(difference: Float[np.ndarray, "height width"]) -> ObjectBoxes | None:
    threshold = float(np.clip(_otsu(difference), _LOWEST, _HIGHEST))
    labels, count = ndimage.label(_solid(difference > threshold))
    if count < 2:
        return None
    areas = np.bincount(labels.ravel())[1:]
    order = np.argsort(-areas, kind="stable")
    second, third = int(areas[order[1]]), int(areas[order[2]]) if count > 2 else 0
    if second < _SMALLEST_SHARE * difference.size:
        return None
    slices = ndimage.find_objects(labels)
    boxes = sorted(_box(slices[index]) for index in order[:2])
    inside = difference[np.isin(labels, order[:2] + 1)]
    height, width = difference.shape
    factors = {
        "separate": 1 - third / second,
        **place_factors(boxes[0], boxes[1], width, height),
        # Half of an object's pixels at the threshold and half at twice it is clear enough.
        "contrast": float(np.clip(np.median(inside) / (1.5 * threshold), 0, 1)),
    }
    return ObjectBoxes(boxes[0], boxes[1], "difference", float(np.prod(list(factors.values()))), factors)


def place_factors(left: Box, right: Box, width: float, height: float) -> dict[str, float]:
    """Factors of quality that any two boxes have: ``apart`` along the row, and ``inside`` the photo (an object may be cut off)."""
    overlap = max(0.0, left[2] - right[0]) / min(box[2] - box[0] for box in (left, right))
    touches = any(box[0] <= 0 or box[1] <= 0 or box[2] >= width or box[3] >= height for box in (left, right))
    return {"apart": max(0.0, 1 - overlap), "inside": 0.4 if touches else 1.0}


def _solid(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    opened = ndimage.binary_opening(mask, iterations=_SPECK)
    # Padding keeps the closing from eating what touches the border.
    closed = ndimage.binary_closing(np.pad(opened, _GAP), iterations=_GAP)[_GAP:-_GAP, _GAP:-_GAP]
    return ndimage.binary_fill_holes(closed)


def _box(place: tuple[slice, slice]) -> Box:
    return (float(place[1].start), float(place[0].start), float(place[1].stop), float(place[0].stop))


def _otsu(values: Float[np.ndarray, "height width"]) -> float:
    """The threshold that parts ``values`` into two classes of largest variance between them (Otsu 1979); 256 if all are alike."""
    counts, edges = np.histogram(values, bins=256, range=(0, 256))
    weight = np.cumsum(counts)
    total = np.cumsum(counts * edges[:-1])
    below, above = weight[:-1], weight[-1] - weight[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total[:-1] / below - (total[-1] - total[:-1]) / above) ** 2
    if np.isnan(between).all():
        return float(edges[-1])
    return float(edges[1:-1][int(np.nanargmax(between))])
