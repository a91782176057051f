"""Code hashes against edits that must and must not count; outside files against tricks with times."""

import os
import textwrap
import time

import pytest

from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.registry import dataset_files
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.workflow import code_identity as identity
from vlm_spatial.workflow.code_identity import code_hash, external_content, stage_identity
from vlm_spatial.workflow.file_cache import FileCache

pytestmark = pytest.mark.unit

SOURCE = textwrap.dedent(
    '''
    """A module."""

    __version__ = "1.0"
    LIMIT = 3  # at most


    class Box:
        """A box."""


    def area(width, height):
        """Width times height."""
        return width * height
    '''
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# at most", "# no more than"),
        ('"""A module."""', ""),
        ('"""Width times height."""', '"""In pixels."""'),
        ("width * height", "(width\n        * height)"),
        ('"""A box."""', "pass"),
        ('"1.0"', '"2.0"'),
        ("\n\n\n", "\n\n\n\n\n"),
    ],
)
def test_edits_that_change_nothing(old, new):
    assert old in SOURCE
    assert code_hash(SOURCE.replace(old, new)) == code_hash(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("width * height", "width + height"),
        ("def area(width", "def area(breadth"),
        ("class Box", "class Crate"),
    ],
)
def test_edits_that_change_something(old, new):
    assert old in SOURCE
    assert code_hash(SOURCE.replace(old, new)) != code_hash(SOURCE)


@pytest.mark.slow
def test_a_stage_is_made_of_what_it_imports_and_no_more():
    scenes = stage_identity("scenes")
    assert {"vlm_spatial", "vlm_spatial.stages.scenes", "vlm_spatial.stages.stage", "vlm_spatial.scenes"} <= scenes.modules.keys()
    assert not any(name.startswith(("vlm_spatial.models", "vlm_spatial.probes", "vlm_spatial.figures")) for name in scenes.modules)
    assert {"pillow", "polars", "pydantic"} <= scenes.packages.keys()
    assert not {"torch", "transformers", "tqdm"} & scenes.packages.keys()


@pytest.mark.slow
def test_stages_know_nothing_of_other_stages():
    for stage in STAGES:
        others = {f"vlm_spatial.stages.{other}" for other in STAGES if other != stage}
        assert not others & stage_identity(stage).modules.keys()


# The figures are made of everything that the registry knows, and of every stage's results anyway.
@pytest.mark.parametrize("stage", [name for name in STAGES if name != "figures"])
def test_a_stage_is_made_of_its_own_sections_of_the_configuration_only(stage):
    sections = {"dataset": {"datasets"}, "organism": {"datasets", "organisms"}}.get(STAGES[stage].scope, {STAGES[stage].key})
    if STAGES[stage].device == "gpu" or stage == "organism":
        # How a model is asked, and which pairs are taken of what it answers.
        sections |= {"answers", "prompting", "quirks", "pool"}
    found = {name.removeprefix("vlm_spatial.config.") for name in stage_identity(stage).modules if name.startswith("vlm_spatial.config.")}
    assert found <= sections | {"settings"}


def test_model_stages_depend_on_torch_and_transformers():
    packages = stage_identity("behaviour").packages
    assert {"torch", "transformers"} <= packages.keys()


@pytest.mark.slow
def test_figures_never_import_torch():
    assert "torch" not in stage_identity("figures").packages


def test_unknown_stage_is_named():
    with pytest.raises(UserError, match="stage 'sceens': there is no module"):
        stage_identity("sceens")


def test_data_files_beside_a_module_count(tmp_path, monkeypatch):
    package = tmp_path / "vlm_spatial"
    (package / "report" / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "report" / "__init__.py").touch()
    template = package / "report" / "templates" / "page.html"
    template.write_text("<p>", encoding="utf-8")
    monkeypatch.setattr(identity, "_root", lambda: package)
    modules = ["vlm_spatial", "vlm_spatial.report"]
    before = dict(identity._hashes(modules, FileCache(None)))
    assert "vlm_spatial/report/templates/page.html" in before
    assert "vlm_spatial/report/templates/page.html" not in dict(identity._hashes(["vlm_spatial"], FileCache(None)))
    template.write_text("<b>", encoding="utf-8")
    after = dict(identity._hashes(modules, FileCache(None)))
    assert {name for name in after if before[name] != after[name]} == {"vlm_spatial/report/templates/page.html"}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    # What changed just now is not remembered: it may change again without another time.
    time.sleep(0.1)
    return folder


def test_training_an_organism_does_not_depend_on_photos():
    modules = stage_identity("organism").modules
    assert "vlm_spatial.scenes.sources.squares" in modules
    assert not any(name.startswith("vlm_spatial.scenes.photo") or name.endswith(("whatsup", "registry")) for name in modules)
    assert "vlm_spatial.scenes.sources.whatsup" in stage_identity("scenes").modules


def test_new_bytes_under_old_times_are_seen(checkpoint, tmp_path):
    settings = {"model": {"checkpoint": str(checkpoint)}}
    cache = tmp_path / "cache.json"
    before = external_content(settings, cache)
    weights = checkpoint / "model.safetensors"
    times = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=times)
    after = external_content(settings, cache)
    assert {name for name in before if before[name] != after[name]} == {str(weights)}


def test_unchanged_files_are_not_read_again(checkpoint, tmp_path, monkeypatch):
    settings = {"model": {"checkpoint": str(checkpoint)}}
    cache = tmp_path / "cache.json"
    before = external_content(settings, cache)
    monkeypatch.setattr(identity, "sha256", lambda path: pytest.fail(f"read {path}"))
    assert external_content(settings, cache) == before


def test_touching_an_outside_file_changes_nothing(checkpoint, tmp_path):
    settings = {"model": {"checkpoint": str(checkpoint)}}
    before = external_content(settings, tmp_path / "cache.json")
    os.utime(checkpoint / "config.json", (1, 1))
    assert external_content(settings, tmp_path / "cache.json") == before


def test_a_missing_file_of_boxes_is_named(tmp_path):
    settings = {"dataset": {"kind": "whatsup", "root": str(tmp_path), "boxes": str(tmp_path / "boxes.json")}}
    with pytest.raises(UserError, match=r"boxes\.json: cannot be read"):
        external_content(settings, tmp_path / "cache.json", dataset_files)
    assert external_content(settings, tmp_path / "cache.json") == {}


def test_hub_checkpoints_have_no_outside_files(tmp_path):
    assert external_content({"model": {"checkpoint": "owner/name"}}, tmp_path / "cache.json") == {}
