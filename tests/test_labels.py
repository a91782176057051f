"""Labels of contact sheets: every letter is drawn, or said by its number; none becomes an empty box."""

import pytest
from PIL import Image, ImageDraw

from vlm_spatial.scenes.labels import label

pytestmark = pytest.mark.unit

MISSING = "\uffff"


def pixels(text: str, font: object) -> bytes:
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((2, 2), text, fill=255, font=font)  # type: ignore[arg-type]
    return image.tobytes()


WRITTEN = ["cake, knife", "é, ß, Äpfel", "чашка", "杯子", "苹果", "カップ", "컵", "كوب", "कप", "ถ้วย", "杯子 and é"]


@pytest.mark.parametrize("text", WRITTEN)
def test_every_script_is_written(text: str) -> None:
    written, font = label(text, 14)
    assert written == text
    for letter in text:
        assert letter.isspace() or pixels(letter, font) != pixels(MISSING, font), letter


def test_letters_look_unlike_each_other() -> None:
    _, font = label("杯子", 14)
    letters = "杯子苹果é컵ß"
    assert len({pixels(letter, font) for letter in letters}) == len(letters)


def test_what_no_font_has_is_numbered() -> None:
    assert label("🍎 apple", 14)[0] == "[U+1F34E] apple"
