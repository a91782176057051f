"""Families that are used without their processor class; see :class:`vlm_spatial.models.processing.TemplateProcessor`."""

from typing import Any, ClassVar

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import ProcessorCache
from vlm_spatial.models.processing import TemplateProcessor
from vlm_spatial.tokens import TokenGrid


class TemplateAdapter(Adapter):
    """Needs of a checkpoint the tokenizer, the image processor and the chat template only."""

    placeholder: ClassVar[str] = "<image>"
    """What the chat template writes for an image."""

    @classmethod
    def load_processor(cls, folder: str) -> Any:
        return TemplateProcessor.load(folder, cls.placeholder)

    def use_template(self, options: dict[str, Any]) -> None:
        """Set up processor and cache.

        Args:
            options: for the image processor.
        """
        self.processor.image_string = lambda image: self.image_string(self.grid(*image.size))
        self.processor.image_inputs = self.image_inputs
        self.processor.image_options = options
        self.cache = ProcessorCache(self.processor, self.model.config.image_token_id, options)

    @property
    def image_token(self) -> str:
        """The token that every visual token has."""
        return self.processor.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)

    def image_string(self, grid: TokenGrid) -> str:
        """The text of an image of that token grid."""
        return self.image_token * grid.size
