"""The tokens in which a model may write an answer: every form of the word, as it continues the prompt."""

from collections.abc import Sequence
from typing import Any

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.errors import UserError

Tokens = tuple[int, ...]


class AnswerForms:
    """Forms of answers for one tokenizer and chat template; each answer is worked out once.

    Args:
        tokenizer: of the model.
        opening: what the chat template writes between the question and the answer. Where words are cut depends on it.
        settings: which forms count.
    """

    def __init__(self, tokenizer: Any, opening: str, settings: AnswerSettings) -> None:
        self._tokenizer = tokenizer
        self._opening = opening
        self._before = self._tokens(opening)
        self._settings = settings
        self._known: dict[tuple[str, str | None], tuple[Tokens, ...]] = {}

    def of(self, answer: str, template: str | None = None) -> tuple[Tokens, ...]:
        """Tokens of every form of ``answer`` in questions of ``template``, each once.

        Raises:
            UserError: if the answer is empty, or the tokenizer knows it in no form.
        """
        if (answer, template) not in self._known:
            if not answer.strip():
                raise UserError(f"answer {answer!r}: is empty; every candidate of a question must be a word")
            forms = dict.fromkeys(map(self._continuing, self._settings.written(answer, template)))
            found = tuple(form for form in forms if form and self._tokenizer.unk_token_id not in form)
            if not found:
                raise UserError(
                    f"its tokenizer does not know the answer {answer!r}; leave this dataset out of the model's datasets. (An organism can "
                    "learn the words of drawn scenes: organisms.*.datasets; those of photos it cannot.)"
                )
            self._known[answer, template] = found
        return self._known[answer, template]

    def _continuing(self, form: str) -> Tokens:
        """Tokens of ``form`` behind the opening; on its own where the two would be cut across their border."""
        together = self._tokens(self._opening + form)
        if together[: len(self._before)] == self._before:
            return together[len(self._before) :]
        return self._tokens(form)

    def _tokens(self, text: str) -> Tokens:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def told_apart_at_once(of_candidates: Sequence[Sequence[Tokens]]) -> bool:
    """Whether no two candidates have a form that begins with the same token."""
    first = [{form[0] for form in forms} for forms in of_candidates]
    return sum(map(len, first)) == len(set().union(*first))
