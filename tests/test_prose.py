"""Sentences of README and docs are short. Code, tables and headings are no prose; a piece of inline code counts as one word."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LONGEST = 25
"""Words of a sentence."""
CODE = "\N{WHITE SQUARE}"
"""Stands for a piece of inline code."""
END = re.compile(r"(?<=[.!?])[*)\"”]*\s+(?=[*(\"“]*[A-ZÀ-Þ0-9~α□])")
"""Between two sentences: a stop, and something that may begin one."""


def prose(text: str) -> Iterator[tuple[int, str]]:
    """First line (from 1) and text of each paragraph and list item of a page."""
    inside = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("heading_open", "table_open"):
            inside = token.type.removesuffix("_open")
        elif token.type == f"{inside}_close":
            inside = ""
        elif token.type == "inline" and not inside:
            assert token.map is not None
            yield token.map[0] + 1, "".join(words(token.children or []))


def words(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        match token.type:
            case "text":
                yield token.content
            case "code_inline":
                yield CODE
            case "softbreak" | "hardbreak":
                yield " "
            case "image":
                yield ""


def too_long(text: str) -> Iterator[tuple[int, int, str]]:
    """Line, number of words and text of each sentence of more than ``LONGEST`` words."""
    for line, paragraph in prose(text):
        for sentence in END.split(paragraph):
            count = len([word for word in sentence.split() if re.search(rf"[\w{CODE}]", word)])
            if count > LONGEST:
                yield line, count, sentence


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    found = [f"{page.name}:{line}: {count} words: {said}" for line, count, said in too_long(page.read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one " * 25 + "end.", 1),
        ("one " * 24 + "end.", 0),
        ("one " * 20 + "end. " + "Two " * 20 + "end.", 0),
        ("- " + "one " * 20 + "\n  " + "one " * 10, 1),
        ("- " + "one " * 20 + "\n- " + "one " * 20, 0),
        ("`one two three` " * 25, 0),
        ("[a link of words](there.md) " * 7, 1),
        ("```\n" + "one " * 30 + "\n```", 0),
        ("| a | b |\n|---|---|\n| " + "one " * 30 + " | b |\n", 0),
        ("# " + "one " * 30, 0),
        ("see e.g. this " * 9, 1),
    ],
)
def test_what_counts_as_a_sentence(text: str, found: int) -> None:
    assert len(list(too_long(text))) == found
