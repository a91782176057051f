"""The end of a forked process that is a program of its own from here on."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_and_end(program: Callable[[], None]) -> NoReturn:
    """Run ``program`` and end with the exit status that the interpreter would end with, its message or traceback on standard error."""
    code = 1
    try:
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not the interpreter's own end: it would wait for threads that are the parent's.
        os._exit(code)
