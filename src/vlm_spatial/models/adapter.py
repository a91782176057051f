"""What the analysis asks of a vision-language model: one small protocol, one subclass a family."""

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor

from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.errors import UserError
from vlm_spatial.models.inputs import ProcessorCache, Prompt, Rows, visual_positions
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.recipe import Recipe
from vlm_spatial.models.values import EMBEDDING, Classes, Edit, ModelIdentity, Prepared, Reach, Site, SiteValues, TextEdit, TextValues
from vlm_spatial.tokens import TokenGrid


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
    classes: ClassVar[Classes]
    attention: ClassVar[str] = "sdpa"
    """transformers' attention implementation that the model is loaded with."""
    reach: Reach
    """Of visual tokens in the language model."""
    late_entries: int = 0
    """Number of language blocks behind which more of the connector's output enters (DeepStack)."""
    position_axes: ClassVar[tuple[int, ...]] = ()
    """First dimensions of position ids, before rows and positions: (3,) where time, height and width have their own."""
    whole_state: bool = True
    """Whether the cells of any vision block determine the connector's output: no class token, no earlier outputs that it reads."""
    keeps_shape: ClassVar[bool] = False
    """Whether an oblong image stays one, on an oblong grid."""
    quirks: QuirkSettings = QuirkSettings()
    recipe: ClassVar[Recipe]

    vision_path: ClassVar[str]
    """Dotted name of the list of vision blocks."""
    connector_path: ClassVar[str]
    language_path: ClassVar[str] = "model.language_model"
    """Dotted name of the text model, which has ``layers`` and ``norm``."""
    vision_rotary_path: ClassVar[str | None] = None
    """Dotted name of what gives the vision blocks their rotary angles, from its buffer ``inv_freq``; None where there is no such thing."""

    cache: ProcessorCache
    """What the processor made of images and prompts; set by each family."""

    def __init__(self, model: nn.Module, processor: Any, identity: ModelIdentity) -> None:
        # Any: the attributes of torch modules have no static types.
        self.model: Any = model.eval().requires_grad_(False)
        self.processor = processor
        self.identity = identity
        self.check_classes()
        self.verify()

    # --- what a family must say -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def vision_shape(self) -> tuple[int, int]:
        """Patches a cell and features a patch, at vision sites."""

    @abstractmethod
    def grid(self, width: int, height: int) -> TokenGrid:
        """Token grid of an image of that size, as the model's own processor makes it."""

    @abstractmethod
    def image_inputs(self, made: Sequence[Mapping[str, Tensor]], rows: Rows) -> dict[str, Tensor]:
        """The model's inputs besides ids, attention mask and position ids.

        Args:
            made: what the image processor made of each image.
            rows: the prompts.
        """

    @abstractmethod
    def read(self, site: Site, output: Any, prepared: Prepared) -> SiteValues:
        """The visual tokens' values in a site's module output, cells in row-major order."""

    @abstractmethod
    def write(self, site: Site, output: Any, values: SiteValues, prepared: Prepared) -> Any:
        """A copy of a site's module output with the visual tokens' values replaced."""

    @abstractmethod
    def encode(self, prepared: Prepared) -> None:
        """Run the vision encoder and the connector only; hooks read what they make."""

    @abstractmethod
    def resume_vision(
        self, layer: int, values: SiteValues, grid: TokenGrid, rest: Tensor | None = None, earlier: SiteValues | None = None
    ) -> SiteValues:
        """What the connector makes when ``values`` are the output of vision block ``layer`` for every row.

        Args:
            rest: what else the block's output holds, as :meth:`rest` gives it.
            earlier: the connector's values in the untouched run, of which those parts are kept that earlier blocks make.
        """

    # --- what some families say otherwise -------------------------------------------------------------------------

    def verify(self) -> None:  # noqa: B027 - few families have something to check
        """Check that model and processor fit; raise UserError naming what differs."""

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        """Those whose output the connector depends on."""
        return self.model.get_submodule(self.vision_path)

    @property
    def connector(self) -> nn.Module:
        return self.model.get_submodule(self.connector_path)

    @property
    def language_blocks(self) -> Sequence[nn.Module]:
        return self.model.get_submodule(self.language_path).layers

    @property
    def final_norm(self) -> nn.Module:
        """Norm between the last language block and the head."""
        return self.model.get_submodule(self.language_path).norm

    @property
    def logit_cap(self) -> float | None:
        """Logits are squashed into ± this, if the model does so."""
        return None

    def cells_of(self, visual: Bool[Tensor, "batch positions"]) -> Bool[Tensor, "batch positions"]:
        """Which of the image's tokens stand for cells, in row-major order."""
        return visual

    def positions(self, inputs: Mapping[str, Tensor]) -> Int[Tensor, "..."]:
        """Position ids of left-padded rows."""
        return (inputs["attention_mask"].long().cumsum(dim=1) - 1).clamp(min=0)

    def rest(self, site: Site, output: Any, prepared: Prepared) -> Tensor | None:  # noqa: ARG002 - most have none
        """What a vision block's output holds beside the cells (a class token), batch first; None for most."""
        return None

    def after_block(
        self,
        layer: int,  # noqa: ARG002 - most add nothing
        hidden: Float[Tensor, "batch positions features"],
        positions: Int[Tensor, " cells"],  # noqa: ARG002
        connector: SiteValues | None,  # noqa: ARG002
        start: int = 0,  # noqa: ARG002
    ) -> Float[Tensor, "batch positions features"]:
        """What enters language block ``layer + 1`` where block ``layer`` made ``hidden``.

        Args:
            hidden: at the positions from ``start`` on.
            positions: of the cells, in the whole prompt.
            connector: its values; needed where ``layer < late_entries``.
        """
        return hidden

    def with_masks(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The model's inputs with what it would work out from them alone, known from an earlier batch of the same layout."""
        return inputs

    def connector_output(self) -> list[tuple[nn.Parameter, bool]]:
        """Parameters of the connector's last, linear step, and whether their output features come first (last otherwise)."""
        layers = [module for module in self.connector.modules() if isinstance(module, nn.Linear)]
        return [(parameter, True) for parameter in layers[-1].parameters()]

    @classmethod
    def load_processor(cls, folder: str) -> Any:
        """The checkpoint's own processor: image processor, tokenizer and chat template."""
        return AutoProcessor.from_pretrained(folder, local_files_only=True)

    @classmethod
    def changed(cls, site: Site, output: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ARG003 - the same for most
        """A site's module output with ``change`` made to each visual token's features (the last dimension), in any run of the model."""
        return change(output)

    # --- what follows from it -----------------------------------------------------------------------------------

    def prepare(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Prepared:
        """Chat template, image processor, tokenizer (left padding), position ids.

        Raises:
            UserError: if the images do not all give the same token grid, or the lists differ in length.
        """
        rows = self.cache.rows(images, prompts)
        grids = sorted({(grid.rows, grid.cols) for grid in (self.grid(*image.size) for image in images)})
        if len(grids) > 1:
            raise UserError(f"inputs: images of token grids {grids} in one batch; batch only images of one grid")
        grid = TokenGrid(*grids[0])
        made = [self.cache.image(image) for image in images]
        inputs = {"input_ids": rows.ids, "attention_mask": rows.attention.long(), **self.image_inputs(made, rows)}
        running = self.quirks.running_positions
        inputs["position_ids"] = Adapter.positions(self, inputs).expand(3, -1, -1) if running else self.positions(inputs)
        positions = visual_positions(self.cells_of(rows.visual), grid.size)
        return Prepared({name: value.to(self.device) for name, value in inputs.items()}, positions.to(self.device), grid)

    def check_shapes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuse images of several shapes, which a family that makes a square of each would squeeze each in another way.

        Args:
            sizes: width and height of every image.

        Raises:
            UserError: if there are several shapes and the family does not keep them.
        """
        if not self.keeps_shape and len({width / height for width, height in sizes}) > 1:
            shown = ", ".join(f"{width}×{height}" for width, height in sizes[:3])
            raise UserError(
                f"{self.identity.checkpoint}: {self.family} makes a square of every image, and would squeeze these each in another way "
                f"(such as {shown} pixels); give it photographs with canvas: square or squeezed"
            )

    def take_quirks(self, quirks: QuirkSettings) -> None:
        """From here on, do as the published run did.

        Raises:
            UserError: for a quirk that the model cannot have.
        """
        if quirks.running_positions and not self.position_axes:
            raise UserError(f"quirks.running_positions: {self.architecture} has running numbers for positions anyway; leave it out")
        self.quirks = quirks
        self.cache.begin_twice(quirks.second_bos)

    def tokens(self, image: Image.Image, prompt: Prompt) -> tuple[Int[Tensor, "1 positions"], Int[Tensor, "1 cells"]]:
        """Token ids of one prompt, and where each cell's token stands among them; on the CPU, without touching the image's pixels."""
        rows = self.cache.rows([image], [prompt])
        return rows.ids, visual_positions(self.cells_of(rows.visual), self.grid(*image.size).size)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where visual tokens can be read and replaced, in the order of computation."""
        vision = tuple(f"vision.{layer}" for layer in range(len(self.vision_blocks)))
        language = tuple(f"language.{layer}" for layer in range(len(self.language_blocks)))
        return (*vision, "connector", *language)

    @property
    def text_sites(self) -> tuple[Site, ...]:
        """Where any prompt position can be read and replaced."""
        return (EMBEDDING, *(site for site in self.sites if site.startswith("language.")))

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

    @property
    def width(self) -> int:
        """Features of a position in the language model."""
        return self.model.get_input_embeddings().weight.shape[1]

    def site_shape(self, site: Site) -> tuple[int, int]:
        """Patches a cell and features a patch, at a site."""
        if site.startswith("vision."):
            return self.vision_shape
        return 1, self.width * (1 + self.late_entries if site == "connector" else 1)

    @property
    def key_value_width(self) -> int:
        """Features of one position's keys in one language block."""
        text = self.model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(text.num_key_value_heads * head)

    @property
    def mlp_width(self) -> int:
        """Width of the language blocks' MLP."""
        return int(self.model.config.get_text_config().intermediate_size)

    @property
    def parameters(self) -> int:
        """Number of the model's parameters; of packed ones, before packing."""
        return int(self.model.num_parameters())

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

    def check_classes(self) -> None:
        """Raise UserError unless all blocks and the connector are of the family's classes."""
        try:
            found = {"vision": self.vision_blocks, "connector": [self.connector], "language": self.language_blocks}
        except AttributeError as error:
            raise UserError(
                f"{self.identity.checkpoint}: is built differently than {self.architecture} is known to be ({error})"
            ) from error
        for (part, modules), expected in zip(found.items(), self.classes, strict=True):
            for index, module in enumerate(modules):
                if not isinstance(module, expected):
                    raise UserError(
                        f"{self.identity.checkpoint}: {part} block {index} is a {type(module).__name__}, expected "
                        f"{' or '.join(kind.__name__ for kind in expected)}; its {self.architecture} is of a kind that is not supported"
                    )

    def read_language(self, output: TextValues, prepared: Prepared) -> SiteValues:
        """The visual tokens' rows of a language block's output."""
        rows = torch.arange(prepared.batch, device=output.device)[:, None]
        return output[rows, prepared.visual_positions.to(output.device)].unsqueeze(2)

    def write_language(self, output: TextValues, values: SiteValues, prepared: Prepared) -> TextValues:
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
        embedded = self.model.get_input_embeddings()(ids.masked_fill(ids == self.model.config.image_token_id, 0))
        embedded[rows, positions] = connector.squeeze(2)[..., : self.width].to(embedded)
        return embedded

    def head(self, hidden: Float[Tensor, "batch features"]) -> Float[Tensor, "batch vocabulary"]:
        """Logits, float32, from the last language block's output."""
        logits = self.model.get_output_embeddings()(self.final_norm(hidden))
        if self.logit_cap is not None:
            logits = torch.tanh(logits / self.logit_cap) * self.logit_cap
        return logits.float()

    def run(
        self,
        prepared: Prepared,
        *,
        edits: Mapping[Site, Edit] | None = None,
        text_edits: Mapping[Site, TextEdit] | None = None,
        capture: Sequence[Site] = (),
    ) -> tuple[Float[Tensor, "batch vocabulary"], dict[Site, SiteValues]]:
        """One plain forward pass: last-position logits, and the captured sites' values (before any edit).

        This is the reference that faster paths are held against.

        Args:
            edits: what is done to the visual tokens' values, by site.
            text_edits: what is done to all prompt positions' values after that, by language site or ``embedding``.
        """
        with Hooks(self, {*capture, *(edits or {}), *(text_edits or {})}) as hooks:
            logits, found = hooks.run(prepared, edits, text_edits, capture)
        return logits, found.values

    def run_vision(
        self, prepared: Prepared, *, edits: Mapping[Site, Edit] | None = None, capture: Sequence[Site] = ("connector",)
    ) -> dict[Site, SiteValues]:
        """The vision encoder and the connector only: the captured sites' values (before any edit)."""
        with Hooks(self, {*capture, *(edits or {})}) as hooks:
            return hooks.encode(prepared, edits, capture).values
