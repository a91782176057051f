"""A processor without the family's own class: image processor, tokenizer and chat template, and what an image is in text.

Processor classes of several families want packages (torchvision, num2words) for videos, which are never processed here.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from vlm_spatial.models.folder import chat_template
from vlm_spatial.models.inputs import Rows, as_rgb

Messages = Sequence[Mapping[str, Any]]


class TemplateProcessor:
    """Does for images in chat turns what the processor classes of transformers do.

    Attributes:
        placeholder: what the chat template writes for an image.
        image_string: set by the adapter: the text of an image, special tokens and all.
        image_inputs: set by the adapter: the model's inputs besides ids and attention mask.
        image_options: options for the image processor, beyond those of the checkpoint.
    """

    image_string: Callable[[Image.Image], str]
    image_inputs: Callable[[Sequence[Mapping[str, Tensor]], Rows], dict[str, Tensor]]

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None, placeholder: str) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.placeholder = placeholder
        self.image_options: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: str, placeholder: str) -> Self:
        """From a checkpoint folder."""
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.padding_side = "left"
        image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return cls(image_processor, tokenizer, chat_template(Path(folder)), placeholder)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TemplateProcessor":
        # The adapter's own functions, and with them the model, are shared.
        made = TemplateProcessor(
            copy.deepcopy(self.image_processor, memo), copy.deepcopy(self.tokenizer, memo), self.chat_template, self.placeholder
        )
        made.image_string, made.image_inputs, made.image_options = self.image_string, self.image_inputs, self.image_options
        return made

    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        *,
        tokenize: bool = True,
        return_dict: bool = True,  # noqa: ARG002 - always one
        add_generation_prompt: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,  # noqa: ARG002 - the image processor's options are the adapter's
    ) -> Any:
        """Text of conversations, or model inputs of them: left-padded tensors with ``return_tensors`` or of several, else lists of ids."""
        several = not isinstance(conversation[0], Mapping)
        conversations: Sequence[Any] = conversation if several else [conversation]
        texts = [
            self.tokenizer.apply_chat_template(
                list(one), chat_template=self.chat_template, tokenize=False, add_generation_prompt=add_generation_prompt
            )
            for one in conversations
        ]
        if not tokenize:
            return texts if several else texts[0]
        images = [_images(one) for one in conversations]
        lists = [self._ids(text, shown) for text, shown in zip(texts, images, strict=True)]
        if return_tensors is None and not several:
            return {"input_ids": lists}
        longest = max(map(len, lists))
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([[padding] * (longest - len(row)) + row for row in lists])
        attention = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in lists])
        image_token = self.tokenizer.convert_tokens_to_ids(self.image_token)
        made = [self.process(image) for shown in images for image in shown]
        rows = Rows(ids, attention, (ids == image_token) & attention)
        return {"input_ids": ids, "attention_mask": attention.long(), **self.image_inputs(made, rows)}

    @property
    def image_token(self) -> str:
        """The token that every visual token has."""
        return self.tokenizer.image_token if hasattr(self.tokenizer, "image_token") else self.placeholder

    def process(self, image: Image.Image) -> dict[str, Tensor]:
        """What the image processor makes of an image."""
        made = self.image_processor(images=[as_rgb(image)], return_tensors="pt", **self.image_options)
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def _ids(self, text: str, images: Sequence[Image.Image]) -> list[int]:
        for image in images:
            # One by one: what is written for an image holds the placeholder itself.
            text = text.replace(self.placeholder, "\0", 1).replace("\0", self.image_string(image).replace(self.placeholder, "\1"), 1)
        text = text.replace("\1", self.placeholder)
        begun = self.tokenizer.bos_token is not None and self.tokenizer.bos_token in text
        return self.tokenizer(text, add_special_tokens=not begun)["input_ids"]


def _images(conversation: Messages) -> list[Image.Image]:
    return [
        item["image"]
        for message in conversation
        if not isinstance(message["content"], str)
        for item in message["content"]
        if item["type"] == "image"
    ]
