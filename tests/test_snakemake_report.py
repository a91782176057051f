"""``snakemake --report`` on a finished run: every figure with its category and a caption, findings, contact sheets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tiny_workflow import REPOSITORY, Workflow
from vlm_spatial.report.captions import about, document

pytestmark = pytest.mark.workflow


def variable(page: str, name: str) -> Any:
    """What the page's script assigns to a variable."""
    # The libraries before it have variables of the same names.
    found = list(re.finditer(rf'^\s*var {name} = (?=[{{"])', page, flags=re.MULTILINE))
    assert found, name
    return json.JSONDecoder().raw_decode(page, found[-1].end())[0]


def test_captions_are_those_of_the_figures() -> None:
    kept = (REPOSITORY / "rules" / "captions" / "figure.rst").read_text(encoding="utf-8")
    assert kept == document(), "run python -m vlm_spatial.report.captions > rules/captions/figure.rst"


@pytest.mark.slow
def test_the_report_of_snakemake_names_and_explains_every_figure(finished_workflow: Workflow, tmp_path: Path) -> None:
    workflow = finished_workflow.copy(tmp_path / "run")
    workflow.run("--report", "report.html", "--cores", "1")
    page = (workflow.folder / "report.html").read_text(encoding="utf-8")
    results, categories = variable(page, "results"), variable(page, "categories")
    assert set(categories) == {"Figures", "Report", "Scenes"}
    drawn = {str(path.relative_to(workflow.folder)) for path in (workflow.folder / "results" / "figures").rglob("*.svg")}
    assert len(drawn) > 10
    shown = {path for paths in categories["Figures"].values() for path in paths}
    assert shown == drawn
    assert {model: len(paths) for model, paths in categories["Figures"].items()}.keys() == {"folder", "small", "_comparison"}
    titles = about()
    for path in drawn:
        title, question = titles[Path(path).stem.split("-")[0]]
        caption = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", results[path]["caption"]))
        assert title in caption.replace("&#x27;", "'"), path
        assert question.split("?")[0][:30] in caption.replace("’", "'"), path
        assert f"{Path(path).stem}.md" in caption
        assert results[path]["labels"] == {"model": Path(path).parent.name, "figure": Path(path).stem}
    assert {"results/report.html", "results/findings.json", "results/scenes/squares/contact_sheet.png"} <= results.keys()
    assert "Where does a vision-language model compute" in variable(page, "workflow_desc")
