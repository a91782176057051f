"""Stores that keep some tokens of each scene: which ones, what is read, and that probes find what they find in whole stores."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xarray
import zarr

from activation_stores import scenes_folder
from probe_worlds import GRID, SIZE, MemoryStore, layout_code, world
from vlm_spatial.activations.extraction import extract
from vlm_spatial.activations.sampling import sampled_tokens
from vlm_spatial.activations.store import Store
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.errors import UserError
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.probes.analysis import Analysis, analyse
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import scene_tokens

pytestmark = pytest.mark.model


def test_each_part_of_a_test_scene_is_drawn_from_and_training_scenes_keep_objects_first() -> None:
    scenes = world(main=(6, 2, 6)).scenes.with_columns(width=SIZE, height=SIZE)
    sample = sampled_tokens(scenes, GRID, 9)
    for row, tokens, weights in zip(scenes.iter_rows(named=True), sample.tokens, sample.weights, strict=True):
        assert (np.diff(tokens) > 0).all()
        if not row["boxes"]:
            continue
        held = scene_tokens([tuple(box) for box in row["boxes"]], GRID, SIZE, SIZE, row["axis"])
        objects = held.objects.any(axis=0)
        if row["split"] != "test":
            # Every object token, or nothing but object tokens.
            assert objects[tokens].sum() == min(9, objects.sum())
            continue
        for slot in range(len(held.objects)):
            for part in (held.objects[slot], held.strips[slot] & ~objects):
                chosen = part[tokens]
                assert chosen.any() == part.any()
                # Together they stand for as many tokens as the part has.
                assert weights[chosen].sum() == pytest.approx(part.sum())
    again = sampled_tokens(scenes.reverse(), GRID, 9)
    np.testing.assert_array_equal(again.tokens[::-1], sample.tokens)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(scenes_folder(tmp_path_factory.mktemp("scenes") / "squares"))


@pytest.fixture(scope="module")
def stores(adapter_of: Any, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    adapter: Adapter = adapter_of("qwen2_vl")
    folder = tmp_path_factory.mktemp("stores")
    scenes = dataset.scenes.filter(pl.col("variant") != "pair")
    found = []
    for name, tokens in (("every", "all"), ("some", 7)):
        settings = ActivationsSettings.model_validate({"batch": 5, "shard_scenes": 8, "tokens": tokens, "whole_scenes": 1})
        extract(adapter, dataset.image, scenes, folder / f"{name}.zarr", folder / f"{name}.json", settings)
        found.append(Store.open(folder / f"{name}.zarr"))
    return found[0], found[1]


def test_kept_tokens_have_the_values_of_a_whole_store(stores: tuple[Store, Store]) -> None:
    every, some = stores
    ids = every.scenes["scene_id"].to_list()
    assert sorted(some.scenes["scene_id"]) == sorted(ids)
    assert some.sites == every.sites
    np.testing.assert_allclose(some.read("connector", ids), every.read("connector", ids), atol=2e-6)
    for site in ("vision.0", "language.1"):
        kept = some.kept(site, ids)
        assert kept is not None
        assert kept.tokens.shape == (len(ids), 7)
        values = np.concatenate([part for _, part in some.batches(site, ids, 4)])
        np.testing.assert_allclose(values, np.take_along_axis(every.read(site, ids), kept.tokens[..., None], axis=1), atol=2e-5)
        whole = list(some.whole_scenes)
        np.testing.assert_allclose(some.read(site, whole), every.read(site, whole), atol=2e-5)
    # One test scene of each axis and variant, and every blank one.
    assert set(every.scenes.filter(variant="blank")["scene_id"]) < set(some.whole_scenes)
    other = next(name for name in ids if name not in some.whole_scenes)
    with pytest.raises(UserError, match=rf"language.0 holds 7 of 36 tokens of scene '{other}'.*activations.tokens to all"):
        some.read("language.0", [other])
    assert len(list(some.verify())) == len(some.files)
    assert set(every.whole_scenes) == set(ids)


def test_a_sampled_store_opens_with_plain_programs(stores: tuple[Store, Store]) -> None:
    _, some = stores
    opened = xarray.open_zarr(some.path)
    assert opened["language.0"].dims == ("scene", "sample", "feature")
    assert opened["language.0.whole"].dims == ("whole_scene", "token", "feature")
    assert {"sample_token", "sample_weight", "split"} <= set(opened["language.0"].coords)
    ids = some.scenes["scene_id"].to_list()
    np.testing.assert_array_equal(zarr.open_array(some.path / "language.0", mode="r")[:], some.read_stored("language.0", ids))
    whole = list(some.whole_scenes)
    np.testing.assert_array_equal(zarr.open_array(some.path / "language.0.whole", mode="r")[:], some.read("language.0", whole))


def test_an_interrupted_sampled_store_goes_on(
    adapter_of: Any, dataset: Dataset, tmp_path: Path, stores: tuple[Store, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def image(scene: str) -> Any:
        shown.append(scene)
        if len(shown) == 15:
            raise OSError("unplugged")
        return dataset.image(scene)

    scenes = dataset.scenes.filter(pl.col("variant") != "pair")
    settings = ActivationsSettings.model_validate({"batch": 5, "shard_scenes": 8, "tokens": 7, "whole_scenes": 1})
    for _ in range(2):
        try:
            extract(adapter_of("qwen2_vl"), image, scenes, tmp_path / "a.zarr", tmp_path / "a.json", settings)
        except OSError:
            continue
    assert "1 of 3 shards done before" in capsys.readouterr().err
    for name, record in Store.open(tmp_path / "a.zarr").files.items():
        assert record.sha256 == stores[1].files[name].sha256, name


@pytest.mark.slow
def test_probes_on_some_tokens_find_what_they_find_on_all() -> None:
    made = world(axes=("horizontal",), main=(40, 20, 30), decorrelated=(20, 10, 10))
    code = {"vision.0": layout_code, "connector": layout_code}
    settings = ProbesSettings(strengths=(0.1, 1.0))

    def found(tokens: int | None) -> Analysis:
        return analyse(MemoryStore(made, code, tokens=tokens, whole=6), made, settings, seed=0)

    every, some = found(None), found(12)
    keys = ["site", "kind", "axis", "trained_on", "scored_on", "token_set"]
    both = every.table.join(some.table, on=keys, suffix="_some", how="full", coalesce=True)
    assert both.height == every.table.height == some.table.height
    scored = both.filter(pl.col("accuracy").is_not_null(), pl.col("scored_on").is_in(["main", "decorrelated"]))
    # The connector holds every token in both.
    at_connector = scored.filter(site="connector")
    assert at_connector["accuracy"].equals(at_connector["accuracy_some"])
    sampled = scored.filter(site="vision.0", kind="logistic")
    assert sampled.height >= 8
    # Of what is found nothing leaves its interval, widened by that of the sample.
    for row in sampled.iter_rows(named=True):
        margin = (row["high"] - row["low"] + row["high_some"] - row["low_some"]) / 2 + 0.02
        assert abs(row["accuracy"] - row["accuracy_some"]) <= margin, row
        assert row["chance"] == pytest.approx(row["chance_some"], abs=0.03)
    assert (sampled.filter(scored_on="main")["accuracy_some"] > 0.9).all()
    # Maps and indices are those of whole scenes.
    assert some.strip_map.filter(site="vision.0")["scene_id"].n_unique() == 6
    indices = [table.geometry.filter(measure="strip_index", site="vision.0", other="main")["estimate"][0] for table in (every, some)]
    assert indices[0] == pytest.approx(indices[1], abs=0.1)
