"""From one entry of ``organisms`` to a trained, checked, ordinary checkpoint folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.config.settings import plain
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet, written_then_renamed
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import family
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.organisms.evaluation import ConnectorEdit, Score, evaluate
from vlm_spatial.models.organisms.lessons import lesson_words
from vlm_spatial.models.organisms.planted import MECHANISMS, Measure, Mechanism, Moment
from vlm_spatial.models.organisms.resume import Savepoint
from vlm_spatial.models.organisms.training import Course, train
from vlm_spatial.models.values import Edit
from vlm_spatial.scenes.build import sample_scene
from vlm_spatial.scenes.scene import Scene
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.tokens import TokenGrid

_HELD_OUT_SCENES = 80
# Of each dataset and axis, to fit and check constructions on.
_SCENES_AN_AXIS = 64


def make_organism(
    folder: Path, name: str, settings: OrganismSettings, datasets: Mapping[str, DatasetSettings], seed: int, code: str = ""
) -> None:
    """Train an organism and write its checkpoint folder, with ``training.parquet`` and ``accuracy.parquet`` inside.

    A killed training goes on from a hidden file beside ``folder``, which is removed when the organism is done.

    Args:
        folder: where the checkpoint goes; it is there whole or not at all.
        name: of the organism, for messages.
        datasets: what the training scenes look like, by name.
        seed: of the workflow; joined with the organism's own.
        code: identity of the code; a killed training goes on only if it is the same.

    Raises:
        UserError: if a dataset is of photos, or the trained organism misses the accuracy or its own construction.
    """
    for key, dataset in datasets.items():
        if not dataset.drawn:
            raise UserError(
                f"organisms.{name}.datasets: {key!r} is of photos, which cannot be sampled; allowed are squares, shapes, objects"
            )
    mechanism = MECHANISMS[settings.mechanism]()
    recipe = family(settings.family).recipe.organism
    if recipe is None:
        raise UserError(f"organisms.{name}.family: {settings.family!r} cannot be trained; its recipe is still missing")
    joined = int(np.random.SeedSequence([seed, settings.seed]).generate_state(1)[0])
    course = Course(dict(datasets), settings.steps, settings.batch, joined, recipe.teaching)
    dependencies = {
        "settings": plain(settings),
        "datasets": {key: plain(dataset) for key, dataset in datasets.items()},
        "seed": seed,
        "code": code,
    }
    savepoint = Savepoint(folder.with_name(f".{folder.name}.training.safetensors"), dependencies)
    with written_then_renamed(folder) as temporary:
        new_checkpoint(temporary, settings.family, lesson_words(list(datasets.values())), joined, recipe.size)
        # Small enough for a CPU, whose arithmetic is the same from run to run.
        adapter = load_adapter(temporary, device="cpu")
        recipe.start(adapter, joined)
        curve = train(adapter, course, mechanism, savepoint)
        known = _main_scenes(course)
        mechanism.after_training(adapter, known)
        adapter.model.save_pretrained(temporary)  # type: ignore[operator]
        # From the folder again: what is scored is what everyone else will load.
        trained = load_adapter(temporary, device="cpu")
        scores = held_out(trained, course, mechanism)
        measures = mechanism.measures(trained, known)
        _refuse_if_unfit(name, settings, mechanism.errs, scores, measures)
        write_parquet(pl.DataFrame(curve), temporary / "training.parquet")
        write_parquet(pl.DataFrame([score.row() for score in scores]), temporary / "accuracy.parquet")
    savepoint.remove()


def held_out(adapter: Adapter, course: Course, mechanism: Mechanism) -> list[Score]:
    """Accuracy on held-out scenes of each variant, as the organism is and, on main scenes, with its construction imposed in full."""
    scores = evaluate(adapter, course.datasets, _HELD_OUT_SCENES, course.seed, ("main",))
    scores += evaluate(adapter, course.datasets, _HELD_OUT_SCENES // 2, course.seed, ("pair", "decorrelated"))
    if mechanism.imposes:
        scores += evaluate(adapter, course.datasets, _HELD_OUT_SCENES, course.seed, ("main",), _imposed(mechanism))
    for arranged in mechanism.conditions().items():
        scores += evaluate(adapter, course.datasets, _HELD_OUT_SCENES, course.seed, ("main",), arranged=arranged)
    return scores


def _imposed(mechanism: Mechanism) -> ConnectorEdit:
    def make(scenes: Sequence[Scene], grid: TokenGrid, generator: np.random.Generator) -> Edit:
        moment = Moment(scenes, grid, 1.0, torch.Generator().manual_seed(int(generator.integers(2**32))))
        return lambda values: mechanism.imposed(values.squeeze(2), moment).unsqueeze(2)

    return make


def _main_scenes(course: Course) -> list[Scene]:
    generator = np.random.default_rng([course.seed, 2**32 - 1])
    return [
        sample_scene(settings, axis, "main", generator)
        for settings in course.datasets.values()
        for axis in settings.axes
        for _ in range(_SCENES_AN_AXIS)
    ]


def _refuse_if_unfit(
    name: str, settings: OrganismSettings, errs: float | None, scores: Sequence[Score], measures: Mapping[str, Measure]
) -> None:
    if errs is not None:
        right = float(np.mean([score.accuracy for score in scores if (score.variant, score.condition) == ("main", "intact")]))
        if right > 1 - errs:
            raise UserError(
                f"organisms.{name}: held-out accuracy is {right:.3f}, at most {1 - errs:g} is allowed for mechanism "
                f"{settings.mechanism!r}, which must err; try another seed"
            )
    # Decorrelated scenes are harder than what the organism must master; how it does on them is reported.
    mastered = [score for score in scores if score.variant != "decorrelated" and (errs is None or score.condition == "construction")]
    for score in sorted(mastered, key=lambda score: score.accuracy):
        if score.accuracy < settings.accuracy:
            where = f"{score.dataset}, {score.variant}, {score.axis}, {score.template} ({score.condition})"
            raise UserError(
                f"organisms.{name}: held-out accuracy is {score.accuracy:.3f} on {where}, {settings.accuracy} is asked for; "
                f"raise steps (now {settings.steps}) or lower accuracy"
            )
    for quantity, measure in measures.items():
        if not measure.value <= measure.limit:
            raise UserError(
                f"organisms.{name}: {quantity} is {measure.value:.3g}, at most {measure.limit:g} is allowed for mechanism "
                f"{settings.mechanism!r}; raise steps (now {settings.steps})"
            )
