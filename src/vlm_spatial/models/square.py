"""Families whose images all become one square, with patches in raster order: CLIP, SigLIP and InternViT towers."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.inputs import Rows
from vlm_spatial.models.raster import RasterAdapter
from vlm_spatial.models.template import TemplateAdapter
from vlm_spatial.models.values import Prepared, Site, SiteValues
from vlm_spatial.tokens import TokenGrid


class SquareAdapter(RasterAdapter):
    """Vision blocks make ``[batch, class tokens + patches, features]``, the connector ``[batch, cells, features]``."""

    class_tokens: ClassVar[int] = 0
    """Tokens before the patches."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Cells along one side of the grid."""

    @abstractmethod
    def connect(self, states: Tensor) -> Tensor:
        """The connector's output for the last vision block's."""

    def grid(self, width: int, height: int) -> TokenGrid:  # noqa: ARG002 - every image becomes the same square
        return TokenGrid(self.side, self.side)

    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:  # noqa: ARG002
        return {"pixel_values": self.pixels([one["pixel_values"] for one in made])}

    def pixels(self, of_each: Sequence[Tensor]) -> Tensor:
        """One tensor of all images' pixel values.

        Raises:
            UserError: if the image processor makes images of another size than the vision encoder reads.
        """
        size = self.model.config.vision_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        for pixels in of_each:
            if tuple(pixels.shape[-2:]) != (height, width):
                raise UserError(
                    f"{self.identity.checkpoint}: its image processor makes images of {pixels.shape[-1]}×{pixels.shape[-2]} pixels where "
                    f"the model reads {width}×{height}; use the preprocessor_config.json (size, do_resize) that it was published with"
                )
        return torch.cat(list(of_each)).to(self.dtype)

    def encode(self, prepared: Prepared) -> None:
        self.model.model.get_image_features(prepared.inputs["pixel_values"])

    def vision_block(self, layer: int, states: Tensor) -> Tensor:
        """Block ``layer`` alone."""
        return self.vision_blocks[layer](states, attention_mask=None)

    def resume_vision(
        self,
        layer: int,
        values: SiteValues,
        grid: TokenGrid,
        rest: Tensor | None = None,
        earlier: SiteValues | None = None,  # noqa: ARG002
    ) -> SiteValues:
        states = self._to_patches(values, grid)
        if rest is not None:
            states = torch.cat([rest.to(states), states], dim=1)
        for index in range(layer + 1, len(self.vision_blocks)):
            states = self.vision_block(index, states)
        return self.connect(states).unsqueeze(2)

    def read(self, site: Site, output: Tensor, prepared: Prepared) -> SiteValues:
        if site.startswith("vision."):
            return self._to_cells(output[:, self.class_tokens :], prepared.grid)
        return output.unsqueeze(2) if site == "connector" else self.read_language(output, prepared)

    def write(self, site: Site, output: Tensor, values: SiteValues, prepared: Prepared) -> Tensor:
        if site.startswith("vision."):
            return torch.cat([output[:, : self.class_tokens], self._to_patches(values, prepared.grid).to(output)], dim=1)
        return values.squeeze(2).to(output.dtype) if site == "connector" else self.write_language(output, values, prepared)

    def rest(self, site: Site, output: Tensor, prepared: Prepared) -> Tensor | None:  # noqa: ARG002
        return output[:, : self.class_tokens].clone() if self.class_tokens and site.startswith("vision.") else None

    @classmethod
    def changed(cls, site: Site, output: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        if not site.startswith("vision."):
            return change(output)
        return torch.cat([output[:, : cls.class_tokens], change(output[:, cls.class_tokens :])], dim=1)


class TemplateSquareAdapter(SquareAdapter, TemplateAdapter):
    """A square, without the family's processor class."""


def square_of(size: Any) -> tuple[int, int] | None:
    """``(width, height)`` that an image processor resizes to, if its ``size`` names both."""
    named = {name: size[name] for name in ("width", "height") if name in size}
    width, height = named.get("width"), named.get("height")
    return (int(width), int(height)) if width and height else None


def whole_root(number: int) -> int | None:
    """The square root of a square number; None for another."""
    return math.isqrt(number) if math.isqrt(number) ** 2 == number else None
