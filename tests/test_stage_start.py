"""What a stage imports to start: a stage without a model has to be there in two seconds, and that is a matter of imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_spatial.stages.registry import STAGES

pytestmark = pytest.mark.workflow

HEAVY = ("torch", "transformers", "altair", "pandas", "statsmodels", "scipy.stats", "sklearn", "concept_erasure")
LIGHT = [name for name, stage in STAGES.items() if stage.device == "cpu" and name != "organism"]
# What a stage cannot do without at its start.
NEEDED = dict.fromkeys(LIGHT, ()) | {"figures": ("altair",), "interchange": ("torch", "transformers")}


@pytest.mark.parametrize("stage", NEEDED)
def test_a_stage_starts_without_what_it_does_not_need(stage: str) -> None:
    code = f"import sys, vlm_spatial.stages.{stage}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert set(done.stdout.split()) <= set(NEEDED[stage])


def test_garbage_is_looked_for_once_a_stage_runs_and_not_in_its_modules(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc\n"
        "early = []\n"
        "gc.callbacks.append(lambda phase, about: early.append(1) if about['generation'] == 2 and not gc.get_freeze_count() else None)\n"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 50_000, len(early)))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "vlm_spatial.stages.generalisation", "--settings", "not a literal"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.split() == ["True", "True", "0"], done.stderr
    # Who only imports a stage keeps what was set.
    code = "import gc, vlm_spatial.stages.generalisation; print(gc.isenabled())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.split() == ["True"]
