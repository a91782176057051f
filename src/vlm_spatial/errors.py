"""The one exception for anything a user can put right."""

from typing import Any


def called(value: Any) -> str:
    """What people call a value of a YAML or JSON file."""
    if value is None:
        return "nothing"
    names = {dict: "a mapping", list: "a list", tuple: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


class UserError(Exception):
    """Bad input, said in one line: the file or key, what was found, what is allowed.

    Stages and the command line print it without a traceback and exit with status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message (with the next, where it announces that), or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
