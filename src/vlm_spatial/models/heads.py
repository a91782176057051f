"""What attention heads of the language model write, from the plain forward pass."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, attention_of, edited_blocks, head_width
from vlm_spatial.models.decoder import arguments_of_ids
from vlm_spatial.models.inputs import Prompt


def head_outputs(
    adapter: Adapter, image: Image.Image, prompt: Prompt, position: int, edits: Sequence[BlockEdit] = ()
) -> Float[Tensor, "layers heads width"]:
    """What every head hands to the output projection at one position of a prompt, float32 on the CPU.

    Args:
        edits: made in that pass.
    """
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            seen[layer] = inputs[0][0, position].unflatten(-1, (-1, head_width(adapter))).float().cpu()

        return hook

    prepared = adapter.prepare([image], [prompt])
    blocks = list(adapter.language_blocks)
    handles = [attention_of(block).o_proj.register_forward_pre_hook(keep(layer)) for layer, block in enumerate(blocks)]
    try:
        with edited_blocks(adapter, edits, lambda edit: arguments_of_ids(adapter, prepared, edit)):
            adapter.run(prepared)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([seen[layer] for layer in range(len(blocks))])
