"""First weights that small models learn from quickly: blocks that whisper, and positions that are heard."""

import torch
from torch import nn

from vlm_spatial.models.adapter import Adapter

# Gemma-3 normalises what every block adds. At gain 1 random blocks drown the embeddings; training then starts with noise.
_BLOCK_GAIN = 0.2
_EMBEDDING_DEVIATION = 0.05
# SigLIP's position embeddings start far below the colours of the patches.
_POSITION_FACTOR = 4.0
# Qwen2's queries and keys have biases. Between biases alone, attention depends on the distance alone: with M-RoPE, on rows and columns.
_BIAS_DEVIATION = 1.5


@torch.no_grad()
def start_gently(adapter: Adapter, seed: int) -> None:
    """Change a new model's first weights in place, as its family needs it; ``seed`` draws what is random."""
    if adapter.family == "gemma3":
        _gemma3(adapter.model)
    else:
        _qwen(adapter, torch.Generator().manual_seed(seed))


def _gemma3(model: nn.Module) -> None:
    """Halves the steps to the first right captions."""
    for name, parameter in model.named_parameters():
        if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            # Gemma's norms multiply by one plus their weight.
            parameter.fill_(_BLOCK_GAIN - 1)
        elif name.endswith("position_embedding.weight"):
            parameter.mul_(_POSITION_FACTOR)
        elif name.endswith("embed_tokens.weight"):
            parameter.mul_(_EMBEDDING_DEVIATION / parameter.std())


def _qwen(adapter: Adapter, random: torch.Generator) -> None:
    """Lets heads attend by place from the first step: the vision encoder knows distances only, so that a place has to be told by
    the language model, from the distance to the text around the image.
    """
    for block in adapter.language_blocks:
        for name, parameter in block.named_parameters():
            if name.endswith(("q_proj.bias", "k_proj.bias")):
                parameter.copy_(_BIAS_DEVIATION * torch.randn(parameter.shape, generator=random))
