"""The page of configuration keys is made from the model, and current."""

from pathlib import Path

import pytest

from vlm_spatial.config.reference import reference, sections
from vlm_spatial.config.workflow import Config

pytestmark = pytest.mark.unit


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[1] / "docs" / "config.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: python -m vlm_spatial.config.reference > docs/config.md"


def test_every_key_of_every_section_is_on_it() -> None:
    page = reference()
    for key, section in sections(Config):
        assert f"## {f'`{key}`' if key else 'Top level'}" in page
        assert all(f"| `{name}` |" in page for name in section.model_fields)
