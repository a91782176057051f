"""Whether an adapter reads a loaded model right: tried on the model itself, in a few passes of one small image."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.decoder import Decoder, Layout
from vlm_spatial.models.inputs import SHOWN_ONCE
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import SiteValues

_SIDE = 112
_PROMPT = "Describe the image."
# Largest difference allowed, as a share of the largest value. An adapter that misreads a model is off by much more.
_TOLERANCE = {torch.float32: 1e-4}
_COARSE = 0.1


@torch.inference_mode()
def self_check(adapter: Adapter) -> None:
    """Refuse a model that the adapter misreads: cells at the wrong place, a vision encoder that cannot be resumed, language blocks that
    cannot be replayed, edits that do nothing.

    Raises:
        UserError: saying what differs.
    """
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    problem = _misplaced(adapter, noise) or _not_resumed(adapter, noise) or _not_replayed(adapter, noise)
    if problem is not None:
        raise UserError(
            f"{adapter.identity.checkpoint}: this {adapter.architecture} is not built as family {adapter.family!r} is known to be "
            f"({problem}); results would be wrong, please report the checkpoint's name"
        )


def _misplaced(adapter: Adapter, noise: np.ndarray) -> str | None:
    """A painted cell must change its own patches most, where the first vision block gets them."""
    grid = adapter.grid(_SIDE, _SIDE)
    cells = sorted({grid.cols - 1, grid.size // 2, grid.size - grid.cols})
    images = [noise]
    for cell in cells:
        row, col = divmod(cell, grid.cols)
        top, bottom = (round(edge * _SIDE / grid.rows) for edge in (row, row + 1))
        left, right = (round(edge * _SIDE / grid.cols) for edge in (col, col + 1))
        painted = noise.copy()
        painted[top:bottom, left:right] = 255 - painted[top:bottom, left:right]
        images.append(painted)
    prepared = adapter.prepare([_image(pixels) for pixels in images], [_PROMPT] * len(images))
    entering: list[Tensor] = []
    handle = adapter.vision_blocks[0].register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0].detach().clone()))
    try:
        adapter.encode(prepared)
    finally:
        handle.remove()
    values = adapter.read("vision.0", entering[0], prepared).float()
    changed = (values[1:] - values[:1]).abs().sum(dim=(2, 3)).argmax(dim=1).tolist()
    return None if changed == cells else f"painting cells {cells} of the image changes cells {changed}"


def _not_resumed(adapter: Adapter, noise: np.ndarray) -> str | None:
    """Resuming behind the first and the last vision block must make what a whole pass makes of the same edit, in every call."""
    prepared = adapter.prepare([_image(noise)], [_PROMPT])
    layers = sorted({0, len(adapter.vision_blocks) - 1})
    sites = [*(f"vision.{layer}" for layer in layers), "connector"]
    with Hooks(adapter, sites) as hooks:
        plain = hooks.encode(prepared, capture=sites)
        for layer in layers:
            site = f"vision.{layer}"
            # Not the first call, whose hooks may come earlier than those of later ones.
            edited = hooks.encode(prepared, {site: _flipped}, capture=["connector"]).values["connector"]
            resumed = adapter.resume_vision(
                layer, _flipped(plain.values[site]), prepared.grid, plain.rests[site], plain.values["connector"]
            )
            if _differs(adapter, resumed, edited):
                return f"the vision encoder cannot be resumed behind block {layer}"
            if torch.equal(edited, plain.values["connector"]):
                return f"an edit of vision block {layer} changes nothing"
    return None


def _not_replayed(adapter: Adapter, noise: np.ndarray) -> str | None:
    """Running the language blocks one by one must give the plain pass's logits."""
    image = _image(noise)
    prepared = adapter.prepare([image], [_PROMPT])
    expected, values = adapter.run(prepared, capture=["connector"])
    if not expected.isfinite().all():
        # Overflow is refused where it matters, by its own name.
        return None
    decoder = Decoder(adapter, Layout.of(adapter, image, _PROMPT), prepared)
    connector = values["connector"]
    hidden = adapter.embed(prepared.inputs["input_ids"], prepared.visual_positions, connector)
    for layer in range(decoder.depth - 1):
        hidden, _ = decoder.block(layer, decoder.entering(layer, hidden, connector))
    found, _ = decoder.answer(decoder.entering(decoder.depth - 1, hidden, connector))
    return "its language blocks, run one by one, give other logits" if _differs(adapter, found, expected) else None


def _flipped(values: SiteValues) -> SiteValues:
    return values.flip(1)


def _differs(adapter: Adapter, found: Float[Tensor, "*shape"], expected: Float[Tensor, "*shape"]) -> bool:
    difference = (found.float() - expected.to(found.device).float()).abs().max()
    return bool(difference > _TOLERANCE.get(adapter.dtype, _COARSE) * expected.float().abs().max())


def _image(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.info[SHOWN_ONCE] = True
    return image
