"""What storing activations costs: ratios to bare forward passes and to a plain hook-and-save loop, measured in one run.

    python benchmarks/extraction.py                        # the default organism's size, 4 + 6 blocks
    python benchmarks/extraction.py --model qwen2_vl       # a random Qwen2-VL of more than 100 M parameters
    python benchmarks/extraction.py --reading              # one site read for training

Weights are random: speed and size of the values do not depend on what they mean. Every round runs all sides one after
another, and the ratios are medians over rounds, so that other work on the machine weighs on all of them. Sides:

- forward: bare forward passes at the extraction's batch size, on inputs that are ready in memory: the strict measure, as
  reading, checking and processing images count as the extraction's own cost;
- load + forward: the same, with each image read, checked and processed first, which any extraction must do, one after another;
- extraction: ``extract``, from the images on disk to the finished store;
- loop: as peers do it, one image at a time, hooks on every site, one ``torch.save`` an image.

Where the model is large enough to keep every core busy with one image (a mid-size Qwen2-VL on a CPU), batches save
nothing, so no way of storing can be five times faster than the loop there: the ratio of forward passes at the
extraction's batch to those at batch 1, printed last, is the most that can be had; on a small model overheads of each
forward pass are what batches save, on a GPU they fill the device.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
import zarr

from vlm_spatial.activations.extraction import PROMPT, extract
from vlm_spatial.activations.manifest import Manifest
from vlm_spatial.activations.schema import READABLE
from vlm_spatial.activations.store import Store
from vlm_spatial.activations.writer import Description, write_arrays
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families.gemma3 import RECIPE
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.recipe import Size
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.questions import vocabulary
from vlm_spatial.stages.scenes import scenes as scenes_stage
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid

MODELS: dict[str, tuple[str, Size]] = {
    "organism": ("gemma3", RECIPE.organism.size if RECIPE.organism else Size()),
    "qwen2_vl": (
        "qwen2_vl",
        Size(text_layers=16, text_width=768, text_heads=12, text_key_value_heads=4, vision_layers=8, vision_width=512, vision_heads=8),
    ),
}


def make_scenes(folder: Path, count: int) -> Dataset:
    """A dataset of ``count`` scenes or a few more."""
    dataset = {
        "kind": "squares",
        "axes": ["horizontal"],
        "scenes": {"train": max(1, count - 2), "validation": 1, "test": 1},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
        "pairs": {"vision": 0, "language": 0, "conflict": 0},
    }
    scenes_stage(Job({"dataset": dataset, "name": "squares", "seed": 0}, {}, {"folder": folder}))
    return Dataset.open(folder)


def batches(ids: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def prepared(adapter: Adapter, dataset: Dataset, ids: list[str]) -> dict[str, torch.Tensor]:
    return adapter.prepare([dataset.image(i) for i in ids], [PROMPT] * len(ids)).inputs


@torch.inference_mode()
def forward(adapter: Adapter, inputs: dict[str, torch.Tensor]) -> None:
    adapter.model(**inputs, use_cache=False, logits_to_keep=1)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def wall_and_cpu(work: Callable[[], object]) -> np.ndarray:
    """Seconds by the clock, and of processor time in all threads, which other work on the machine changes less."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def hook_and_save(adapter: Adapter, dataset: Dataset, ids: list[str], folder: Path) -> None:
    """The peers' loop: every block's whole output of one image in one pickled file."""
    folder.mkdir()
    for scene in ids:
        captured: dict[str, torch.Tensor] = {}
        handles = [
            adapter.module(site).register_forward_hook(
                lambda _m, _i, output, site=site, captured=captured: captured.update({site: output.detach().cpu()})
            )
            for site in adapter.sites
        ]
        forward(adapter, prepared(adapter, dataset, [scene]))
        for handle in handles:
            handle.remove()
        torch.save(captured, folder / f"{scene}.pt")


