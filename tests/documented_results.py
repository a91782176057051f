"""Results with the names that the documentation uses, made by Snakemake."""

import json
import shutil
from pathlib import Path

from tiny_workflow import Workflow

MODELS = {"folder": "gemma3-natural", "small": "mine"}
"""Models of the tiny workflow, and what the pages call them."""


def lay_out(finished: Workflow, folder: Path) -> Path:
    """A folder like the one that a reader of the pages works in: two models by their names there too, and the kept model."""
    finished.copy(folder)
    for made, named in MODELS.items():
        shutil.copytree(folder / "results" / made, folder / "results" / named)
    findings = folder / "results" / "findings.json"
    records = json.loads(findings.read_text(encoding="utf-8"))
    for record in records:
        record["model"] = MODELS[record["model"]]
    findings.write_text(json.dumps(records), encoding="utf-8")
    (folder / "organisms").mkdir()
    shutil.copytree(folder / "checkpoint", folder / "organisms" / "natural-gemma3")
    return folder
