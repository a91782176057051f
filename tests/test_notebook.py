"""docs/notebook.md: every example runs, on a kept model and on results that Snakemake made, and says what it says."""

import re
from pathlib import Path

import pytest

from documented_results import lay_out
from tiny_workflow import REPOSITORY, Workflow

pytestmark = pytest.mark.workflow

PAGE = REPOSITORY / "docs" / "notebook.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_a_token_set_is_patched_in_the_kept_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    names: dict = {}
    exec(compile(blocks()[0], "notebook.md, example 1", "exec"), names)
    said, scene = names["said"], names["scene"]
    # The model reads what an object's own tokens, or its whole strip, say; what lies beside them changes nothing.
    assert said["untouched"] == said["background"] == scene.objects[0]
    assert said["object"] == said["strip"] == scene.objects[2]


@pytest.mark.slow
def test_every_example_runs_on_results_of_snakemake(finished_workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lay_out(finished_workflow, tmp_path / "run")
    monkeypatch.chdir(folder)
    names: dict = {}
    for number, block in enumerate(blocks()):
        exec(compile(block, f"notebook.md, example {number + 1}", "exec"), names)
    grid = names["grid"]
    assert names["cells"].height == grid.size
    assert names["cells"]["left"].is_between(0, 1).all()
    assert names["chart"].to_dict()["mark"]["type"] == "rect"
    assert len(names["frame"]) == names["flips"].height > 0
