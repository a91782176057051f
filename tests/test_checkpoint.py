"""New checkpoint folders are ordinary ones: transformers alone loads and runs them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils import is_torchvision_available

from vlm_spatial.errors import UserError
from vlm_spatial.models.organisms.checkpoint import new_checkpoint

pytestmark = pytest.mark.model

WORDS = ["what", "is", "on", "the", "left?", "red", "green", "blue", "left", "middle", "right", "blue-green"]
FAMILIES = ("gemma3", "qwen2_vl", "qwen2_5_vl")


def conversation(colour: str, prompt: str) -> list[dict]:
    image = Image.new("RGB", (448, 448), colour)
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]


@pytest.mark.parametrize("family", FAMILIES)
def test_model_and_tokenizer_load_and_logits_depend_on_the_image(family: str, tmp_path: Path) -> None:
    folder = new_checkpoint(tmp_path / family, family, WORDS)
    model, tokenizer = AutoModelForImageTextToText.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    text = tokenizer.apply_chat_template(conversation("red", "what is on the left?"), tokenize=False, add_generation_prompt=True)
    mark = "<start_of_image>" if family == "gemma3" else "<|image_pad|>"
    assert text.count(mark) == 1
    expanded = text.replace(mark, f"{tokenizer.image_token}" * 36)
    ids = tokenizer(expanded, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert int((ids == model.config.image_token_id).sum()) == 36
    kind = (ids == model.config.image_token_id).long()
    logits = []
    for colour in ("red", "blue"):
        pixels = processor(images=[Image.new("RGB", (448, 448), colour)], return_tensors="pt")
        pixels.pop("num_crops", None)
        if family != "gemma3":
            assert pixels["image_grid_thw"].tolist() == [[1, 12, 12]]
        kinds = {"token_type_ids": kind} if family == "gemma3" else {"mm_token_type_ids": kind}
        logits.append(model(input_ids=ids, **kinds, **pixels).logits[:, -1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_gemma3_processor_takes_a_batch_and_pads_on_the_left(tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(new_checkpoint(tmp_path / "g", "gemma3", WORDS))
    batch = processor.apply_chat_template(
        [conversation("red", "what is on the left?"), conversation("blue", "what?")],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"return_tensors": "pt", "padding": True},
    )
    assert batch["pixel_values"].shape == (2, 3, 96, 96)
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist())
    assert batch["attention_mask"][1, 0] == 0
    assert batch["token_type_ids"].sum(dim=1).tolist() == [36, 36]


@pytest.mark.skipif(not is_torchvision_available(), reason="transformers' video processor needs torchvision")
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_qwen_processor_loads_whole_with_torchvision(family: str, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(new_checkpoint(tmp_path / "q", family, WORDS))
    assert type(processor).__name__ == {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answers_tokens_do_not_depend_on_what_stands_before(family: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(new_checkpoint(tmp_path / "t", family, WORDS))
    prompt = tokenizer.apply_chat_template(conversation("red", "what?"), tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for answer in ("red", "left", "blue-green"):
        alone = tokenizer(answer, add_special_tokens=False)["input_ids"]
        for space in ("", " "):
            assert tokenizer(prompt + space + answer, add_special_tokens=False)["input_ids"] == [*before, *alone]
        assert tokenizer.unk_token_id not in alone
        assert tokenizer.decode(alone[:1]) == answer.split("-")[0]


def test_weights_depend_on_the_seed_only_and_leave_torchs_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights = [
        load_file(new_checkpoint(tmp_path / f"c{i}", "gemma3", WORDS, seed) / "model.safetensors") for i, seed in enumerate((1, 1, 2))
    ]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_bad_input_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed are gemma3, qwen2_vl, qwen2_5_vl"):
        new_checkpoint(tmp_path / "x", "bert", WORDS)
    with pytest.raises(UserError, match="found none"):
        new_checkpoint(tmp_path / "x", "gemma3", [])
    assert not (tmp_path / "x").exists()
