"""Stores read back by four readers, and every kind of damage named."""

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from activation_stores import GRID, MODEL, PATCHES, bfloat16_values, description, written
from vlm_spatial.activations.manifest import default_manifest_path
from vlm_spatial.activations.pooling import REGIONS, Region, cell_mean, patch_order, region_weights, rounded
from vlm_spatial.activations.schema import FORMAT
from vlm_spatial.activations.shards import ShardWriter, read_rows
from vlm_spatial.activations.store import Store
from vlm_spatial.errors import UserError
from vlm_spatial.tokens import TokenGrid, scene_tokens
from vlm_spatial.workflow.provenance import SNAKEMAKES_MARK, record_path

pytestmark = pytest.mark.unit

ZARRITA = "0.7.5"
ZARRITA_STORAGE = "0.2.0"


@pytest.fixture(scope="module", params=["cell", "none", "token_set"])
def stored(request, tmp_path_factory):
    """A whole store, its values, its description."""
    described = description(pooling=request.param)
    values = bfloat16_values(described)
    return written(tmp_path_factory.mktemp("stored"), described, values), values, described


def ids(store: Store) -> list[str]:
    return store.scenes["scene_id"].to_list()


def test_store_gives_the_same_values_in_any_order(stored):
    path, values, described = stored
    store = Store.open(path)
    order = np.random.default_rng(3).permutation(described.scenes.height)
    for site, expected in values.items():
        np.testing.assert_array_equal(store.read_stored(site, [ids(store)[i] for i in order]), expected[order])
        assert store.read_stored(site, []).shape == (0, *expected.shape[1:])
        np.testing.assert_array_equal(store.read_stored(site, [ids(store)[9]] * 2), expected[[9, 9]])


def labelled(store: xarray.Dataset) -> xarray.Dataset:
    """As docs/activations.md has it."""
    words = {name: json.loads(array.attrs["words"]) for name, array in store.coords.items() if "words" in array.attrs}
    return store.assign_coords({name: (store[name].dims, np.array(words[name])[store[name].values]) for name in words})


def test_xarray_opens_it_labelled_and_without_a_warning(stored):
    path, values, described = stored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for consolidated in (None, True, False):
            opened = labelled(xarray.open_zarr(path, consolidated=consolidated))
            for site, expected in values.items():
                np.testing.assert_array_equal(opened[site].values, expected)
                assert opened[site].dims[0] == "scene"
            scene = described.scenes["scene_id"][2]
            assert opened["connector"].sel(scene=scene).shape == values["connector"].shape[1:]
            assert opened["connector"].coords["axis"].values.tolist() == described.scenes["axis"].to_list()
            assert opened["slots"].values[-2].tolist() == [1, -1, -1]
            assert opened["answers"].values[0].tolist() == ["square", "ball", "cat"]
            np.testing.assert_array_equal(opened["boxes"].sel(edge="left").values[0], np.float32([4, 44, 84]))
            assert opened.attrs == {"format": FORMAT, "identity": described.identity()}
            assert {"boxes", "slots", "answers"} <= set(opened.coords)


