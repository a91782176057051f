"""Go on training a kept natural organism, with layout-decorrelated scenes among its lessons.

    python organisms/decorrelated.py gemma3 results-natural/decorrelated-gemma3

There the slot is not the absolute place, so that thirds of the canvas no longer give the answer. On one core it takes about an hour. A
training that was killed goes on. The folder takes the place of the kept one: ``organisms/natural-gemma3`` was made so, from the organism
that presets/natural.yaml trains.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import load_file, save_file

from vlm_spatial.files import read_json, write_json, write_parquet
from vlm_spatial.models.families import family
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.lessons import VARIANTS
from vlm_spatial.models.organisms.organism import held_out
from vlm_spatial.models.organisms.planted import MECHANISMS
from vlm_spatial.models.organisms.resume import Savepoint
from vlm_spatial.models.organisms.training import Course, train
from vlm_spatial.scenes.scene import Variant
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source

KEPT = Path(__file__).parent
DATASETS = ("squares", "objects")
MIXED: dict[Variant, float] = {"main": 0.45, "decorrelated": 0.45, "pair": VARIANTS["pair"]}
SEED = 11


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=("gemma3", "qwen2_vl"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    # The same arithmetic wherever there are as many cores or more.
    torch.set_num_threads(1)
    start = KEPT / f"natural-{given.family}"
    adapter = load_adapter(start, device="cpu")
    recipe = family(given.family).recipe.organism
    assert recipe is not None
    # The organism describes images already; what it errs on is left to chance, so that a resumed training is the same.
    teaching = replace(recipe.teaching, captions_only=0.0, decay_from=0.5, by_errors=False)
    datasets = {name: drawn_source(name).settings.model_validate({"kind": name}) for name in DATASETS}
    course = Course(datasets, given.steps, given.batch, SEED, teaching, MIXED)
    mechanism = MECHANISMS["natural"]()
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    made_of = {"start": adapter.identity.weights, "steps": given.steps, "batch": given.batch, "seed": SEED, "variants": MIXED}
    curve = train(adapter, course, mechanism, Savepoint(given.folder.with_name(f".{given.folder.name}.training.safetensors"), made_of))
    shutil.copytree(start, given.folder, dirs_exist_ok=True)
    adapter.model.save_pretrained(given.folder)  # type: ignore[operator]
    weights = given.folder / "model.safetensors"
    halves = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    write_parquet(pl.DataFrame(curve), given.folder / "training.parquet")
    scores = held_out(load_adapter(given.folder, device="cpu"), course, mechanism)
    write_parquet(pl.DataFrame([score.row() for score in scores]), given.folder / "accuracy.parquet")
    write_json(read_json(start / "recipe.json") | {"then": made_of}, given.folder / "recipe.json")


if __name__ == "__main__":
    main()
