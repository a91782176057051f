"""``answers``: in which forms a model may write an answer."""

from typing import Annotated

from pydantic import Field, field_validator

from vlm_spatial.config.settings import Settings
from vlm_spatial.scenes.sources.settings import Template

Form = Annotated[str, Field(pattern=r"^[^{}]*\{[wW]ord\}[^{}]*$")]
Forms = Annotated[tuple[Form, ...], Field(min_length=1)]


class AnswerSettings(Settings):
    """The forms of a word whose probabilities are added up to that of the answer."""

    forms: Forms = Field(
        ("{word}", "{Word}", " {word}", " {Word}"),
        description="{word} is the answer as it is, {Word} with a capital; forms with an article ('the {word}') ask for more runs",
    )
    whole_words: bool = Field(
        False,
        description="score all tokens of every form in every question, not only where candidates begin with the same token: asks the model "
        "more often, and makes probabilities those of words rather than of first tokens",
    )
    of_template: dict[Template, Forms] = Field({}, description="forms of one question template, instead of those above")
    words: dict[str, tuple[str, ...]] = Field(
        {}, description="other words that count as an answer, such as its name in the language of the prompts: {red: [rot]}"
    )

    @field_validator("words")
    @classmethod
    def _not_empty(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if any(not word.strip() for words in value.values() for word in words):
            raise ValueError("a word must not be empty")
        return value

    def written(self, answer: str, template: str | None) -> tuple[str, ...]:
        """Every form of ``answer``, each once, in the order of the settings."""
        patterns = self.of_template.get(template, self.forms)  # type: ignore[call-overload]
        words = (answer, *self.words.get(answer, ()))
        made = [form.format(word=word, Word=word[:1].upper() + word[1:]) for word in words for form in patterns]
        return tuple(dict.fromkeys(made))
