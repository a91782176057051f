"""Go on training an organism: with other scenes among its lessons, or with a mechanism planted.

    python organisms/further.py decorrelated-gemma3 results-natural/organisms/natural-gemma3 results-natural/decorrelated-gemma3
    python organisms/further.py dial-25 organisms/vision-0 results-truth/dial-25 --device cuda

``COURSES`` says what each is taught. Training takes about an hour on one core, or some minutes on a GPU. Killed, it goes on when started
again. The kept organisms of these names in ``organisms`` were made so, and ``natural-gemma3`` by ``decorrelated-gemma3``; ``recipe.json``
in each says from what and on which device. What ``gated`` and ``order-vertical`` gave was not kept (docs/method.md).
"""

import argparse
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import torch
from save import halve, recipe_of

from vlm_spatial.files import write_json, write_parquet
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.evaluation import CURVE, evaluate
from vlm_spatial.models.organisms.lessons import VARIANTS
from vlm_spatial.models.organisms.organism import held_out
from vlm_spatial.models.organisms.planted import MECHANISMS, VisionTold
from vlm_spatial.models.organisms.reading import READING
from vlm_spatial.models.organisms.resume import Savepoint
from vlm_spatial.models.organisms.training import Course, be_worker, train
from vlm_spatial.scenes.scene import Variant
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source

MIXED: dict[Variant, float] = {"main": 0.45, "decorrelated": 0.45, "pair": VARIANTS["pair"]}
"""In layout-decorrelated scenes the slot is not the absolute place, so a rule of thirds of the canvas no longer gives the answer."""


@dataclass(frozen=True)
class Further:
    """What an organism that knows its words already is taught.

    Attributes:
        captions_only, captions_later, decay_from: shares of the training, as in ``Teaching``; ``captions_later`` as the family has it
            if None.
        axes, templates: those that are asked about; all if None.
    """

    mechanism: str
    steps: int
    seed: int
    datasets: tuple[str, ...] = ("squares",)
    variants: Mapping[Variant, float] = field(default_factory=lambda: VARIANTS)
    captions_only: float = 0.0
    captions_later: float | None = None
    axes: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    decay_from: float = 0.5


PLANTED = MECHANISMS | READING | {"vision-told": VisionTold}
COURSES = {
    "decorrelated-gemma3": Further("natural", 4000, 11, ("squares", "objects"), MIXED),
    "decorrelated-qwen2_vl": Further("natural", 2200, 11, ("squares", "objects"), MIXED, decay_from=0.64),
    **{f"dial-{percent}": Further(f"dial-{percent}", 2500, 5, captions_only=0.1, decay_from=0.7) for percent in (25, 50, 75)},
    "vision-qwen2_vl": Further("vision-told", 1400, 7, captions_only=0.2, decay_from=0.6),
    "language-qwen2_vl": Further("language", 800, 7),
    # Captions are told by rows of the answer, from what the image says to each: not along a route.
    **{name: Further(name, 600, 13, captions_later=0.0) for name in ("direct", "mediated", "redundant")},
    "gated": Further("gated", 800, 13, captions_later=0.0, templates=("object_to_slot",), decay_from=0.6),
    "rotary": Further("rotary", 300, 13),
    "order-vertical": Further("order", 700, 13, captions_only=0.25, axes=("vertical",)),
}


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("course", choices=COURSES)
    parser.add_argument("start", type=Path, help="the organism to go on from")
    parser.add_argument("folder", type=Path, help="where the new one goes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; their number changes sums, and with them the weights")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches, beside a GPU that waits for them")
    given = parser.parse_args()
    further = COURSES[given.course]
    torch.set_num_threads(given.threads)
    adapter = load_adapter(given.start, device=given.device)
    recipe = adapter.recipe.organism
    assert recipe is not None
    # All kinds of questions are asked alike.
    teaching = replace(recipe.teaching, captions_only=further.captions_only, decay_from=further.decay_from, by_errors=False)
    if further.captions_later is not None:
        teaching = replace(teaching, captions_later=further.captions_later)
    asked = {name: value for name, value in (("axes", further.axes), ("templates", further.templates)) if value is not None}
    datasets = {name: drawn_source(name).settings.model_validate({"kind": name, **asked}) for name in further.datasets}
    course = Course(datasets, further.steps, 16, further.seed, teaching, dict(further.variants))
    mechanism = PLANTED[further.mechanism]()
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    made_of = {
        "start": adapter.identity.weights,
        "course": given.course,
        "steps": further.steps,
        "seed": further.seed,
        "device": given.device,
        "threads": given.threads,
    }

    def watch(row: dict[str, Any]) -> None:
        """Say how the organism does by then: on the curve's questions, and under each condition of its mechanism."""
        told = {name: round(value, 3) for name, value in row.items()}
        if row["step"] % 400 == 0 or row["step"] == further.steps:
            for arranged in mechanism.conditions().items():
                scores = evaluate(adapter, course.datasets, 16, course.seed, stream=CURVE, arranged=arranged)
                told[arranged[0]] = round(sum(score.accuracy for score in scores) / len(scores), 3)
        print(given.course, told, flush=True)

    savepoint = Savepoint(given.folder.with_name(f".{given.folder.name}.training.safetensors"), made_of)
    begun = (partial(load_adapter, given.start, device="cpu"), course, PLANTED[further.mechanism])
    pool = ProcessPoolExecutor(given.workers, get_context("spawn"), be_worker, begun) if given.workers else None
    with pool or nullcontext():
        curve = train(adapter, course, mechanism, savepoint, watch, pool)
    shutil.copytree(given.start, given.folder, dirs_exist_ok=True)
    adapter.model.save_pretrained(given.folder)  # type: ignore[operator]
    weights = given.folder / "model.safetensors"
    halve(weights, weights)
    write_parquet(pl.DataFrame(curve), given.folder / "training.parquet")
    scores = held_out(load_adapter(given.folder, device=given.device), course, mechanism)
    write_parquet(pl.DataFrame([score.row() for score in scores]), given.folder / "accuracy.parquet")
    write_json(recipe_of(given.start) | {"then": made_of | {"variants": course.variants}}, given.folder / "recipe.json")


if __name__ == "__main__":
    main()
