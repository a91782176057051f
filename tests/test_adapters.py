"""Every family's adapter: token maps through the real image processor, positions, padding, and reading and writing of sites."""

import copy
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_spatial.config.workflow import Config
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.decoder import Layout
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.families.qwen2_5_vl import Qwen25VLAdapter
from vlm_spatial.models.families.qwen2_vl import Qwen2VLAdapter
from vlm_spatial.models.inputs import _Latest, image_key
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.plain import Hooks
from vlm_spatial.models.values import Prepared
from vlm_spatial.workflow.layout_check import misfits

pytestmark = pytest.mark.model

QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
ROW_BREAKS = ["pixtral", "mistral3"]
PROMPT = "which object is on the left ?"
LONGER = "what is on the left or right of the red square ?"
# Sums of a few hundred float32 terms in another order (batch and padding change the kernels' blocking).
RELATIVE = 1e-5
ATTENTION_OUTPUT = r"attn\.(o_proj|out_proj|proj)\.|attention\.(o_proj|projection_layer)\."


def noise(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module", params=NAMES)
def local(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Adapter:
    """A model whose attention adds nothing, so that every site's value depends on its own pixels alone."""
    adapter = load_adapter(checkpoint(request.param), device="cpu")
    for name, parameter in adapter.model.named_parameters():
        if re.search(ATTENTION_OUTPUT, name):
            parameter.zero_()
    return adapter


def changed_cells(adapter: Adapter, image: Image.Image, blank: Image.Image) -> dict[str, torch.Tensor]:
    runs = [adapter.run(adapter.prepare([one], [PROMPT]), capture=adapter.sites)[1] for one in (image, blank)]
    return {site: (runs[0][site] - runs[1][site]).abs().amax(dim=-1)[0] for site in adapter.sites}


@pytest.mark.parametrize("cell", [0, 5, 13, 30, 35])
def test_a_coloured_cell_changes_its_own_visual_token_at_every_site(local: Adapter, cell: int) -> None:
    blank = Image.new("RGB", (96, 96), "white")
    image = blank.copy()
    image.paste("red", (cell % 6 * 16, cell // 6 * 16, cell % 6 * 16 + 16, cell // 6 * 16 + 16))
    for site, change in changed_cells(local, image, blank).items():
        assert change.amax(dim=1).nonzero().flatten().tolist() == [cell], site


@pytest.mark.parametrize(("cell", "quarter"), [(8, 0), (8, 1), (21, 2), (35, 3)])
def test_patches_of_a_cell_are_in_raster_order(local: Adapter, cell: int, quarter: int) -> None:
    if local.vision_shape[0] == 1:
        pytest.skip("a cell is one patch")
    blank = Image.new("RGB", (96, 96), "white")
    image = blank.copy()
    left, top = cell % 6 * 16 + quarter % 2 * 8, cell // 6 * 16 + quarter // 2 * 8
    image.paste("blue", (left, top, left + 8, top + 8))
    change = changed_cells(local, image, blank)["vision.0"]
    assert change.nonzero().tolist() == [[cell, quarter]]


@pytest.mark.parametrize("side", [48, 192, 448])
def test_token_map_holds_when_the_processor_resizes(local: Adapter, side: int) -> None:
    grid = local.grid(side, side)
    cell = grid.cols + 2
    blank = Image.new("RGB", (side, side), "white")
    image = blank.copy()
    top, left = cell // grid.cols, cell % grid.cols
    image.paste("red", tuple(round(edge) for edge in np.array([left, top, left + 1, top + 1]) * side / grid.cols))
    change = changed_cells(local, image, blank)["vision.0"].sum(dim=1)
    assert change.argmax().item() == cell


@pytest.mark.parametrize(("family", "rows", "cols"), [*((family, 4, 8) for family in QWEN), *((family, 3, 6) for family in ROW_BREAKS)])
def test_oblong_images_keep_their_shape(family: str, rows: int, cols: int, checkpoint: Callable[[str], Path]) -> None:
    adapter = load_adapter(checkpoint(family), device="cpu")
    for name, parameter in adapter.model.named_parameters():
        if re.search(ATTENTION_OUTPUT, name):
            parameter.zero_()
    grid = adapter.grid(16 * cols, 16 * rows)
    assert (grid.rows, grid.cols) == (rows, cols)
    blank = Image.new("RGB", (16 * cols, 16 * rows), "white")
    image = blank.copy()
    image.paste("green", (5 * 16, 2 * 16, 6 * 16, 3 * 16))
    for site, change in changed_cells(adapter, image, blank).items():
        assert change.amax(dim=1).nonzero().flatten().tolist() == [2 * cols + 5], site


@pytest.mark.parametrize("family", NAMES)
def test_oblong_photographs_are_for_families_that_keep_the_shape(family: str, adapter_of: Callable[[str], Adapter], tmp_path: Path) -> None:
    adapter, keeps = adapter_of(family), family in (*QWEN, *ROW_BREAKS)
    shapes = [(48, 96), (96, 96)]
    assert (len({adapter.grid(*size) for size in shapes}) == 2) == keeps
    adapter.check_shapes([(96, 96), (48, 48)])
    if keeps:
        adapter.check_shapes(shapes)
    else:
        with pytest.raises(UserError, match=rf"{family} makes a square of every image.* \(such as 48×96, 96×96 pixels\)"):
            adapter.check_shapes(shapes)
    # And said before any job.
    photographs = {"kind": "boxed", "images": str(tmp_path), "boxes": str(tmp_path / "boxes.csv")}
    values = {
        "datasets": {"own": photographs | {"canvas": "native"}, "square": photographs, "squeezed": photographs | {"canvas": "squeezed"}},
        "models": {"mine": {"checkpoint": adapter.identity.checkpoint, "datasets": ["square", "own", "squeezed"]}},
    }
    found = list(misfits(Config.model_validate(values), tmp_path / "cache.json"))
    assert len(found) == (0 if keeps else 1)
    for key, wrong in found:
        assert key == "models.mine.datasets"
        shown = "own shows photographs in their own shape (canvas: native or as_is)"
        assert wrong.startswith(f"{shown}, and {family} makes a square of every image")


@pytest.mark.parametrize("family", ROW_BREAKS)
def test_marks_stand_between_rows_and_behind_the_last(family: str, adapter_of: Callable[[str], Adapter]) -> None:
    adapter = adapter_of(family)
    prepared = adapter.prepare([noise(25, 96, 48)], [PROMPT])
    words = adapter.processor.tokenizer.convert_ids_to_tokens(prepared.inputs["input_ids"][0].tolist())
    first = words.index("[IMG]")
    row = ["[IMG]"] * 6
    assert words[first : first + 21] == [*row, "[IMG_BREAK]", *row, "[IMG_BREAK]", *row, "[IMG_END]"]
    assert "[IMG]" not in words[first + 21 :]
    assert prepared.visual_positions[0].tolist() == [first + 7 * (cell // 6) + cell % 6 for cell in range(18)]
    assert Layout.of(adapter, noise(25, 96, 48), PROMPT).unbroken == 6


@pytest.mark.parametrize("family", ROW_BREAKS)
def test_a_tokenizer_without_row_marks_is_refused(family: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(family), tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text(encoding="utf-8").replace("[IMG_END]", "[OTHER]"), encoding="utf-8")
    with pytest.raises(UserError, match=r"its tokenizer lacks \[IMG_END\], which end"):
        load_adapter(folder, device="cpu")


def test_connector_is_what_enters_the_language_model(adapter: Adapter) -> None:
    """The model's own row-major image features, which Qwen2.5-VL has un-windowed, are the connector's values."""
    prepared = adapter.prepare([noise(1), noise(2)], [PROMPT, LONGER])
    pixels = {
        name: prepared.inputs[name]
        for name in ("pixel_values", "image_grid_thw", "image_sizes", "batch_num_images")
        if name in prepared.inputs
    }
    with torch.inference_mode():
        features = adapter.model.model.get_image_features(**pixels).pooler_output
    expected = torch.stack(list(features))[:, :36]
    found = adapter.run(prepared, capture=["connector"])[1]["connector"][:, :, 0, : adapter.width]
    assert torch.equal(found, expected)


def test_windowed_order_really_differs(adapter_of: Callable[[str], Adapter]) -> None:
    adapter = adapter_of("qwen2_5_vl")
    assert isinstance(adapter, Qwen25VLAdapter)
    order = adapter._order(adapter.grid(96, 96))
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert order[4:8].tolist() == [6, 7, 8, 9], "a window of four cells goes to its second row before the first row ends"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), site_index=st.integers(0, 5), batch=st.integers(1, 3))
@pytest.mark.parametrize("family", NAMES)
def test_what_is_written_is_read_and_nothing_else_changes(
    adapter_of: Callable[[str], Adapter], family: str, seed: int, site_index: int, batch: int
) -> None:
    adapter = adapter_of(family)
    site = adapter.sites[site_index % len(adapter.sites)]
    generator = torch.Generator().manual_seed(seed)
    prepared = adapter.prepare([noise(seed % 100)] * batch, [PROMPT, LONGER, PROMPT][:batch])
    outputs = []

    def hand_over(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        # The model changes the outputs that are no tensors later on.
        outputs.append(output if isinstance(output, torch.Tensor) else copy.copy(output))

    handle = adapter.module(site).register_forward_hook(hand_over)
    adapter.run(prepared)
    handle.remove()
    (output,) = outputs
    before = adapter.read(site, output, prepared)
    assert before.shape == (batch, 36, *adapter.site_shape(site))
    values = torch.randn(before.shape, generator=generator)
    written = adapter.write(site, output, values, prepared)
    assert torch.equal(adapter.read(site, written, prepared), values)
    assert torch.equal(adapter.read(site, output, prepared), before), "the output itself stays as it is"
    rest, kept = adapter.rest(site, output, prepared), adapter.rest(site, written, prepared)
    assert (rest is None and kept is None) or torch.equal(rest, kept)
    back = adapter.write(site, written, before, prepared)
    assert torch.equal(adapter.read(site, back, prepared), before)
    if isinstance(output, torch.Tensor):
        assert torch.equal(back, output)


def test_self_patch_changes_nothing(adapter: Adapter) -> None:
    prepared = adapter.prepare([noise(3), noise(4)], [PROMPT, LONGER])
    clean, values = adapter.run(prepared, capture=adapter.sites)
    for site in adapter.sites:
        patched, _ = adapter.run(prepared, edits={site: lambda _, own=values[site]: own})
        assert torch.equal(patched, clean), site


def test_patching_all_tokens_before_the_language_model_is_the_source_run(adapter: Adapter) -> None:
    clean, source = (adapter.prepare([noise(seed)], [PROMPT]) for seed in (5, 6))
    expected, values = adapter.run(source, capture=adapter.sites)
    untouched, _ = adapter.run(clean)
    assert relative(untouched, expected) > 0.01, "the two images must give different answers for this test to mean anything"
    # A class token that stays makes another image of it.
    for site in (site for site in adapter.sites if site == "connector" or (adapter.whole_state and site.startswith("vision"))):
        patched, _ = adapter.run(clean, edits={site: lambda _, own=values[site]: own})
        assert relative(patched, expected) <= RELATIVE, site


def test_image_attention_is_as_the_family_says(adapter: Adapter) -> None:
    """A change of the last visual token reaches the first one where attention inside the image is bidirectional."""
    prepared = adapter.prepare([noise(7)], [PROMPT])

    def change_last(values: torch.Tensor) -> torch.Tensor:
        edited = values.clone()
        edited[:, -1] += 1
        return edited

    def first_token(inputs: Prepared, edits: dict | None) -> torch.Tensor:
        # The second block is a full-attention one: the last token lies outside the first one's sliding window.
        return adapter.run(inputs, edits=edits, capture=["language.1"])[1]["language.1"][0, 0]

    reached = not torch.equal(first_token(prepared, {"connector": change_last}), first_token(prepared, None))
    assert reached is (adapter.reach != "causal")
    if adapter.reach == "image":
        silent = Prepared({k: v for k, v in prepared.inputs.items() if k != "token_type_ids"}, prepared.visual_positions, prepared.grid)
        assert torch.equal(first_token(silent, {"connector": change_last}), first_token(silent, None))


def test_batching_and_padding_change_nothing(adapter: Adapter) -> None:
    images, prompts = [noise(8), noise(9), noise(10)], [PROMPT, LONGER, "left ?"]
    prepared = adapter.prepare(images, prompts)
    assert not prepared.inputs["attention_mask"].all(), "rows must differ in length for this test to mean anything"
    logits, values = adapter.run(prepared, capture=adapter.sites)
    for row, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        alone, own = adapter.run(adapter.prepare([image], [prompt]), capture=adapter.sites)
        assert relative(logits[row], alone[0]) <= RELATIVE
        for site in adapter.sites:
            assert relative(values[site][row], own[site][0]) <= RELATIVE, site


def test_a_run_does_not_depend_on_the_one_before(adapter: Adapter) -> None:
    first = adapter.prepare([noise(11)], [PROMPT])
    expected, _ = adapter.run(first)
    adapter.run(adapter.prepare([noise(12), noise(13)], [LONGER, "left ?"]))
    assert torch.equal(adapter.run(first)[0], expected)


@pytest.mark.parametrize("family", QWEN)
def test_qwen_positions_are_those_of_the_paper(family: str, adapter_of: Callable[[str], Adapter]) -> None:
    """Text counts up; a visual token has the image's start, plus its row, plus its column; text goes on after the longer side."""
    adapter = adapter_of(family)
    assert isinstance(adapter, Qwen2VLAdapter)
    images = [noise(14, 128, 64), noise(15, 128, 64)]
    prepared = adapter.prepare(images, [PROMPT, LONGER])
    grid = prepared.grid
    for row in range(2):
        real = prepared.inputs["attention_mask"][row].bool()
        start = int((prepared.visual_positions[row, 0] - (~real).sum()).item())
        cell_row, cell_col = np.divmod(np.arange(grid.size), grid.cols)
        image = np.stack([np.zeros_like(cell_row), cell_row, cell_col]) + start
        after = start + max(grid.rows, grid.cols) + np.arange(int(real.sum()) - start - grid.size)
        expected = np.concatenate([np.tile(np.arange(start), (3, 1)), image, np.tile(after, (3, 1))], axis=1)
        assert np.array_equal(prepared.inputs["position_ids"][:, row, real].numpy(), expected)


def test_tokens_are_those_of_the_processor(adapter: Adapter) -> None:
    content = [{"type": "image", "image": noise(16)}, {"type": "text", "text": PROMPT}]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    expected = adapter.processor.apply_chat_template([{"role": "user", "content": content}], **options)
    prepared = adapter.prepare([noise(16)], [PROMPT])
    assert torch.equal(prepared.inputs["input_ids"], expected["input_ids"])
    assert torch.equal(prepared.inputs["pixel_values"], expected["pixel_values"])
    for kinds in ("token_type_ids", "mm_token_type_ids"):
        assert (kinds in prepared.inputs) == (kinds in expected)
        assert kinds not in expected or torch.equal(prepared.inputs[kinds].long(), expected[kinds].long())


@pytest.mark.parametrize(
    ("family", "processor_class", "options"),
    [
        ("llava", "LlavaProcessor", {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}),
        ("idefics3", "Idefics3Processor", {"image_seq_len": 36}),
    ],
)
def test_tokens_and_pixels_are_those_of_transformers_processor_classes(
    family: str, processor_class: str, options: dict, adapter_of: Callable[[str], Adapter]
) -> None:
    adapter = adapter_of(family)
    ours = adapter.processor
    theirs = getattr(transformers, processor_class)(ours.image_processor, ours.tokenizer, chat_template=ours.chat_template, **options)
    content = [{"type": "image", "image": noise(16)}, {"type": "text", "text": PROMPT}]
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={"return_tensors": "pt", "images_kwargs": ours.image_options},
    )
    prepared = adapter.prepare([noise(16)], [PROMPT])
    assert torch.equal(prepared.inputs["input_ids"], expected["input_ids"])
    assert torch.equal(prepared.inputs["pixel_values"], expected["pixel_values"])


def test_an_image_changed_in_place_is_processed_again(adapter: Adapter) -> None:
    image = noise(17)
    before = adapter.prepare([image], [PROMPT]).inputs["pixel_values"]
    image.paste("red", (0, 0, 96, 96))
    assert not torch.equal(adapter.prepare([image], [PROMPT]).inputs["pixel_values"], before)


def test_a_read_only_image_is_known_at_once_and_still_processed_again_when_changed(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(21)
    image.readonly = 1
    key = image_key(image)
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "tobytes", lambda *_: pytest.fail("hashed again"))
        assert image_key(image) == key
    assert image_key(noise(21)) == key
    assert image_key(image.transpose(Image.Transpose.ROTATE_180)) != key
    before = adapter.prepare([image], [PROMPT]).inputs["pixel_values"]
    for change in (lambda: image.paste("red", (0, 0, 96, 96)), lambda: image.putpixel((3, 3), (1, 2, 3))):
        change()
        after = adapter.prepare([image], [PROMPT]).inputs["pixel_values"]
        assert not torch.equal(after, before)
        before = after
        image.readonly = 1
        image_key(image)


def test_what_is_kept_is_limited_by_size_and_the_last_asked_for_stay() -> None:
    made: list[int] = []

    def make(value: int) -> int:
        made.append(value)
        return value

    latest = _Latest[int](10, lambda value: value)
    for value in (4, 5, 4, 3, 5, 20):
        assert latest.get(value, partial(make, value)) == value
    # 4 was asked for after 5, which gave way to 3; 20 is larger than all that may be kept, and stays alone.
    assert made == [4, 5, 3, 5, 20]
    assert len(latest) == 1


def test_resumed_vision_is_the_whole_vision(adapter: Adapter) -> None:
    prepared = adapter.prepare([noise(18), noise(19)], [PROMPT, PROMPT])
    sites = [site for site in adapter.sites if not site.startswith("language")]
    other = torch.rand(36, generator=torch.Generator().manual_seed(0)) < 0.5
    for site in sites[:-1]:

        def edit(values: torch.Tensor) -> torch.Tensor:
            return torch.where(other[:, None, None], values.flip(0), values)

        with Hooks(adapter, sites) as hooks:
            plain = hooks.encode(prepared, capture=sites)
            edited = hooks.encode(prepared, {site: edit}, capture=sites)
        for values, expected in ((plain.values[site], plain), (edit(plain.values[site]), edited)):
            with torch.inference_mode():
                earlier = plain.values["connector"]
                resumed = adapter.resume_vision(int(site.split(".")[1]), values, prepared.grid, plain.rests[site], earlier)
            assert relative(resumed, expected.values["connector"]) <= RELATIVE, site


def test_an_edit_acts_in_every_call(adapter: Adapter) -> None:
    """transformers reads some models' vision features with hooks of its own, which are set in the first call and stay."""
    prepared = adapter.prepare([noise(24)], [PROMPT])
    untouched = adapter.run(prepared)[0]
    for site in adapter.sites[:-1]:
        first, second = (adapter.run(prepared, edits={site: lambda values: values.flip(1)})[0] for _ in range(2))
        assert torch.equal(first, second), site
        assert relative(first, untouched) > 1e-3, site


def test_bad_inputs_are_named(adapter: Adapter) -> None:
    with pytest.raises(UserError, match="1 images and 2 prompts"):
        adapter.prepare([noise(20)], [PROMPT, PROMPT])
    with pytest.raises(UserError, match="at least one"):
        adapter.prepare([], [])
    with pytest.raises(UserError, match=r"language\.99"):
        adapter.module("language.99")
    with pytest.raises(UserError, match="'red' and 'red' are the same tokens"):
        AnswerReader.of(adapter, ["red", "red"])
    with pytest.raises(UserError, match="answer '': is empty"):
        AnswerReader.of(adapter, ["red", ""])
    with pytest.raises(UserError, match=r"its tokenizer does not know the answer 'zebra'; leave this dataset out of the model's datasets"):
        AnswerReader.of(adapter, ["red", "zebra"])
    if adapter.family in QWEN:
        with pytest.raises(UserError, match="token grids"):
            adapter.prepare([noise(21), noise(22, 128, 64)], [PROMPT, PROMPT])


def test_hooks_are_removed_even_when_a_run_fails(adapter: Adapter) -> None:
    prepared = adapter.prepare([noise(23)], [PROMPT])

    def fail(_values: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in adapter.model.modules())

    # transformers sets hooks of its own in the first run.
    adapter.run(prepared)
    before = hooks()
    with pytest.raises(ZeroDivisionError):
        adapter.run(prepared, edits={"language.0": fail})
    with pytest.raises(ZeroDivisionError):
        adapter.run(prepared, text_edits={"embedding": fail})
    assert hooks() == before
