"""From next-token logits to answers: the best candidate, the hypothesis it agrees with, and how decided it is.

A candidate's score is the logarithm of its probability: over the whole vocabulary, all forms added up in which a model may write it
(see :mod:`vlm_spatial.models.answer_forms`). Where the first tokens of all forms tell the candidates apart, a form's first token
stands for it, and the logits at the prompt's end are all that is needed. The score is then an upper bound of the word's: other words may
begin with that token. Where two candidates begin alike, or ``answers.whole_words`` is set, every form is scored by all of its tokens, each
given those before it: the model is then also run with the first tokens of the answer behind the prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.answer_forms import Tokens, told_apart_at_once
from vlm_spatial.models.inputs import Begun, Prompt

OTHER = "other"
"""Outcome of a patched run whose best candidate no hypothesis predicts."""
# A word's share of the probability of what begins with it, where other candidates take all of it but rounding.
_LEAST = 1e-12


@dataclass(frozen=True)
class AnswerReader:
    """A question's candidates, and how their probabilities are read off the model's logits.

    Attributes:
        forms: tokens of every form of each candidate that are scored; only first ones where these tell all candidates apart.
        beginnings: what of the answer stands behind the prompt in each run that is needed; the first is empty.
        whole_words: whether every form is scored by all of its tokens; scores are upper bounds otherwise.
    """

    candidates: tuple[str, ...]
    forms: tuple[tuple[Tokens, ...], ...]
    beginnings: tuple[Tokens, ...]
    whole_words: bool

    @classmethod
    def of(cls, adapter: Adapter, candidates: Sequence[str], template: str | None = None) -> "AnswerReader":
        """The reader of one question.

        Args:
            template: of the question; the forms of its answers may be its own.

        Raises:
            UserError: if the tokenizer does not know a candidate, or two candidates are the same tokens in one of their forms.
        """
        try:
            found = [adapter.cache.answer_forms(candidate, template) for candidate in candidates]
        except UserError as error:
            raise UserError(f"{adapter.identity.checkpoint}: {error}") from error
        return cls.from_forms(candidates, found, always_whole=adapter.cache.answers.whole_words)

    @classmethod
    def from_forms(cls, candidates: Sequence[str], forms: Sequence[Sequence[Tokens]], *, always_whole: bool = False) -> "AnswerReader":
        """The reader of candidates whose forms' tokens are known.

        Args:
            always_whole: score all tokens of a form also where first tokens tell the candidates apart.
        """
        owner: dict[Tokens, int] = {}
        for index, of_candidate in enumerate(forms):
            for form in of_candidate:
                if owner.setdefault(form, index) != index:
                    raise UserError(
                        f"answers {candidates[owner[form]]!r} and {candidates[index]!r} are the same tokens to this model, {list(form)}; "
                        "leave one of them out, or change answers.forms"
                    )
        whole = always_whole or not told_apart_at_once(forms) or _longest(forms) == 1
        if not whole:
            forms = [[form[:1] for form in of_candidate] for of_candidate in forms]
        used = tuple(tuple(form for form in dict.fromkeys(some) if not _extends_one(form, some)) for some in forms)
        beginnings = dict.fromkeys(form[:end] for end in range(_longest(used)) for some in used for form in some if len(form) > end)
        return cls(tuple(candidates), used, tuple(beginnings), whole)

    def prompts(self, prompt: str) -> list[Prompt]:
        """What the model must be asked: the prompt, and where candidates begin alike the prompt with beginnings of the answer."""
        return [Begun(prompt, beginning) if beginning else prompt for beginning in self.beginnings]

    def wanted(self, beginning: Tokens) -> tuple[int, ...]:
        """The tokens whose probabilities behind ``beginning`` are needed."""
        return self._wanted[beginning]

    @cached_property
    def _wanted(self) -> dict[Tokens, tuple[int, ...]]:
        wanted: dict[Tokens, dict[int, None]] = {beginning: {} for beginning in self.beginnings}
        for form in (form for some in self.forms for form in some):
            for end, token in enumerate(form):
                wanted[form[:end]][token] = None
        return {beginning: tuple(tokens) for beginning, tokens in wanted.items()}

    def log_probabilities(self, logits: Float[Tensor, "prompts vocabulary"]) -> Float[np.ndarray, " candidates"]:
        """The candidates' log-probabilities, float64.

        Args:
            logits: of the last position, one row for each of :meth:`prompts`.
        """
        parts = []
        for beginning, row in zip(self.beginnings, logits, strict=True):
            # The sum over the vocabulary is common to all candidates here: its rounding moves no difference.
            parts.append((row[list(self.wanted(beginning))].double() - row.logsumexp(-1).double()).cpu().numpy())
        return self.added_up(parts)

    def added_up(self, following: Sequence[Float[np.ndarray, " wanted"]]) -> Float[np.ndarray, " candidates"]:
        """The candidates' log-probabilities from those of the tokens :meth:`wanted` behind each of the beginnings."""
        step = {
            (*beginning, token): value
            for beginning, values in zip(self.beginnings, following, strict=True)
            for token, value in zip(self.wanted(beginning), values, strict=True)
        }
        every = {form: float(sum(step[form[:end]] for end in range(1, len(form) + 1))) for some in self.forms for form in some}
        return np.array([np.logaddexp.reduce([self._alone(form, index, every) for form in some]) for index, some in enumerate(self.forms)])

    def _alone(self, form: Tokens, candidate: int, every: Mapping[Tokens, float]) -> float:
        """Log-probability of a form that does not go on as another candidate does ("car" without "carrot")."""
        longer = [other for index, some in enumerate(self.forms) if index != candidate for other in some if other[: len(form)] == form]
        shortest = [other for other in longer if not _extends_one(other, longer)]
        taken = sum(np.exp(every[other] - every[form]) for other in shortest)
        return every[form] + float(np.log1p(-min(taken, 1 - _LEAST)))

    def greedy(self, likeliest: Sequence[int]) -> tuple[Tokens, str | None]:
        """The tokens that the model writes if nothing constrains it, as far as they matter, and the candidate that they are (or None).

        Args:
            likeliest: the next token of highest probability, for each of :meth:`prompts`.
        """
        following = dict(zip(self.beginnings, likeliest, strict=True))
        written: Tokens = ()
        while written in following:
            written = (*written, following[written])
        whose = {form: name for name, some in zip(self.candidates, self.forms, strict=True) for form in some}
        # What goes on in a way that no candidate does may still be a whole word: "car" and a full stop.
        return written, whose.get(written) or whose.get(written[:-1])

    def best(self, scores: Float[np.ndarray, " candidates"]) -> str:
        """The candidate with the highest score; the first of them on a tie."""
        return self.candidates[int(np.argmax(scores))]

    def log_odds(self, scores: Float[np.ndarray, " candidates"], answer: str, against: str) -> float:
        """Natural logarithm of ``p(answer) / p(against)``: the difference of the two scores."""
        return float(scores[self.candidates.index(answer)] - scores[self.candidates.index(against)])


