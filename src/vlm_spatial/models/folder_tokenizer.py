"""A checkpoint folder's tokenizer and chat template without transformers, for what is looked at before any job."""

from datetime import datetime
from pathlib import Path

from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json
from vlm_spatial.models.folder import chat_template
from vlm_spatial.models.turns import MARK, Chat, fill_in_mark

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "processor_config.json")


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

    # As transformers fills templates in.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    special = _special(folder)

    def fill(chat: Chat) -> str:
        try:
            return template.render(messages=chat, add_generation_prompt=True, **special)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"chat template: cannot be filled in ({error})") from error

    try:
        template = environment.from_string(chat_template(folder, prompting.chat_template))
        text, _ = fill_in_mark(fill, prompting.system)
    except (TemplateError, UserError) as error:
        raise UserError(f"{folder}: {error}") from error
    return text.rpartition(MARK)[2] + prompting.answer_prefix


def _special(folder: Path) -> dict[str, str]:
    path = folder / "tokenizer_config.json"
    held = read_json(path, "download or save the checkpoint again") if path.is_file() else {}
    found = {name: held.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in found.items()}
    return {name: token for name, token in texts.items() if isinstance(token, str)}
