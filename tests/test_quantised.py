"""Quantised checkpoints: read, and edited as exactly as others; bitsandbytes is the one that runs on a CPU."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import family as family_named
from vlm_spatial.models.load import load_adapter

# Loading bitsandbytes takes seconds.
pytestmark = [pytest.mark.model, pytest.mark.slow]
if importlib.util.find_spec("bitsandbytes") is None:
    pytest.skip("the package bitsandbytes is not installed (make test does so)", allow_module_level=True)

PROMPT = "which object is on the left ?"


@pytest.fixture(scope="module", params=["gemma3", "qwen2_vl"])
def quantised(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint of a family, saved with 4-bit weights."""
    from transformers import BitsAndBytesConfig

    whole, folder = checkpoint(request.param), tmp_path_factory.mktemp("quantised") / request.param
    shutil.copytree(whole, folder)
    (folder / "model.safetensors").unlink()
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = family_named(request.param).model_class.from_pretrained(
        whole, quantization_config=how, device_map={"": "cpu"}, dtype=torch.float32
    )
    model.save_pretrained(folder)
    return folder


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def logits(adapter: Adapter) -> torch.Tensor:
    return adapter.run(adapter.prepare([noise(0)], [PROMPT]))[0][0]


def test_patches_are_as_exact_as_in_others(quantised: Path) -> None:
    adapter = load_adapter(quantised, device="cpu")
    pair = PairRuns("pair", Run(noise(0), PROMPT), {"counterfactual": Run(noise(1), PROMPT)})
    cells = (np.arange(6), np.array([3, 20, 35]), np.arange(36))
    patches = [Patch(0, site, chosen, "counterfactual") for site in adapter.sites for chosen in cells]
    expected, found = run_plain(adapter, [pair], patches), PatchEngine(adapter).run([pair], patches)
    assert float(((found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)).max()) <= 1e-5


def test_the_weights_are_those_of_the_file(quantised: Path, adapter_of: Callable[[str], Adapter]) -> None:
    """Near the model that was quantised, and not it; nothing is random."""
    whole = logits(adapter_of(quantised.name))
    first, again = logits(load_adapter(quantised, device="cpu")), logits(load_adapter(quantised, device="cpu"))
    assert torch.equal(first, again)
    assert not torch.allclose(first, whole)
    assert float(torch.corrcoef(torch.stack([first, whole]))[0, 1]) > 0.6


def test_no_adapter_is_merged_into_quantised_weights(quantised: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}', encoding="utf-8"
    )
    torch_file = {"base_model.model.x.lora_A.weight": torch.zeros(1, 1)}
    from safetensors.torch import save_file

    save_file(torch_file, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="cannot be merged into quantised weights"):
        load_adapter(quantised, device="cpu", peft=str(tmp_path))
