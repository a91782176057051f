"""What is remembered of files is what working it out again would give, whatever happened to the files or to the memory."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from vlm_spatial.workflow import code_identity as identity
from vlm_spatial.workflow.code_identity import stage_identity
from vlm_spatial.workflow.file_cache import FileCache

pytestmark = pytest.mark.unit

SETTLED_S = 0.1


def value(file: Path, cache: Path) -> tuple[str, bool]:
    """The file's text by way of the cache, and whether it was read for that."""
    read = []

    def make() -> str:
        read.append(True)
        return file.read_text(encoding="utf-8")

    remembered = FileCache(cache)
    found = remembered.of("text", [file], make)
    remembered.save()
    return found, bool(read)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "module.py"
    path.write_text("one", encoding="utf-8")
    time.sleep(SETTLED_S)
    return path


def test_a_file_is_read_once(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "below" / "cache.json"
    assert value(file, cache) == ("one", True)
    assert value(file, cache) == ("one", False)
    assert FileCache(None).of("text", [file], lambda: "made") == "made"


def test_what_else_it_was_worked_out_of_counts(tmp_path: Path) -> None:
    remembered = FileCache(tmp_path / "cache.json")
    assert remembered.of("text", [], lambda: 1, also="one") == 1
    assert remembered.of("text", [], lambda: 2, also="one") == 1
    assert remembered.of("text", [], lambda: 3, also="other") == 3


def test_new_bytes_of_the_old_size_under_the_old_time_are_seen(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    value(file, cache)
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_text("two", encoding="utf-8")
    os.utime(file, ns=times)
    assert value(file, cache) == ("two", True)


def test_what_was_written_just_now_is_not_remembered(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    file.write_text("two", encoding="utf-8")
    assert value(file, cache) == ("two", True)
    assert value(file, cache) == ("two", True)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"text": 3}', '{"text": [[], "other"]}'])
def test_a_damaged_memory_only_costs_working_it_out_again(damage: str, file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(damage, encoding="utf-8")
    assert value(file, cache) == ("one", True)


def test_a_memory_that_cannot_be_written_is_none(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert value(file, tmp_path / "taken" / "cache.json") == ("one", True)


def test_a_stage_is_the_same_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "code.json"
    fresh = stage_identity("conflict")
    assert stage_identity("conflict", cache) == fresh
    assert len(json.loads(cache.read_text(encoding="utf-8"))) > 20
    stage_identity.cache_clear()
    monkeypatch.setattr(identity, "_module_hash", lambda path: pytest.fail(f"read {path}"))
    monkeypatch.setattr(identity, "_distributions", lambda: pytest.fail("looked through the installed packages"))
    assert stage_identity("conflict", cache) == fresh
    stage_identity.cache_clear()


def test_a_copy_of_the_code_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are told by their bytes, so moving a working folder costs nothing."""
    cache = tmp_path / "code.json"
    fresh = stage_identity("conflict", cache)
    copy = tmp_path / "vlm_spatial"
    shutil.copytree(identity._root(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    stage_identity.cache_clear()
    monkeypatch.setattr(identity, "_root", lambda: copy)
    monkeypatch.setattr(identity, "_module_hash", lambda path: pytest.fail(f"took {path} apart"))
    assert stage_identity("conflict", cache) == fresh
    stage_identity.cache_clear()
