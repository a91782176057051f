"""Damaged and unusual checkpoint folders: each is loaded or refused in one line, and the check before any job agrees with the loading."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from damaged_files import Harm, both, cut_short, edited, gone, holds
from vlm_spatial.cli import app
from vlm_spatial.errors import UserError
from vlm_spatial.models.folder import check_folder
from vlm_spatial.models.load import load_adapter

pytestmark = pytest.mark.model

WEIGHTS, TEMPLATE = "model.safetensors", "chat_template.jinja"
LAYER = "model.language_model.layers.0.self_attn.q_proj"


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    def harm(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return harm


def moved_template(to: str, wrap: Callable[[str], Any]) -> Harm:
    """The chat template in another of the places where transformers has written it."""

    def harm(folder: Path) -> None:
        text = (folder / TEMPLATE).read_text(encoding="utf-8")
        (folder / TEMPLATE).unlink()
        path = folder / to
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".jinja":
            path.write_text(text, encoding="utf-8")
            return
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(held | {"chat_template": wrap(text)}), encoding="utf-8")

    return harm


def sharded(folder: Path) -> None:
    held = sorted(load_file(folder / WEIGHTS).items())
    half = len(held) // 2
    files = {"model-00001-of-00002.safetensors": dict(held[:half]), "model-00002-of-00002.safetensors": dict(held[half:])}
    for name, some in files.items():
        save_file(some, folder / name, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": {key: name for name, some in files.items() for key in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def config(file: str = "config.json", **values: Any) -> Harm:
    return edited(file, lambda held: held.update(values))


def text_config(**values: Any) -> Harm:
    return edited("config.json", lambda held: held["text_config"].update(values))


def no_processor_config(folder: Path) -> None:
    (folder / "processor_config.json").unlink(missing_ok=True)


def to_integers(held: dict[str, torch.Tensor]) -> None:
    name = min(name for name, tensor in held.items() if tensor.ndim == 2)
    held[name] = held[name].to(torch.int8)


CONFIG, IMAGES = "config.json", "preprocessor_config.json"
GOOD = [
    ("as it is", lambda _folder: None),
    ("several files", sharded),
    (
        "a stale index beside a good file",
        holds("model.safetensors.index.json", '{"weight_map": {"a": "model-00001-of-00009.safetensors"}}'),
    ),
    ("a broken index beside a good file", holds("model.safetensors.index.json", "{")),
    ("pickled weights beside good ones", holds("pytorch_model.bin", b"x")),
    ("template in chat_template.json", moved_template("chat_template.json", str)),
    ("template in tokenizer_config.json", moved_template("tokenizer_config.json", str)),
    ("templates as a list", moved_template("tokenizer_config.json", lambda text: [{"name": "default", "template": text}])),
    ("template in processor_config.json", moved_template("processor_config.json", str)),
    ("additional template", moved_template("additional_chat_templates/default.jinja", str)),
    ("the only template has a name", moved_template("additional_chat_templates/vision.jinja", str)),
    ("additional template beside the default", holds("additional_chat_templates/rag.jinja", "{{ messages }}")),
    ("no generation config", gone("generation_config.json")),
    ("no pad token", edited("tokenizer_config.json", lambda config: config.pop("pad_token"))),
    ("tables of older releases", tensors(lambda held: held.update({"model.rotary_emb.inv_freq": torch.ones(4)}))),
    ("a readme", holds("README.md", "# model")),
]
BAD = [
    ("empty config", holds(CONFIG, ""), r"config\.json: .*(JSON|UTF-8|decode)"),
    ("config is a number", holds(CONFIG, "1"), "architecture none is not supported"),
    ("config is binary", holds(CONFIG, b"\xff\xfe\x00"), r"config\.json: .*(JSON|UTF-8|decode)"),
    ("architectures is a text", config(architectures="Qwen"), "architecture Qwen is not supported"),
    ("architectures is empty", config(architectures=[]), "architecture none is not supported"),
    ("architectures of numbers", config(architectures=[1]), "architecture 1 is not supported"),
    ("a text model", config(architectures=["Qwen2ForCausalLM"]), "Qwen2ForCausalLM is not supported"),
    (
        "quantised by bitsandbytes",
        config(quantization_config={"quant_method": "bitsandbytes"}),
        "is quantised .bitsandbytes.",
    ),
    (
        "quantised by AWQ",
        config(quantization_config={"quant_method": "awq", "bits": 4}),
        "is quantised .awq.",
    ),
    (
        "quantised by something new",
        config(quantization_config={"quant_method": "tomorrow"}),
        "is quantised .tomorrow., which transformers cannot run on device 'cpu' .*Unknown quantization type",
    ),
    (
        "quantised, rounding with the batch",
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "8 bits.*depends on what is computed beside it",
    ),
    ("quantised by nothing", config(quantization_config={"bits": 4}), "quantization_config names no quant_method"),
    (
        "quantised weights",
        tensors(to_integers),
        "quantised weights .* is I8.* has no quantization_config",
    ),
    ("layers are a text", text_config(num_hidden_layers="three"), "config.json: is no configuration of .*num_hidden_layers"),
    (
        "width without a meaning",
        text_config(hidden_size=-1),
        "config.json: is no configuration|cannot be loaded as|other shapes",
    ),
    (
        "heads do not divide",
        text_config(num_attention_heads=7),
        "is no configuration|be loaded as|other shapes|lacks",
    ),
    (
        "a layer more than weights",
        text_config(num_hidden_layers=4, layer_types=None),
        "lacks|be loaded",
    ),
    (
        "a layer less than weights",
        text_config(num_hidden_layers=2, layer_types=None),
        "no place for|be loaded",
    ),
    ("weights are a folder", both(gone(WEIGHTS), lambda folder: (folder / WEIGHTS).mkdir()), "missing weight file"),
    ("weights without tensors", holds(WEIGHTS, (2).to_bytes(8, "little") + b"{}"), "holds no tensor"),
    ("weights with a header of numbers", holds(WEIGHTS, (7).to_bytes(8, "little") + b'{"a":1}'), "not a whole safetensors file"),
    ("weights of another model", tensors(lambda held: (held.clear(), held.update(other=torch.ones(2)))), "lacks|has no place"),
    (
        "a tensor too many",
        tensors(lambda held: held.update({"model.extra.weight": torch.ones(2, 2)})),
        "has no place for, such as .*extra.weight",
    ),
    (
        "an adapter not merged",
        tensors(lambda held: held.update({f"{LAYER}.lora_A.weight": torch.ones(2, 32)})),
        "not merged .*lora_A.* models.*peft",
    ),
    ("an adapter beside the base", holds("adapter_config.json", '{"peft_type": "LORA"}'), "lies beside the base model"),
    (
        "an adapter alone",
        both(gone(CONFIG), holds("adapter_config.json", '{"base_model_name_or_path": "Qwen/X"}')),
        "is a PEFT adapter of Qwen/X; give that as checkpoint",
    ),
    ("an index of numbers", both(gone(WEIGHTS), holds("model.safetensors.index.json", '{"weight_map": {"a": 1}}')), "has no weight_map"),
    ("no tokenizer", gone("tokenizer.json"), "no complete processor"),
    ("a tokenizer of nothing", holds("tokenizer.json", "{}"), "no complete processor"),
    ("a tokenizer that is a list", holds("tokenizer.json", "[]"), "no complete processor"),
    (
        "an unknown image processor",
        config(IMAGES, image_processor_type="NoSuchProcessor"),
        "no complete processor",
    ),
    ("broken image settings", cut_short(IMAGES, 5), "JSON"),
    ("image settings are a list", holds(IMAGES, "[]"), "no complete processor"),
    (
        "no image settings",
        both(gone(IMAGES), no_processor_config),
        "no complete processor",
    ),
    ("no chat template", gone(TEMPLATE), "no chat template"),
    ("an empty chat template", holds(TEMPLATE, " \n"), "no chat template"),
    ("a chat template that ends early", holds(TEMPLATE, "{% for message in messages %}"), "chat template is broken .line 1"),
    ("a chat template in another encoding", holds(TEMPLATE, b"\xff\xfe{"), "cannot be read as text"),
    (
        "a chat template that refuses",
        holds(TEMPLATE, "{{ raise_exception('only text here') }}"),
        "cannot be filled in .only text here.",
    ),
    (
        "a chat template of other turns",
        holds(TEMPLATE, "{{ messages[7].content }}"),
        "cannot be filled in|leaves the question out",
    ),
    ("a chat template without the question", holds(TEMPLATE, "hello"), "leaves the question out"),
    (
        "a chat template that is a number",
        both(gone(TEMPLATE), config("tokenizer_config.json", chat_template=3)),
        "its chat_template is no text",
    ),
    (
        "several templates, none the default",
        both(gone(TEMPLATE), holds("additional_chat_templates/a.jinja", "x"), holds("additional_chat_templates/b.jinja", "y")),
        "several chat templates, a, b; choose one in",
    ),
]


# The command builds the model without its weights: whether they fit, the loading finds.
FOUND_BY_LOADING = {
    "a layer more than weights",
    "a layer less than weights",
    "weights of another model",
    "a tensor too many",
}


@pytest.fixture(params=["gemma3", "qwen2_vl"])
def folder(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint(request.param), tmp_path / "model"))


def test_there_are_many() -> None:
    assert len(BAD) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("harm", [harm for _, harm in GOOD], ids=[name for name, _ in GOOD])
def test_a_folder_that_is_whole_is_accepted_before_and_by_the_loading(folder: Path, harm: Harm) -> None:
    harm(folder)
    check_folder(folder)
    adapter = load_adapter(folder, device="cpu")
    image = Image.new("RGB", (96, 96), "red")
    logits, _ = adapter.run(adapter.prepare([image, image], ["which ?", "which object ?"]))
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize(("name", "harm", "says"), BAD, ids=[case[0] for case in BAD])
def test_a_folder_that_is_not_is_one_line(
    folder: Path, name: str, harm: Harm, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(folder)
    with pytest.raises(UserError, match=says) as error:
        load_adapter(folder, device="cpu")
    assert "\n" not in str(error.value)
    models = {"mine": {"checkpoint": str(folder), "datasets": ["squares"]}}
    (tmp_path / "workflow_config.yaml").write_text(
        yaml.safe_dump({"datasets": {"squares": {"kind": "squares"}}, "models": models}), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    checked = CliRunner().invoke(app, ["check"])
    assert checked.exit_code == (name not in FOUND_BY_LOADING), checked.output
    assert checked.exit_code == 0 or checked.output.startswith("error: ")
    assert checked.exit_code == 0 or checked.output.count("\n") == 1
