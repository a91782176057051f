"""Checkpoint folders, judged without loading anything (nor torch): architecture, weight files, processor files."""

import re
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.families import ARCHITECTURES, OWN_TEMPLATES, family_name
from vlm_spatial.models.quantisation import check_quantisation
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
_ADAPTER = "adapter_config.json"
DEFAULT_TEMPLATE = "default"
_VOCABULARIES = ("tokenizer.json", "vocab.json")
# Larger ones, tokenizers of real models, are looked at where they begin and end.
_PARSED_BELOW = 2 * 1024**2


def check_folder(folder: Path, template: str | None = None, device: str = "auto") -> None:
    """Refuse what cannot be a whole checkpoint of a supported family; reads a few kilobytes. ``load_adapter`` asks it first.

    Args:
        template: name of the chat template to use, of several.
        device: that the model is to run on; a quantised one may need another.

    Raises:
        UserError: for an unsupported architecture, weights quantised as this machine cannot read, PEFT adapters that are not merged,
            weights that are missing, cut short or pickled, and a processor without its files or its chat template.
    """
    _check_no_peft(folder)
    family_in(folder)
    quantised = quantisation(folder)
    if quantised is not None:
        check_quantisation(folder, quantised, device)
    check_weights(folder, quantised=quantised is not None)
    check_processor(folder, template)


def _check_no_peft(folder: Path) -> None:
    if not (folder / _ADAPTER).is_file():
        return
    contents = read_json(folder / _ADAPTER, _AGAIN)
    base = contents.get("base_model_name_or_path") if isinstance(contents, dict) else None
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: is a PEFT adapter of {base}; give that as checkpoint, and this folder as models.*.peft")
    raise UserError(
        f"{folder}: a PEFT adapter ({_ADAPTER}) lies beside the base model, and what would be loaded is not certain; move it to a folder "
        "of its own and give that as models.*.peft, or remove it"
    )


def quantisation(folder: Path) -> dict[str, Any] | None:
    """What ``config.json`` says of how the weights were quantised; None if they were not.

    Raises:
        UserError: if it names no method.
    """
    config = config_file(folder)
    contents = read_json(config, _AGAIN)
    found = contents.get("quantization_config") if isinstance(contents, dict) else None
    if not found:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("quant_method"), str):
        raise UserError(f"{config}: quantization_config names no quant_method; {_AGAIN}")
    return found


def architecture_of(folder: Path) -> str:
    """The supported architecture that ``config.json`` names; see :func:`family_in`."""
    return _named_in(folder)[0]


def family_in(folder: Path) -> str:
    """The family of a checkpoint.

    Raises:
        UserError: if ``config.json`` names no supported architecture, or one with a vision encoder that is not supported.
    """
    return _named_in(folder)[1]


def _named_in(folder: Path) -> tuple[str, str]:
    """Architecture and family."""
    config = config_file(folder)
    contents = read_json(config, _AGAIN)
    contents = contents if isinstance(contents, dict) else {}
    architectures = contents.get("architectures") or ["none"]
    architectures = [architectures] if isinstance(architectures, str) else architectures
    architecture = next((known for known in ARCHITECTURES if known in architectures), str(architectures[0]))
    vision = contents.get("vision_config")
    try:
        return architecture, family_name(architecture, vision.get("model_type") if isinstance(vision, dict) else None)
    except UserError as error:
        raise UserError(f"{config}: {error}") from error


def config_file(folder: Path) -> Path:
    """``config.json``, which every checkpoint has.

    Raises:
        UserError: if there is none.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder}: not a checkpoint folder, it has no config.json; give a folder as save_pretrained writes it")
    return config


def check_processor(folder: Path, template: str | None = None) -> None:
    """Refuse a folder that lacks the tokenizer, the image processor or the chat template, or has broken JSON for them.

    Raises:
        UserError: naming the file.
    """
    for names in _PROCESSOR:
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{folder}: no complete processor (no {' or '.join(names)}); save it beside the weights with save_pretrained")
    for name in _JSON:
        if (folder / name).is_file():
            _json(folder / name)
    chat_template(folder, template)


def chat_template(folder: Path, name: str | None = None) -> str:
    """The chat template of a checkpoint, wherever transformers has ever written it; what is nearer the end here wins:
    ``tokenizer_config.json``, ``processor_config.json``, ``chat_template.json``, ``chat_template.jinja``, ``additional_chat_templates/``.

    Args:
        name: of one of several; the one called ``default``, or the only one, if None.

    Raises:
        UserError: if there is none, none of that name, or it is no Jinja template.
    """
    found: dict[str, str] = {}
    for holder in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        if (folder / holder).is_file():
            contents = _json(folder / holder)
            found.update(_named(contents.get("chat_template") if isinstance(contents, dict) else None, folder / holder))
    if (folder / "chat_template.jinja").is_file():
        found[DEFAULT_TEMPLATE] = _text(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _text(path)
    found = {key: text for key, text in found.items() if text.strip()}
    own = OWN_TEMPLATES.get(architecture_of(folder))
    if own is not None:
        found.setdefault(DEFAULT_TEMPLATE, own)
    if not found:
        raise UserError(f"{folder}: the processor has no chat template; an instruction-tuned checkpoint is needed")
    if name is None and DEFAULT_TEMPLATE not in found and len(found) > 1:
        raise UserError(f"{folder}: has several chat templates, {', '.join(sorted(found))}; choose one in models.*.prompting.chat_template")
    chosen = name or (DEFAULT_TEMPLATE if DEFAULT_TEMPLATE in found else next(iter(found)))
    if chosen not in found:
        raise UserError(f"{folder}: has no chat template {chosen!r}; there are {', '.join(sorted(found))}")
    _check_template(found[chosen], folder)
    return found[chosen]


def _named(value: Any, holder: Path) -> dict[str, str]:
    """Templates by name, of what a JSON file holds under ``chat_template``: a text, texts by name, or a list of name and template."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: value}
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return dict(value)
    if isinstance(value, list) and all(isinstance(each, dict) and isinstance(each.get("template"), str) for each in value):
        return {str(each.get("name", DEFAULT_TEMPLATE)): each["template"] for each in value}
    raise UserError(f"{holder}: its chat_template is no text; download or save the checkpoint again")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); download or save the checkpoint again") from error


def _check_template(text: str, folder: Path) -> None:
    # Only here: folders are judged whenever the workflow is planned, and most of them are judged as they were.
    from jinja2 import Environment, TemplateSyntaxError

    # A mark of transformers' own, for training; it shows nothing.
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(plain)
    except TemplateSyntaxError as error:
        raise UserError(f"{folder}: its chat template is broken (line {error.lineno}: {error.message}); download it again") from error


_AGAIN = "correct it if you edited it, or download or save the checkpoint again"


def _json(path: Path) -> Any:
    """What a file holds; ``None`` for a large vocabulary, which is only looked at where it begins and ends."""
    if path.stat().st_size < _PARSED_BELOW or path.name not in _VOCABULARIES:
        return read_json(path, _AGAIN)
    with path.open("rb") as stream:
        begin = stream.read(1)
        stream.seek(-64, 2)
        end = stream.read().rstrip()[-1:]
    if (begin, end) not in ((b"{", b"}"), (b"[", b"]")):
        raise UserError(f"{path}: truncated, it does not end as it begins; download or save the checkpoint again")
    return None
