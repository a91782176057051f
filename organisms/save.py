"""Keep the organisms that ``snakemake --configfile presets/truth.yaml`` (and natural.yaml) trained, for the default run and the tests.

    python organisms/save.py results-truth/organisms   # and results-natural/organisms

Weights are saved as bfloat16, half the size; ``recipe.json`` is what the record says made the organism: settings, code, packages.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vlm_spatial.files import read_json, write_json
from vlm_spatial.workflow.provenance import record_path

KEPT = Path(__file__).parent
RECIPE = ("settings", "modules", "packages")


def halve(weights: Path, target: Path) -> None:
    """Write a safetensors file anew, in bfloat16."""
    halves = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(weights).items()}
    save_file(halves, target, metadata={"format": "pt"})


def recipe_of(trained: Path) -> dict[str, Any]:
    """What made an organism: as it is kept, else of the record beside it."""
    kept = trained / "recipe.json"
    return read_json(kept) if kept.is_file() else {key: read_json(record_path(trained))[key] for key in RECIPE}


def save(trained: Path) -> None:
    """Copy one organism's folder, with its recipe."""
    kept = KEPT / trained.name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for path in sorted(trained.iterdir()):
        if path.suffix == ".safetensors":
            halve(path, kept / path.name)
        elif path.name != ".snakemake_timestamp":
            shutil.copyfile(path, kept / path.name)
    write_json(recipe_of(trained), kept / "recipe.json")


if __name__ == "__main__":
    for folder in sorted(Path(sys.argv[1]).glob("[!.]*")):
        if (folder / "config.json").is_file():
            save(folder)
