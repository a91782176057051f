"""Questions: right by an independent reading of the scene, of known words only, and not to be guessed from the text."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, chisquare
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.build import sample_scene
from vlm_spatial.scenes.plan import plan_scenes
from vlm_spatial.scenes.questions import Question, ask, split_words, vocabulary
from vlm_spatial.scenes.scene import Scene, with_contents
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN, drawn_source
from vlm_spatial.scenes.sources.settings import TEMPLATES, Wording
from vlm_spatial.scenes.tables import questions_table
from vlm_spatial.statistics import holm
from vlm_spatial.tokens import Axis

pytestmark = pytest.mark.unit

KINDS = tuple(source.kind for source in DRAWN)
# Of each kind that is counted on, 600 scenes are planned.
COUNTED = [pytest.param(kind, marks=[] if kind == "squares" else pytest.mark.slow) for kind in KINDS]
AXES: tuple[Axis, ...] = ("horizontal", "vertical")
ALL_TEMPLATES = (*TEMPLATES, "content")
WORDINGS: tuple[Wording, ...] = ("stem", "{question} Reply with one token.")


def scenes(kind: str, axis: Axis, count: int) -> list[Scene]:
    settings = dataset_settings(kind=kind)
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
def test_answers_are_right(kind: str, axis: Axis) -> None:
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
    scene = sample_scene(dataset_settings(kind="squares"), "vertical", "main", np.random.default_rng(3))
    first, second, third = scene.objects
    assert ask(scene, "slot_to_object", 2) == Question("What color is the square at the bottom?", third, tuple(sorted(scene.objects)))
    assert ask(scene, "object_to_slot", 0).prompt == f"Is the {first} square at the top, in the middle or at the bottom?"
    assert ask(scene, "relation_to_object", 0).prompt == f"What color is the square directly above the {second} square?"


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_holds_every_word_and_no_more_than_needed(kind: str) -> None:
    settings = dataset_settings(kind=kind)
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
    assert set(drawn_source(kind).words()) <= known


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
def generated(kind: str, wording: Wording = "plain") -> pl.DataFrame:
    """A dataset's ``questions.parquet``: 400 training and 200 test scenes an axis, every template."""
    values = {
        "scenes": {"train": 400, "validation": 1, "test": 200},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
    }
    settings = dataset_settings({"kind": kind, "templates": ALL_TEMPLATES, "wording": wording} | values)
    return questions_table(plan_scenes(settings, seed=99), settings.templates, settings.wording)


@dataclass(frozen=True)
class Asked:
    """One question as its text shows it, its slot for the tables below."""

    question: Question
    slot: int
    pool: tuple[str, ...]

    @property
    def named(self) -> str:
        """The object words in the prompt."""
        return " ".join(word for word in self.pool if word in self.question.prompt.replace("?", " ").split())

    @property
    def chance(self) -> float:
        """The object that a relation names is not its own neighbour, so it is no candidate."""
        return 1 / (len(self.question.candidates) - ("directly" in self.question.prompt))


def rows(kind: str, axis: Axis, template: str, split: str) -> list[Asked]:
    table = generated(kind).filter(axis=axis, template=template, split=split, variant="main")
    return [
        Asked(Question(row["prompt"], row["answer"], tuple(row["candidates"])), row["slot"], drawn_source(kind).words())
        for row in table.iter_rows(named=True)
    ]


def guesses(train: Sequence[Asked], test: Sequence[Asked]) -> list[bool]:
    """Whether a conditional logistic guesser trained on texts and answers alone is right about each of other texts."""
    vectorizer = DictVectorizer()
    table = [
        (features(asked.question.prompt, asked.question.candidates, candidate, asked.pool), candidate == asked.question.answer)
        for asked in train
        for candidate in asked.question.candidates
    ]
    guesser = LogisticRegression(max_iter=300).fit(vectorizer.fit_transform([row for row, _ in table]), [right for _, right in table])
    every = [(asked, candidate) for asked in test for candidate in asked.question.candidates]
    seen = vectorizer.transform([features(a.question.prompt, a.question.candidates, candidate, a.pool) for a, candidate in every])
    scores = iter(guesser.decision_function(seen))
    best = [max(asked.question.candidates, key=lambda _: next(scores)) for asked in test]
    return [guess == asked.question.answer for guess, asked in zip(best, test, strict=True)]


