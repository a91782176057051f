"""Extraction against plain captured forward passes, for every family, dtype and pooling."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from activation_stores import scenes_folder
from vlm_spatial.activations import extraction
from vlm_spatial.activations.batching import AHEAD, automatic_batch, estimated_transient, image_bytes, overlapped, side_by_side
from vlm_spatial.activations.extraction import PROMPT, extract, reducer
from vlm_spatial.activations.memory import free_memory
from vlm_spatial.activations.pooling import REGIONS
from vlm_spatial.activations.store import Store
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.ablation import GridScenes, check_store
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.plain import Hooks, capture
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.activations import activations
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.open(scenes_folder(tmp_path_factory.mktemp("scenes") / "squares"))


@pytest.fixture(scope="module")
def scenes(dataset):
    return dataset.scenes.filter(pl.col("variant") != "pair")


def stored(adapter, dataset, scenes, folder, **settings):
    settings = ActivationsSettings.model_validate({"batch": 5, "shard_scenes": 8, **settings})
    extract(adapter, dataset.image, scenes, folder / "a.zarr", folder / "a.json", settings)
    return Store.open(folder / "a.zarr")


def plainly_captured(adapter, dataset, scenes, sites, batch=5, shard=8):
    """Values ``[scene, cells, patches, features]`` in the model's dtype from ``Adapter.run``, in the same batches."""
    parts = {site: [] for site in sites}
    for start in range(0, scenes.height, shard):
        of_shard = scenes.slice(start, shard)["scene_id"].to_list()
        for first in range(0, len(of_shard), batch):
            ids = of_shard[first : first + batch]
            _, captured = adapter.run(adapter.prepare([dataset.image(i) for i in ids], [PROMPT] * len(ids)), capture=sites)
            for site in sites:
                parts[site].append(captured[site])
    return {site: torch.cat(found) for site, found in parts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", NAMES)
def test_stored_values_are_bit_equal_to_the_models(family, dtype, checkpoint, dataset, scenes, tmp_path):
    adapter = load_adapter(checkpoint(family), dtype=dtype, device="cpu")
    store = stored(adapter, dataset, scenes, tmp_path, pooling="none")
    assert store.sites == adapter.sites
    assert store.scenes["scene_id"].to_list() == scenes["scene_id"].to_list()
    store.check_grid(adapter.grid(448, 448))
    expected = plainly_captured(adapter, dataset, scenes, adapter.sites)
    side = round(adapter.vision_shape[0] ** 0.5)
    for site in adapter.sites:
        values = expected[site].float().numpy()
        read = store.read_stored(site, scenes["scene_id"].to_list())
        if not site.startswith("vision."):
            np.testing.assert_array_equal(read, values[:, :, 0])
            continue
        for token in range(store.grid.size):
            row, col = divmod(token, store.grid.cols)
            for patch in range(side * side):
                fine_row, fine_col = row * side + patch // side, col * side + patch % side
                np.testing.assert_array_equal(read[:, fine_row * store.grid.cols * side + fine_col], values[:, token, patch])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_cells_are_means_of_patches_rounded_to_the_models_dtype(dtype, checkpoint, dataset, scenes, tmp_path):
    scenes = scenes.gather_every(3)
    adapter = load_adapter(checkpoint("qwen2_vl"), dtype=dtype, device="cpu")
    ids = scenes["scene_id"].to_list()
    cells = stored(adapter, dataset, scenes, tmp_path / "cell", pooling="cell")
    patches = stored(adapter, dataset, scenes, tmp_path / "none", pooling="none")
    expected = plainly_captured(adapter, dataset, scenes, ["vision.0"])["vision.0"]
    read = cells.read("vision.0", ids)
    np.testing.assert_array_equal(read, patches.read("vision.0", ids))
    exact = expected.double().mean(dim=2)
    tolerance = torch.finfo(getattr(torch, dtype)).eps
    np.testing.assert_allclose(read, exact.numpy(), rtol=4 * tolerance, atol=4 * tolerance)
    np.testing.assert_array_equal(read, torch.from_numpy(read).to(getattr(torch, dtype)).float().numpy())


def test_token_sets_are_means_over_their_tokens(adapter, dataset, scenes, tmp_path):
    scenes = scenes.gather_every(3)
    store = stored(adapter, dataset, scenes, tmp_path, pooling="token_set")
    sites = ("vision.1", "connector", "language.2")
    expected = plainly_captured(adapter, dataset, scenes, sites)
    read = {site: store.read_stored(site, scenes["scene_id"].to_list()) for site in sites}
    for index, row in enumerate(scenes.iter_rows(named=True)):
        if row["variant"] in ("single", "blank"):
            continue
        tokens = dataset.tokens(row["scene_id"], store.grid)
        for place, region in enumerate(REGIONS):
            mask = tokens.mask(region.token_set, [max(region.slot, 0)])
            for site in sites:
                mean = expected[site][index][mask].double().mean(dim=(0, 1)).numpy() if mask.any() else 0.0
                np.testing.assert_allclose(read[site][index, place], mean, atol=1e-4, rtol=1e-4)


def test_the_prompt_does_not_reach_visual_tokens(adapter, dataset, scenes):
    """The reason why one prompt does for all: what follows the image changes nothing at its tokens."""
    if adapter.reach == "prompt":
        pytest.skip("image tokens see the prompt; what is stored is stored for one prompt")
    ids = scenes["scene_id"].to_list()[:3]
    images = [dataset.image(i) for i in ids]
    reduce = reducer("cell", adapter.grid(448, 448), scenes[:3])
    first, second = (
        capture(adapter, adapter.prepare(images, [prompt] * 3), adapter.sites, reduce)
        for prompt in (PROMPT, "which object is on the left ?")
    )
    for site in adapter.sites:
        torch.testing.assert_close(first[site], second[site], rtol=1e-4, atol=1e-5)


def test_one_pass_an_image_that_ends_at_the_last_site(adapter, dataset, scenes, tmp_path, monkeypatch):
    passes, late = [], []
    forward = type(adapter.model).forward
    monkeypatch.setattr(type(adapter.model), "forward", lambda self, **inputs: passes.append(0) or forward(self, **inputs))
    # transformers sets hooks of its own in the first run of some models.
    adapter.run(adapter.prepare([dataset.image(scenes["scene_id"][0])], [PROMPT]))
    passes.clear()
    hooks = sum(len(module._forward_hooks) for module in adapter.model.modules())
    handle = adapter.language_blocks[1].register_forward_hook(lambda *_: late.append(0))
    store = stored(adapter, dataset, scenes, tmp_path, sites=["vision.*", "connector", "language.0"])
    handle.remove()
    assert store.sites == ("vision.0", "vision.1", "connector", "language.0")
    batches = sum(-(-min(8, scenes.height - start) // 5) for start in range(0, scenes.height, 8))
    assert len(passes) == batches
    assert not late
    assert sum(len(module._forward_hooks) for module in adapter.model.modules()) == hooks


def test_images_shown_once_are_not_remembered(checkpoint, dataset, scenes, tmp_path):
    adapter = load_adapter(checkpoint("gemma3"), device="cpu")
    stored(adapter, dataset, scenes, tmp_path)
    assert not adapter.cache._images
    adapter.prepare([dataset.image(scenes["scene_id"][0])], [PROMPT])
    assert len(adapter.cache._images) == 1


def test_values_that_are_not_finite_name_the_site(checkpoint, dataset, scenes, tmp_path):
    adapter = load_adapter(checkpoint("gemma3"), device="cpu")
    with torch.no_grad():
        adapter.language_blocks[1].mlp.down_proj.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"computes NaN or infinite values in float32, the first at language\.1"):
        stored(adapter, dataset, scenes, tmp_path)
    assert not (tmp_path / "a.zarr").exists()


def test_a_damaged_image_is_named(adapter_of, scenes, tmp_path):
    def image(scene):
        raise UserError(f"images/{scene}.png: its bytes are not those that were written")

    with pytest.raises(UserError, match=r"png: its bytes"):
        extract(adapter_of("gemma3"), image, scenes, tmp_path / "a.zarr", tmp_path / "a.json", ActivationsSettings())


@pytest.mark.parametrize("pooling", ["none", "cell"])
@pytest.mark.slow
def test_scenes_on_two_grids_share_a_store(pooling, adapter_of, dataset, scenes, tmp_path):
    """Each scene's values are those of its own image, at the top left; the images of one grid go through the model together."""
    adapter = adapter_of("qwen2_vl")
    half = pl.int_range(pl.len()) % 3 == 1
    mixed = scenes.head(9).with_columns(
        width=pl.when(half).then(224).otherwise("width").cast(pl.Int32),
        boxes=pl.col("boxes").list.eval(pl.element().list.eval(pl.element() / 2)),
    )
    sizes = dict(zip(mixed["scene_id"], mixed.select("width", "height").rows(), strict=True))

    def image(scene):
        return dataset.image(scene).resize(sizes[scene])

    settings = ActivationsSettings.model_validate({"batch": 5, "shard_scenes": 8, "pooling": pooling, "sites": ["vision.0", "connector"]})
    extract(adapter, image, mixed, tmp_path / "a.zarr", tmp_path / "a.json", settings)
    store = Store.open(tmp_path / "a.zarr")
    wide, narrow = adapter.grid(448, 448), adapter.grid(224, 448)
    assert wide != narrow
    assert store.grid == TokenGrid(max(wide.rows, narrow.rows), max(wide.cols, narrow.cols))
    for scene in mixed["scene_id"]:
        own = narrow if sizes[scene][0] == 224 else wide
        assert store.own_grids[scene] == own
        _, captured = adapter.run(adapter.prepare([image(scene)], [PROMPT]), capture=["vision.0", "connector"])
        for site, values in captured.items():
            [read] = store.read(site, [scene])
            cells = own.within(store.grid)
            np.testing.assert_allclose(read[cells], values[0].float().mean(dim=1).numpy(), atol=1e-5)
            assert not np.delete(read, cells, axis=0).any()
    store.check_scenes(mixed)
    with pytest.raises(UserError, match=rf"scene '{mixed['scene_id'][1]}': its image gives {wide.rows}×{wide.cols} visual tokens"):
        extract(adapter, dataset.image, mixed, tmp_path / "b.zarr", tmp_path / "b.json", settings)


def test_no_scene_and_no_such_site_are_refused(adapter_of, dataset, scenes, tmp_path):
    with pytest.raises(UserError, match=r"scenes: none"):
        stored(adapter_of("gemma3"), dataset, scenes.clear(), tmp_path)
    with pytest.raises(UserError, match=r"site 'language.9'"):
        stored(adapter_of("gemma3"), dataset, scenes, tmp_path, sites=["language.9"])


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(adapter_of, dataset, scenes, tmp_path, monkeypatch, capsys):
    sizes = []
    whole = Hooks.reduced

    def small_device(captured, prepared, reduce):
        sizes.append(prepared.batch)
        if prepared.batch > 2:
            raise torch.OutOfMemoryError
        return whole(captured, prepared, reduce)

    monkeypatch.setattr(Hooks, "reduced", small_device)
    store = stored(adapter_of("gemma3"), dataset, scenes, tmp_path, batch=8)
    assert [size for size in dict.fromkeys(sizes) if size > 1] == [8, 4, 2]
    assert store.manifest.config["batch"] == 2
    assert list(store.verify())
    assert "going on with batches of 2" in capsys.readouterr().err
    monkeypatch.setattr(Hooks, "reduced", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(UserError, match=r"out of memory with one image"):
        stored(adapter_of("gemma3"), dataset, scenes, tmp_path / "other")


def test_ablation_refuses_a_store_of_another_model_dataset_or_grid(adapter_of, dataset, scenes, tmp_path, monkeypatch):
    adapter = adapter_of("qwen2_vl")
    store = stored(adapter, dataset, scenes, tmp_path, sites=["connector"])
    check_store(GridScenes(adapter, dataset), store)
    with monkeypatch.context() as patched:
        patched.setattr(adapter, "identity", replace(adapter.identity, weights="ab" * 32))
        with pytest.raises(UserError, match=r"a.zarr: from another model .weights"):
            check_store(GridScenes(adapter, dataset), store)
    with monkeypatch.context() as patched:
        patched.setattr(adapter, "grid", lambda *_: TokenGrid(14, 14))
        with pytest.raises(UserError, match=r"a.zarr: token grid 6×6, expected 14×14; run snakemake"):
            check_store(GridScenes(adapter, dataset), store)
    other = replace(dataset, scenes=dataset.scenes.with_columns(split=pl.lit("train")))
    with pytest.raises(UserError, match=r"a.zarr: scene '.*': split differs from that of scenes.parquet; .* run snakemake"):
        check_store(GridScenes(adapter, other), store)


@pytest.mark.slow
def test_the_stage_says_size_and_batch_first(checkpoint, dataset, tmp_path, capsys):
    settings = {"model": {"checkpoint": str(checkpoint("gemma3"))}, "seed": 0, "stage": {"sites": ["connector"]}}
    outputs = {"store": tmp_path / "activations.zarr", "manifest": tmp_path / "activations.json"}
    activations(Job(settings, {"scenes": dataset.folder}, outputs))
    store = Store.open(outputs["store"], outputs["manifest"])
    assert "pair" not in store.scenes["variant"].to_list()
    assert {"main", "decorrelated", "single", "blank"} <= set(store.scenes["variant"])
    said = capsys.readouterr().err.splitlines()
    first = next(line for line in said if line.startswith("activations:"))
    expected = store.scenes.height * 36 * 32 * 4
    assert f"{store.scenes.height} scenes at 1 sites, {expected / 1e3:.3g} kB to write" in first
    assert "batches of 32" in first
    store.check_model(store.manifest.model)


# --- batching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_overlapped_keeps_order_and_holds_a_bounded_number(workers):
    held, most, done, lock = 0, 0, [], threading.Lock()

    def load(item):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return item

    def compute(item, loaded):
        # Later items of the same round end first.
        time.sleep(0.002 if item % workers == 0 else 0)
        return loaded * 2

    def store(item, computed):
        nonlocal held
        time.sleep(0.001)
        assert computed == item * 2
        with lock:
            held -= 1
        done.append(item)

    assert list(overlapped(range(60), load, compute, store, workers)) == list(range(60))
    assert done == list(range(60))
    # Loaded ahead, those that are computed or just were, computed and waiting, the one that is stored.
    assert most <= 2 * AHEAD + workers + 1


def test_two_are_computed_at_once():
    """Each of a pair of items waits for the other to be computed at the same time."""
    together = threading.Barrier(2, timeout=30)
    assert len(list(overlapped(range(20), lambda item: item, lambda *_: together.wait(), lambda *_: None, workers=2))) == 20


def test_threads_are_shared_out_and_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with side_by_side(torch.device("cpu")) as workers:
            assert (workers, torch.get_num_threads()) == (2, 2)
            seen = []
            list(overlapped(range(4), lambda item: item, lambda *_: seen.append(torch.get_num_threads()), lambda *_: None, workers))
            assert seen == [2] * 4
        assert torch.get_num_threads() == 4
        torch.set_num_threads(1)
        with side_by_side(torch.device("cpu")) as workers:
            assert (workers, torch.get_num_threads()) == (1, 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_batches_side_by_side_give_the_same_store(adapter, dataset, scenes, tmp_path):
    """Two threads run one model with one set of hooks; the values are those of one thread."""
    scenes = scenes.head(10)
    before = torch.get_num_threads()
    stores = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            stores.append(stored(adapter, dataset, scenes, tmp_path / str(threads), batch=2))
    finally:
        torch.set_num_threads(before)
    one, two = ({name: record.sha256 for name, record in store.files.items() if "/c/" in name} for store in stores)
    assert one == two


def test_overlapped_overlaps():
    """Computing an item waits for the next one to be loaded, storing it for the next one to be computed."""
    loaded, computed = ([threading.Event() for _ in range(21)] for _ in range(2))
    loaded[20].set()
    computed[20].set()

    def compute(item, _):
        computed[item].set()
        assert loaded[item + 1].wait(timeout=30)

    def store(item, _):
        assert computed[item + 1].wait(timeout=30)

    assert len(list(overlapped(range(20), lambda item: loaded[item].set(), compute, store))) == 20


@pytest.mark.parametrize("part", [0, 1, 2])
def test_overlapped_ends_with_the_first_error(part):
    seen = []

    def fail_at(which):
        def run(item, *_):
            if which == 2:
                seen.append(item)
            if which == part and item == 5:
                raise ValueError(f"part {part}")
            return item

        return run

    with pytest.raises(ValueError, match=f"part {part}"):
        list(overlapped(range(1000), fail_at(0), fail_at(1), fail_at(2)))
    assert len(seen) < 12


def test_automatic_batch_fits_the_memory():
    assert automatic_batch(10, 10**9) == 32
    assert automatic_batch(100, 100 * 2 * 9) == 8
    assert automatic_batch(100, 10) == 1
    assert estimated_transient(vision_values=5, language_values=7, itemsize=2) == 24 * 2 * 7
    assert image_bytes(stored=10, transient=50, pixels=3, itemsize=2) == 10 * (2 * 3 + 4) + 50 + 4 * 3 * 3
    assert image_bytes(stored=10, transient=50, pixels=3, itemsize=2, workers=2) == 10 * (2 * 4 + 4) + 2 * 50 + 4 * 3 * 4
    assert free_memory(torch.device("cpu")) > 10**6


ONE_MORE = """
import time
import numpy as np
import torch
from vlm_spatial.activations.memory import measured_growth

def work(images):
    held = np.ones((images, 5_000_000))
    # Long enough to be seen on a busy machine.
    time.sleep(0.5)
    return held

print(measured_growth(work, torch.device("cpu")))
"""


@pytest.mark.slow
def test_memory_of_one_image_more_is_measured():
    """In a process of its own: in one that has freed much, and keeps it, nothing grows."""
    done = subprocess.run([sys.executable, "-c", ONE_MORE], capture_output=True, encoding="utf-8", check=True)
    assert 36e6 < int(done.stdout) < 60e6


@pytest.mark.slow
def test_only_little_memory_is_measured(adapter_of, dataset, scenes, tmp_path, monkeypatch):
    """With much memory the largest batch is taken at once; measuring decides where the estimate alone leaves doubt."""
    measured = []
    monkeypatch.setattr(extraction, "measured_growth", lambda *_: measured.append(0) or 10**7)
    adapter = adapter_of("gemma3")
    # Two batches at once, where torch has threads for that, take twice the memory.
    for free, batches in ((10**10, {32}), (10**8, {2, 4})):
        monkeypatch.setattr(extraction, "free_memory", lambda _, free=free: free)
        store = stored(adapter, dataset, scenes, tmp_path / str(free), batch="auto", shard_scenes=32)
        assert store.manifest.config["batch"] in batches
        assert len(measured) == (free < 10**10)


LIMITED = """
import resource, sys
from pathlib import Path
import polars as pl
from vlm_spatial.activations import extraction
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
checkpoint, scenes, folder = map(Path, sys.argv[1:4])
dataset = Dataset.open(scenes)
chosen = dataset.scenes.filter(pl.col("variant") != "pair")
adapter = load_adapter(checkpoint, device="cpu")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
adapter.run(adapter.prepare([dataset.image(chosen["scene_id"][0])], ["what ?"]))
extraction.free_memory = lambda _: int(sys.argv[4])
before = peak()
made = extraction.extract(adapter, dataset.image, chosen, folder / "a.zarr", folder / "a.json", ActivationsSettings())
print(made.config["batch"], peak() - before)
"""


@pytest.mark.slow
def test_the_batch_found_keeps_to_a_small_memory_limit(checkpoint, dataset, tmp_path):
    """A limit of 30 MB: more than one image at once, fewer than 32, and the limit holds."""
    limit = 30_000_000
    command = [sys.executable, "-c", LIMITED, str(checkpoint("qwen2_vl")), str(dataset.folder), str(tmp_path), str(limit)]
    batch, growth = map(int, subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout.split())
    assert 1 < batch < 16
    assert growth < limit
