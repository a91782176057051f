"""Under any locale: files are UTF-8, and a terminal that lacks a sign is no error."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm_spatial.files import read_json

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
TEXT_METHODS = {"read_text", "write_text"}
# Python's own way out of such a locale is switched off: what is left is ASCII for files, and Latin-1 for what is printed.
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1:strict"}


def without_encoding(path: Path) -> Iterator[str]:
    """Calls that open a text file, or read what a program prints, in the locale's encoding. Ruff sees those only whose type it can tell."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg for keyword in node.keywords}
        prints = any(keyword.arg == "text" and getattr(keyword.value, "value", None) is True for keyword in node.keywords)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if (method in TEXT_METHODS or prints) and "encoding" not in given:
            yield f"{path.relative_to(REPOSITORY)}:{node.lineno}"


@pytest.mark.parametrize("folder", ["src", "benchmarks", "envs", "tests"])
def test_every_text_file_is_opened_with_its_encoding(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    assert [place for path in files for place in without_encoding(path)] == []


def run(folder: Path, *words: str) -> str:
    environment = {**os.environ, **PLAIN, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests")])}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, encoding="latin-1", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


FIGURES = """
import locale, pathlib
import synthetic_results as synthetic
from vlm_spatial.stages.figures import figures
assert locale.getpreferredencoding(False) == "ANSI_X3.4-1968"
figures(synthetic.write_results(pathlib.Path("made"), {"strip-organism": synthetic.STRIP}, ("squares",), title="Où est le carré?"))
"""


def test_figures_report_and_commands_work_where_files_are_not_utf_8_by_default(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FIGURES, encoding="utf-8")
    run(tmp_path, "program.py")
    [report] = tmp_path.rglob("report.html")
    page = report.read_text(encoding="utf-8")
    assert "Où est le carré?" in page
    assert "−" in page
    [findings] = tmp_path.rglob("findings.json")
    assert read_json(findings)
    out = run(
        tmp_path, "-c", "from vlm_spatial.cli import app; app()", "compare", "strip-organism", "strip-organism", "--findings", str(findings)
    )
    assert "strip-organism" in out
    assert "? supported" in out


def test_json_of_people_is_read_as_utf_8(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_bytes('{"carré.png": [[0, 0, 5, 5]]}'.encode())
    program = "from pathlib import Path; from vlm_spatial.files import read_json; print(ascii(list(read_json(Path('boxes.json')))))"
    assert run(tmp_path, "-c", program).strip() == r"['carr\xe9.png']"