def normalised(text: str) -> str:
    """Its letters and digits, in lower case."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def wrote(reader: AnswerReader, likeliest: Sequence[int], decode: Callable[[list[int]], str]) -> tuple[str, str | None]:
    """What the model writes if nothing constrains it, and the candidate that it is: by its tokens, or by its letters and digits.

    Args:
        likeliest: the next token of highest probability, for each of the reader's prompts.
    """
    tokens, candidate = reader.greedy(likeliest)
    text = decode(list(tokens))
    by_letters = {normalised(name): name for name in reader.candidates}
    return text, candidate or by_letters.get(normalised(text))


def _extends_one(form: Tokens, forms: Sequence[Tokens]) -> bool:
    """Whether ``form`` begins with another, shorter one of ``forms``."""
    return any(len(other) < len(form) and form[: len(other)] == other for other in forms)


def _longest(forms: Sequence[Sequence[Tokens]]) -> int:
    return max((len(form) for some in forms for form in some), default=0)


def runs_needed(readers: Sequence[AnswerReader], prompts: Sequence[str]) -> tuple[list[tuple[int, Prompt]], list[slice]]:
    """The runs that some questions need: question number and prompt of each, and which of them are each question's."""
    runs: list[tuple[int, Prompt]] = []
    own = []
    for number, (reader, prompt) in enumerate(zip(readers, prompts, strict=True)):
        begin = len(runs)
        runs += [(number, each) for each in reader.prompts(prompt)]
        own.append(slice(begin, len(runs)))
    return runs, own


def mass(scores: Float[np.ndarray, " candidates"]) -> float:
    """The probability that the answer begins as a candidate does, as far as it is scored: an upper bound where words are not whole."""
    return float(np.exp(np.logaddexp.reduce(scores)))


def probability(scores: Float[np.ndarray, " candidates"], index: int) -> float:
    """Softmax over the candidates, at ``index``."""
    shifted = np.exp(scores - scores.max())
    return float(shifted[index] / shifted.sum())


def margin(scores: Float[np.ndarray, " candidates"], index: int) -> float:
    """Log-odds of the candidate at ``index`` against the best other candidate; infinite if there is no other."""
    others = np.delete(scores, index)
    return float(scores[index] - others.max()) if others.size else float("inf")


def outcome(predicted: str, hypotheses: Mapping[str, Any]) -> str:
    """Name of the hypothesis that predicts ``predicted``, else ``other``. Hypotheses' answers are all different."""
    return next((name for name, answer in hypotheses.items() if answer == predicted), OTHER)
