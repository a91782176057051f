"""Labels of contact sheets: every letter is drawn, or said by its number; none becomes an empty box."""

import pytest
from PIL import Image, ImageDraw

from vlm_spatial.scenes import labels
from vlm_spatial.scenes.labels import label

pytestmark = pytest.mark.unit

MISSING = "\uffff"


def pixels(text: str, font: object) -> bytes:
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((2, 2), text, fill=255, font=font)  # type: ignore[arg-type]
    return image.tobytes()


@pytest.mark.parametrize("text", ["cake, knife", "é, ß, Äpfel", "чашка", "杯子", "كوب", "杯子 and é"])
def test_every_letter_is_drawn_or_said_by_its_number(text: str) -> None:
    written, font = label(text, 14)
    for letter in written:
        assert letter.isspace() or pixels(letter, font) != pixels(MISSING, font), (letter, written)
    for letter in text:
        assert letter in written or f"[U+{ord(letter):04X}]" in written


def test_letters_without_a_font_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_FONTS", ())
    labels._fonts.cache_clear()
    try:
        assert label("杯子", 14)[0] == "[U+676F][U+5B50]"
        assert label("cake", 14)[0] == "cake"
    finally:
        labels._fonts.cache_clear()