def size_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def compare(name: str, dtype: str, scenes: int, loop_scenes: int, rounds: int) -> None:
    """Print every side's images a second and the ratios."""
    family, size = MODELS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = make_scenes(folder / "scenes", scenes)
        ids = dataset.scenes.filter(pl.col("variant") == "main")["scene_id"].to_list()
        table = dataset.scenes.filter(pl.col("scene_id").is_in(ids))
        words = vocabulary(dataset_settings(kind="squares"))
        adapter = load_adapter(new_checkpoint(folder / "checkpoint", family, words, size=size), dtype=dtype)
        parameters = sum(p.numel() for p in adapter.model.parameters())
        manifest = extraction(adapter, dataset, table.head(32), folder / "warm")
        batch = manifest.config["batch"]
        print(f"{name}: {parameters / 1e6:.1f} M parameters, {dtype}, {len(adapter.sites)} sites, {len(ids)} scenes, batch {batch}")
        rates: dict[str, list[np.ndarray]] = {"forward": [], "forward, batch 1": [], "load + forward": [], "extraction": [], "loop": []}
        for round_ in range(rounds):
            ready = [prepared(adapter, dataset, part) for part in batches(ids, batch)]
            took = {"forward": wall_and_cpu(lambda ready=ready: [forward(adapter, inputs) for inputs in ready])}
            few = ids[:loop_scenes]
            single = [prepared(adapter, dataset, [scene]) for scene in few]
            alone = wall_and_cpu(lambda single=single: [forward(adapter, inputs) for inputs in single])
            took["forward, batch 1"] = alone * len(ids) / len(few)
            del ready, single
            # A fresh adapter each time: it remembers images.
            fresh = load_adapter(folder / "checkpoint", dtype=dtype)
            took["load + forward"] = wall_and_cpu(
                lambda fresh=fresh: [forward(fresh, prepared(fresh, dataset, part)) for part in batches(ids, batch)]
            )
            fresh = load_adapter(folder / "checkpoint", dtype=dtype)
            store = folder / f"round{round_}"
            took["extraction"] = wall_and_cpu(lambda fresh=fresh, store=store: extraction(fresh, dataset, table, store))
            fresh = load_adapter(folder / "checkpoint", dtype=dtype)
            loop = wall_and_cpu(lambda fresh=fresh, few=few, round_=round_: hook_and_save(fresh, dataset, few, folder / f"loop{round_}"))
            took["loop"] = loop * len(ids) / len(few)
            for side, time_taken in took.items():
                rates[side].append(len(ids) / time_taken)
        print(f"  {'':31}   by the clock          by processor time")
        for side, found in rates.items():
            wall, cpu = np.median(found, axis=0)
            slowest, fastest = np.min(found, axis=0)[0], np.max(found, axis=0)[0]
            print(f"  {side:31} {wall:8.1f} images/s ({slowest:.1f} to {fastest:.1f}) {cpu:8.1f} images/s")
        for side, wanted in (("forward", 0.85), ("load + forward", 0.85), ("loop", 5.0)):
            wall, cpu = np.median([a / b for a, b in zip(rates["extraction"], rates[side], strict=True)], axis=0)
            print(f"  {'extraction / ' + side:31} {wall:8.2f} (wanted {wanted}) {cpu:20.2f}")
        wall, cpu = np.median([a / b for a, b in zip(rates["forward"], rates["forward, batch 1"], strict=True)], axis=0)
        print(f"  {'forward / forward, batch 1':31} {wall:8.2f} {cpu:33.2f}")
        values = sum(int(np.prod(shape)) for shape in manifest_of(store).shape.values())
        itemsize = 4 if dtype == "float32" else 2
        print(f"  on disk / {dtype} bytes {size_on_disk(store / 'activations.zarr') / (values * itemsize):6.3f}")
        per_image = size_on_disk(folder / "loop0") / loop_scenes
        print(f"  loop on disk / store on disk {per_image * len(ids) / size_on_disk(store / 'activations.zarr'):6.2f}")


def extraction(adapter: Adapter, dataset: Dataset, scenes: pl.DataFrame, folder: Path) -> Manifest:
    return extract(adapter, dataset.image, scenes, folder / "activations.zarr", folder / "activations.json", ActivationsSettings())


def manifest_of(folder: Path) -> Manifest:
    return Manifest.read(folder / "activations.json", READABLE)


def reading(scenes: int, rounds: int) -> None:
    """Print how fast one site of a store is read: 256 tokens of 1,024 features, as a 1-billion-parameter model has."""
    generator = np.random.default_rng(0)
    shape = (scenes, 256, 1024)
    values = (generator.standard_normal(shape, dtype=np.float32) * np.exp(generator.standard_normal(1024, dtype=np.float32))).view(
        np.uint32
    )
    values &= np.uint32(0xFFFF0000)
    payload = values.nbytes / 2 / 1e6
    table = pl.DataFrame(
        [
            {"scene_id": f"s{i}", "variant": "main", "split": "train", "axis": "horizontal", "width": 448, "height": 448}
            | {"objects": [], "boxes": [], "slots": []}
            for i in range(scenes)
        ],
        schema_overrides={"objects": pl.List(pl.String), "boxes": pl.List(pl.List(pl.Float32)), "slots": pl.List(pl.Int32)},
    )
    model = {"checkpoint": "none", "revision": None, "architecture": "none", "weights": "none", "dtype": "bfloat16"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        described = Description({"language.0": (256, 1, 1024)}, table, TokenGrid(16, 16), 1, "cell", 64, model)
        write_arrays(folder / "a.zarr", folder / "a.json", described, {"language.0": values.view(np.float32)})
        store = Store.open(folder / "a.zarr")
        ids = store.scenes["scene_id"].to_list()
        half = ids[::2]
        opened = [seconds(lambda: Store.open(folder / "a.zarr")) for _ in range(rounds)]
        print(f"open and check metadata: {statistics.median(opened) * 1e3:.1f} ms")
        array = zarr.open_array(folder / "a.zarr" / "language.0", mode="r")
        sides: dict[str, tuple[float, Callable[[], object]]] = {
            "batches of 64": (payload, lambda: [v.shape for _, v in store.batches("language.0", ids, 64)]),
            "batches of 64, every second scene": (payload / 2, lambda: [v.shape for _, v in store.batches("language.0", half, 64)]),
            "zarr-python, 64 scenes at a time": (payload, lambda: [array[i : i + 64].shape for i in range(0, scenes, 64)]),
            "zarr-python, every second scene": (payload / 2, lambda: array.oindex[np.arange(0, scenes, 2)].shape),
            "verify every byte": (payload, lambda: list(store.verify())),
        }
        on_disk = size_on_disk(folder / "a.zarr") / 1e6
        print(f"reading one site: {scenes} scenes × 256 × 1,024, {payload:.0f} MB in bfloat16, {on_disk:.0f} MB on disk")
        for side, (megabytes, work) in sides.items():
            rates = sorted(megabytes / seconds(work) for _ in range(rounds))
            print(f"  {side:36} {statistics.median(rates):9.0f} MB/s of bfloat16 payload   ({rates[0]:.0f} to {rates[-1]:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="organism")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--loop-scenes", type=int, default=64, help="scenes of the plain loop; its time is scaled up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reading", action="store_true", help="measure reading instead")
    given = parser.parse_args()
    if given.reading:
        reading(given.scenes, given.rounds)
    else:
        compare(given.model, given.dtype, given.scenes, given.loop_scenes, given.rounds)


if __name__ == "__main__":
    main()
