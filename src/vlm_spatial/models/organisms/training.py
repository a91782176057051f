"""The training loop: reproducible from a seed, resumable after a kill, the same for every family and mechanism."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.organisms.conversations import model_inputs, set_apart
from vlm_spatial.models.organisms.evaluation import CURVE, evaluate
from vlm_spatial.models.organisms.lessons import VARIANTS, Lesson, OfEachKind, sample_lessons
from vlm_spatial.models.organisms.mechanism import Given, Mechanism, Moment
from vlm_spatial.models.organisms.optimiser import Optimiser, rate
from vlm_spatial.models.organisms.resume import Savepoint, State
from vlm_spatial.models.recipe import Teaching
from vlm_spatial.models.values import Prepared
from vlm_spatial.progress import progress
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.scene import Variant
from vlm_spatial.scenes.sources.settings import DatasetSettings

# Steps between two rows of the training curve, and two saves.
REPORT_EVERY = 100
_CURVE_SCENES = 16
# Batches in the making, where processes make them.
_AHEAD = 12


@dataclass(frozen=True)
class Course:
    """What to teach, and how: ``steps`` batches of ``batch`` scenes of ``datasets`` (by name) and ``variants``, all drawn from ``seed``."""

    datasets: dict[str, DatasetSettings]
    steps: int
    batch: int
    seed: int
    teaching: Teaching
    variants: Mapping[Variant, float] = field(default_factory=lambda: VARIANTS)


@dataclass(frozen=True)
class Batch:
    """Lessons of like length, and the model's inputs for them."""

    lessons: list[Lesson]
    inputs: dict[str, Tensor]


def train(
    adapter: Adapter,
    course: Course,
    mechanism: Mechanism,
    savepoint: Savepoint,
    watch: Callable[[dict[str, Any]], None] = lambda _row: None,
    workers: Executor | None = None,
) -> list[dict[str, Any]]:
    """Train the adapter's model in place.

    Args:
        watch: called with each new row of the training curve, after it was saved.
        workers: processes begun with :func:`be_worker`, which make the batches; a thread beside this one if None. The batches are the same.

    Every step's batch depends on the seed, the step and the curve's earlier rows alone, so a resumed training ends with the very
    weights of an uninterrupted one on the same machine.

    Returns:
        The training curve, one row every ``REPORT_EVERY`` steps: ``step``, ``loss`` (mean since the last row), ``learning_rate`` (share of
        the highest), and held-out accuracy for each dataset, axis and template.
    """
    model = adapter.model.requires_grad_(True)
    mechanism.construct(adapter)
    optimiser = Optimiser(model, course.steps, course.teaching.decay_from)
    state = savepoint.load() or State(0, {}, [])
    _restore(model, optimiser, state)
    curve, losses = list(state.curve), []
    # Its own copy: a tokenizer cannot be used by two threads at once, and scoring uses the adapter's.
    processor = copy.deepcopy(adapter.processor)
    steps = range(state.step, course.steps)
    if workers is None:
        batches = _prefetched(lambda step: _batches(adapter, processor, course, mechanism, step, curve), steps)
    else:
        batches = _made_by(workers, steps)
    for step, parts in progress(batches, "training", total=course.steps - state.step):
        model.train()
        losses.append(_learn(adapter, mechanism, parts, course, step))
        optimiser.step(step)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == course.steps:
            model.eval()
            scores = evaluate(adapter, course.datasets, _CURVE_SCENES, course.seed, stream=CURVE)
            row = {"step": step + 1, "loss": float(np.mean(losses)), "learning_rate": rate(step, course.steps, course.teaching.decay_from)}
            curve.append(row | {f"{score.dataset} {score.axis} {score.template}": score.accuracy for score in scores})
            losses = []
            savepoint.save(State(step + 1, _everything(model, optimiser), curve))
            watch(curve[-1])
    model.eval().requires_grad_(False)
    return curve


def _everything(model: nn.Module, optimiser: Optimiser) -> dict[str, Tensor]:
    tensors = {f"model/{name}": parameter for name, parameter in model.named_parameters()}
    return tensors | {f"optimiser/{name}": value for name, value in optimiser.state().items()}


def _restore(model: nn.Module, optimiser: Optimiser, state: State) -> None:
    if state.step == 0:
        return
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state.tensors[f"model/{name}"])
    optimiser.restore({name.removeprefix("optimiser/"): value for name, value in state.tensors.items() if name.startswith("optimiser/")})


