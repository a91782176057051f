"""The SLURM profile on a machine that has no SLURM: one line says so."""

import shutil
from pathlib import Path

import pytest
import yaml

from quick_commands import REPOSITORY, Commands
from vlm_spatial.workflow.preflight import without_slurm

pytestmark = pytest.mark.workflow

PROFILE = str(REPOSITORY / "profiles" / "slurm")
NOTE = "there is no SLURM on this machine (sbatch: not found): a dry-run shows the jobs, submit them where there is one"


@pytest.mark.parametrize(
    ("command", "note"),
    [
        (["--workflow-profile", PROFILE, "--dry-run"], NOTE),
        ([f"--workflow-profile={PROFILE}"], NOTE),
        (["--executor", "slurm"], NOTE),
        (["--workflow-profile", str(REPOSITORY / "profiles" / "default")], None),
        (["--cores", "8", "slurm"], None),
    ],
)
def test_who_asks_for_slurm_is_told(command: list[str], note: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert without_slurm(["snakemake", *command]) == note
    (tmp_path / "sbatch").touch(mode=0o755)
    assert without_slurm(["snakemake", *command]) is None


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="there is a SLURM here")
def test_a_dry_run_says_it_once(commands: Commands, worlds: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(worlds["fresh"], tmp_path / "run"))
    done = commands.run(folder, "snakemake", "--workflow-profile", PROFILE, "--dry-run")
    assert done.code == 0, done.err
    if shutil.which("sbatch") is not None:
        pytest.skip("other tests have installed SLURM in the meantime")
    assert [line for line in done.err.splitlines() if line.startswith("note: ")] == [f"note: {NOTE}"]
    refused = commands.run(folder, "snakemake", "--workflow-profile", PROFILE)
    assert refused.code == 1
    assert refused.errors == [f"error: {NOTE}"]


def test_nothing_has_to_be_unlocked_anywhere() -> None:
    """Snakemake's own lock outlives a kill, ours does not; no page asks for ``--unlock``."""
    for profile in ("default", "slurm"):
        assert yaml.safe_load((REPOSITORY / "profiles" / profile / "config.yaml").read_text(encoding="utf-8"))["nolock"] is True
    assert [path.name for path in (REPOSITORY / "docs").glob("*.md") if "--unlock" in path.read_text(encoding="utf-8")] == []
