"""The lock, pyproject.toml and envs/*.yaml name the same packages at the same versions, and enough of them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from snakemake_rules import rules
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.workflow.code_identity import stage_identity

pytestmark = pytest.mark.workflow

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]


def locked(name: str) -> dict[str, str]:
    pins = (line.split("==") for line in (REPOSITORY / name).read_text(encoding="utf-8").split())
    return {canonicalize_name(package): version for package, version in pins}


LOCK, PEERS = locked("requirements.lock"), locked("requirements-peers.lock")


def environment(name: str) -> dict[str, str]:
    [pip] = [
        entry["pip"]
        for entry in yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))["dependencies"]
        if isinstance(entry, dict)
    ]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pip)}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-peers.lock"])
def test_lock_holds_only_names_and_versions(name):
    for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_lock_satisfies_pyproject(requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_peers_are_pinned_once_and_leave_the_lock_as_it_is():
    assert not PEERS.keys() & LOCK.keys()
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["peers"]):
        assert requirement.specifier.contains(PEERS[canonicalize_name(requirement.name)])
    benchmarks = (REPOSITORY / "benchmarks" / "requirements.txt").read_text(encoding="utf-8")
    assert "-r ../requirements-peers.lock" in benchmarks
    assert not any(re.search(rf"^{package}\b", benchmarks, flags=re.MULTILINE) for package in PEERS)


@pytest.mark.parametrize("name", ["light", "torch"])
def test_environments_agree_with_the_lock_and_pyproject(name):
    asked_for = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    packages = environment(name)
    assert packages.items() <= LOCK.items()
    assert packages.keys() <= asked_for


def test_light_environment_is_light():
    assert "torch" not in environment("light")
    assert environment("light").items() <= environment("torch").items()


@pytest.mark.parametrize("stage", STAGES)
def test_every_rule_names_an_environment_that_holds_what_its_stage_imports(stage):
    name = rules()[stage].environment
    imported = {canonicalize_name(package) for package in stage_identity(stage).packages}
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    assert imported & declared <= environment(name).keys()
    assert ("torch" in imported) == (name == "torch"), "the light environment is for stages that never import torch"
