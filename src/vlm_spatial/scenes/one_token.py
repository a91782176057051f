"""Names that are one token, as the published filter wants them."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_spatial.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
_SHOWN = 8


def one_token(names: Iterable[str], folder: Path) -> set[str]:
    """Those of ``names`` that are one token to the tokenizer in ``folder``, as they are and with a capital.

    Raises:
        UserError: if the folder holds no tokenizer that can be read.
    """
    tokenizer = _tokenizer(folder / FILE)

    def single(text: str) -> bool:
        return len(tokenizer.encode(text, add_special_tokens=False).ids) == 1

    return {name for name in names if single(name) and single(name[:1].upper() + name[1:])}


def left_out(names: Iterable[str], folder: Path) -> str:
    """One line on the names that are more than one token, and how many are left; empty if there are none."""
    every = set(names)
    kept = one_token(every, folder)
    gone = sorted(every - kept)
    if not gone:
        return ""
    shown = ", ".join(gone[:_SHOWN]) + (", …" if len(gone) > _SHOWN else "")
    return f"{len(gone)} of {len(every)} names are left out, as they are more than one token to {folder}: {shown}; {len(kept)} are left"


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer.

    Raises:
        UserError: beginning with the key.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"one_token_in: no file {str(folder / FILE)!r}; give the folder of a checkpoint that has one, or leave it out")


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"{path}: no such file; it is the tokenizer by which names of one token are told")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise UserError(f"{path}: no tokenizer ({error}); download or save the checkpoint again") from error
