"""Loading refuses a checkpoint that its family's adapter would misread; every misreading below gives wrong results in silence otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import family
from vlm_spatial.models.load import load_adapter

pytestmark = pytest.mark.model


def columns_first(_adapter: Adapter, states: torch.Tensor, grid: Any) -> torch.Tensor:
    batch, patches, features = states.shape
    side = int(patches**0.5)
    return states.reshape(batch, side, side, features).transpose(1, 2).reshape(batch, grid.size, -1, features)


@pytest.mark.parametrize(
    ("name", "attribute", "wrong", "says"),
    [
        ("llava", "_to_cells", columns_first, "painting cells"),
        ("pixtral", "_to_cells", columns_first, "painting cells"),
        (
            "mistral3",
            "connect",
            lambda self, states, _grid: self.connector(states.flatten(0, 1), [(96, 96)] * len(states)).flip(0),
            "resumed",
        ),
        ("llava", "rest", lambda _self, _site, output, _prepared: torch.zeros_like(output[:, :1]), "cannot be resumed behind block 0"),
        ("llava", "vision_blocks", property(lambda self: self.model.model.vision_tower.encoder.layers), "vision"),
        ("internvl", "rest", lambda _self, _site, output, _prepared: output[:, 1:2], "cannot be resumed behind block"),
        ("smolvlm", "connect", lambda self, states: self.connector(states), "cannot be resumed behind block"),
        ("paligemma", "logit_cap", None, "give other logits"),
        ("qwen3_vl", "after_block", lambda _self, _layer, hidden, *_: hidden, "give other logits"),
        ("llava_onevision", "cells_of", lambda _self, visual: visual & (visual.cumsum(dim=1) > 1), "give other logits"),
        ("gemma3", "final_norm", torch.nn.Identity(), "give other logits"),
    ],
)
def test_a_model_that_would_be_misread_is_refused(
    name: str, attribute: str, wrong: Any, says: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(name)
    load_adapter(folder, device="cpu")
    monkeypatch.setattr(family(name), attribute, wrong)
    with pytest.raises(UserError, match=says) as raised:
        load_adapter(folder, device="cpu")
    assert "\n" not in str(raised.value)
