"""workflow_config.yaml as a fresh user edits it: each commented entry is added as its comment says."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import warm_python
from photo_set import write_photo_set
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "workflow_config.yaml").read_text(encoding="utf-8")
GEMMA = "    datasets: [squares, squares_hard] "


def uncommented(text: str, name: str) -> str:
    """``text`` with the "#" taken away from every entry ``name``, as the comments say."""
    pattern = rf"^  # {name}:.*\n(?:  #   .*\n)+"
    assert re.search(pattern, text, flags=re.MULTILINE)
    return re.sub(pattern, lambda entry: re.sub(r"^  # ", "  ", entry[0], flags=re.MULTILINE), text, flags=re.MULTILINE)


def named(text: str, line: str, name: str) -> str:
    """``text`` with ``name`` added to the list of datasets in ``line``."""
    assert text.count(line) == 1
    return text.replace(line, line.replace("]", f", {name}]"))


def dry_run(folder: Path, text: str) -> dict[str, int]:
    """Jobs by rule."""
    (folder / "workflow_config.yaml").write_text(text, encoding="utf-8")
    command = [warm_python.python(), "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--cores", "1", "--dry-run", "--quiet", "rules"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    rows = (line.split() for line in (done.stdout + done.stderr).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def test_two_families_are_analysed_and_none_is_trained(tmp_path: Path) -> None:
    """From any folder: the models lie beside the Snakefile."""
    jobs = dry_run(tmp_path, TEXT)
    assert "organism" not in jobs
    assert (jobs["scenes"], jobs["interchange"], jobs["transfer"], jobs["figures"]) == (2, 3, 1, 1)
    models = parse_config(yaml.safe_load(TEXT)).models
    architectures = {
        yaml.safe_load(Path(str(m.checkpoint), "config.json").read_text(encoding="utf-8"))["model_type"] for m in models.values()
    }
    assert architectures == {"gemma3", "qwen2_vl"}


def test_every_commented_dataset_is_a_kind_of_its_name() -> None:
    assert set(re.findall(r"^  # (\w+): ", TEXT, flags=re.MULTILINE)) == {"objects", "shapes", "whatsup"}


def test_a_drawn_dataset_is_added_by_name(tmp_path: Path) -> None:
    jobs = dry_run(tmp_path, named(uncommented(TEXT, "objects"), GEMMA, "objects"))
    assert (jobs["scenes"], jobs["interchange"], jobs["figures"]) == (3, 4, 1)


def test_an_organism_is_added_by_its_two_entries(tmp_path: Path) -> None:
    jobs = dry_run(tmp_path, uncommented(TEXT, "gemma3-vision"))
    assert (jobs["organism"], jobs["interchange"], jobs["figures"]) == (1, 4, 1)


def test_an_organism_learns_shapes_when_they_are_named_in_its_entry(tmp_path: Path) -> None:
    text = uncommented(uncommented(TEXT, "shapes"), "gemma3-vision")
    learning = text.replace("    datasets: [squares]          #", "    datasets: [squares, shapes]          #")
    analysed = learning.replace(
        "    organism: gemma3-vision\n    datasets: [squares]", "    organism: gemma3-vision\n    datasets: [squares, shapes]"
    )
    assert len({text, learning, analysed}) == 3
    jobs = dry_run(tmp_path, analysed)
    assert (jobs["organism"], jobs["scenes"], jobs["interchange"]) == (1, 3, 5)


def test_a_checkpoint_of_ones_own_is_added_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/mine").symlink_to(REPOSITORY / "organisms/natural-gemma3")
    text = uncommented(TEXT, "mine")
    assert parse_config(yaml.safe_load(text)).models["mine"].checkpoint == str(tmp_path / "checkpoints/mine")
    assert dry_run(tmp_path, text)["interchange"] == 4


def test_words_that_the_organism_does_not_know_are_one_line_that_says_what_to_do() -> None:
    values = yaml.safe_load(uncommented(uncommented(TEXT, "shapes"), "gemma3-vision"))
    values["models"]["gemma3-vision"]["datasets"].append("shapes")
    with pytest.raises(UserError) as caught:
        parse_config(values)
    assert str(caught.value).endswith(
        "models.gemma3-vision.datasets: organism 'gemma3-vision' does not know the words of 'shapes'; "
        "add shapes to organisms.gemma3-vision.datasets (now squares), or leave it out here"
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_photo_set(root, references=("plate",), things=("mug",), relations=("left_of",))
    return root


def with_photos(photos: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(uncommented(uncommented(TEXT, "whatsup"), "gemma3-vision"))
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
            r"models\.gemma3-vision\.datasets: organism .* does not know the words of 'whatsup'; leave it out here, photos are for",
        ),
        ("organisms", r"organisms\.gemma3-vision\.datasets: 'whatsup' is of photos, which cannot be sampled; train on drawn scenes"),
    ],
)
def test_photos_are_not_for_organisms(photos: Path, section: str, says: str) -> None:
    values = with_photos(photos)
    values[section]["gemma3-vision"]["datasets"].append("whatsup")
    with pytest.raises(UserError, match=says) as caught:
        parse_config(values)
    assert "\n" not in str(caught.value)
