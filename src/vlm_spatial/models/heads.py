"""What attention heads of the language model write, from the plain forward pass."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, Positions, attention_of, edited_blocks, head_width
from vlm_spatial.models.decoder import arguments_of_ids
from vlm_spatial.models.inputs import Prompt


def head_outputs(
    adapter: Adapter, image: Image.Image, prompt: Prompt, positions: Positions, edits: Sequence[BlockEdit] = ()
) -> Float[Tensor, "layers positions heads width"]:
    """What every head hands to the output projection at some positions of a prompt, float32 on the CPU.

    Args:
        edits: made in that pass.
    """
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            seen[layer] = inputs[0][0, positions].unflatten(-1, (-1, head_width(adapter))).float().cpu()

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


def head_gradients(
    adapter: Adapter, image: Image.Image, prompt: Prompt, positions: Positions, measure: Callable[[Tensor], Tensor]
) -> Float[Tensor, "layers positions heads width"]:
    """Derivative of a measure by what every head hands to the output projection at some positions, float32 on the CPU.

    A plain pass of its own, outside inference mode; the weights get no gradients.

    Args:
        measure: of the last position's logits, float32.
    """
    prepared = adapter.prepare([image], [prompt])
    blocks = list(adapter.language_blocks)
    added: dict[int, Tensor] = {}

    def perturb(layer: int) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            # Zeros that are added: their gradient is that of the sum, and no path between the layers is cut.
            added[layer] = torch.zeros_like(inputs[0][0, positions]).requires_grad_()
            moved = inputs[0].clone()
            moved[0, positions] = moved[0, positions] + added[layer]
            return (moved,)

        return hook

    learned = [parameter for parameter in adapter.model.parameters() if parameter.requires_grad]
    handles = [attention_of(block).o_proj.register_forward_pre_hook(perturb(layer)) for layer, block in enumerate(blocks)]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            logits = adapter.model(**prepared.inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float()
            found = torch.autograd.grad(measure(logits), [added[layer] for layer in range(len(blocks))])
    finally:
        for handle in handles:
            handle.remove()
        for parameter in learned:
            parameter.requires_grad_(True)
    return torch.stack([each.unflatten(-1, (-1, head_width(adapter))).float().cpu() for each in found])
