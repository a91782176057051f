"""Faults that a checkpoint, a picture or a prompt can bring into a run: each is found where it is met first, and said in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vlm_spatial.errors import UserError
from vlm_spatial.models.finite import require_finite
from vlm_spatial.models.inputs import image_key
from vlm_spatial.models.load import load_adapter, processor_identity

pytestmark = pytest.mark.model

PROMPT = "which object is on the left ?"


@pytest.fixture(params=["gemma3", "qwen2_vl"])
def folder(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint(request.param), tmp_path / "model"))


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def test_values_that_overflow_are_refused_with_the_layer(folder: Path, image: Image.Image) -> None:
    adapter = load_adapter(folder, device="cpu")
    prepared = adapter.prepare([image], [PROMPT])
    shown = (image, PROMPT, {})
    require_finite(adapter, adapter.run(prepared)[0], lambda _: shown, "question q")
    next(p for name, p in adapter.language_blocks[1].named_parameters() if "down_proj" in name).mul_(1e38).mul_(1e38)
    with pytest.raises(UserError, match=r"question q: computes NaN or infinite values in float32, the first at language\.1; "):
        require_finite(adapter, adapter.run(prepared)[0], lambda _: shown, "question q")
    logits = torch.zeros(1, adapter.vocabulary)
    logits[0, 3] = float("nan")
    fine = load_adapter(folder, device="cpu", dtype="bfloat16")
    with pytest.raises(UserError, match="which the model without this intervention does not; use smaller alphas"):
        require_finite(fine, logits, lambda _: shown, "question q")


def test_pictures_are_told_apart_by_what_the_model_sees(folder: Path) -> None:
    """Equal indices, other palettes: other pictures; another mode with the same colours: the same one."""
    one = Image.fromarray(np.arange(96 * 96, dtype=np.uint8).reshape(96, 96) % 4)
    palettes = [[255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9], [0, 0, 0, 90, 90, 0, 0, 90, 90, 255, 255, 255]]
    pictures = []
    for palette in palettes:
        picture = one.copy()
        picture.putpalette(palette)
        pictures.append(picture)
    assert image_key(pictures[0]) != image_key(pictures[1])
    assert image_key(pictures[0]) == image_key(pictures[0].convert("RGB"))
    adapter = load_adapter(folder, device="cpu")
    cached = [adapter.cache.image(picture)["pixel_values"] for picture in pictures]
    assert not torch.equal(*cached)
    assert torch.equal(cached[1], adapter.cache.image(pictures[1].convert("RGB"))["pixel_values"])


def test_prompts_with_marks_of_the_template_are_refused(folder: Path, image: Image.Image) -> None:
    adapter = load_adapter(folder, device="cpu")
    mark = adapter.processor.tokenizer.convert_ids_to_tokens(adapter.model.config.image_token_id)
    with pytest.raises(UserError, match="a mark that the model's own chat template writes"):
        adapter.prepare([image], [f"what is {mark} ?"])


def test_images_that_the_processor_refuses_are_named(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = load_adapter(checkpoint("qwen2_vl"), device="cpu")
    with pytest.raises(UserError, match="image of 4000×8 pixels: the checkpoint's image processor refuses it"):
        adapter.prepare([Image.new("RGB", (4000, 8))], [PROMPT])
    folder = Path(shutil.copytree(checkpoint("qwen2_vl"), tmp_path / "model"))
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")) | {"do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="image of 97×95 pixels: the checkpoint's image processor refuses it"):
        load_adapter(folder, device="cpu").prepare([Image.new("RGB", (97, 95))], [PROMPT])


@pytest.mark.parametrize("harm", [{"size": {"height": 80, "width": 80}}, {"size": {"height": 96, "width": 48}}, {"do_resize": False}])
@pytest.mark.parametrize("family", ["gemma3", "internvl", "llava", "llava_onevision", "paligemma"])
def test_image_sizes_that_the_model_does_not_have_are_one_line(
    family: str, harm: dict[str, object], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Refused when loading, or put right: LLaVA's size is set by its adapter, OneVision's base image is always resized."""
    folder = Path(shutil.copytree(checkpoint(family), tmp_path / "model"))
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")) | harm
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if (family == "llava" and "size" in harm) or (family == "llava_onevision" and "do_resize" in harm):
        load_adapter(folder, device="cpu").prepare([Image.new("RGB", (97, 97))], [PROMPT])
        return
    with pytest.raises(UserError, match=r"makes (images|tiles) of .* the model (reads|expects)") as error:
        load_adapter(folder, device="cpu")
    assert "\n" not in str(error.value)


