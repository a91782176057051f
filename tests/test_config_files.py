"""Configuration files as people write them: home folders and variables in paths, and the line that a fault is in."""

from pathlib import Path

import pytest

from malformed_configs import GOOD, malformed
from vlm_spatial.config.reading import load_config, parse_config
from vlm_spatial.config.yaml_files import Source, check_configfiles
from vlm_spatial.errors import UserError

pytestmark = pytest.mark.unit

TEXT = """\
datasets:
  squares: &easy {kind: squares}
  v1.5:
    <<: *easy
    wording: one_word
organisms:
  small: {family: gemma3}
models:
  small:
    organism: small
    datasets:
      - squares
      - v1.5
"""


def test_home_and_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/mine").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tmp_path / "models"))
    for written in ("~/models/mine", "$HOME/models/mine", "${MODELS}/mine"):
        values = {**GOOD, "results": "~/results", "models": {"mine": {"checkpoint": written}}}
        config = parse_config(values)
        assert config.models["mine"].checkpoint == str(tmp_path / "models/mine")
        assert config.results == str(tmp_path / "results")


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("family: gemma3", "family: pixtral", 7, "organisms.small.family"),
        ("organism: small", "organism: large", 10, "models.small.organism"),
        ("- v1.5", "- v1.6", 11, "models.small.datasets"),
        ("- v1.5", "- 1.5", 13, "models.small.datasets.1"),
        ("wording: one_word", "wording: short", 5, "datasets.v1.5.wording"),
        ("wording: one_word", "word: short", 5, "datasets.v1.5.word"),
        ("  small:\n    organism", "  Small:\n    organism", 9, "models.Small"),
        ("    organism: small\n", "", 9, "models.small"),
        ("organisms:", "seed: -1\norganisms:", 6, "seed"),
    ],
)
def test_a_fault_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, key: str) -> None:
    assert TEXT.count(old) == 1
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: line {line}: {key}: ")
    assert "\n" not in str(caught.value)


def test_of_two_files_the_one_that_holds_the_key_is_named(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text(TEXT, encoding="utf-8")
    mine.write_text("models:\n  small:\n    dtype: int8\n", encoding="utf-8")
    source = Source(base, mine)
    assert source.at("models.small.dtype") == f"{mine}: line 3"
    assert source.at("models.small.organism") == f"{base}: line 10"
    assert source.at("nothing") == f"{base}, {mine}"


def test_a_value_that_came_on_the_command_line_has_no_line() -> None:
    with pytest.raises(UserError, match=r"^given: seed: "):
        parse_config(malformed("seed", -1), Source("given"))


def test_only_configfiles_are_read_of_the_command_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("seed: 1\n", encoding="utf-8")
    bad.write_text("seed: 1\nseed: 2\n", encoding="utf-8")
    check_configfiles(["--cores", "1", "--config", "seed=1", "--configfile", str(good), "--dry-run", str(bad)])
    check_configfiles(["all", "-C", "seed=1"])
    for arguments in (["--configfile", str(good), str(bad)], [f"--configfiles={bad}"], ["-n", "--configfile", str(bad), "-c", "1"]):
        with pytest.raises(SystemExit, match=r"bad\.yaml: line 2: seed: given a second time, the first is in line 1"):
            check_configfiles(arguments)
