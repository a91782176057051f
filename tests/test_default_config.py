"""workflow_config.yaml as a fresh user edits it: datasets are added by their commented entries and their names."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from photo_set import write_photo_set
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "workflow_config.yaml").read_text()
ORGANISM = "    datasets: [squares] "
MODEL = "    datasets: [squares, squares_hard] "


def uncommented(text: str, name: str) -> str:
    """``text`` with the "#" taken away from the entry ``name``, as its comment says."""
    entry = re.search(rf"^  # {name}:.*\n(?:  #   .*\n)+", text, flags=re.MULTILINE)
    assert entry is not None
    return text.replace(entry[0], re.sub(r"^  # ", "  ", entry[0], flags=re.MULTILINE))


def named(text: str, line: str, name: str) -> str:
    """``text`` with ``name`` added to the list of datasets in ``line``."""
    assert text.count(line) == 1
    return text.replace(line, line.replace("]", f", {name}]"))


def dry_run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "workflow_config.yaml").write_text(text)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(REPOSITORY / "Snakefile"),
        "--cores",
        "1",
        "--dry-run",
        "--quiet",
        "rules",
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["shapes", "objects"])
def test_a_drawn_dataset_is_added_by_name(tmp_path: Path, name: str) -> None:
    text = named(named(uncommented(TEXT, name), ORGANISM, name), MODEL, name)
    done = dry_run(tmp_path, text)
    assert done.returncode == 0, done.stderr
    rows = (line.split() for line in (done.stdout + done.stderr).splitlines())
    jobs = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    assert (jobs["scenes"], jobs["organism"], jobs["interchange"], jobs["figures"]) == (3, 1, 3, 1)


def test_words_that_the_organism_does_not_know_are_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    done = dry_run(tmp_path, named(uncommented(TEXT, "shapes"), MODEL, "shapes"))
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(
        "models.gemma3-natural.datasets: organism 'gemma3-natural' does not know the words of 'shapes'; "
        "add shapes to organisms.gemma3-natural.datasets (now squares), or leave it out here"
    )
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_photo_set(root, references=("plate",), things=("mug",), relations=("left_of",))
    return root


def with_photos(photos: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(uncommented(TEXT, "whatsup"))
    values["datasets"]["whatsup"]["root"] = str(photos)
    return values


def test_photos_are_added_to_a_checkpoint(photos: Path) -> None:
    values = with_photos(photos)
    values["models"]["mine"] = {"checkpoint": str(photos), "datasets": ["squares", "whatsup"]}
    config = parse_config(values)
    assert config.datasets["whatsup"].axes == ("horizontal",)
    assert config.models["mine"].datasets == ("squares", "whatsup")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            "models",
            r"models\.gemma3-natural\.datasets: organism .* does not know the words of 'whatsup'; leave it out here, photos are for",
        ),
        ("organisms", r"organisms\.gemma3-natural\.datasets: 'whatsup' is of photos, which cannot be sampled; train on drawn scenes"),
    ],
)
def test_photos_are_not_for_organisms(photos: Path, section: str, says: str) -> None:
    values = with_photos(photos)
    values[section]["gemma3-natural"]["datasets"].append("whatsup")
    with pytest.raises(UserError, match=says) as caught:
        parse_config(values)
    assert "\n" not in str(caught.value)
