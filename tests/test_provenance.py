"""Provenance records: every altered, missing or unexplained byte of a result is found and named."""

import os
import shutil

import numpy as np
import pytest

from vlm_spatial.errors import UserError
from vlm_spatial.workflow import provenance
from vlm_spatial.workflow.provenance import (
    SNAKEMAKES_MARK,
    MadeBy,
    damage,
    files_of,
    read_record,
    record_path,
    remove_records,
    verified_digest,
    write_record,
)

pytestmark = pytest.mark.unit

MADE_BY = MadeBy(stage="scenes", settings={"seed": 0})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "table.parquet"
    path.write_bytes(bytes(range(256)))
    write_record(path, MADE_BY)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "scenes"
    (path / "images").mkdir(parents=True)
    for number in range(5):
        (path / "images" / f"{number}.png").write_bytes(bytes([number] * 100))
    (path / "scenes.parquet").write_bytes(b"table")
    write_record(path, MADE_BY)
    return path


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(data)
    os.utime(path, ns=times)


@pytest.mark.parametrize("position", np.random.default_rng(0).integers(0, 256, 20).tolist())
def test_any_flipped_bit_is_found_even_under_the_old_time(file, position):
    flip(file, position)
    with pytest.raises(UserError, match=r"table\.parquet was altered after it was made; run snakemake again"):
        verified_digest(file)


@pytest.mark.parametrize("position", [0, 100])
def test_quick_check_sees_new_bytes_under_the_old_time(file, position):
    flip(file, position)
    assert "altered" in damage(file)


def test_a_touched_file_is_read_once(file, monkeypatch):
    os.utime(file, (5, 5))
    assert damage(file) is None
    monkeypatch.setattr(provenance, "sha256", lambda path: pytest.fail(f"read {path} again"))
    assert damage(file) is None


@pytest.mark.parametrize("name", ["images/3.png", "scenes.parquet"])
def test_folder_members(folder, name):
    verified_digest(folder)
    flip(folder / name, 2)
    with pytest.raises(UserError, match=f"{name} was altered"):
        verified_digest(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        verified_digest(folder)


def test_missing_and_unreadable_records(file, folder):
    remove_records([file])
    assert "no .table.parquet.provenance.json: not finished" in damage(file)
    record_path(folder).write_text('{"stage": "scenes"', encoding="utf-8")
    assert read_record(folder) is None
    with pytest.raises(UserError, match=r"\.scenes\.provenance\.json is damaged"):
        verified_digest(folder)


def test_files_from_elsewhere_without_a_record_are_let_through(tmp_path):
    assert verified_digest(tmp_path / "never-made") is None


def test_a_record_goes_where_its_result_goes(folder, tmp_path):
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    shutil.copytree(folder, elsewhere / "scenes")
    shutil.copy(record_path(folder), record_path(elsewhere / "scenes"))
    assert verified_digest(elsewhere / "scenes") == verified_digest(folder)


def test_recording_what_was_not_made(tmp_path):
    with pytest.raises(UserError, match="stage scenes ended without making it"):
        write_record(tmp_path / "nothing", MADE_BY)


def test_snakemakes_own_mark_is_no_part_of_a_folder(folder):
    (folder / ".snakemake_timestamp").touch()
    verified_digest(folder)
    assert ".snakemake_timestamp" not in read_record(folder).files


def test_what_was_touched_gets_the_time_it_was_made_at_back(file, folder):
    """Snakemake would take a touched folder or large file for changed; altered bytes keep their new time."""
    for result in (file, folder):
        paths = [path for _, path in files_of(result)]
        times = [path.stat().st_mtime_ns for path in paths]
        for path in paths:
            os.utime(path, ns=(10**19 // 5, 10**19 // 5))
        if result == folder:
            (folder / SNAKEMAKES_MARK).touch()
        assert damage(result) is None
        assert [path.stat().st_mtime_ns for path in paths] == times
    assert (folder / SNAKEMAKES_MARK).stat().st_mtime_ns == max(times)
