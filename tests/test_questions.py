"""Questions: right by an independent reading of the scene, of known words only, and not to be guessed from the text."""

from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, chisquare
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from vlm_spatial.config.datasets import TEMPLATES, DatasetSettings
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.build import sample_scene, words
from vlm_spatial.scenes.plan import plan_scenes
from vlm_spatial.scenes.questions import Question, ask, split_words, vocabulary
from vlm_spatial.scenes.scene import Kind, Scene
from vlm_spatial.scenes.tables import questions_table
from vlm_spatial.tokens import Axis

KINDS: tuple[Kind, ...] = ("squares", "shapes", "objects")
AXES: tuple[Axis, ...] = ("horizontal", "vertical")
ALL_TEMPLATES = (*TEMPLATES, "content")


def scenes(kind: Kind, axis: Axis, count: int) -> list[Scene]:
    settings = DatasetSettings(kind=kind)
    return [sample_scene(settings, axis, "main", np.random.default_rng([seed, AXES.index(axis)])) for seed in range(count)]


def right_answer(scene: Scene, prompt: str) -> str:
    """Read the prompt and the scene's boxes again, without the code under test."""
    first = 0 if scene.axis == "horizontal" else 1
    names = ("left", "middle", "right") if scene.axis == "horizontal" else ("top", "middle", "bottom")
    by_place = [content for _, content in sorted(zip([box[first] for box in scene.boxes], scene.contents, strict=True))]
    named = [place for place, content in enumerate(by_place) if f"the {content.phrase}" in prompt]
    if " in the picture?" in prompt:
        return "yes" if any(f"a {c.phrase} in" in prompt or f"an {c.phrase} in" in prompt for c in by_place) else "no"
    if prompt.startswith("Is the"):
        return names[named[0]]
    if "directly" in prompt:
        step = 1 if "right of" in prompt or "below" in prompt else -1
        return by_place[named[0] + step].word
    place = next(place for place, name in enumerate(names) if f" the {name}?" in prompt)
    return by_place[place].word


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", AXES)
def test_answers_are_right(kind: Kind, axis: Axis) -> None:
    for scene in scenes(kind, axis, 40):
        for template in ALL_TEMPLATES:
            for slot in range(3):
                question = ask(scene, template, slot)
                assert question.answer == right_answer(scene, question.prompt), question
                assert question.answer in question.candidates
                assert len(set(question.candidates)) == len(question.candidates)
                one_word = ask(scene, template, slot, "one_word")
                assert one_word.prompt == f"{question.prompt} Answer with one word."
                assert (one_word.answer, one_word.candidates) == (question.answer, question.candidates)


def test_some_wordings_as_they_read() -> None:
    scene = sample_scene(DatasetSettings(kind="squares"), "vertical", "main", np.random.default_rng(3))
    first, second, third = scene.objects
    assert ask(scene, "slot_to_object", 2) == Question("What color is the square at the bottom?", third, tuple(sorted(scene.objects)))
    assert ask(scene, "object_to_slot", 0).prompt == f"Is the {first} square at the top, in the middle or at the bottom?"
    assert ask(scene, "relation_to_object", 0).prompt == f"What color is the square directly above the {second} square?"


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_holds_every_word_and_no_more_than_needed(kind: Kind) -> None:
    settings = DatasetSettings(kind=kind)
    known = set(vocabulary(settings))
    used = set()
    for axis in AXES:
        for scene in scenes(kind, axis, 150):
            for template in ALL_TEMPLATES:
                for slot in range(3):
                    for wording in ("plain", "one_word"):
                        question = ask(scene, template, slot, wording)
                        used |= split_words([question.prompt, *question.candidates])
    assert used == known
    assert set(words(kind)) <= known


