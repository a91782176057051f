"""``vlm-spatial inspect``: what it prints, what it verifies, what it draws."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from activation_stores import GRID, bfloat16_values, description, written
from tiny_workflow import REPOSITORY, Workflow
from vlm_spatial.activations.picture import draw, principal_components
from vlm_spatial.activations.store import Store
from vlm_spatial.cli import app
from vlm_spatial.errors import UserError
from vlm_spatial.workflow.provenance import SNAKEMAKES_MARK

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path):
    described = description()
    return written(tmp_path, described, bfloat16_values(described))


def inspect(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_it_prints_identity_scenes_and_sites(store):
    result = inspect(store)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.replace("│", " ").split()) for line in result.output.splitlines()]
    assert "token grid 3 × 4" in lines
    assert "computed in bfloat16, stored as float32" in lines
    assert f"weights {'ab' * 32}" in lines
    assert "main horizontal 7 12" in lines or "main horizontal 12 7" in lines
    opened = Store.open(store)
    on_disk = sum(r.size for name, r in opened.files.items() if name.startswith("connector/c/"))
    share = on_disk / (21 * 12 * 7 * 2)
    assert f"connector token 21 × 12 × 7 {on_disk / 1000:.3g} kB {share:.1%} 3" in lines


def test_verify_finds_damage(store):
    result = inspect(store, "--verify")
    assert result.exit_code == 0
    assert f"all {len(Store.open(store).files)} files are as they were written" in result.output
    file = store / "connector/c/0/0/0"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    assert inspect(store).exit_code == 0
    result = inspect(store, "--verify")
    assert result.exit_code == 1
    assert "connector/c/0/0/0: damaged" in result.output


def test_no_store_is_one_line_and_status_1(tmp_path):
    result = inspect(tmp_path / "nothing.zarr")
    assert result.exit_code == 1
    assert result.output.strip() == f"error: {tmp_path / 'nothing.zarr'}: no such store; run snakemake to make it"


@pytest.mark.slow
def test_the_picture_is_drawn(store, tmp_path):
    target = tmp_path / "picture.png"
    result = inspect(store, "--plot", target, "--site", "vision.0")
    assert result.exit_code == 0, result.output
    with Image.open(target) as image:
        assert image.size[0] > 600
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    # Cells of many different values, on a mostly white page.
    assert len(np.unique(colours, axis=0)) > 3 * GRID.size
    with pytest.raises(UserError, match=r"picture.pdf: a picture is a file ending in .png, .svg, .html"):
        draw(Store.open(store), "connector", tmp_path / "picture.pdf")
    svg = tmp_path / "one.svg"
    draw(Store.open(store), "connector", svg, ["main-horizontal-test-00003"])
    assert "main-horizontal-test-00003" in svg.read_text(encoding="utf-8")
    assert "token column" in svg.read_text(encoding="utf-8")


def test_components_are_those_of_scikit_learn():
    values = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32) * np.arange(1, 9)
    scores, shares = principal_components(values)
    pca = PCA(3).fit(values.astype(np.float64))
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(scores), np.abs(pca.transform(values)), atol=1e-3)


def test_constant_values_have_no_components():
    scores, shares = principal_components(np.ones((5, 4), dtype=np.float32))
    assert not scores.any()
    assert not shares.any()


def test_help_loads_no_heavy_library():
    code = (
        "import sys; import vlm_spatial.cli; print([m for m in ('torch', 'zarr', 'altair', 'polars', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_documented_commands_work_on_what_the_workflow_made(finished_workflow: Workflow, tmp_path: Path) -> None:
    """On results made by Snakemake, which leaves a mark of its own in them."""
    page = (REPOSITORY / "docs" / "activations.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ vlm-spatial (.*)$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    (tmp_path / "results").symlink_to(finished_workflow.folder / "results")
    for command in commands:
        words = command.replace("gemma3-natural", "folder").split()
        done = subprocess.run(
            [sys.executable, "-c", "from vlm_spatial.cli import app; app()", *words],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if "--verify" in words:
            assert (tmp_path / "results/folder/squares/activations.zarr" / SNAKEMAKES_MARK).exists()
            assert re.search(r"verified: all \d+ files are as they were written", done.stdout)
    assert (tmp_path / "connector.png").exists()
