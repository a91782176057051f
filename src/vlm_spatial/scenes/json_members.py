"""Reading large JSON files member by member: as a whole they take several times their size in memory."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.files import json_fault

_BLANK = " \t\r\n"


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a mark at its beginning.

    Raises:
        UserError: naming the file and what is wrong.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


def members(text: str, path: Path, must_be: str, lists: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Name and value of every member of a JSON object.

    Args:
        path: named where something is wrong.
        must_be: what the file must be, in words.
        lists: names of members that come element by element, ``None`` first. One of them that is no list is left out.

    Raises:
        UserError: if the text is no JSON, or no object.
    """
    decoder = json.JSONDecoder()
    try:
        place = _skip(text, 0)
        if text[place : place + 1] != "{":
            raise UserError(f"{path}: must be {must_be}")
        place = _skip(text, place + 1)
        while text[place] != "}":
            key, place = decoder.raw_decode(text, place)
            place = _skip(text, place)
            if text[place] != ":":
                raise json.JSONDecodeError("Expecting ':' delimiter", text, place)
            place = _skip(text, place + 1)
            if key in lists and text[place] == "[":
                yield key, None
                place = _skip(text, place + 1)
                while text[place] != "]":
                    entry, place = decoder.raw_decode(text, place)
                    yield key, entry
                    place = _next(text, place, "]")
                place += 1
            else:
                value, place = decoder.raw_decode(text, place)
                if key not in lists:
                    yield str(key), value
            place = _next(text, place, "}")
    except IndexError as error:
        raise UserError(f"{path}: is not JSON: it ends in the middle; download it again") from error
    except ValueError as error:
        raise UserError(f"{path}: {json_fault(error)}; download it again") from error


def _skip(text: str, place: int) -> int:
    """The next place that is no blank."""
    while text[place : place + 1] and text[place] in _BLANK:
        place += 1
    return place


def _next(text: str, place: int, end: str) -> int:
    """After a comma, or at ``end``."""
    place = _skip(text, place)
    if text[place] == ",":
        return _skip(text, place + 1)
    if text[place] != end:
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    return place
