"""Oddities of the published run: off by default, each as it is described, each named in the report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from real_checkpoints import real_checkpoint
from stage_inputs import make_reader
from vlm_spatial.config.quirks import QuirkSettings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.crosswise import crosswise_cases, crosswise_plan
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.neutral import NeutralEncoder
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.patch import PairRuns, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.alone import moving
from vlm_spatial.scenes.dataset import Dataset

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("readers")
    return {family: make_reader(folder / family, family) for family in ("gemma3", "qwen2_vl")}


def odd(checkpoint: Path, **quirks: object) -> Adapter:
    return load_adapter(checkpoint, device="cpu", quirks=quirks)


def test_nothing_is_on_by_default() -> None:
    assert QuirkSettings().named() == ()
    assert QuirkSettings().digest == ""
    on = QuirkSettings(running_positions=True, second_bos=True, shifted_cells=1, background_cells=144)
    assert len(on.named()) == 4
    assert on.digest != QuirkSettings(running_positions=True).digest


def test_running_positions_are_those_of_a_text_model(checkpoint: Callable[[str], Path], picture: Callable[..., Image.Image]) -> None:
    """transformers' own text model counts through where it is given no positions; the image's own scheme gives other logits."""
    adapter = odd(checkpoint("qwen2_vl"), running_positions=True)
    image, prompt = picture("red", "green"), "which object is on the left ?"
    prepared = adapter.prepare([image], [prompt])
    connector = adapter.run_vision(prepared)["connector"]
    embedded = adapter.embed(prepared.inputs["input_ids"], prepared.visual_positions, connector)
    hidden = adapter.model.model.language_model(inputs_embeds=embedded, attention_mask=prepared.inputs["attention_mask"]).last_hidden_state
    expected = adapter.model.lm_head(hidden[:, -1]).detach()
    torch.testing.assert_close(adapter.run(prepared)[0], expected, rtol=1e-4, atol=1e-5)
    found = PatchEngine(adapter).clean([PairRuns("pair", Run(image, prompt))])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    plain = load_adapter(checkpoint("qwen2_vl"), device="cpu")
    assert (plain.run(plain.prepare([image], [prompt]))[0] - expected).abs().max() > 1e-4
    assert plain.identity != adapter.identity


def test_a_second_bos_stands_before_the_first(checkpoint: Callable[[str], Path], picture: Callable[..., Image.Image]) -> None:
    image, prompt = picture("red"), "which object ?"
    plain, twice = load_adapter(checkpoint("gemma3"), device="cpu"), odd(checkpoint("gemma3"), second_bos=True)
    (ids, cells), (again, moved) = (adapter.tokens(image, prompt) for adapter in (plain, twice))
    bos = plain.processor.tokenizer.bos_token_id
    assert again[0].tolist() == [bos, *ids[0].tolist()]
    assert ids[0, 0] == bos
    assert torch.equal(moved, cells + 1)


def test_what_a_model_cannot_have_is_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"quirks\.running_positions: Gemma3"):
        odd(checkpoint("gemma3"), running_positions=True)
    with pytest.raises(UserError, match=r"quirks\.second_bos: .* no begin-of-sequence token"):
        odd(checkpoint("qwen2_vl"), second_bos=True)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_published_ablation_cell_by_cell(tiny: Dataset, readers: dict[str, Path], shift: int) -> None:
    """By loops over cells: the middle slot's cells of the object alone, the blank canvas elsewhere, each missed by ``shift``."""
    limit = 15
    adapter = odd(readers["gemma3"], shifted_cells=shift, background_cells=limit)
    encoder = NeutralEncoder(adapter, tiny, "?", place="middle")
    scene = tiny.scenes.filter(variant="pair", axis="vertical")["scene_id"][0]
    grid = adapter.grid(*tiny.size(scene))
    own = torch.randn(1, grid.size, *adapter.site_shape("connector"), generator=torch.Generator().manual_seed(0))
    found = encoder.edit(scene)(own)[0]
    drawn = encoder._draw([scene])
    [empty] = [encoder._plain_canvas(colour, size) for colour, size in drawn.colours]
    alone = list(encoder._encode(drawn.canvases))
    boxes, expected = tiny.boxes(scene), own[0].clone()
    objects = tiny.tokens(scene, grid).objects
    for cell in range(grid.size - shift):
        slots = np.flatnonzero(objects[:, cell])
        if len(slots):
            rows, cols = moving(boxes[slots[0]], boxes, grid, *tiny.size(scene), 1)
            expected[cell + shift] = alone[slots[0]][cell + shift + rows * grid.cols + cols]
        elif cell < limit:
            expected[cell + shift] = empty[cell + shift]
    torch.testing.assert_close(found, expected)
    assert objects[:, limit:].any()
    assert torch.equal(found[-1], own[0, -1])


