"""The workflow's rules as Snakemake understands them."""

import functools
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_SHOWN = f"""
import json

include: {str(REPOSITORY / "Snakefile")!r}

for rule in workflow.rules:
    asked = rule.resources.get("gpu")
    # One that depends on the model is one GPU for a large model.
    gpus = 0 if asked is None else 1 if asked.is_evaluable() else asked.value or 0
    print(json.dumps(["rule", rule.name, sorted(rule.resources), gpus, str(rule.conda_env)]))
"""


@dataclass(frozen=True)
class Rule:
    """What one rule asks for: names of its resources, GPUs, and its environment (``light``, ``torch``)."""

    resources: frozenset[str]
    gpus: int
    environment: str


@functools.cache
def rules() -> dict[str, Rule]:
    """Every rule of a stage, by name."""
    from vlm_spatial.stages.registry import STAGES

    with tempfile.TemporaryDirectory() as folder:
        snakefile = Path(folder, "Snakefile")
        snakefile.write_text(_SHOWN, encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--list-rules"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True)
    shown = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["rule"')]
    return {
        name: Rule(frozenset(resources), gpus, Path(environment).stem) for _, name, resources, gpus, environment in shown if name in STAGES
    }
