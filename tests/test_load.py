"""Loading: what the identity of weights depends on, and one clear line for everything that can be wrong."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file

from damaged_files import Harm, both, cut_short, edited, gone, holds, renamed
from vlm_spatial.errors import UserError
from vlm_spatial.models import load, weights
from vlm_spatial.models.families import ARCHITECTURES, family_of
from vlm_spatial.models.folder import check_folder
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.weights import weights_identity

pytestmark = pytest.mark.model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("qwen2_vl"), tmp_path / "model"))


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_is_loaded_with_its_identity(folder: Path) -> None:
    adapter = load_adapter(folder, device="cpu", dtype="bfloat16")
    assert (adapter.identity.architecture, adapter.identity.dtype) == ("Qwen2VLForConditionalGeneration", "bfloat16")
    assert adapter.dtype == torch.bfloat16
    assert adapter.device.type == "cpu"
    assert adapter.identity.weights == weights_identity(folder)


def test_a_folder_saved_by_save_pretrained_is_loaded(folder: Path, tmp_path: Path) -> None:
    """As a user has it: the model in several files, the processor beside it."""
    adapter = load_adapter(folder, device="cpu")
    adapter.model.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    adapter.processor.save_pretrained(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    again = load_adapter(tmp_path / "saved", device="cpu")
    assert again.identity.weights == adapter.identity.weights, "the spread over files is no part of the identity"
    for name, tensor in adapter.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_identity_depends_on_every_weight_and_name_but_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    before = weights_identity(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert weights_identity(moved) == before

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(tensors)[3]
        tensors[name].view(-1)[-1] += 1e-3

    edit_weights(moved, nudge)
    assert weights_identity(moved) != before
    renamed = Path(shutil.copytree(folder, tmp_path / "renamed"))
    edit_weights(renamed, lambda tensors: tensors.update({"other": tensors.pop(sorted(tensors)[0])}))
    assert weights_identity(renamed) != before


@pytest.mark.slow
def test_the_identity_is_that_of_the_weights_that_are_loaded(folder: Path, tmp_path: Path) -> None:
    """transformers loads ``model.safetensors`` where there is one, whatever an index beside it says."""
    index = {"weight_map": dict.fromkeys(load_file(folder / WEIGHTS), "model-00001-of-00001.safetensors")}
    for shard in ("none", "other"):
        beside = Path(shutil.copytree(folder, tmp_path / shard))
        (beside / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        if shard == "other":
            save_file(
                {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}, beside / "model-00001-of-00001.safetensors"
            )
        adapter = load_adapter(beside, device="cpu")
        assert adapter.identity.weights == weights_identity(folder)
        assert torch.equal(
            adapter.model.state_dict()["lm_head.weight"], load_adapter(folder, device="cpu").model.state_dict()["lm_head.weight"]
        )


def test_every_byte_counts_and_is_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache/weights.json"
    time.sleep(0.1)
    before = weights_identity(folder, cache)

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr(weights, "_tensor_digest", fail)
        assert weights_identity(folder, cache) == before

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        largest = max(tensors.values(), key=torch.numel)
        largest.view(-1)[largest.numel() // 2] += 1

    edit_weights(folder, nudge)
    assert weights_identity(folder, cache) != before


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut_short(WEIGHTS), r"model\.safetensors: truncated, \d+ bytes where its header promises \d+"),
        (holds(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), r"model\.safetensors: not a whole safetensors file"),
        (holds(WEIGHTS, ""), r"model\.safetensors: not a whole safetensors file"),
        (renamed(WEIGHTS, "pytorch_model.bin"), r"pickled weights .* save them as safetensors"),
        (
            both(gone(WEIGHTS), holds("model.safetensors.index.json", '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')),
            r"model-00002-of-00002\.safetensors: missing weight file",
        ),
        (gone("config.json"), r"not a checkpoint folder, it has no config\.json"),
        (holds("config.json", "{"), r"config\.json: line 1: is not JSON"),
        (
            edited("config.json", lambda config: config.update(architectures=["LlavaNextForConditionalGeneration"])),
            r"LlavaNextForC.* is not supported; the closest supported one is LlavaFor.* supported are Gemma3.*, Qwen2VL.* one module",
        ),
        (
            lambda folder: edit_weights(folder, lambda tensors: tensors.pop(next(name for name in tensors if "1.mlp.up_proj" in name))),
            r"lacks 1 tensors that config\.json calls for, such as model\.language_model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        (
            edited("config.json", lambda config: config["text_config"].update(intermediate_size=80)),
            r"has other shapes for 9 tensors .*down_proj\.weight \(\[32, 96\] instead of \[32, 80\]\)",
        ),
        (gone("tokenizer.json"), r"no complete processor"),
        (gone("chat_template.jinja"), r"no chat template"),
        (
            edited("preprocessor_config.json", lambda processor: processor.update(patch_size=16)),
            r"cuts patches of 16 px .* the model expects 8 px",
        ),
    ],
)
def test_a_bad_folder_is_one_clear_line(folder: Path, harm: Harm, says: str) -> None:
    harm(folder)
    with pytest.raises(UserError, match=says) as error:
        load_adapter(folder, device="cpu")
    assert str(folder) in one_line(error)


def test_wrong_names_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder, and not a hub id"):
        load_adapter(tmp_path / "nowhere")
    with pytest.raises(UserError, match="dtype 'int8': allowed are float32"):
        load_adapter(tmp_path, dtype="int8")
    with pytest.raises(UserError, match="device 'tpu': allowed are auto"):
        load_adapter(tmp_path, device="tpu")


def test_cuda_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="this machine has none"):
        load_adapter(folder, device="cuda")


class Reply:
    """Enough of a hub's answer for its exceptions."""

    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 403
    request = None


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (lambda: hub.GatedRepoError("gated", response=Reply()), "gated; accept its licence"),
        (lambda: hub.RepositoryNotFoundError("none", response=Reply()), "no such public hub repository"),
        (lambda: hub.RevisionNotFoundError("none", response=Reply()), "revision abc not found"),
        (lambda: hub.LocalEntryNotFoundError("offline"), "cannot be reached .*download it elsewhere"),
        (lambda: ConnectionError("refused"), "cannot be reached"),
    ],
)
def test_hub_failures_are_one_clear_line(raised: Callable[[], Exception], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise raised()

    monkeypatch.setattr(load, "snapshot_download", fail)
    with pytest.raises(UserError, match=says) as error:
        load_adapter("someone/some-model", revision="abc")
    assert "someone/some-model" in one_line(error)


def test_hub_download_asks_for_safetensors_of_the_pinned_revision_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr(load, "snapshot_download", download)
    adapter = load_adapter("someone/some-model", revision="abc", device="cpu")
    assert asked["repository"] == "someone/some-model"
    assert asked["revision"] == "abc"
    assert not any(pattern in ("*", "*.bin", "*.py", "*.pt") for pattern in asked["allow_patterns"])
    assert (adapter.identity.checkpoint, adapter.identity.revision) == ("someone/some-model", "abc")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_clear_line(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(family_of("Qwen2VLForConditionalGeneration").model_class, "from_pretrained", fail)
    with pytest.raises(UserError, match="does not fit into the memory of cpu; set dtype to bfloat16") as raised:
        load_adapter(folder, device="cpu")
    one_line(raised)


def test_a_module_of_another_class_is_refused(folder: Path) -> None:
    adapter = load_adapter(folder, device="cpu")
    adapter.language_blocks[1] = torch.nn.Identity()  # type: ignore[index]
    with pytest.raises(UserError, match="language block 1 is a Identity, expected Qwen2VLDecoderLayer"):
        adapter.check_classes()


def test_folders_are_judged_by_the_architectures_of_all_families() -> None:
    for architecture, known in ARCHITECTURES.items():
        for vision, name in {None: known}.items() if isinstance(known, str) else known.items():
            assert family_of(architecture, vision).architecture == architecture
            assert family_of(architecture, vision).family == name


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["Qwen2_5OmniForConditionalGeneration"]}, "the closest supported one is Qwen2_5_VLForConditionalGeneration, "),
        ({"architectures": ["Gemma3nForConditionalGeneration"]}, "the closest supported one is Gemma3ForConditionalGeneration, "),
        ({"architectures": ["BertModel"]}, "architecture BertModel is not supported; supported are Gemma3"),
        (
            {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"model_type": "siglip_vision_model"}},
            r"vision_config\.model_type siglip_vision_model of LlavaFor.* is not supported; allowed are clip_vision_model, pixtral",
        ),
    ],
)
def test_what_is_not_supported_is_named_beside_what_is(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=says) as raised:
        check_folder(tmp_path)
    assert "config.json: " in str(raised.value)
    one_line(raised)
