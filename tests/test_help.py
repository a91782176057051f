"""``vlm-spatial --help`` is a short manual, and the examples of every command are commands that exist."""

import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from vlm_spatial.cli import app

pytestmark = pytest.mark.unit

COMMANDS = get_command(app).commands


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "100"})
    assert done.exit_code == 0
    return done.output


def test_the_manual_names_every_command_and_cuts_no_line_short() -> None:
    manual = shown()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w.*[^.]\.$", manual, flags=re.MULTILINE), name
    assert "snakemake --cores 8" in manual


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_with_its_own_options(name: str) -> None:
    examples = re.findall(rf"^ +(vlm-spatial {name}.*)$", shown(name), flags=re.MULTILINE)
    assert examples
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    for example in examples:
        assert {word for word in shlex.split(example) if word.startswith("--")} <= options, example