def worst(hits: Sequence[bool], asked: Sequence[Asked], part_of: Callable[[Asked], Hashable]) -> float:
    """The smallest p value, corrected for the number of parts (Holm), of a part's hits under chance."""
    parts: dict[Hashable, list[int]] = {}
    for index, one in enumerate(asked):
        parts.setdefault(part_of(one), []).append(index)
    p_values = []
    for members in parts.values():
        # Candidates are as many all over a part, so that hits are binomial.
        [chance] = {asked[index].chance for index in members}
        p_values.append(float(binom.sf(sum(hits[index] for index in members) - 1, len(members), chance)))
    return float(holm(p_values).min())


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("template", ALL_TEMPLATES)
@pytest.mark.slow
def test_no_answer_can_be_guessed_from_the_text(kind: str, axis: Axis, template: str) -> None:
    """Trained on 400 scenes' texts, asked about 200 others: no better than chance in all, nor for any slot or colour shown."""
    train, test = (rows(kind, axis, template, split) for split in ("train", "test"))
    hits = guesses(train, test)
    chance = test[0].chance
    assert binom.sf(sum(hits) - 1, len(hits), chance) > 1e-3, f"{sum(hits)} of {len(hits)} right, chance is {chance:.2f}"
    # The guesser is no straw man: it must reach chance, elimination of the named object included.
    assert binom.cdf(sum(hits), len(hits), chance) > 1e-3
    # Of what the text itself tells: which slot or relation is asked for, which colour or object is named, and both.
    assert worst(hits, test, without_words) > 1e-3
    assert worst(hits, test, lambda one: one.named) > 1e-3
    assert worst(hits, test, lambda one: (without_words(one), one.named)) > 1e-3
    # The slot that a question is about is the answer of object_to_slot; elsewhere no slot is easier than another.
    if template != "object_to_slot":
        assert worst(hits, test, lambda one: one.slot) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wording", WORDINGS)
def test_every_wording_tells_as_much_as_the_plain_one(kind: str, wording: Wording) -> None:
    """Prompts translate one to one, answers and candidates are the same: what cannot be guessed from one cannot from the other."""
    plain, worded = generated(kind, "plain"), generated(kind, wording)
    assert worded.drop("prompt").equals(plain.drop("prompt"))
    prompts = set(zip(plain["prompt"], worded["prompt"], strict=True))
    assert len(prompts) == len({before for before, _ in prompts}) == len({after for _, after in prompts})


def without_words(asked: Asked) -> str:
    return " ".join(word for word in asked.question.prompt.replace("?", " ?").split() if word not in asked.pool)


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("template", ALL_TEMPLATES)
@pytest.mark.slow
def test_answers_are_balanced_whatever_the_text_says(kind: str, axis: Axis, template: str) -> None:
    """Counted on 600 scenes: given a template, slot asked for, and object named, each answer is as frequent as the others."""
    asked = [one for split in ("train", "test") for one in rows(kind, axis, template, split)]
    by_text: dict[tuple[str, str], Counter[str]] = {}
    for one in asked:
        by_text.setdefault((without_words(one), one.named), Counter())[one.question.answer] += 1
    p_values = []
    for (_, named), counts in by_text.items():
        possible = (
            set(asked[0].question.candidates) if template in ("object_to_slot", "content") else set(drawn_source(kind).words()) - {named}
        )
        assert set(counts) <= possible
        p_values.append(float(chisquare([counts[answer] for answer in sorted(possible)]).pvalue))
    assert holm(p_values).min() > 1e-3
    if template in ("slot_to_object", "relation_to_object"):
        # The order of the candidates tells nothing either: each place holds the answer as often (among those not named).
        places = Counter(one.question.candidates.index(one.question.answer) for one in asked)
        assert chisquare([places[place] for place in range(3)]).pvalue > 1e-4


def test_a_text_that_gives_the_answer_away_is_caught() -> None:
    """The guesser and the counts are not blind: questions whose middle object is always the red one are found out."""
    told = []
    for scene in scenes("squares", "horizontal", 700):
        if "red" in scene.objects:
            first, last, red = sorted(scene.contents, key=lambda content: content.word == "red")
            moved = with_contents(scene, (first, red, last))
            told += [Asked(ask(moved, "slot_to_object", slot), slot, drawn_source("squares").words()) for slot in range(3)]
    train, test = told[:300], told[300:]
    hits = guesses(train, test)
    assert binom.sf(sum(hits) - 1, len(hits), 1 / 3) < 1e-6
    assert worst(hits, test, lambda one: one.slot) < 1e-6


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("axis", AXES)
def test_words_and_answers_are_balanced_over_slots(kind: str, axis: Axis) -> None:
    table = scenes(kind, axis, 600)
    for slot in range(3):
        counts = Counter(scene.objects[slot] for scene in table)
        assert chisquare([counts[word] for word in drawn_source(kind).words()]).pvalue > 1e-4
    yes = sum(ask(scene, "content", slot).answer == "yes" for scene in table for slot in range(3))
    assert binom.cdf(yes, 1800, 0.5) > 1e-4
    assert binom.sf(yes - 1, 1800, 0.5) > 1e-4
    middles = Counter(ask(scene, "relation_to_object", 1).prompt.split(" the ")[-2] for scene in table)
    assert chisquare(list(middles.values())).pvalue > 1e-4
    assert len(middles) == 2


def test_what_cannot_be_asked_says_so() -> None:
    settings = dataset_settings(kind="squares")
    single = sample_scene(settings, "horizontal", "single", np.random.default_rng(0), slot=1)
    with pytest.raises(UserError, match=r"slot 0: the scene has objects in slots \[1\] only"):
        ask(single, "slot_to_object", 0)
    with pytest.raises(UserError, match="a relation needs three objects"):
        ask(single, "relation_to_object", 1)
    with pytest.raises(UserError, match="'colour': allowed are slot_to_object"):
        ask(single, "colour", 1)  # type: ignore[arg-type]
