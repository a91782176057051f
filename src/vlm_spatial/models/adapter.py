"""What the analysis asks of a vision-language model: one small protocol, one subclass a family."""

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor

from vlm_spatial.errors import UserError
from vlm_spatial.models.inputs import ProcessorCache, Prompt
from vlm_spatial.tokens import TokenGrid

Site = str
"""``vision.<layer>``, ``connector`` or ``language.<layer>``: a block's output, before any final norm."""

SiteValues = Float[Tensor, "batch cells patches features"]
"""What a site holds at the image: cells are row-major; ``patches`` is 1 from the connector on."""

Edit = Callable[[SiteValues], SiteValues]


@dataclass(frozen=True)
class ModelIdentity:
    """What a result is tied to. ``weights`` is a hash over names, shapes and bytes (or the index) of the weights."""

    checkpoint: str
    revision: str | None
    architecture: str
    weights: str
    dtype: str


@dataclass(frozen=True)
class Prepared:
    """A batch of image-and-question inputs, one image a row, ready for the model.

    Attributes:
        inputs: keyword arguments of the model's forward, on its device, position ids included.
        visual_positions: ``[batch, cells]``, where each visual token stands in the (left-padded) sequence.
        grid: the token grid, one for the whole batch.
    """

    inputs: dict[str, Any]
    visual_positions: Int[Tensor, "batch cells"]
    grid: TokenGrid

    @property
    def batch(self) -> int:
        return self.visual_positions.shape[0]