def test_the_crosswise_sweep_misses_its_cells(tiny: Dataset, readers: dict[str, Path]) -> None:
    adapter = load_adapter(readers["gemma3"], device="cpu")
    case = next(case for case in crosswise_cases(read_cases(tiny, adapter, "vision")) if case.axis == "horizontal")
    (plain,), (missed,) = (crosswise_plan(["language.0"], ("strip",), 0, shift=shift)(case) for shift in (0, 1))
    last = case.tokens.grid.size - 1
    kept = [(to, of) for to, of in zip(plain.to_cells.tolist(), plain.from_cells.tolist(), strict=True) if max(to, of) < last]
    assert list(zip(missed.to_cells.tolist(), missed.from_cells.tolist(), strict=True)) == [(to + 1, of + 1) for to, of in kept]
    runs = case.runs({name: tiny.image(name) for name in case.shown})
    expected = run_plain(adapter, runs, [missed.patch(0)])
    found = PatchEngine(adapter).run(runs, [missed.patch(0)])
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


# --- doubts about the published run that a tokenizer settles ------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(real_checkpoint(tmp_path_factory.mktemp("real") / "gemma3", "gemma3", gemma_side=448), device="cpu")


TURNS = [
    {"role": "system", "content": [{"type": "text", "text": "Reply with one token."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "The color of the left square is ____ "}]},
]


@pytest.mark.slow
def test_text_of_gemmas_template_gets_a_second_bos_and_moves_the_image(gemma: Adapter) -> None:
    """Doubt 2: whoever tokenizes what the template wrote finds the image one token later than in the template's own tokens."""
    image = Image.new("RGB", (64, 64))
    text = gemma.processor.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    ids = gemma.processor(text=text, images=[image], do_pan_and_scan=False)["input_ids"][0]
    bos, soft = gemma.processor.tokenizer.bos_token_id, gemma.model.config.image_token_id
    assert ids[:3].count(bos) == 2
    assert ids.count(soft) == 256
    own = gemma.processor.apply_chat_template(
        [TURNS[0], {**TURNS[1], "content": [{"type": "image", "image": image}, TURNS[1]["content"][1]]}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        processor_kwargs={"images_kwargs": {"do_pan_and_scan": False}},
    )["input_ids"][0]
    assert list(own).count(bos) == 1
    assert ids.index(soft) == list(own).index(soft) + 1


@pytest.mark.slow
def test_gemmas_template_trims_the_blank_and_has_no_system_turn(gemma: Adapter) -> None:
    """Doubt 5."""
    text = gemma.processor.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert "is ____<end_of_turn>" in text
    assert text.startswith("<bos><start_of_turn>user\nReply with one token.\n\n<start_of_image>")
    assert "system" not in text


@pytest.mark.slow
def test_qwens_template_keeps_the_blank_and_the_system_turn(tmp_path: Path) -> None:
    """Doubt 5, and no begin-of-sequence token to double."""
    qwen = load_adapter(real_checkpoint(tmp_path / "qwen", "qwen2_vl"), device="cpu")
    text = qwen.processor.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nReply with one token.<|im_end|>\n<|im_start|>user\n")
    assert "is ____ <|im_end|>" in text
    assert qwen.processor.tokenizer.bos_token_id is None
