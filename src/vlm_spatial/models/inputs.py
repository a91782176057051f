"""Images and prompts to model inputs: each distinct image and prompt goes through the processor once, rows are left-padded."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.pixels import DirectPixels

Value = TypeVar("Value")

# Enough for the scenes of one batch and their counterfactuals; a 448-pixel image is 5 to 10 MB of pixel values.
_IMAGES_KEPT = 64
_PROMPTS_KEPT = 4096


SHOWN_ONCE = "vlm_spatial: shown once"
"""Key of ``Image.info``: the image is not worth remembering, which saves the cost of its key."""


def as_rgb(image: Image.Image) -> Image.Image:
    """The image itself where it is RGB (Pillow's own conversion would copy it), else a converted one."""
    return image if image.mode == "RGB" else image.convert("RGB")


def image_key(image: Image.Image) -> tuple[Any, ...]:
    """Equal for images of equal content. Pixels can be changed in place, so the object itself is no key."""
    return image.size, image.mode, hashlib.sha1(image.tobytes(), usedforsecurity=False).digest()


@dataclass(frozen=True)
class Rows:
    """Tokens of a batch, left-padded to the longest row.

    Attributes:
        attention: True at tokens, False at padding.
        visual: True at visual tokens.
    """

    ids: Int[Tensor, "batch positions"]
    attention: Bool[Tensor, "batch positions"]
    visual: Bool[Tensor, "batch positions"]


class ProcessorCache:
    """Runs a processor, remembering what it made of the last images and prompts.

    Args:
        processor: image processor, tokenizer and chat template.
        image_token: id of the tokens that stand for the image in the model's input.
        image_options: options for the image processor, beyond those of the checkpoint.
        resized: ``(width, height)`` in pixels, if all that the image processor does is to resize every image to it, rescale
            and normalise: a faster way is then taken, with the same values to the last bit.
    """

    def __init__(
        self, processor: Any, image_token: int, image_options: dict[str, Any] | None = None, resized: tuple[int, int] | None = None
    ) -> None:
        self._processor = processor
        self._image_token = image_token
        self._options = image_options or {}
        self._resized = resized
        self._images: OrderedDict[Any, dict[str, Tensor]] = OrderedDict()
        self._prompts: OrderedDict[Any, list[int]] = OrderedDict()

    def image(self, image: Image.Image) -> dict[str, Tensor]:
        """What the image processor makes of one image; known images by their content, not by their identity."""
        if SHOWN_ONCE in image.info:
            return self._pixels(as_rgb(image))
        return _remembered(self._images, image_key(image), _IMAGES_KEPT, lambda: self._pixels(as_rgb(image)))

    @cached_property
    def _pixels(self) -> Callable[[Image.Image], dict[str, Tensor]]:
        if self._resized is None:
            return self._process
        return DirectPixels(self._process, self._resized, self._processor.image_processor.resample)

    def _process(self, image: Image.Image) -> dict[str, Tensor]:
        made = self._processor.image_processor(images=[image], return_tensors="pt", **self._options)
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def tokens(self, prompt: str, image: Image.Image) -> list[int]:
        """Token ids of the chat turn with ``image`` and ``prompt`` and the start of the answer."""
        return _remembered(self._prompts, (prompt, image.size), _PROMPTS_KEPT, lambda: self._tokenize(prompt, image))

    def _tokenize(self, prompt: str, image: Image.Image) -> list[int]:
        content = [{"type": "image", "image": image.convert("RGB")}, {"type": "text", "text": prompt}]
        made = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            processor_kwargs={"images_kwargs": self._options} if self._options else {},
        )
        return list(made["input_ids"][0])

    def rows(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Rows:
        """Token ids of a batch.

        Raises:
            UserError: if the batch is empty or the lists differ in length.
        """
        if len(images) != len(prompts) or not images:
            raise UserError(f"inputs: {len(images)} images and {len(prompts)} prompts; give one prompt for each image, at least one")
        lists = [self.tokens(prompt, image) for image, prompt in zip(images, prompts, strict=True)]
        longest = max(map(len, lists))
        padding = self._processor.tokenizer.pad_token_id
        ids = torch.tensor([[padding] * (longest - len(row)) + row for row in lists])
        attention = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in lists])
        return Rows(ids=ids, attention=attention, visual=(ids == self._image_token) & attention)


def visual_positions(visual: Bool[Tensor, "batch positions"], cells: int) -> Int[Tensor, "batch cells"]:
    """Where each visual token stands in its row.

    Raises:
        UserError: if a row does not hold ``cells`` visual tokens.
    """
    counts = sorted(set(visual.sum(dim=1).tolist()))
    if counts != [cells]:
        raise UserError(f"inputs: the prompt holds {counts} visual tokens where the image has {cells}; use the checkpoint's own processor")
    return visual.nonzero()[:, 1].reshape(-1, cells)


def _remembered(store: "OrderedDict[Any, Value]", key: Any, limit: int, make: Callable[[], Value]) -> Value:
    if key not in store:
        store[key] = make()
        if len(store) > limit:
            store.popitem(last=False)
    store.move_to_end(key)
    return store[key]
