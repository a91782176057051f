"""The published 7B and 4B configurations, cut down in depth only, go through extraction and interchange.

In float32: a CPU without bfloat16 arithmetic takes minutes for a scene of this width.
"""

import pytest
import torch
from benchmarks.genuine import genuine_adapter
from benchmarks.real_size import measured

from vlm_spatial.tokens import TokenGrid

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_published_configurations_run_with_two_layers(family: str) -> None:
    result = measured(family, 2, 1, torch.device("cpu"), scenes=1, pairs=1, memory_gb=4.0, dtype="float32")
    # Embeddings, one vision block and two language blocks, by hand from the published widths.
    assert result["parameters"] == pytest.approx({"qwen2_vl": 1.624e9, "gemma3": 0.885e9}[family], rel=0.02)
    assert result["extraction"]["scenes"] == 1
    assert result["extraction"]["sites"] == 1 + 1 + 2
    assert result["interchange"]["patches"] == 2 * 4


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_the_canvas_gives_the_published_grid(family: str) -> None:
    adapter = genuine_adapter(family, 1, 1, device="meta")
    assert adapter.grid(448, 448) == TokenGrid(16, 16)
