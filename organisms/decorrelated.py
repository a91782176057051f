"""Go on training a natural organism, with layout-decorrelated scenes among its lessons.

    python organisms/decorrelated.py results-natural/organisms/natural-gemma3 results-natural/decorrelated-gemma3

In such scenes the slot is not the absolute place, so a rule of thirds of the canvas no longer gives the answer. Training takes about an
hour on one core. Killed, it goes on when started again. ``organisms/natural-gemma3`` was made so, from the organism that
presets/natural.yaml trained.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from save import halve, recipe_of

from vlm_spatial.files import write_json, write_parquet
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.lessons import VARIANTS
from vlm_spatial.models.organisms.organism import held_out
from vlm_spatial.models.organisms.planted import MECHANISMS
from vlm_spatial.models.organisms.resume import Savepoint
from vlm_spatial.models.organisms.training import Course, train
from vlm_spatial.scenes.scene import Variant
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source

DATASETS = ("squares", "objects")
MIXED: dict[Variant, float] = {"main": 0.45, "decorrelated": 0.45, "pair": VARIANTS["pair"]}
SEED = 11


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", type=Path, help="the organism to go on from")
    parser.add_argument("folder", type=Path, help="where the new one goes")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    # The number of threads changes sums, and with them the weights.
    torch.set_num_threads(1)
    adapter = load_adapter(given.start, device="cpu")
    recipe = adapter.recipe.organism
    assert recipe is not None
    # It describes images already. All kinds of questions are asked alike.
    teaching = replace(recipe.teaching, captions_only=0.0, decay_from=0.5, by_errors=False)
    datasets = {name: drawn_source(name).settings.model_validate({"kind": name}) for name in DATASETS}
    course = Course(datasets, given.steps, given.batch, SEED, teaching, MIXED)
    mechanism = MECHANISMS["natural"]()
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    made_of = {"start": adapter.identity.weights, "steps": given.steps, "batch": given.batch, "seed": SEED, "variants": MIXED}
    curve = train(adapter, course, mechanism, Savepoint(given.folder.with_name(f".{given.folder.name}.training.safetensors"), made_of))
    shutil.copytree(given.start, given.folder, dirs_exist_ok=True)
    adapter.model.save_pretrained(given.folder)  # type: ignore[operator]
    weights = given.folder / "model.safetensors"
    halve(weights, weights)
    write_parquet(pl.DataFrame(curve), given.folder / "training.parquet")
    scores = held_out(load_adapter(given.folder, device="cpu"), course, mechanism)
    write_parquet(pl.DataFrame([score.row() for score in scores]), given.folder / "accuracy.parquet")
    write_json(recipe_of(given.start) | {"then": made_of}, given.folder / "recipe.json")


if __name__ == "__main__":
    main()