def test_xarray_coordinates_say_where_each_row_is(stored):
    path, _, described = stored
    opened = labelled(xarray.open_zarr(path))
    match described.pooling:
        case "cell":
            assert opened["token_row"].values.tolist() == [0] * 4 + [1] * 4 + [2] * 4
            assert opened["token_col"].values.tolist() == [0, 1, 2, 3] * 3
        case "none":
            assert opened["vision.0"].dims == ("scene", "patch", "vision_feature")
            row, col, token = (opened[f"patch_{name}"].values for name in ("row", "col", "token"))
            np.testing.assert_array_equal(token, (row // 2) * GRID.cols + col // 2)
            np.testing.assert_array_equal(row * GRID.cols * 2 + col, np.arange(GRID.size * PATCHES))
        case "token_set":
            assert opened["connector"].dims == ("scene", "region", "feature")
            names = list(zip(opened["region_set"].values, opened["region_slot"].values, strict=True))
            assert names[0] == ("object", 0)
            assert names[-1] == ("all", -1)
            assert opened["region_tokens"].values[0][-1] == GRID.size


def test_xarray_writes_it_as_netcdf(stored, tmp_path):
    """netCDF knows no attributes of several parts, and version 3 of it few types."""
    path, values, described = stored
    xarray.open_zarr(path).to_netcdf(tmp_path / "store.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "store.nc", engine="scipy") as opened:
        for site, expected in values.items():
            np.testing.assert_array_equal(opened[site].values, expected)
        assert labelled(opened)["scene"].values.tolist() == described.scenes["scene_id"].to_list()


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a store, as zarr reads it."""
    return {name: array[:] for name, array in zarr.open_group(path, mode="r").arrays()}


def test_zarr_reads_every_array(stored):
    path, values, _ = stored
    read = arrays(path)
    for site, expected in values.items():
        np.testing.assert_array_equal(read.pop(site), expected)
    assert {"scene", "edge", "axis", "split", "variant", "slots", "boxes", "answers"} <= read.keys()
    assert {array.dtype.kind for array in read.values()} == {"i", "f"}


def test_xarray_reads_every_array(stored):
    path, _, _ = stored
    opened = xarray.open_zarr(path)
    for name, expected in arrays(path).items():
        np.testing.assert_array_equal(opened[name].values, expected)


def test_tensorstore_reads_every_array(stored):
    tensorstore = pytest.importorskip("tensorstore")
    path, _, _ = stored
    for name, expected in arrays(path).items():
        opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}).result()
        np.testing.assert_array_equal(opened.read().result(), expected)
        assert opened.domain.labels == tuple(zarr.open_array(path / name, mode="r").metadata.dimension_names)


def test_a_store_of_format_1_is_read(tmp_path):
    """Text was an array of strings."""
    described = description()
    path = written(tmp_path, described, bfloat16_values(described))
    expected = Store.open(path).scenes
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, array in list(group.arrays()):
        if "words" in array.attrs:
            text = np.array(json.loads(array.attrs["words"]), dtype=object)[array[:]]
            group.create_array(name, shape=text.shape, dtype="string", overwrite=True)[...] = text
    zarr.consolidate_metadata(path)
    manifest = default_manifest_path(path)
    said = {**json.loads(manifest.read_text(encoding="utf-8")), "format": 1, "chunks": {}, "code": "c0de"}
    manifest.write_text(json.dumps(said), encoding="utf-8")
    assert Store.open(path, verify=False).scenes.equals(expected)


@pytest.mark.slow
def test_zarrita_reads_every_array_on_node(stored, tmp_path_factory):
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    path, values, described = stored
    folder = tmp_path_factory.getbasetemp() / f"zarrita-{ZARRITA}"
    if not folder.exists():
        folder.mkdir()
        installed = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", f"zarrita@{ZARRITA}", f"@zarrita/storage@{ZARRITA_STORAGE}"],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        if installed.returncode != 0:
            pytest.skip(f"npm cannot install zarrita: {installed.stderr.strip().splitlines()[-1]}")
    script = folder / "read.mjs"
    script.write_text(
        """
        import * as zarr from "zarrita";
        import { FileSystemStore } from "@zarrita/storage";
        const root = zarr.root(new FileSystemStore(process.argv[2]));
        const group = await zarr.open.v3(root, { kind: "group" });
        const out = { identity: group.attrs.identity, sites: {} };
        for (const site of JSON.parse(process.argv[3])) {
          const array = await zarr.open.v3(root.resolve(site), { kind: "array" });
          const { data, shape } = await zarr.get(array);
          const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
          out.sites[site] = { shape, bits: Array.from(bits) };
        }
        out.others = {};
        for (const name of process.argv.slice(4)) {
          const array = await zarr.open.v3(root.resolve(name), { kind: "array" });
          const { data, shape } = await zarr.get(array);
          out.others[name] = { shape, values: Array.from(data, (value) => (Number.isNaN(value) ? null : value)) };
          if (name === "scene") out.scene = Array.from(data, (number) => JSON.parse(array.attrs.words)[number]);
        }
        console.log(JSON.stringify(out));
        """,
        encoding="utf-8",
    )
    others = {name: array for name, array in arrays(path).items() if name not in values}
    done = subprocess.run(
        ["node", str(script), str(path), json.dumps(list(values)), *others], capture_output=True, encoding="utf-8", timeout=60, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["scene"] == described.scenes["scene_id"].to_list()
    assert read["identity"] == described.identity()
    for name, expected in others.items():
        found = np.array(read["others"][name]["values"], dtype=expected.dtype).reshape(read["others"][name]["shape"])
        np.testing.assert_array_equal(found, expected)
    for site, expected in values.items():
        bits = np.array(read["sites"][site]["bits"], dtype=np.uint32).reshape(read["sites"][site]["shape"])
        np.testing.assert_array_equal(bits.view(np.float32), expected)


def test_scenes_are_the_table_they_came_from(stored):
    path, _, described = stored
    scenes = Store.open(path).scenes
    for column, origin in (
        ("scene_id", "scene_id"),
        ("axis", "axis"),
        ("split", "split"),
        ("slots", "slots"),
        ("boxes", "boxes"),
        ("answers", "objects"),
    ):
        assert scenes[column].to_list() == described.scenes[origin].to_list()


def test_batches_are_the_whole_in_parts(tmp_path):
    described = description()
    values = bfloat16_values(described)
    store = Store.open(written(tmp_path, described, values))
    wanted = ids(store)[::-2]
    parts = list(store.batches("connector", wanted, 4))
    assert [scene for part, _ in parts for scene in part] == wanted
    np.testing.assert_array_equal(np.concatenate([v for _, v in parts]), values["connector"][::-2])
    assert [len(v) for _, v in parts] == [4, 4, 3]
    assert list(store.batches("connector", [], 4)) == []


def test_patches_are_averaged_as_cell_pooling_does(tmp_path):
    described = description(pooling="none")
    values = bfloat16_values(described)
    store = Store.open(written(tmp_path, described, values))
    read = store.read("vision.0", ids(store))
    expected = np.zeros_like(read)
    for token in range(GRID.size):
        row, col = divmod(token, GRID.cols)
        places = [(2 * row + i) * GRID.cols * 2 + 2 * col + j for i in (0, 1) for j in (0, 1)]
        expected[:, token] = values["vision.0"][:, places].mean(axis=1)
    np.testing.assert_allclose(read, expected, rtol=2**-8)
    assert not (read.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_array_equal(store.read("connector", ids(store)), values["connector"])


def test_token_set_stores_have_no_tokens(tmp_path):
    described = description(pooling="token_set")
    store = Store.open(written(tmp_path, described, bfloat16_values(described)))
    with pytest.raises(UserError, match=r"pooling"):
        store.read("connector", ids(store))


def test_sixteen_bit_values_take_no_more_room_than_sixteen_bits(tmp_path):
    described = description(60, shapes={"connector": (256, 1, 512)}, grid=TokenGrid(16, 16), shard_scenes=16)
    path = written(tmp_path, described, bfloat16_values(described))
    on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert on_disk <= 60 * 256 * 512 * 2


@given(
    count=st.integers(1, 40),
    shard=st.integers(1, 12),
    parts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_shard_written_in_any_parts_reads_back(tmp_path_factory, count, shard, parts, seed):
    folder = tmp_path_factory.mktemp("shard")
    chunk = next(d for d in (4, 3, 2, 1) if shard % d == 0)
    count = min(count, shard)
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((count, 3, 5)).astype(np.float32)
    writer = ShardWriter(folder / "0", (chunk, 3, 5), shard // chunk)
    start = 0
    for part in parts * count:
        writer.append(values[start : start + part])
        start += part
    record = writer.close()
    assert record.bytes == (folder / "0").stat().st_size
    rows = generator.integers(0, count, size=7)
    out = np.empty((7, 3, 5), dtype=np.float32)
    read_rows(folder / "0", rows, (chunk, 3, 5), shard // chunk, out)
    np.testing.assert_array_equal(out, values[rows])


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path):
    described = description()
    return written(tmp_path, described, bfloat16_values(described))


@pytest.mark.slow
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_any_flipped_bit_of_a_shard_is_found_on_reading(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("flipped")
    described = description(shard_scenes=8)
    path = written(folder, described, bfloat16_values(described))
    file = path / "connector/c/1/0/0"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    store = Store.open(path)
    with pytest.raises(UserError, match=r"connector/c/1/0/0: damaged"):
        store.read("connector", ids(store))
    with pytest.raises(UserError, match=r"connector/c/1/0/0: damaged"):
        list(store.verify())


@pytest.mark.parametrize("name", ["zarr.json", "connector/zarr.json", "scene/c/0", "boxes/c/0/0/0"])
def test_damaged_metadata_is_found_on_opening(fresh, name):
    content = bytearray((fresh / name).read_bytes())
    content[len(content) // 2] ^= 1
    (fresh / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: damaged .*run snakemake again"):
        Store.open(fresh)


def test_shortened_and_missing_files_are_found_on_opening(fresh):
    file = fresh / "vision.0/c/0/0/0"
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    with pytest.raises(UserError, match=rf"vision.0/c/0/0/0: damaged .{len(content) - 3} bytes"):
        Store.open(fresh)
    file.unlink()
    with pytest.raises(UserError, match=r"vision.0/c/0/0/0: damaged .missing"):
        Store.open(fresh)


def test_missing_array_is_named(fresh):
    shutil.rmtree(fresh / "language.0")
    with pytest.raises(UserError, match=r"language.0.*missing"):
        Store.open(fresh)
    with pytest.raises(UserError, match=r"language.0"):
        Store.open(fresh, verify=False).read("language.0", ["main-horizontal-test-00000"])


def test_a_shard_of_another_store_is_found_by_verification(fresh, tmp_path):
    described = description()
    other = written(tmp_path / "other", described, bfloat16_values(described, seed=1))
    for file in ("connector/c/0/0/0", "connector/zarr.json"):
        shutil.copy(other / file, fresh / file)
    with pytest.raises(UserError, match=r"connector/c/0/0/0"):
        list(Store.open(fresh, verify=False).verify())


def test_a_stray_file_is_found_by_verification(fresh):
    (fresh / "connector/c/0/0/1").write_bytes(b"")
    with pytest.raises(UserError, match=r"connector/c/0/0/1: not among the files that were written"):
        list(Store.open(fresh).verify())


def test_a_store_without_a_manifest_is_not_whole(fresh):
    fresh.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"activations.json: no such manifest.*not whole"):
        Store.open(fresh)


def test_a_store_with_another_manifest_is_refused(fresh, tmp_path):
    described = description(code="other")
    other = written(tmp_path / "other", described, bfloat16_values(described))
    with pytest.raises(UserError, match=r"other/activations.json: the manifest of another store than .*activations.zarr"):
        Store.open(fresh, other.with_suffix(".json"))


def test_a_store_without_its_record_is_not_whole(fresh):
    record_path(fresh).unlink()
    with pytest.raises(UserError, match=r"activations.zarr: no .activations.zarr.provenance.json: not finished.*not whole: run snakemake"):
        Store.open(fresh)
    # Whoever has only the arrays can still have each chunk checked as it is read.
    assert Store.open(fresh, verify=False).read("connector", ["main-horizontal-test-00000"]).shape == (1, 12, 7)


def test_snakemakes_mark_is_no_stray_file(fresh):
    (fresh / SNAKEMAKES_MARK).touch()
    assert len(list(Store.open(fresh).verify())) > 10


def test_no_store_no_site_no_scene(fresh, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such store"):
        Store.open(tmp_path / "nowhere")
    store = Store.open(fresh)
    with pytest.raises(UserError, match=r"no array for site 'vision.7'; stored are vision.0, connector, language.0"):
        store.read("vision.7", [])
    with pytest.raises(UserError, match=r"holds no scene 'nobody'"):
        store.read("connector", ["nobody"])


def test_broken_and_foreign_manifests_are_named(fresh):
    manifest = fresh.with_suffix(".json")
    said = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**said, "pooling": "most"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"activations.json: pooling"):
        Store.open(fresh)
    manifest.write_text(json.dumps({**said, "format": 99}), encoding="utf-8")
    with pytest.raises(UserError, match=r"format 99"):
        Store.open(fresh)
    manifest.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"activations.json: line 1: is not JSON"):
        Store.open(fresh)


def test_another_model_or_grid_is_refused(fresh):
    store = Store.open(fresh)
    store.check_model(MODEL)
    store.check_grid(GRID)
    for change in ({"weights": "cd" * 32}, {"dtype": "float32"}, {"architecture": "Other"}):
        with pytest.raises(UserError, match=rf"another model .{next(iter(change))}"):
            store.check_model({**MODEL, **change})
    with pytest.raises(UserError, match=r"token grid 3×4, expected 6×6"):
        store.check_grid(TokenGrid(6, 6))


def test_other_scenes_are_refused(fresh):
    store, described_scenes = Store.open(fresh), description().scenes
    store.check_scenes(described_scenes.reverse())
    with pytest.raises(UserError, match=r"scene 'main-horizontal-test-00004': axis differs"):
        store.check_scenes(described_scenes.filter(pl.col("scene_id") != "main-horizontal-test-00004"))
    moved = described_scenes.with_columns(
        boxes=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit([[1.0, 2.0, 3.0, 4.0]] * 3)).otherwise("boxes")
    )
    with pytest.raises(UserError, match=r"'main-horizontal-test-00007': boxes differs from that of scenes.parquet; .* run snakemake"):
        store.check_scenes(moved)


# --- pooling --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(["bfloat16", "float16", "float32"]))
def test_rounding_is_torchs(seed, dtype):
    import torch

    values = (np.random.default_rng(seed).standard_normal(64) * 100).astype(np.float32)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(rounded(values, dtype), expected)


def test_cell_mean_is_the_same_in_torch_and_numpy():
    import torch

    values = np.random.default_rng(0).standard_normal((5, 7, 4, 9)).astype(np.float32)
    np.testing.assert_array_equal(cell_mean(torch.from_numpy(values)).numpy(), cell_mean(values))
    np.testing.assert_allclose(cell_mean(values), values.mean(axis=2), rtol=1e-4, atol=1e-6)


def test_patch_order_is_raster_order():
    order = patch_order(TokenGrid(2, 2), 4)
    assert order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    with pytest.raises(UserError, match=r"square cells"):
        patch_order(TokenGrid(2, 2), 3)


def test_regions_are_the_token_sets():
    boxes = [(40.0 * slot + 4, 30.0, 40.0 * slot + 30, 60.0) for slot in range(3)]
    weights = region_weights(boxes, [0, 1, 2], "horizontal", GRID, 120, 90)
    tokens = scene_tokens(boxes, GRID, 120, 90, "horizontal")
    for region, weight in zip(REGIONS, weights, strict=True):
        np.testing.assert_array_equal(weight, tokens.mask(region.token_set, [max(region.slot, 0)]))


def test_regions_of_a_scene_with_one_object():
    weights = region_weights([(44.0, 30.0, 70.0, 60.0)], [1], "horizontal", GRID, 120, 90)
    held = {(r.token_set, r.slot): int(w.sum()) for r, w in zip(REGIONS, weights, strict=True)}
    assert held[("object", 1)] >= 1
    assert held[("object", 0)] == held[("strip", 1)] == held[("rim", 1)] == 0
    assert held[("background", -1)] == GRID.size - held[("object", 1)]

    # A picture of two objects on a larger canvas: padding is in no region.
    weights = region_weights([(0, 40, 30, 60), (90, 40, 120, 60)], [0, 2], "horizontal", GRID, 120, 90, (0, 30, 120, 75))
    padding = scene_tokens([(0, 40, 30, 60), (90, 40, 120, 60)], GRID, 120, 90, "horizontal", (0, 30, 120, 75)).padding
    assert padding is not None
    assert padding.any()
    assert not weights[:, padding].any()
    assert weights[REGIONS.index(Region("all", -1))].sum() == GRID.size - padding.sum()


def test_polars_reads_the_scenes(fresh):
    assert Store.open(fresh).scenes.filter(pl.col("split") == "test")["scene_id"].is_unique().all()
