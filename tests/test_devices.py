"""The same float32 logits on the CPU and on a GPU; skipped where there is none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.on_device import set_up_cuda
from vlm_spatial.models.organisms.optimiser import Optimiser

pytestmark = pytest.mark.model


def test_float32_is_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    set_up_cuda()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> tuple[Adapter, Adapter]:
    """The tiny model of each family on the CPU and on the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device to compare with")
    folder = checkpoint(request.param)
    return load_adapter(folder, device="cpu"), load_adapter(folder, device="cuda")


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def test_devices_agree(both: tuple[Adapter, Adapter]) -> None:
    found = []
    for adapter in both:
        prepared = adapter.prepare([noise(0)], ["which object is on the left ?"])
        logits, values = adapter.run(prepared, capture=adapter.sites)
        found.append({"logits": logits, **values})
    for site, expected in found[0].items():
        scale = float(expected.abs().max())
        assert float((found[1][site].cpu() - expected).abs().max()) <= 1e-4 * scale, site


def test_the_engine_on_a_gpu_is_the_plain_pass_on_a_cpu(both: tuple[Adapter, Adapter]) -> None:
    cpu, gpu = both
    pair = PairRuns(
        "pair", Run(noise(0), "which object is on the left ?"), {"counterfactual": Run(noise(1), "which object is on the left ?")}
    )
    cells = [np.arange(6), np.array([3, 20, 35]), np.arange(36)]
    patches = [Patch(0, site, chosen, "counterfactual") for site in cpu.sites for chosen in cells]
    expected, found = run_plain(cpu, [pair], patches), PatchEngine(gpu).run([pair], patches).cpu()
    assert float(((found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)).max()) <= 1e-4


def test_a_training_goes_on_on_a_gpu(checkpoint: Callable[[str], Path]) -> None:
    """What was saved is on the CPU; the optimiser's memory must follow the weights."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device to go on with")
    taken = []
    for restored in (False, True):
        model = load_adapter(checkpoint("gemma3"), device="cuda").model.requires_grad_(True)
        optimiser = Optimiser(model, 10, 0.7)
        for step in range(2):
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, 0.01 * (1 + (number + step) % 3))
            if step == 1 and restored:
                saved = {name: value.cpu() for name, value in optimiser.state().items()}
                optimiser = Optimiser(model, 10, 0.7)
                optimiser.restore(saved)
            optimiser.step(step)
        taken.append([parameter.detach().cpu() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*taken, strict=True))
