"""The house stays small: what caching and survival take, and what lies at the top."""

import inspect
from pathlib import Path

import pytest

import vlm_spatial
from vlm_spatial import files

pytestmark = pytest.mark.unit

PACKAGE = Path(vlm_spatial.__file__).parent
# Which jobs there are, and whether a configuration names what a job can use: no caching, no survival.
OTHER = {"planning.py", "preflight.py", "answer_check.py", "layout_check.py"}
ATOMIC = (files.written_then_renamed, files._remove, files._follow_umask, files.remove_leftovers, files.unwritable, files.file_state)


def test_caching_and_survival_are_a_small_part_of_the_code() -> None:
    modules = [path for path in (PACKAGE / "workflow").glob("*.py") if path.name not in OTHER]
    assert len(modules) >= 8
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules)
    lines += sum(len(inspect.getsource(function).splitlines()) for function in ATOMIC)
    assert lines <= 900


def test_the_top_level_is_seen_at_a_glance() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if not path.name.startswith("__py")]
    assert len(entries) <= 20, sorted(entries)