class Adapter(ABC):
    """A loaded model of one family.

    Subclasses say where the blocks are, how a site's module output is laid out, and how inputs are prepared; reading,
    replacing and running are the same for all and live here.
    """

    family: ClassVar[str]
    architecture: ClassVar[str]
    """Class name in the checkpoint's ``config.json``."""
    model_class: ClassVar[Any]
    """The transformers class of that name."""
    causal_image: ClassVar[bool]
    """Whether an image token attends to earlier positions only (False for Gemma-3)."""

    cache: ProcessorCache
    """What the processor made of images and prompts; set by each family."""

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        # Any: the attributes of torch modules have no static types.
        self.model: Any = model.eval().requires_grad_(False)
        self.processor = processor
        self.identity = identity
        self.verify()

    # --- what a family must say -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def vision_blocks(self) -> Sequence[nn.Module]: ...

    @property
    @abstractmethod
    def connector(self) -> nn.Module: ...

    @property
    @abstractmethod
    def language_blocks(self) -> Sequence[nn.Module]: ...

    @property
    @abstractmethod
    def vision_shape(self) -> tuple[int, int]:
        """Patches a cell and features a patch, at vision sites."""

    @abstractmethod
    def grid(self, width: int, height: int) -> TokenGrid:
        """Token grid of an image of that size, as the model's own processor makes it."""

    @abstractmethod
    def prepare(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Prepared:
        """Chat template, image processor, tokenizer (left padding), position ids.

        Raises:
            UserError: if the images do not all give the same token grid, or the lists differ in length.
        """

    @abstractmethod
    def read(self, site: Site, output: Tensor, prepared: Prepared) -> SiteValues:
        """The visual tokens' values in a site's module output, cells in row-major order."""

    @abstractmethod
    def write(self, site: Site, output: Tensor, values: SiteValues, prepared: Prepared) -> Tensor:
        """A copy of a site's module output with the visual tokens' values replaced."""

    @abstractmethod
    def verify(self) -> None:
        """Check that blocks and connector are of the expected classes; raise UserError naming what differs."""

    @abstractmethod
    def encode(self, prepared: Prepared) -> None:
        """Run the vision encoder and the connector only; hooks read what they make."""

    @abstractmethod
    def resume_vision(self, layer: int, values: SiteValues, grid: TokenGrid) -> SiteValues:
        """What the connector makes when ``values`` are the output of vision block ``layer`` for every row."""

    # --- what follows from it -----------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[Site, ...]:
        vision = tuple(f"vision.{layer}" for layer in range(len(self.vision_blocks)))
        language = tuple(f"language.{layer}" for layer in range(len(self.language_blocks)))
        return (*vision, "connector", *language)

    def matching_sites(self, patterns: Sequence[str]) -> tuple[Site, ...]:
        """Sites that any of ``patterns`` names, in the order of computation; ``vision.-1`` is the last vision block.

        Raises:
            UserError: for a pattern that matches no site.
        """
        depths = {"vision": len(self.vision_blocks), "language": len(self.language_blocks)}
        named = [
            f"{place}.{depths[place] - int(layer[1:])}" if place in depths and re.fullmatch(r"-[1-9]\d*", layer) else pattern
            for pattern in patterns
            for place, _, layer in [pattern.partition(".")]
        ]
        for pattern, name in zip(patterns, named, strict=True):
            if not fnmatch.filter(self.sites, name):
                raise UserError(f"site {pattern!r}: this model has {self.sites[0]} … {self.sites[-1]} and connector")
        return tuple(s for s in self.sites if any(fnmatch.fnmatchcase(s, name) for name in named))

    def module(self, site: Site) -> nn.Module:
        """The module whose output a site is.

        Raises:
            UserError: if the model has no such site.
        """
        if site not in self.sites:
            raise UserError(f"site {site!r}: this model has {self.sites[0]} … {self.sites[-1]} and connector")
        if site == "connector":
            return self.connector
        part, layer = site.split(".")
        return (self.vision_blocks if part == "vision" else self.language_blocks)[int(layer)]

    def module_name(self, site: Site) -> str:
        """Dotted name of a site's module inside the transformers model."""
        module = self.module(site)
        return next(name for name, other in self.model.named_modules() if other is module)

    def site_shape(self, site: Site) -> tuple[int, int]:
        """Patches a cell and features a patch, at a site."""
        if site.startswith("vision."):
            return self.vision_shape
        return 1, self.model.get_input_embeddings().weight.shape[1]

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @classmethod
    def load_processor(cls, folder: str) -> Any:
        """The checkpoint's own processor: image processor, tokenizer and chat template."""
        return AutoProcessor.from_pretrained(folder, local_files_only=True)

    def check_classes(self, vision: type, connector: type, language: type) -> None:
        """Raise UserError unless all blocks and the connector are of these classes."""
        expected = {"vision": vision, "connector": connector, "language": language}
        found = {"vision": self.vision_blocks, "connector": [self.connector], "language": self.language_blocks}
        for part, modules in found.items():
            for index, module in enumerate(modules):
                if not isinstance(module, expected[part]):
                    raise UserError(
                        f"{self.identity.checkpoint}: {part} block {index} is a {type(module).__name__}, expected "
                        f"{expected[part].__name__}; this version of transformers builds {self.architecture} differently"
                    )

    def read_language(self, output: Float[Tensor, "batch positions features"], prepared: Prepared) -> SiteValues:
        """The visual tokens' rows of a language block's output."""
        rows = torch.arange(prepared.batch, device=output.device)[:, None]
        return output[rows, prepared.visual_positions.to(output.device)].unsqueeze(2)

    def write_language(self, output: Float[Tensor, "batch positions features"], values: SiteValues, prepared: Prepared) -> Tensor:
        """A copy of a language block's output with the visual tokens' rows replaced."""
        rows = torch.arange(prepared.batch, device=output.device)[:, None]
        written = output.clone()
        written[rows, prepared.visual_positions.to(output.device)] = values.squeeze(2).to(output)
        return written

    def embed(
        self, ids: Int[Tensor, "batch positions"], positions: Int[Tensor, "batch cells"], connector: SiteValues
    ) -> Float[Tensor, "batch positions features"]:
        """What enters the first language block: token embeddings, with the connector's values at the visual tokens."""
        rows = torch.arange(ids.shape[0], device=ids.device)[:, None]
        # The image token's id may lie outside the vocabulary; its embedding is replaced in any case.
        text = ids.clone()
        text[rows, positions] = 0
        embedded = self.model.get_input_embeddings()(text)
        embedded[rows, positions] = connector.squeeze(2).to(embedded)
        return embedded

    def head(self, hidden: Float[Tensor, "batch features"]) -> Float[Tensor, "batch vocabulary"]:
        """Logits, float32, from the last language block's output."""
        return self.model.lm_head(self.model.model.language_model.norm(hidden)).float()

    def with_masks(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The model's inputs with what it would work out from them alone, known from an earlier batch of the same layout."""
        return inputs

    @torch.inference_mode()
    def run(
        self, prepared: Prepared, *, edits: Mapping[Site, Edit] | None = None, capture: Sequence[Site] = ()
    ) -> tuple[Float[Tensor, "batch vocabulary"], dict[Site, SiteValues]]:
        """One plain forward pass: last-position logits, and the captured sites' values (before any edit).

        This is the reference that faster paths are held against.
        """
        with self._hooked(prepared, edits or {}, capture) as captured:
            output = self.model(**prepared.inputs, use_cache=False, logits_to_keep=1)
        return output.logits[:, -1].float(), captured

    @torch.inference_mode()
    def run_vision(
        self, prepared: Prepared, *, edits: Mapping[Site, Edit] | None = None, capture: Sequence[Site] = ("connector",)
    ) -> dict[Site, SiteValues]:
        """The vision encoder and the connector only: the captured sites' values (before any edit)."""
        with self._hooked(prepared, edits or {}, capture) as captured:
            self.encode(prepared)
        return captured

    @contextmanager
    def _hooked(self, prepared: Prepared, edits: Mapping[Site, Edit], capture: Sequence[Site]) -> Iterator[dict[Site, SiteValues]]:
        """Hooks that capture and edit; always removed."""
        captured: dict[Site, SiteValues] = {}

        def hook_for(site: Site) -> Callable[..., Tensor | None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
                values = self.read(site, output, prepared)
                if site in capture:
                    captured[site] = values.detach().clone()
                return self.write(site, output, edits[site](values), prepared) if site in edits else None

            return hook

        # Resolved before the first hook is set, so that an unknown site leaves none behind.
        modules = {site: self.module(site) for site in {*capture, *edits}}
        handles = [module.register_forward_hook(hook_for(site)) for site, module in modules.items()]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()
