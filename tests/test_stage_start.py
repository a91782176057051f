"""What a stage imports to start: a stage without a model has to be there in two seconds, and that is a matter of imports."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "altair", "pandas", "statsmodels", "scipy.stats", "sklearn", "concept_erasure")
# What a stage cannot do without at its start.
NEEDED = {"scenes": (), "probes": (), "generalisation": (), "figures": ("altair",)}
MODEL = ("torch", "transformers")
NEEDED |= {name: MODEL for name in ("behaviour", "activations", "interchange", "conflict", "amplification", "transfer", "organism")}
NEEDED["ablation"] = (*MODEL, "concept_erasure")


@pytest.mark.parametrize("stage", [name for name, needed in NEEDED.items() if "torch" not in needed] + ["interchange"])
def test_a_stage_starts_without_what_it_does_not_need(stage: str) -> None:
    code = f"import sys, vlm_spatial.stages.{stage}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(NEEDED[stage])
