"""The documentation: it builds without a warning, its pictures and messages are the code's own, and its examples run."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from vlm_spatial.config.reading import load_config
from vlm_spatial.figures.experiments import EXPERIMENTS

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
REST = "\N{HORIZONTAL ELLIPSIS}"


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install -e '.[docs]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    # Nothing is loaded from elsewhere; links may lead there.
    loaded = re.findall(r"<(?:script|img)[^>]+src=\"(https?:[^\"]+)|<link[^>]+rel=\"stylesheet\"[^>]+href=\"(https?:[^\"]+)", home)
    assert loaded == []


@pytest.mark.parametrize("name", ["token_sets", "variants", *EXPERIMENTS])
def test_pictures_are_those_of_the_code(pictures: ModuleType, name: str) -> None:
    kept = np.asarray(Image.open(DOCS / "images" / f"{name}.png").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(pictures.PICTURES[name]()), kept, err_msg="run python docs/pictures.py")


ERRORS = ("UserError", "ValueError")


def messages() -> Iterator[str]:
    """Every message that the code raises, what is filled in replaced by an ellipsis."""
    for path in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
                yield "".join(part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else REST for part in parts)


QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "faq.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_page_quotes_many_messages_and_none_twice() -> None:
    assert len(QUOTED) > 25
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_one_that_the_code_raises(quoted: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in quoted.split(REST)))
    assert any(pattern.fullmatch(message) for message in messages()), quoted


CONFIGURATIONS = [
    (page.name, number, block)
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE))
    # The rest are profiles of Snakemake, and parts of a section.
    if re.search(r"^(datasets|models|organisms):", block, flags=re.MULTILINE)
]


@pytest.mark.parametrize(("page", "number", "block"), CONFIGURATIONS, ids=[f"{page}-{number}" for page, number, _ in CONFIGURATIONS])
def test_configurations_are_valid(page: str, number: int, block: str, tmp_path: Path) -> None:  # noqa: ARG001
    """Every configuration on a page, completed where it shows a part only; files and folders it names are made."""
    for path in ("data/photos/boxes.json", *re.findall(r"(?<![\w.])/((?:data|path)/[\w./-]+)", block)):
        place = tmp_path / path
        (place.parent if place.suffix else place / "data").mkdir(parents=True, exist_ok=True)
        (place if place.suffix else place / "tokenizer.json").write_text("{}", encoding="utf-8")
    block = re.sub(r"(?<![\w.])/(?=(?:data|path)/)", f"{tmp_path}/", block)
    (tmp_path / "checkpoint").mkdir()
    values = yaml.safe_load(block)
    wanted = {name for model in values.get("models", {}).values() for name in model.get("datasets", ["squares"])}
    values.setdefault("datasets", {name: {"kind": "squares"} for name in sorted(wanted)})
    values.setdefault("models", {"any": {"checkpoint": str(tmp_path / "checkpoint"), "datasets": list(values["datasets"])}})
    target = tmp_path / "config.yaml"
    target.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert load_config(target).models


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_use_your_model_in_python(
    checkpoint: Callable[[str], Path], picture: Callable[..., Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own words, on a folder that ``save_pretrained`` wrote anew."""
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    saved = tmp_path / "my-model"
    Gemma3ForConditionalGeneration.from_pretrained(checkpoint("gemma3")).save_pretrained(saved)
    AutoProcessor.from_pretrained(checkpoint("gemma3")).save_pretrained(saved)
    picture("red", "green", "blue").save(tmp_path / "scene.png")
    monkeypatch.chdir(tmp_path)
    [block] = python_blocks("your_model.md")
    # The tiny checkpoint has two blocks of each kind.
    block = block.replace("/data/models/my-model", str(saved)).replace("vision.3", "vision.1").replace("language.12", "language.1")
    names: dict[str, object] = {}
    exec(compile(block, "your_model.md", "exec"), names)
    values = names["values"]
    assert set(values) == {"vision.1", "connector", "language.1"}  # type: ignore[call-overload]
    assert values["connector"].shape[1] == 36  # type: ignore[index]


def test_look_at_your_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import synthetic_results

    synthetic_results.write_scenes(tmp_path / "results" / "scenes" / "squares")
    monkeypatch.chdir(tmp_path)
    [block] = python_blocks("your_data.md")
    names: dict[str, object] = {}
    exec(compile(block, "your_data.md", "exec"), names)
    assert names["rim"].shape == (256,)  # type: ignore[attr-defined]
    assert names["rim"].any()  # type: ignore[attr-defined]


def test_commands_named_on_pages_exist() -> None:
    """Every ``python -m`` module, script and file of this repository that a page names is there."""
    for page in [*DOCS.glob("*.md"), REPOSITORY / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for module in set(re.findall(r"python -m ((?:vlm_spatial|benchmarks)[\w.]*)", text)):
            assert importlib.util.find_spec(module) is not None, f"{page.name}: {module}"
        for path in set(re.findall(r"`((?:docs|tests|src|rules|presets|benchmarks|envs)/[\w./-]+\.\w+)`", text)):
            assert (REPOSITORY / path).exists(), f"{page.name}: {path}"
