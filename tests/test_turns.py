"""Chat templates take a system turn as a list of parts, as a text, or not at all."""

import jinja2
import pytest

from vlm_spatial.errors import UserError
from vlm_spatial.models.turns import MARK, Chat, fill_in_mark, turns

pytestmark = pytest.mark.unit

PARTS = "{% for turn in messages %}<{{ turn.role }}>{% for part in turn.content %}{{ part.text }}{% endfor %}{% endfor %}"
PLAIN = "{{ messages[0].content + '|' if messages[0].role == 'system' }}{% for part in messages[-1].content %}{{ part.text }}{% endfor %}"
# Writes whatever is there, so a list as Python writes it.
ANYTHING = PLAIN.replace("messages[0].content + '|'", "messages[0].content ~ '|'")
OLD = PLAIN.replace("part.text", "part['content']")
NEITHER = "{% for part in messages[-1].content %}{{ part.text }}{% endfor %}"


def fill(template: str, chat: Chat) -> str:
    try:
        return jinja2.Template(template).render(messages=chat)
    except TypeError as error:
        raise UserError(f"chat template: cannot be filled in ({error})") from error


@pytest.mark.parametrize(
    ("template", "expected"),
    [(PARTS, (f"<system>Be brief.<user>{MARK}", False)), *((each, (f"Be brief.|{MARK}", True)) for each in (PLAIN, ANYTHING, OLD))],
)
def test_the_form_that_a_template_takes_is_found(template: str, expected: tuple[str, bool]) -> None:
    assert fill_in_mark(lambda chat: fill(template, chat), "Be brief.") == expected
    text, plain = fill_in_mark(lambda chat: fill(template, chat), "")
    assert MARK in text
    assert not plain


def test_what_a_template_leaves_out_is_told() -> None:
    with pytest.raises(UserError, match="leaves the system turn out"):
        fill_in_mark(lambda chat: fill(NEITHER, chat), "Be brief.")
    with pytest.raises(UserError, match="leaves the question out"):
        fill_in_mark(lambda chat: fill("{{ messages[0].content }}" if len(chat) > 1 else "hello", chat), "")
    with pytest.raises(UserError, match="cannot be filled in"):
        fill_in_mark(lambda chat: fill("{{ 1 + 'a' }}", chat), "")


def test_the_image_stands_first() -> None:
    assert turns("Where?", "picture") == [
        {"role": "user", "content": [{"type": "image", "image": "picture"}, {"type": "text", "text": "Where?", "content": "Where?"}]}
    ]
    assert turns("Where?")[0]["content"][0] == {"type": "image"}
