"""Progress bars: where they are live, what a log file holds of them."""

import sys
import time
from types import ModuleType

import pytest

from vlm_spatial.progress import progress

pytestmark = pytest.mark.unit


def test_a_notebook_shows_a_live_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert list(progress(range(3), "patched runs")) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "\r" in shown
    assert "patched runs: 100%" in shown
    assert "3/3" in shown


def test_a_log_file_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress(iter("ab"), "images", total=2))
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert [line.split("|")[0] for line in shown.splitlines()] == ["images:   0%", "images: 100%"]


def test_what_is_soon_done_shows_no_bar_where_so_wished(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    list(progress(range(3), "short", delay_s=60))
    assert capsys.readouterr().err == ""
    for _ in progress(range(3), "long", delay_s=0.1):
        time.sleep(0.15)
    assert "long: 100%" in capsys.readouterr().err
