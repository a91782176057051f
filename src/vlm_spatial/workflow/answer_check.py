"""What a dataset's answers become in a model's vocabulary, before any job: by the tokenizer alone."""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.config.settings import plain
from vlm_spatial.config.workflow import Config
from vlm_spatial.errors import UserError
from vlm_spatial.models.answer_forms import AnswerForms, told_apart_at_once
from vlm_spatial.models.folder_tokenizer import FILES, FolderTokenizer, opening
from vlm_spatial.scenes.questions import SLOT_WORDS
from vlm_spatial.scenes.sources.registry import source_of
from vlm_spatial.tokens import SLOTS
from vlm_spatial.workflow.file_cache import FileCache

CACHE = Path(".cache/vlm_spatial/answers.json")
"""Where reports are remembered, below the working folder; safe to delete."""


@dataclass(frozen=True)
class AnswerReport:
    """The answers of one dataset in one model's vocabulary.

    Attributes:
        forms: by answer its forms, each as the tokens that it becomes, parted by ``|``.
        alike: groups of answers that begin with one token in one of their forms: scored by all tokens where candidates together.
        equal: pairs of answers that are the same tokens in one of their forms: these cannot be candidates together.
        unknown: answers that the tokenizer does not know.
    """

    model: str
    dataset: str
    forms: dict[str, list[str]]
    alike: list[list[str]]
    equal: list[list[str]]
    unknown: list[str]

    @property
    def longest(self) -> int:
        """Tokens of the longest form."""
        return max((form.count("|") + 1 for forms in self.forms.values() for form in forms), default=0)

    @property
    def remarkable(self) -> bool:
        """Whether answers begin alike, are equal, or are not known."""
        return bool(self.alike or self.equal or self.unknown)

    @property
    def of_several_tokens(self) -> list[str]:
        """Answers that are one token in none of their forms."""
        return [answer for answer, forms in self.forms.items() if all("|" in form for form in forms)]

    @property
    def summary(self) -> str:
        """One line."""
        several = sum(any("|" in form for form in forms) for forms in self.forms.values())
        parts = [f"{len(self.forms)} answers", f"{several} have forms of several tokens (up to {self.longest})"]
        if self.alike:
            parts.append("; ".join("/".join(group) for group in self.alike) + " begin alike and are scored whole")
        if self.equal:
            parts.append("; ".join("/".join(pair) for pair in self.equal) + " are the same tokens, so no question may have both")
        if self.unknown:
            parts.append(f"unknown to the tokenizer: {', '.join(self.unknown)}")
        return ", ".join(parts)


def answer_reports(config: Config, cache: Path | None = CACHE) -> Iterator[AnswerReport]:
    """A report for every model that is a folder with a ``tokenizer.json``, and each of its datasets.

    Raises:
        UserError: if a tokenizer or chat template cannot be used.
    """
    known = FileCache(cache)
    for name, model in config.models.items():
        folder = Path(model.checkpoint or "")
        if model.checkpoint is None or not (folder / "tokenizer.json").is_file():
            continue
        files = [folder / file for file in FILES if (folder / file).is_file()]
        files += sorted((folder / "additional_chat_templates").glob("*.jinja"))
        # Large vocabularies take a second to read.
        tokenizer = functools.cache(partial(FolderTokenizer, folder))
        for dataset in model.datasets:
            words = _words(config, dataset)
            asked = json.dumps([str(folder.absolute()), words, plain(config.answers), plain(model.prompting)], sort_keys=True)
            key = "answers " + hashlib.sha256(asked.encode()).hexdigest()
            found = known.of(key, files, partial(_look_up, folder, tokenizer, words, config, model.prompting))
            yield AnswerReport(name, dataset, **found)
    known.save()


def never_likeliest(report: AnswerReport, config: Config) -> str:
    """One line on answers that no single token spells, where pairs are kept by the likeliest token; empty if there are none.

    Raises:
        UserError: if fewer than three answers are left, so that no scene could pass.
    """
    sections = dict(config)
    keys = [f"{name}.pool.right_by" for name in ("interchange", "ablation") if sections[name].pool.right_by == "top1_word"]
    pairs = config.datasets[report.dataset].pairs
    several = report.of_several_tokens
    if not keys or not several or not (pairs.vision or pairs.language or pairs.conflict or pairs.last_token or pairs.file):
        return ""
    left = len(report.forms) - len(several)
    said = (
        f"{len(several)} of {len(report.forms)} answers are more than one token, so their pairs never pass "
        f"{' and '.join(keys)}: top1_word: {', '.join(several)}; {left} are left"
    )
    if left < SLOTS:
        raise UserError(f"{said}, and a scene has {SLOTS}; choose other contents, or right_by: candidates")
    return said


def _words(config: Config, dataset: str) -> list[str]:
    """Every answer that questions of the dataset can have, as far as it is known before any job."""
    settings = config.datasets[dataset]
    words = {
        "slot_to_object": source_of(settings.kind).object_words(settings),
        "relation_to_object": source_of(settings.kind).object_words(settings),
        "object_to_slot": tuple(word for axis in settings.axes for word in SLOT_WORDS[axis]),
        "content": ("yes", "no"),
    }
    return list(dict.fromkeys(word for template in settings.templates for word in words[template]))


def _look_up(
    folder: Path, load: Callable[[], FolderTokenizer], words: list[str], config: Config, prompting: PromptingSettings
) -> dict[str, object]:
    tokenizer = load()
    forms = AnswerForms(tokenizer, opening(folder, prompting), config.answers)
    found, unknown = {}, []
    for word in words:
        try:
            found[word] = forms.of(word)
        except UserError:
            unknown.append(word)
    alike, equal = [], []
    for one, other in itertools.combinations(found, 2):
        if set(found[one]) & set(found[other]):
            equal.append([one, other])
        elif not told_apart_at_once([found[one], found[other]]):
            alike.append([one, other])
    return {
        "forms": {word: [tokenizer.pieces(form) for form in some] for word, some in found.items()},
        "alike": _groups(alike),
        "equal": equal,
        "unknown": unknown,
    }


def _groups(pairs: list[list[str]]) -> list[list[str]]:
    """Words that are linked by pairs, together."""
    groups: list[set[str]] = []
    for pair in map(set, pairs):
        linked = [group for group in groups if group & pair]
        groups = [group for group in groups if group not in linked] + [pair.union(*linked)]
    return sorted(sorted(group) for group in groups)