def _batches(
    adapter: Adapter, processor: Any, course: Course, mechanism: Mechanism, step: int, curve: Sequence[Mapping[str, Any]]
) -> list[Batch]:
    """The step's lessons. Turns set apart are alike in length; otherwise captions and questions are in batches of their own, so that
    short ones are not padded to the longest.
    """
    accuracy = _accuracy(course, step, curve) if course.teaching.by_errors else {}
    drawn = sample_lessons(
        course.datasets, course.batch, course.seed, step, step / course.steps, course.teaching, accuracy, course.variants
    )
    generator = np.random.default_rng([course.seed, step, 1])
    drawn = [replace(lesson, image=mechanism.image(lesson.scene, generator)) for lesson in drawn]
    second = [mechanism.second_image(lesson.scene, generator) for lesson in drawn]
    drawn = [replace(lesson, second=other) for lesson, other in zip(drawn, second, strict=True)]
    turns = adapter.recipe.turns
    if course.teaching.apart:
        inputs = set_apart(model_inputs(drawn, processor, turns), processor.tokenizer, adapter)
        pictures = [render(other) for other in second if other is not None]
        made = processor.image_processor(images=pictures, return_tensors="pt") if pictures else None
        given = Given(inputs, [lesson.scene for lesson in drawn], adapter, processor.tokenizer, step / course.steps)
        return [Batch(drawn, mechanism.arranged(given, generator, made))]
    parts = [[lesson for lesson in drawn if lesson.caption == caption] for caption in (True, False)]
    return [Batch(part, model_inputs(part, processor, turns)) for part in parts if part]


def _accuracy(course: Course, step: int, curve: Sequence[Mapping[str, Any]]) -> OfEachKind:
    """Accuracy by the curve's last row. A row at ``step`` itself does not count: it is there only if training was resumed just now,
    as batches are made ahead.
    """
    rows = [row for row in curve if row["step"] < step]
    every = [(name, axis, template) for name, of in course.datasets.items() for axis in of.axes for template in of.templates]
    return {kind: rows[-1][" ".join(kind)] for kind in every} if rows else {}


def _learn(adapter: Adapter, mechanism: Mechanism, parts: Sequence[Batch], course: Course, step: int) -> float:
    """Add the gradients of one step's batches, all weighted alike, and give the loss."""
    total = 0.0
    grid = adapter.grid(parts[0].lessons[0].scene.width, parts[0].lessons[0].scene.height)
    for number, part in enumerate(parts):
        random = torch.Generator().manual_seed(int(np.random.SeedSequence([course.seed, step, number]).generate_state(1)[0]))
        shown = [(scene, image) for lesson in part.lessons for scene, image in lesson.shown]
        scenes, images = [scene for scene, _ in shown], [image for _, image in shown]
        moment = Moment(scenes, grid, step / course.steps, random, images)
        with _mechanism_at_connector(adapter, mechanism, moment) as penalties:
            loss = adapter.model(**{name: value.to(adapter.device) for name, value in part.inputs.items()}, use_cache=False).loss
        loss = (loss + sum(penalties)) / len(parts)
        loss.backward()
        total += float(loss.detach())
    return total


@contextmanager
def _mechanism_at_connector(adapter: Adapter, mechanism: Mechanism, moment: Moment) -> Iterator[list[Tensor]]:
    """Let the mechanism act on what enters the language model; gives the list that its penalties are put in."""
    penalties: list[Tensor] = []
    # Only the layout of the connector's output is asked of it, which the batch and the grid decide.
    layout = Prepared.layout(len(moment.scenes), moment.grid)

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        values = adapter.read("connector", output, layout)
        changed, penalty = mechanism.in_training(values.squeeze(2), moment)
        if penalty is not None:
            penalties.append(penalty)
        return adapter.write("connector", output, changed.unsqueeze(2), layout)

    handle = adapter.connector.register_forward_hook(hook, prepend=True)
    try:
        yield penalties
    finally:
        handle.remove()


_worker: tuple[Adapter, Course, Mechanism] | None = None
"""Of a process that makes batches."""


def be_worker(adapter: Callable[[], Adapter], course: Course, mechanism: Callable[[], Mechanism]) -> None:
    """Make this process one that makes batches; of a course that does not ask by errors, as those depend on the training curve."""
    global _worker
    torch.set_num_threads(1)
    _worker = adapter(), course, mechanism()


def _of_worker(step: int) -> list[Batch]:
    assert _worker is not None
    adapter, course, mechanism = _worker
    return _batches(adapter, adapter.processor, course, mechanism, step, [])


def _made_by(workers: Executor, steps: range) -> Iterator[tuple[int, list[Batch]]]:
    """The steps' batches in order, some of the next ones in the making."""
    coming: deque[Future[list[Batch]]] = deque(workers.submit(_of_worker, step) for step in steps[:_AHEAD])
    for step in steps:
        if step + _AHEAD in steps:
            coming.append(workers.submit(_of_worker, step + _AHEAD))
        yield step, coming.popleft().result()


def _prefetched(make: Callable[[int], list[Batch]], steps: range) -> Iterator[tuple[int, list[Batch]]]:
    """The steps' batches in order, the next one made while the last is learned from."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(make, steps.start) if steps else None
        for step in steps:
            assert coming is not None
            parts = coming.result()
            if step + 1 in steps:
                coming = worker.submit(make, step + 1)
            yield step, parts
