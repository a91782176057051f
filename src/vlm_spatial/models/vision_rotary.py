"""Rotary positions of a vision encoder, with other frequencies while a context lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlm_spatial.models.adapter import Adapter


@contextmanager
def rescaled_rotary(adapter: Adapter, alpha: float, power: float) -> Iterator[None]:
    """The vision encoder turns frequency i of n, from fast to slow, ``1 + alpha (i / n) ** power`` times as fast.

    Args:
        adapter: of a family whose vision encoder has rotary positions (``vision_rotary_path``).
        alpha: 0 changes nothing.
        power: the higher, the fewer slow frequencies change.
    """
    assert adapter.vision_rotary_path is not None
    module = adapter.model.get_submodule(adapter.vision_rotary_path)
    own = module.inv_freq
    assert isinstance(own, torch.Tensor)
    share = torch.arange(len(own), device=own.device, dtype=own.dtype) / len(own)
    module.inv_freq = own * (1 + alpha * share**power)
    try:
        yield
    finally:
        module.inv_freq = own