def lora(folder: Path, module: str, rows: int, columns: int, **settings: object) -> Path:
    """A LoRA adapter of rank 2 for one module, as PEFT saves it."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (2, columns), "lora_B": (rows, 2)}
    made = {f"base_model.model.{module}.{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(made, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("module", ["model.language_model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj"])
@pytest.mark.slow
def test_adapters_are_merged_and_part_of_the_identity(folder: Path, tmp_path: Path, module: str, image: Image.Image) -> None:
    base = load_adapter(folder, device="cpu")
    name = "model.language_model.layers.1.self_attn.q_proj"
    before = base.model.get_submodule(name).weight.clone()
    given = lora(tmp_path / "lora", module, *before.shape)
    merged = load_adapter(folder, device="cpu", peft=str(given))
    held = {key.split(".")[-2]: tensor for key, tensor in load_file(given / "adapter_model.safetensors").items()}
    torch.testing.assert_close(merged.model.get_submodule(name).weight, before + 3 * held["lora_B"] @ held["lora_A"])
    assert merged.identity.weights != base.identity.weights
    other = load_adapter(folder, device="cpu", peft=str(lora(tmp_path / "again", module, *before.shape, use_rslora=True)))
    assert len({adapter.identity.weights for adapter in (base, merged, other)}) == 3
    logits = [adapter.run(adapter.prepare([image], [PROMPT]))[0] for adapter in (base, merged)]
    assert not torch.allclose(*logits, atol=1e-3)


@pytest.mark.parametrize(
    ("module", "shape", "settings", "says"),
    [
        ("model.language_model.layers.9.self_attn.q_proj", (32, 32), {}, "which the model does not have"),
        ("model.language_model.layers.1.self_attn.q_proj", (31, 32), {}, "does not fit the model's weight"),
        ("model.language_model.layers.1.self_attn.q_proj", (32, 32), {"use_dora": True}, "use_dora True is not supported"),
        ("model.language_model.layers.1.self_attn.q_proj", (32, 32), {"peft_type": "IA3"}, "peft_type IA3; only LORA"),
        ("model.language_model.layers.1.self_attn.q_proj", (32, 32), {"r": 0}, "needs r and lora_alpha"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, module: str, shape: tuple[int, int], settings: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        load_adapter(folder, device="cpu", peft=str(lora(tmp_path / "lora", module, *shape, **settings)))


def test_another_image_processor_is_another_identity(folder: Path) -> None:
    adapter = load_adapter(folder, device="cpu")
    kind, _, settings = adapter.identity.processor.partition(" ")
    assert kind == type(adapter.processor.image_processor).__name__
    # As where torchvision is installed: the same settings, another class.
    images = adapter.processor.image_processor
    torchvision = type("Torchvision", (type(images),), {})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(images, "__class__", torchvision)
        assert processor_identity(adapter.processor).startswith("Torchvision ")
    changed = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")) | {"image_mean": [0.4, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(changed), encoding="utf-8")
    again = load_adapter(folder, device="cpu")
    assert again.identity.processor.partition(" ")[2] != settings
    assert again.identity.weights == adapter.identity.weights


@pytest.mark.slow
def test_pixels_of_a_family_with_native_resolution(checkpoint: Callable[[str], Path]) -> None:
    limits: list[dict[str, int]] = [{"max_pixels": 48 * 48}, {}, {"min_pixels": 96 * 96}]
    adapters = [load_adapter(checkpoint("qwen2_vl"), device="cpu", **limit) for limit in limits]
    assert [adapter.grid(96, 96).size for adapter in adapters] == [9, 36, 36]
    assert [adapter.grid(48, 48).size for adapter in adapters] == [9, 9, 36]
    with pytest.raises(UserError, match="min_pixels 9216 is more than max_pixels 2304"):
        load_adapter(checkpoint("qwen2_vl"), device="cpu", min_pixels=96 * 96, max_pixels=48 * 48)
    with pytest.raises(UserError, match="for families with native resolution"):
        load_adapter(checkpoint("gemma3"), device="cpu", max_pixels=48 * 48)
