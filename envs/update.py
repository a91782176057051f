"""Write light.yaml and torch.yaml anew: what the stages import, of what pyproject.toml asks for, at the versions of the lock.

python envs/update.py    (`make lock` does it)
"""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vlm_spatial.stages.registry import STAGES
from vlm_spatial.workflow.code_identity import stage_identity

FOLDER = Path(__file__).parent
# The environment of each base rule (rules/bases.smk), which a rule may replace.
BASES = {"on_gpu": "torch", "on_cpu": "light"}
PURPOSE = {"light": "Scenes, figures and tables: no torch.", "torch": "Every stage that loads a model, and probes, which a GPU can fit."}


def main() -> None:
    lock = dict(line.split("==") for line in (FOLDER.parent / "requirements.lock").read_text(encoding="utf-8").split())
    versions = {canonicalize_name(name): version for name, version in lock.items()}
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    # run_stage and the progress bars need these, whatever the stage.
    packages = {name: {"jaxtyping", "tqdm"} for name in PURPOSE}
    for rule in sorted((FOLDER.parent / "rules").glob("*.smk")):
        text = rule.read_text(encoding="utf-8")
        base = re.search(r"^use rule (on_gpu|on_cpu) as", text, re.MULTILINE)
        if base and rule.stem in STAGES:
            own = re.search(r'"\.\./envs/(\w+)\.yaml"', text)
            packages[own[1] if own else BASES[base[1]]] |= {canonicalize_name(package) for package in stage_identity(rule.stem).packages}
    packages["torch"] |= packages["light"]
    for name, purpose in PURPOSE.items():
        rows = "".join(f"      - {package}=={versions[package]}\n" for package in sorted(packages[name] & declared))
        (FOLDER / f"{name}.yaml").write_text(
            f"# {purpose} For `snakemake --sdm conda`.\n"
            "# Written by envs/update.py from requirements.lock; tests/test_environments.py holds them together.\n"
            "channels:\n  - conda-forge\n  - nodefaults\n"
            f"dependencies:\n  - python=3.11\n  - pip\n  - pip:\n{rows}",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
