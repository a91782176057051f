"""Scores of answers: every form counts, whole words where candidates begin alike, each held against sums written out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader, mass
from vlm_spatial.models.answer_forms import AnswerForms, Tokens
from vlm_spatial.models.inputs import Begun

pytestmark = pytest.mark.model

VOCABULARY = 7


def model(beginning: Tokens) -> torch.Tensor:
    """Logits of a language model of seven tokens, other ones behind every beginning."""
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(hash((3, *beginning)) % 2**31)) * 3


def chance(tokens: Tokens) -> float:
    """Probability that the model writes exactly these tokens next."""
    return float(np.prod([float(model(tokens[:end]).double().softmax(0)[token]) for end, token in enumerate(tokens)]))


def scored(reader: AnswerReader) -> np.ndarray:
    return reader.log_probabilities(torch.stack([model(beginning) for beginning in reader.beginnings]))


def test_first_tokens_are_enough_where_they_tell_candidates_apart() -> None:
    reader = AnswerReader.from_forms(["red", "blue"], [[(0,), (1,)], [(2,), (3,)]])
    assert reader.prompts("which?") == ["which?"]
    assert reader.whole_words
    expected = [chance((0,)) + chance((1,)), chance((2,)) + chance((3,))]
    np.testing.assert_allclose(np.exp(scored(reader)), expected, rtol=1e-5)
    assert mass(scored(reader)) == pytest.approx(sum(expected), rel=1e-5)


def test_first_tokens_bound_the_words_that_they_begin() -> None:
    forms = [[(0, 1), (1,)], [(2, 3, 4), (3,)]]
    names = ["globe", "lemon"]
    first = AnswerReader.from_forms(names, forms)
    assert (first.prompts("which?"), first.whole_words) == (["which?"], False)
    np.testing.assert_allclose(np.exp(scored(first)), [chance((0,)) + chance((1,)), chance((2,)) + chance((3,))], rtol=1e-5)
    whole = AnswerReader.from_forms(names, forms, always_whole=True)
    assert whole.whole_words
    expected = [sum(map(chance, some)) for some in forms]
    np.testing.assert_allclose(np.exp(scored(whole)), expected, rtol=1e-5)
    assert mass(scored(whole)) == pytest.approx(sum(expected), rel=1e-5)
    assert (scored(whole) < scored(first)).all()


@given(st.integers(0, 1000))
def test_first_tokens_rank_as_words_where_the_model_ends_what_it_begins(seed: int) -> None:
    forms = [[(0, 1), (1,)], [(2, 3, 4), (3,)], [(4,), (5, 6)]]
    first, whole = (AnswerReader.from_forms(["globe", "lemon", "red"], forms, always_whole=always) for always in (False, True))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(whole.beginnings), VOCABULARY, generator=generator) * 3
    for row, beginning in zip(rows[1:], whole.beginnings[1:], strict=True):
        [following] = whole.wanted(beginning)
        row[following] += 40
    scores = [first.log_probabilities(rows[:1]), whole.log_probabilities(rows)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    assert np.argsort(scores[0]).tolist() == np.argsort(scores[1]).tolist()


def test_candidates_that_begin_alike_are_scored_by_whole_words() -> None:
    forms = [[(0, 1), (4,)], [(0, 2, 3), (5,)], [(6,)]]
    reader = AnswerReader.from_forms(["globe", "guitar", "bell"], forms)
    assert reader.prompts("which?") == ["which?", Begun("which?", (0,)), Begun("which?", (0, 2))]
    np.testing.assert_allclose(np.exp(scored(reader)), [sum(map(chance, some)) for some in forms], rtol=1e-5)


def test_a_word_that_begins_another_is_scored_without_it() -> None:
    """ "car" and what follows, but not "carrot"; and "carrots" is a part of "carrot", not to be taken off twice."""
    reader = AnswerReader.from_forms(["car", "carrot", "bell"], [[(0,)], [(0, 1), (0, 1, 2)], [(5,)]])
    np.testing.assert_allclose(np.exp(scored(reader)), [chance((0,)) - chance((0, 1)), chance((0, 1)), chance((5,))], rtol=1e-5)
    assert mass(scored(reader)) == pytest.approx(chance((0,)) + chance((5,)), rel=1e-5)


@given(st.lists(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3), min_size=2, max_size=4))
@pytest.mark.slow
def test_scores_are_probabilities_of_events_that_exclude_each_other(forms: Sequence[Sequence[Tokens]]) -> None:
    every = [form for some in forms for form in dict.fromkeys(some)]
    names = [str(number) for number in range(len(forms))]
    if len(set(every)) < len(every):
        with pytest.raises(UserError, match="are the same tokens"):
            AnswerReader.from_forms(names, forms)
        return
    reader = AnswerReader.from_forms(names, forms)
    scores = scored(reader)
    assert np.isfinite(scores).all()
    assert mass(scores) <= 1 + 1e-5
    # Sampled word by word: each text of three tokens belongs to the candidate with the longest form that it begins with.
    texts = [(a, b, c) for a in range(VOCABULARY) for b in range(VOCABULARY) for c in range(VOCABULARY)]
    expected = dict.fromkeys(names, 0.0)
    for text in texts:
        fitting = [(len(form), name) for name, some in zip(names, reader.forms, strict=True) for form in some if text[: len(form)] == form]
        if fitting:
            expected[max(fitting)[1]] += chance(text)
    np.testing.assert_allclose(np.exp(scores), list(expected.values()), rtol=1e-4, atol=1e-9)


def test_what_the_model_writes_unconstrained_is_credited_in_every_form() -> None:
    reader = AnswerReader.from_forms(["car", "carrot", "bell"], [[(0,), (4,)], [(0, 1)], [(5,)]])

    def written(*tokens: int) -> tuple[Tokens, str | None]:
        return reader.greedy((*tokens, 6)[: len(reader.beginnings)])

    assert written(4)[1] == "car"
    assert written(0, 1) == ((0, 1), "carrot")
    assert written(0, 3) == ((0, 3), "car")
    assert written(5)[1] == "bell"
    assert written(6)[1] is None


class Letters:
    """A tokenizer of single letters; it knows no capitals."""

    unk_token_id = 99

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [99 if letter.isupper() else ord(letter) - 96 if letter != " " else 0 for letter in text]}


def test_forms_are_those_of_the_settings_and_what_the_tokenizer_knows() -> None:
    plain = AnswerForms(Letters(), "so", AnswerSettings())
    assert plain.of("ab") == ((1, 2), (0, 1, 2))
    chosen = AnswerForms(
        Letters(), "so", AnswerSettings(forms=("{word}",), of_template={"content": ("{word}", "a {word}")}, words={"ab": ("c",)})
    )
    assert chosen.of("ab") == ((1, 2), (3,))
    assert chosen.of("ab", "content") == ((1, 2), (1, 0, 1, 2), (3,), (1, 0, 3))
    with pytest.raises(UserError, match="does not know the answer 'AB'"):
        plain.of("AB")
    with pytest.raises(UserError, match="is empty"):
        plain.of(" ")
    with pytest.raises(ValueError, match="forms"):
        AnswerSettings(forms=("{answer}",))
