"""The deployable correction on stock transformers models, through the command a user types."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from vlm_spatial.amplification.deploy import Correction
from vlm_spatial.cli import app
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.load import load_adapter
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.saved import save_probes

pytestmark = pytest.mark.model


def _probes(path: Path, adapter: Adapter, site: str) -> Path:
    features = adapter.site_shape(site)[1]
    generator = np.random.default_rng(0)

    def probe() -> Probe:
        weight = generator.standard_normal((3, features)).astype(np.float32)
        zeros, ones = np.zeros(features, np.float32), np.ones(features, np.float32)
        return Probe(weight, np.zeros(3, np.float32), zeros, ones, weight, 1.0, weight[::-1].copy())

    save_probes({(axis, site): probe() for axis in ("horizontal", "vertical")}, {"identity": {"weights": adapter.identity.weights}}, path)
    return path


def _scores(checkpoint: Path, inputs: dict[str, Any], correction: Path | None = None) -> torch.Tensor:
    """Logits of three generated tokens of a stock model."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    # Twice: transformers sets hooks of its own in the first call, which must not outrun the correction in the second.
    with nullcontext() if correction is None else Correction.load(correction).applied_to(model):
        first, second = (torch.cat(model.generate(**inputs, **options).logits) for _ in range(2))
    assert torch.equal(first, second)
    return second


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_a_correction_works_inside_generate(family: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint(family)
    adapter = load_adapter(folder, device="cpu")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    inputs = adapter.prepare([image], ["Which shape is on the left?"]).inputs
    untouched, made = _scores(folder, inputs), tmp_path / "correction.safetensors"
    # The first and the last vision layer: of some families, transformers collects the last one's output itself.
    last = f"vision.{len(adapter.vision_blocks) - 1}"
    for site in ("vision.0", last, "connector"):
        probes = _probes(tmp_path / "probes.safetensors", adapter, site)
        for alpha in ("1", "6") if site == "connector" else ("6",):
            options = ["--model", str(folder), "--probe", str(probes), "--alpha", alpha, "--site", site, "--output", str(made)]
            result = CliRunner().invoke(app, ["amplify", *options])
            assert result.exit_code == 0, result.output
            assert torch.equal(_scores(folder, inputs, made), untouched) == (alpha == "1")


@pytest.mark.slow
def test_type_and_device_are_those_asked_for_and_the_file_is_the_same(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model is looked at in bfloat16 unless told otherwise; the correction comes from the probes alone."""
    folder = checkpoint("gemma3")
    probes = _probes(tmp_path / "probes.safetensors", load_adapter(folder, device="cpu"), "connector")
    loaded = []

    def watched(*arguments: Any, **options: Any) -> Adapter:
        adapter = load_adapter(*arguments, **options)
        loaded.append((options["device"], str(adapter.dtype), adapter.device.type))
        return adapter

    monkeypatch.setattr("vlm_spatial.models.load.load_adapter", watched)
    written = []
    for more in ([], ["--dtype", "float32", "--device", "auto"], ["--dtype", "float16", "--device", "cpu"]):
        output = tmp_path / f"{len(written)}.safetensors"
        asked = ["amplify", "--model", str(folder), "--probe", str(probes), "--alpha", "2", "--output", str(output), *more]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0, result.output
        written.append(Correction.load(output))
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert loaded == [("cpu", "torch.bfloat16", "cpu"), ("auto", "torch.float32", here), ("cpu", "torch.float16", "cpu")]
    for other in written[1:]:
        assert replace(other, basis=written[0].basis, centre=written[0].centre) == written[0]
        assert np.array_equal(other.basis, written[0].basis)
        assert np.array_equal(other.centre, written[0].centre)


@pytest.mark.slow
def test_refusals_are_one_line(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    probes = _probes(tmp_path / "probes.safetensors", load_adapter(checkpoint("gemma3"), device="cpu"), "connector")
    for arguments, said in (
        (["--model", str(checkpoint("qwen2_vl")), "--alpha", "2"], "trained on weights"),
        (["--model", str(checkpoint("gemma3")), "--alpha", "nan"], "alpha: nan"),
        (["--model", str(checkpoint("gemma3")), "--alpha", "2", "--site", "vision.0"], "no probe for vision.0; there are connector"),
        (["--model", str(checkpoint("gemma3")), "--alpha", "2", "--site", "language.0"], "visual tokens only"),
        (["--model", str(tmp_path / "nowhere"), "--alpha", "2"], "no such folder"),
    ):
        result = CliRunner().invoke(app, ["amplify", "--probe", str(probes), "--output", str(tmp_path / "c"), *arguments])
        assert result.exit_code == 1
        assert said in result.stderr
        errors = [line for line in result.stderr.splitlines() if "Loading weights" not in line and line]
        assert len(errors) == 1
    assert not (tmp_path / "c").exists()
