"""The same float32 logits on the CPU and on a GPU; skipped where there is none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_spatial.models.load import load_adapter, no_tf32

pytestmark = pytest.mark.model


def test_float32_is_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    no_tf32()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to compare with")
@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
def test_devices_agree(family: str, checkpoint: Callable[[str], Path]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    found = []
    for device in ("cpu", "cuda"):
        adapter = load_adapter(checkpoint(family), device=device)
        prepared = adapter.prepare([image], ["which object is on the left ?"])
        logits, values = adapter.run(prepared, capture=adapter.sites)
        found.append({"logits": logits, **values})
    for site, expected in found[0].items():
        scale = float(expected.abs().max())
        assert float((found[1][site].cpu() - expected).abs().max()) <= 1e-4 * scale, site
