"""Every kind of dataset keeps the protocol: one list, light settings, files that are hashed."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from vlm_spatial.config.datasets import allowed_keys, dataset_settings, kinds_with
from vlm_spatial.config.settings import plain
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN, drawn_source
from vlm_spatial.scenes.sources.registry import KINDS, SOURCES, dataset_files, source_of
from vlm_spatial.scenes.sources.source import Source

pytestmark = pytest.mark.unit

# What an entry of a kind needs besides ``kind``; drawn kinds need nothing.
NEEDED: dict[str, dict[str, Any]] = {
    "whatsup": {"root": "photos"},
    "coco": {"images": "photos", "annotations": "instances.json"},
    "gqa": {"images": "photos", "scene_graphs": "graphs.json"},
    "boxed": {"images": "photos", "boxes": "boxes.csv"},
}


def test_kinds_are_listed_once() -> None:
    assert len(set(KINDS)) == len(SOURCES)
    assert [source_of(kind) for kind in KINDS] == list(SOURCES)
    assert {source.kind for source in DRAWN} == {source.kind for source in SOURCES if source.settings.drawn}


@pytest.mark.parametrize("source", SOURCES, ids=KINDS)
def test_settings_survive_the_way_to_a_job(source: Source[Any]) -> None:
    settings = dataset_settings({"kind": source.kind, **NEEDED.get(source.kind, {})})
    assert type(settings) is source.settings
    assert dataset_settings(plain(settings)) == settings
    assert settings.kind == source.kind
    assert allowed_keys(source.kind) == sorted(type(settings).model_fields)
    for key in type(settings).model_fields:
        assert source.kind in kinds_with(key)


@pytest.mark.parametrize("source", DRAWN, ids=[source.kind for source in DRAWN])
def test_drawn_kinds_depend_on_no_file(source: Source[Any]) -> None:
    assert dataset_files({"kind": source.kind}) == []
    assert dataset_settings(kind=source.kind).boxes_stage is None


@pytest.mark.parametrize("kind", [source.kind for source in SOURCES if not source.settings.drawn])
def test_photos_cannot_be_drawn(kind: str) -> None:
    with pytest.raises(UserError, match=f"kind '{kind}': its scenes are photos"):
        drawn_source(kind)


@pytest.mark.parametrize(
    ("values", "where"),
    [({}, ("kind",)), ({"knd": "squares"}, ("kind",)), ({"kind": "circles"}, ("kind",)), ({"kind": "squares", "axes": ["x"]}, ("axes", 0))],
)
def test_a_fault_is_one_of_its_own_key(values: dict[str, Any], where: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        dataset_settings(values)
    assert caught.value.errors()[0]["loc"] == where


@pytest.mark.slow
def test_reading_a_configuration_loads_nothing_heavy() -> None:
    heavy = ["numpy", "PIL", "polars", "scipy", "torch", "transformers"]
    code = f"import sys, vlm_spatial.config.reading; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
