"""Go on training an organism: with other scenes among its lessons, or with a mechanism planted.

    python organisms/further.py decorrelated-gemma3 results-natural/organisms/natural-gemma3 results-natural/decorrelated-gemma3
    python organisms/further.py dial-25 organisms/vision-0 results-truth/dial-25 --device cuda

``COURSES`` says what each is taught. Training takes about an hour on one core, or some minutes on a GPU. Killed, it goes on when started
again. The kept organisms of these names in ``organisms`` were made so, and ``natural-gemma3`` by ``decorrelated-gemma3``; ``recipe.json``
in each says from what and on which device. What ``vision-qwen2_vl`` gave was not kept (docs/method.md).
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

MIXED: dict[Variant, float] = {"main": 0.45, "decorrelated": 0.45, "pair": VARIANTS["pair"]}
"""In layout-decorrelated scenes the slot is not the absolute place, so a rule of thirds of the canvas no longer gives the answer."""


@dataclass(frozen=True)
class Further:
    """What an organism that knows its words already is taught.

    Attributes:
        captions_only, decay_from: shares of the training, as in ``Teaching``.
    """

    mechanism: str
    steps: int
    seed: int
    datasets: tuple[str, ...] = ("squares",)
    variants: Mapping[Variant, float] = field(default_factory=lambda: VARIANTS)
    captions_only: float = 0.0
    decay_from: float = 0.5


COURSES = {
    "decorrelated-gemma3": Further("natural", 4000, 11, ("squares", "objects"), MIXED),
    "decorrelated-qwen2_vl": Further("natural", 2200, 11, ("squares", "objects"), MIXED, decay_from=0.64),
    **{f"dial-{percent}": Further(f"dial-{percent}", 2500, 5, captions_only=0.1, decay_from=0.7) for percent in (25, 50, 75)},
    "vision-qwen2_vl": Further("vision", 1000, 7),
    "language-qwen2_vl": Further("language", 800, 7),
}


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("course", choices=COURSES)
    parser.add_argument("start", type=Path, help="the organism to go on from")
    parser.add_argument("folder", type=Path, help="where the new one goes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; their number changes sums, and with them the weights")
    given = parser.parse_args()
    further = COURSES[given.course]
    torch.set_num_threads(given.threads)
    adapter = load_adapter(given.start, device=given.device)
    recipe = adapter.recipe.organism
    assert recipe is not None
    # All kinds of questions are asked alike.
    teaching = replace(recipe.teaching, captions_only=further.captions_only, decay_from=further.decay_from, by_errors=False)
    datasets = {name: drawn_source(name).settings.model_validate({"kind": name}) for name in further.datasets}
    course = Course(datasets, further.steps, 16, further.seed, teaching, dict(further.variants))
    mechanism = MECHANISMS[further.mechanism]()
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    made_of = {
        "start": adapter.identity.weights,
        "course": given.course,
        "steps": further.steps,
        "seed": further.seed,
        "device": given.device,
        "threads": given.threads,
    }
    curve = train(adapter, course, mechanism, Savepoint(given.folder.with_name(f".{given.folder.name}.training.safetensors"), made_of))
    shutil.copytree(given.start, given.folder, dirs_exist_ok=True)
    adapter.model.save_pretrained(given.folder)  # type: ignore[operator]
    weights = given.folder / "model.safetensors"
    halve(weights, weights)
    write_parquet(pl.DataFrame(curve), given.folder / "training.parquet")
    scores = held_out(load_adapter(given.folder, device="cpu"), course, mechanism)
    write_parquet(pl.DataFrame([score.row() for score in scores]), given.folder / "accuracy.parquet")
    write_json(recipe_of(given.start) | {"then": made_of | {"variants": course.variants}}, given.folder / "recipe.json")


if __name__ == "__main__":
    main()
