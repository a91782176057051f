"""The page "Work with the activations": every Python example runs, and says what it says it does."""

import re
from pathlib import Path

import numpy as np
import pytest

from activation_stores import GRID, bfloat16_values, description, written

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parent.parent / "docs" / "activations.md"


def test_every_python_example_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorstore")
    monkeypatch.chdir(tmp_path)
    described = description()
    values = bfloat16_values(described)
    written(tmp_path / "results/gemma3-natural/squares", described, values)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, example {number + 1}", "exec"), names)
    connector = values["connector"]
    np.testing.assert_array_equal(names["picture"], connector[0].reshape(GRID.rows, GRID.cols, -1))
    np.testing.assert_allclose(names["total"], connector.sum(axis=(0, 1), dtype=np.float64))
    np.testing.assert_array_equal(names["first"], connector[0])
    # Boxes of the fixture: the middle object's centre is at pixel (57, 45) of 120 × 90: row 1, column 1 of 3 × 4.
    chosen = [
        i for i, (slots, split) in enumerate(described.scenes.select("slots", "split").iter_rows()) if len(slots) == 3 and split == "test"
    ]
    np.testing.assert_array_equal(names["at_middle"], connector[chosen, GRID.cols + 1])
    assert "mean_norm" in capsys.readouterr().out