def features(prompt: str, candidates: tuple[str, ...], candidate: str, scene_words: tuple[str, ...]) -> dict[str, float]:
    """What the text says of one candidate: itself, the prompt's form, which candidates are named, all pairings of these."""
    form = " ".join(word for word in prompt.rstrip("?").split() if word not in scene_words)
    named = [word for word in scene_words if word in prompt.replace("?", " ").split()]
    place = str(candidates.index(candidate))
    values = {f"is {candidate}": 1.0, f"is {candidate} in {form}": 1.0, f"place {place} in {form}": 1.0}
    values |= {f"{candidate} named": 1.0} if candidate in named else {}
    values |= {f"{candidate} beside {other}": 1.0 for other in candidates if other != candidate}
    values |= {f"{candidate} asked of {other}": 1.0 for other in named}
    return values


@cache
def generated(kind: Kind) -> pl.DataFrame:
    """A dataset's ``questions.parquet``: 400 training and 200 test scenes an axis, every template."""
    values = {
        "scenes": {"train": 400, "validation": 1, "test": 200},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
    }
    settings = DatasetSettings.model_validate({"kind": kind, "templates": ALL_TEMPLATES} | values)
    return questions_table(plan_scenes(settings, seed=99), settings.templates, settings.wording)


def rows(kind: Kind, axis: Axis, template: str, split: str) -> Iterator[tuple[Question, tuple[str, ...]]]:
    for row in generated(kind).filter(axis=axis, template=template, split=split, variant="main").iter_rows(named=True):
        yield Question(row["prompt"], row["answer"], tuple(row["candidates"])), words(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_no_answer_can_be_guessed_from_the_text(kind: Kind, axis: Axis, template: str) -> None:
    """A conditional logistic guesser trained on 400 scenes' texts does no better on 200 others than chance allows."""
    vectorizer = DictVectorizer()
    table = [
        (features(question.prompt, question.candidates, candidate, pool), candidate == question.answer)
        for question, pool in rows(kind, axis, template, "train")
        for candidate in question.candidates
    ]
    guesser = LogisticRegression(max_iter=300).fit(vectorizer.fit_transform([row for row, _ in table]), [right for _, right in table])
    correct, chances = 0, []
    for question, pool in rows(kind, axis, template, "test"):
        scores = guesser.decision_function(
            vectorizer.transform([features(question.prompt, question.candidates, candidate, pool) for candidate in question.candidates])
        )
        correct += question.candidates[int(np.argmax(scores))] == question.answer
        # The object that a relation names is not its own neighbour.
        chances.append(1 / (len(question.candidates) - (template == "relation_to_object")))
    chance = float(np.mean(chances))
    assert binom.sf(correct - 1, len(chances), chance) > 1e-3, f"{correct} of {len(chances)} right, chance is {chance:.2f}"
    # The guesser is no straw man: it must reach chance, elimination of the named object included.
    assert binom.cdf(correct, len(chances), chance) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", AXES)
def test_words_and_answers_are_balanced_over_slots(kind: Kind, axis: Axis) -> None:
    table = scenes(kind, axis, 600)
    for slot in range(3):
        counts = Counter(scene.objects[slot] for scene in table)
        assert chisquare([counts[word] for word in words(kind)]).pvalue > 1e-4
    yes = sum(ask(scene, "content", slot).answer == "yes" for scene in table for slot in range(3))
    assert binom.cdf(yes, 1800, 0.5) > 1e-4
    assert binom.sf(yes - 1, 1800, 0.5) > 1e-4
    middles = Counter(ask(scene, "relation_to_object", 1).prompt.split(" the ")[-2] for scene in table)
    assert chisquare(list(middles.values())).pvalue > 1e-4
    assert len(middles) == 2


def test_what_cannot_be_asked_says_so() -> None:
    settings = DatasetSettings(kind="squares")
    single = sample_scene(settings, "horizontal", "single", np.random.default_rng(0), slot=1)
    with pytest.raises(UserError, match=r"slot 0: the scene has objects in slots \[1\] only"):
        ask(single, "slot_to_object", 0)
    with pytest.raises(UserError, match="at least two objects"):
        ask(single, "relation_to_object", 1)
    with pytest.raises(UserError, match="'colour': allowed are slot_to_object"):
        ask(single, "colour", 1)  # type: ignore[arg-type]
