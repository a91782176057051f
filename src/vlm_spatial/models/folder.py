"""Checkpoint folders, judged without loading anything (nor torch): architecture, weight files, processor files."""

from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.families import ARCHITECTURES
from vlm_spatial.models.weights import check_weights

# Any one of each row is enough; transformers has written all of them at some time.
_PROCESSOR: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json", "tokenizer.model", "vocab.json"),
    ("preprocessor_config.json", "processor_config.json"),
)
_JSON = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "chat_template.json",
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
_TEMPLATE_HOLDERS = ("processor_config.json", "tokenizer_config.json")
# Larger files, tokenizers of real models, are looked at where they begin and end.
_PARSED_BELOW = 2 * 1024**2


def check_folder(folder: Path) -> None:
    """Refuse what cannot be a whole checkpoint of a supported family; reads a few kilobytes.

    Raises:
        UserError: for an unsupported architecture, weights that are missing, cut short or pickled, and a processor without its files.
    """
    architecture_of(folder)
    check_weights(folder)
    check_processor(folder)


def architecture_of(folder: Path) -> str:
    """The supported architecture that ``config.json`` names.

    Raises:
        UserError: if there is none.
    """
    config = config_file(folder)
    contents = read_json(config, _AGAIN)
    architectures = (contents.get("architectures") if isinstance(contents, dict) else None) or ["none"]
    for architecture in ARCHITECTURES:
        if architecture in architectures:
            return architecture
    raise UserError(
        f"{config}: architecture {architectures[0]} is not supported; supported are {', '.join(ARCHITECTURES)} "
        "(a new one is one module in src/vlm_spatial/models/families)"
    )


def config_file(folder: Path) -> Path:
    """``config.json``, which every checkpoint has.

    Raises:
        UserError: if there is none.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder}: not a checkpoint folder, it has no config.json; give a folder as save_pretrained writes it")
    return config


def check_processor(folder: Path) -> None:
    """Refuse a folder that lacks the tokenizer, the image processor or the chat template, or has broken JSON for them.

    Raises:
        UserError: naming the file.
    """
    for names in _PROCESSOR:
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{folder}: no complete processor (no {' or '.join(names)}); save it beside the weights with save_pretrained")
    held: dict[str, Any] = {name: _json(folder / name) for name in _JSON if (folder / name).is_file()}
    in_a_file = any((folder / name).exists() for name in _TEMPLATES)
    if not in_a_file and not any(isinstance(held.get(name), dict) and held[name].get("chat_template") for name in _TEMPLATE_HOLDERS):
        raise UserError(f"{folder}: the processor has no chat template; an instruction-tuned checkpoint is needed")


_AGAIN = "correct it if you edited it, or download or save the checkpoint again"


def _json(path: Path) -> Any:
    """What a file holds; ``None`` for a large one, which is only looked at where it begins and ends."""
    if path.stat().st_size < _PARSED_BELOW:
        return read_json(path, _AGAIN)
    with path.open("rb") as stream:
        begin = stream.read(1)
        stream.seek(-64, 2)
        end = stream.read().rstrip()[-1:]
    if (begin, end) not in ((b"{", b"}"), (b"[", b"]")):
        raise UserError(f"{path}: truncated, it does not end as it begins; download or save the checkpoint again")
    return None
