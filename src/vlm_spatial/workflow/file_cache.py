"""What was worked out of files, remembered on disk until they change (see :func:`vlm_spatial.files.file_state`)."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlm_spatial.files import file_state, written_then_renamed

# Clocks of file systems tick up to a hundred times a second: a file changed just now may change again without another time.
_UNSETTLED_NS = 50_000_000


class FileCache:
    """A JSON file of values, each with the state of the files that it was worked out of; safe to delete.

    Args:
        cache: the file; None remembers nothing.
    """

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._known = {} if cache is None else _read(cache)
        self._new = False

    def of(self, what: str, files: Sequence[Path], make: Callable[[], Any], also: str = "") -> Any:
        """What ``make`` gives, or gave when ``files`` (or folders) were as they are now.

        Args:
            what: names the value; one name, one kind of value.
            also: what else it was worked out of.

        Raises:
            OSError: if one of the files is missing.
        """
        states = [list(file_state(path)) for path in files]
        known = self._known.get(what)
        if known is not None and known[0] == [also, *states]:
            return known[1]
        value = make()
        if time.time_ns() - max((max(mtime, ctime) for _, mtime, ctime, _ in states), default=0) > _UNSETTLED_NS:
            self._known[what] = [[also, *states], value]
            self._new = True
        return value

    def save(self) -> None:
        """Write what is new; where that is not allowed, it is worked out again next time."""
        if self._cache is not None and self._new:
            with contextlib.suppress(OSError), written_then_renamed(self._cache) as temporary:
                temporary.write_text(json.dumps(self._known), encoding="utf-8")
            self._new = False


def _read(cache: Path) -> dict[str, Any]:
    """What the cache holds; nothing where it is missing or damaged."""
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 2}
