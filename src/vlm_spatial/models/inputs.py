"""Images and prompts to model inputs: each distinct image and prompt goes through the processor once, rows are left-padded."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Int
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.errors import UserError, first_line
from vlm_spatial.models.answer_forms import AnswerForms, Tokens
from vlm_spatial.models.turns import MARK, Chat, fill_in_mark, turns

Value = TypeVar("Value")

# Enough for the scenes of one batch, their counterfactuals and the next batch's: a 448-pixel image is 5 to 10 MB of pixel values.
_IMAGE_BYTES_KEPT = 10**9
_PROMPTS_KEPT = 4096
_KEY = "_vlm_spatial_key"

SHOWN_ONCE = "vlm_spatial: shown once"
"""Key of ``Image.info``: the image is not worth remembering, which saves the cost of its key."""


@dataclass(frozen=True)
class Begun:
    """A prompt whose answer has begun: the model is asked for the token that follows ``tokens``."""

    prompt: str
    tokens: Tokens


Prompt = str | Begun
"""What a model is asked: a question, with the first tokens of its answer or without."""


def as_rgb(image: Image.Image) -> Image.Image:
    """The image itself where it is RGB (Pillow's own conversion would copy it), else a converted one."""
    return image if image.mode == "RGB" else image.convert("RGB")


def image_key(image: Image.Image) -> Hashable:
    """Equal for images of equal content. Pixels can be changed in place, so the object itself is no key.

    Those of a read-only image cannot: Pillow makes a copy first, another ``im``. So its key is worked out once.
    """
    known = getattr(image, _KEY, None)
    if known is not None and image.readonly and known[0] is image.im:
        return known[1]
    # Of the pixels that the model sees: indices mean nothing without their palette.
    key = image.size, hashlib.sha1(as_rgb(image).tobytes(), usedforsecurity=False).digest()
    if image.readonly:
        setattr(image, _KEY, (image.im, key))
    return key


class _Latest(Generic[Value]):
    """Values by key, those asked for last; several threads may ask.

    Args:
        limit: how large all of them may be together; the last one is kept whatever its size.
        size: how large one is.
    """

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Not under the lock: other threads' values are to be had meanwhile, and two that make the same one make equal ones.
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._total += self._size(value)
                while self._total > self._limit and len(self._values) > 1:
                    self._total -= self._size(self._values.popitem(last=False)[1])
        return value


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
    """

    def __init__(self, processor: Any, image_token: int, image_options: dict[str, Any] | None = None) -> None:
        self.prompting = PromptingSettings()
        self.answers = AnswerSettings()
        self._before: list[int] = []
        self._processor = processor
        self._image_token = image_token
        self._options = image_options or {}
        self._images = _Latest[dict[str, Tensor]](_IMAGE_BYTES_KEPT, lambda made: sum(value.nbytes for value in made.values()))
        self._prompts = _Latest[list[int]](_PROMPTS_KEPT)
        self._tokenizing = threading.Lock()

    def image(self, image: Image.Image) -> dict[str, Tensor]:
        """What the image processor makes of one image; known images by their content, not by their identity.

        May be called ahead, from another thread, for images that are going to be shown.
        """
        if SHOWN_ONCE in image.info:
            return self._pixels(as_rgb(image))
        return self._images.get(image_key(image), lambda: self._pixels(as_rgb(image)))

    def _pixels(self, image: Image.Image) -> dict[str, Tensor]:
        try:
            made = self._processor.image_processor(images=[image], return_tensors="pt", **self._options)
        except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
            raise UserError(
                f"image of {image.width}×{image.height} pixels: the checkpoint's image processor refuses it ({first_line(error)}); use "
                "another size, or the processor settings that the checkpoint was published with"
            ) from error
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def tokens(self, prompt: Prompt, image: Image.Image) -> list[int]:
        """Token ids of the chat turn with ``image`` and ``prompt`` and the start of the answer.

        Raises:
            UserError: if the chat template cannot be filled in.
        """
        if isinstance(prompt, Begun):
            return [*self.tokens(prompt.prompt, image), *prompt.tokens]
        return self._prompts.get((prompt, image.size), lambda: self._tokenize(prompt, image))

    def begin_twice(self, twice: bool) -> None:
        """Whether prompts begin with one begin-of-sequence token more than the chat template writes.

        Raises:
            UserError: if the tokenizer has no such token.
        """
        token = self._processor.tokenizer.bos_token_id
        if twice and token is None:
            raise UserError("quirks.second_bos: the checkpoint's tokenizer has no begin-of-sequence token; leave it out")
        self._before = [token] if twice else []
        self._prompts = _Latest(_PROMPTS_KEPT)

    def answer_forms(self, answer: str, template: str | None = None) -> tuple[Tokens, ...]:
        """Tokens of every form in which the model may write ``answer``, see :class:`AnswerForms`."""
        return self._forms.of(answer, template)

    def check(self) -> None:
        """Refuse a chat template that cannot be filled in.

        Raises:
            UserError: with what the template says.
        """
        _ = self._forms

    @cached_property
    def _forms(self) -> AnswerForms:
        text, _ = self._marked
        return AnswerForms(self._processor.tokenizer, text.rpartition(MARK)[2] + self.prompting.answer_prefix, self.answers)

    @cached_property
    def _marked(self) -> tuple[str, bool]:
        """The text around a question, and whether the template wants the system turn plain."""
        return fill_in_mark(lambda chat: str(self._filled_in(chat, tokenize=False)), self.prompting.system)

    def _filled_in(self, chat: Chat, **options: Any) -> Any:
        try:
            return self._processor.apply_chat_template(chat, add_generation_prompt=True, **options)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, StopIteration) as error:
            raise UserError(
                f"chat template: cannot be filled in ({first_line(error)}); choose another one in models.*.prompting.chat_template, or "
                "leave out the system turn"
            ) from error

    def _tokenize(self, prompt: str, image: Image.Image) -> list[int]:
        tokenizer = self._processor.tokenizer
        for mark in {*tokenizer.all_special_tokens, tokenizer.convert_ids_to_tokens(self._image_token)}:
            if mark and mark in prompt:
                raise UserError(f"prompt {prompt!r}: holds {mark!r}, a mark that the model's own chat template writes; leave it out")
        options = {"images_kwargs": self._options} if self._options else {}
        # Tokenizers take one caller at a time.
        with self._tokenizing:
            _, plain = self._marked
            chat = turns(prompt, as_rgb(image), self.prompting.system, plain=plain)
            try:
                made = self._filled_in(chat, tokenize=True, return_dict=True, processor_kwargs=options)
            except UserError:
                # The image processor is asked along with the template; its own fault is said as such.
                self._pixels(as_rgb(image))
                raise
            begun = tokenizer(self.prompting.answer_prefix, add_special_tokens=False)["input_ids"]
        return [*self._before, *made["input_ids"][0], *begun]

    def rows(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Rows:
        """Token ids of a batch.

        Raises:
            UserError: if the batch is empty or the lists differ in length.
        """
        if len(images) != len(prompts) or not images:
            raise UserError(f"inputs: {len(images)} images and {len(prompts)} prompts; give one prompt for each image, at least one")
        lists = [self.tokens(prompt, image) for image, prompt in zip(images, prompts, strict=True)]
        longest = max(map(len, lists))
        # Padding is masked out, so any token would do where a tokenizer has none of its own.
        padding = self._processor.tokenizer.pad_token_id or 0
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
