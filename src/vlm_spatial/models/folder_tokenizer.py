"""A checkpoint folder's tokenizer and chat template without transformers, for what is looked at before any job."""

from datetime import datetime
from pathlib import Path
from typing import Any

from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.folder import chat_template

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "processor_config.json")
_MARK = "question 7261954"


class FolderTokenizer:
    """Tokens of texts, called as transformers' tokenizers are; the same tokens.

    Raises:
        UserError: if ``tokenizer.json`` is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder}: has no tokenizer.json, by which answers could be looked at before any job")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain exceptions
            raise UserError(f"{path}: no tokenizer ({error}); download or save the checkpoint again") from error
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self.unk_token_id: int | None = None if unknown is None else self._tokenizer.token_to_id(unknown)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def pieces(self, ids: tuple[int, ...]) -> str:
        """The tokens of a word, parted by ``|``."""
        return "|".join(self._tokenizer.decode([each], skip_special_tokens=False) for each in ids)


def opening(folder: Path, prompting: PromptingSettings) -> str:
    """What the chat template writes between a question and its answer.

    Raises:
        UserError: if the template cannot be filled in.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    content = [{"type": "image"}, {"type": "text", "text": _MARK}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if prompting.system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompting.system}]})
    # As transformers fills templates in.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(chat_template(folder, prompting.chat_template))
        text = template.render(messages=turns, add_generation_prompt=True, **_special(folder))
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{folder}: chat template: cannot be filled in ({error})") from error
    if _MARK not in text:
        raise UserError(f"{folder}: chat template: leaves the question out; choose another one in models.*.prompting.chat_template")
    return text.rpartition(_MARK)[2] + prompting.answer_prefix


def _special(folder: Path) -> dict[str, str]:
    path = folder / "tokenizer_config.json"
    held = read_json(path, "download or save the checkpoint again") if path.is_file() else {}
    found = {name: held.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in found.items()}
    return {name: token for name, token in texts.items() if isinstance(token, str)}
