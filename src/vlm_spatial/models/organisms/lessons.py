"""What an organism is taught: fresh scenes for every step, described or asked about, as the chat template writes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.questions import SLOT_WORDS, ask, split_words, vocabulary
from vlm_spatial.scenes.scene import Scene, Variant

# The user's turn of a caption: what stands at each place, or where each object stands. Captions are learned first, and
# make the questions learnable.
BY_PLACE_PROMPT = "List the objects by place."
BY_OBJECT_PROMPT = "List the places by object."
IGNORED = -100

# Share of the training scenes of each variant. With decorrelated layouts among them, training takes several times as long.
VARIANTS: dict[Variant, float] = {"main": 0.9, "pair": 0.1}


@dataclass(frozen=True)
class Teaching:
    """How a family is taught.

    Attributes:
        questions: asked after one image.
        captions_only: share of the training in which images are described only, before questions are asked.
        captions_later: share of captions among the lessons from then on.
        decay_from: share of the training after which the learning rate falls linearly to zero.
    """

    questions: int
    captions_only: float
    captions_later: float
    decay_from: float

    def captions(self, share: float) -> float:
        """Share of captions among the lessons, after a ``share`` of the training."""
        return 1.0 if share < self.captions_only else self.captions_later


@dataclass(frozen=True)
class Lesson:
    """One scene and the turns of its conversation: (prompt, answer).

    ``given`` are words of the answers that nothing determines, such as which object a caption names next; they are read,
    not learned.
    """

    scene: Scene
    turns: tuple[tuple[str, str], ...]
    given: frozenset[str] = frozenset()

    @property
    def caption(self) -> bool:
        """Whether the image is described, not asked about."""
        return bool(self.given)


def lesson_words(datasets: Sequence[DatasetSettings]) -> list[str]:
    """Every word of the lessons, sorted."""
    return sorted(set().union(*(vocabulary(settings) for settings in datasets)) | split_words([BY_PLACE_PROMPT, BY_OBJECT_PROMPT]))


def sample_lessons(datasets: Sequence[DatasetSettings], count: int, seed: int, step: int, captions: float, questions: int) -> list[Lesson]:
    """The lessons of one training step: a pure function of its arguments, so that training can resume anywhere.

    A share ``captions`` of the ``count`` lessons are captions, the rest are ``questions`` after one image.
    """
    generator = np.random.default_rng([seed, step])
    lessons = []
    for index in range(count):
        settings = datasets[int(generator.integers(len(datasets)))]
        axis = settings.axes[int(generator.integers(len(settings.axes)))]
        variant = list(VARIANTS)[int(generator.choice(len(VARIANTS), p=list(VARIANTS.values())))]
        scene = sample_scene(settings, axis, variant, generator)
        lessons.append(_caption(scene, generator) if index < captions * count else _questions(scene, settings, questions, generator))
    return lessons


def _caption(scene: Scene, generator: np.random.Generator) -> Lesson:
    """Places and objects in turns, in random order: each is looked up from the other, as nothing else tells it."""
    places = SLOT_WORDS[scene.axis]
    order = [int(slot) for slot in generator.permutation(3)]
    if generator.random() < 0.5:
        answer = " ".join(f"{places[slot]} {scene.objects[slot]}" for slot in order)
        return Lesson(scene, ((BY_PLACE_PROMPT, answer),), frozenset(places))
    answer = " ".join(f"{scene.objects[slot]} {places[slot]}" for slot in order)
    return Lesson(scene, ((BY_OBJECT_PROMPT, answer),), frozenset(scene.objects))


def _questions(scene: Scene, settings: DatasetSettings, count: int, generator: np.random.Generator) -> Lesson:
    every = [(template, slot) for template in settings.templates for slot in scene.slots]
    chosen = generator.permutation(len(every))[:count]
    questions = [ask(scene, every[index][0], every[index][1], settings.wording) for index in chosen]
    return Lesson(scene, tuple((question.prompt, question.answer) for question in questions))


def model_inputs(lessons: Sequence[Lesson], processor: Any) -> dict[str, Tensor]:
    """Model inputs of a batch of lessons, with ``labels`` on the answers (but for given words) and the end of each answer only."""
    conversations = []
    for lesson in lessons:
        turns: list[dict[str, Any]] = []
        for number, (prompt, answer) in enumerate(lesson.turns):
            image = [{"type": "image", "image": render(lesson.scene)}] if number == 0 else []
            turns.append({"role": "user", "content": [*image, {"type": "text", "text": prompt}]})
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        conversations.append(turns)
    inputs = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt", "padding": True}
    )
    ids = inputs["input_ids"]
    learned = answer_mask(ids, processor.tokenizer)
    for row, lesson in enumerate(lessons):
        given = torch.tensor(processor.tokenizer.convert_tokens_to_ids(sorted(lesson.given)), dtype=ids.dtype)
        learned[row] &= ~torch.isin(ids[row], given)
    return {**inputs, "labels": torch.where(learned, ids, IGNORED)}


def answer_mask(ids: Int[Tensor, "batch tokens"], tokenizer: Any) -> Bool[Tensor, "batch tokens"]:
    """Tokens of the model's own turns, from the first word of an answer to the end-of-turn mark."""
    start, role, end = (tokenizer.convert_tokens_to_ids(token) for token in _turn_marks(tokenizer))
    opened = torch.zeros_like(ids, dtype=torch.bool)
    opened[:, 2:] = (ids[:, :-2] == start) & (ids[:, 1:-1] == role)
    turn_ended = torch.zeros_like(opened)
    turn_ended[:, 1:] = ids[:, :-1] == end
    # Position of the latest opening against that of the latest end: inside an answer if the opening is later.
    position = torch.arange(1, ids.shape[1] + 1)
    latest_open = (position * opened).cummax(dim=1).values
    latest_end = (position * turn_ended).cummax(dim=1).values
    return latest_open > latest_end


def _turn_marks(tokenizer: Any) -> tuple[str, str, str]:
    if "<start_of_turn>" in tokenizer.get_vocab():
        return "<start_of_turn>", "model", "<end_of_turn>"
    return "<|im_start|>", "assistant", "<|im_end|>"
