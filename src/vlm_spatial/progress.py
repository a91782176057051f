"""Progress bars that a log file can bear."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None, delay_s: float = 0) -> Iterator[Item]:
    """Iterate with a progress bar on stderr: live on a terminal and in a notebook, one line every ten seconds in a log file.

    Args:
        delay_s: what takes fewer seconds shows no bar.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    yield from tqdm(
        items,
        desc=description,
        total=total,
        mininterval=0.2 if live else 10.0,
        ascii=not live,
        dynamic_ncols=live,
        delay=delay_s,
        # A bar below another one goes when it is full.
        leave=None,
        # A log file has no carriage return to overwrite a line with.
        file=sys.stderr if live else _Lines(),
    )


class _Lines:
    """Turns tqdm's carriage returns into line ends."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n \x1b[A")
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
