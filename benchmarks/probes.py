"""How long slot probes of a whole store take, against scikit-learn's LogisticRegression site by site.

    python benchmarks/probes.py                       # 16 sites × 1,000 scenes × 30 tokens × 1,024 features
    python benchmarks/probes.py --sites 4             # a quarter of it

Both sides read the same store, standardise the same training tokens, fit the same four strengths, choose by
validation accuracy and score the test scenes; each runs in a process of its own, so that peak memory is its own. The
activations are random with a power-law spectrum, and a slot signal that grows from site to site.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from vlm_spatial.activations.store import Store
from vlm_spatial.activations.writer import Description, write_arrays
from vlm_spatial.probes.fitting import Rows, fit_probes, one_hot
from vlm_spatial.tokens import TokenGrid, strip_labels

GRID = TokenGrid(5, 6)
SIDE = 240
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
SPLITS = (("train", 0.6), ("validation", 0.8), ("test", 1.0))
MODEL = {"checkpoint": "none", "revision": None, "architecture": "none", "weights": "none", "dtype": "float32"}


def scene_table(count: int) -> pl.DataFrame:
    """Three objects in the middle of thirds, with jitter."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        lefts = np.array([20, 100, 180]) + generator.integers(-15, 16, size=3)
        split = next(name for name, share in SPLITS if index < share * count)
        rows.append(
            {
                "scene_id": f"main-horizontal-{split}-{index:05d}",
                "variant": "main",
                "split": split,
                "axis": "horizontal",
                "image_sha256": f"{index:064x}",
                "width": SIDE,
                "height": SIDE,
                "objects": ["red", "green", "blue"],
                "boxes": [[float(left), 100.0, float(left) + 40, 140.0] for left in lefts],
                "slots": [0, 1, 2],
            }
        )
    return pl.DataFrame(rows, schema_overrides={"slots": pl.List(pl.Int32), "boxes": pl.List(pl.List(pl.Float32))})


def labels(scenes: pl.DataFrame) -> Int[np.ndarray, "scenes tokens"]:
    return np.stack([strip_labels(boxes, GRID, SIDE, SIDE, "horizontal") for boxes in scenes["boxes"].to_list()])


def make_store(folder: Path, sites: int, scenes: int, features: int) -> None:
    """Write the store; a site is a memory-mapped file first, so that any size goes."""
    table = scene_table(scenes)
    slots = labels(table)
    names = [f"language.{layer}" for layer in range(sites)]
    values = {}
    for layer, name in enumerate(names):
        generator = np.random.default_rng(layer)
        mixing = np.linalg.qr(generator.standard_normal((features, features)))[0] * np.arange(1, features + 1)[:, None] ** -0.5
        signal = generator.standard_normal((3, features)) / features**0.5 * 0.1 * (layer + 1) / sites
        values[name] = np.memmap(folder / f"{name}.raw", dtype=np.float32, mode="w+", shape=(scenes, GRID.size, features))
        for start in range(0, scenes, 100):
            part = slots[start : start + 100]
            noise = generator.standard_normal((*part.shape, features), dtype=np.float32)
            values[name][start : start + 100] = noise @ mixing.astype(np.float32) + signal[part].astype(np.float32) + 3
    shapes = dict.fromkeys(names, (GRID.size, 1, features))
    described = Description(
        shapes=shapes, scenes=table, grid=GRID, patches=1, pooling="cell", shard_scenes=64, model=MODEL, code="none", config={"prompt": ""}
    )
    write_arrays(folder / "activations.zarr", folder / "activations.json", described, values)
    for name in names:
        (folder / f"{name}.raw").unlink()


def rows(store: Store, site: str, split: str) -> tuple[Float[np.ndarray, "rows features"], Int[np.ndarray, " rows"]]:
    chosen = store.scenes.filter(pl.col("split") == split)
    values = np.empty((chosen.height * GRID.size, store.manifest.shape[site][-1]), dtype=np.float32)
    start = 0
    for _, part in store.batches(site, chosen["scene_id"].to_list(), 32):
        values[start : start + len(part) * GRID.size] = part.reshape(-1, values.shape[1])
        start += len(part) * GRID.size
    return values, labels(chosen).ravel()


def here(store: Store, site: str) -> float:
    """Test accuracy by this package."""
    (x, y), (x_validation, y_validation) = rows(store, site, "train"), rows(store, site, "validation")
    train, validation = Rows(x, one_hot(y, 3), len(x)), Rows(x_validation, one_hot(y_validation, 3), len(x_validation))
    return fit_probes(train, validation, STRENGTHS, {})["logistic"].score(*rows(store, site, "test"))


def scikit_learn(store: Store, site: str) -> float:
    """Test accuracy by scikit-learn, at its default tolerance and in single precision, which is faster for it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = rows(store, site, "train")
    scaler = StandardScaler(copy=False)
    x = scaler.fit_transform(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = [LogisticRegression(C=strength, max_iter=1000).fit(x, y) for strength in STRENGTHS]
    x, y = rows(store, site, "validation")
    x = scaler.transform(x)
    best = max(fitted, key=lambda model: model.score(x, y))
    x, y = rows(store, site, "test")
    return float(best.score(scaler.transform(x), y))


METHODS: dict[str, Callable[[Store, str], float]] = {"here": here, "scikit-learn": scikit_learn}


def measure(folder: Path, method: str) -> None:
    """Run one side on every site and print its times, accuracies and peak memory as JSON."""
    store = Store.open(folder / "activations.zarr")
    METHODS[method](store, store.sites[0])  # imports, thread pools and the page cache are not what is measured
    seconds, processor, accuracies = [], [], []
    for site in store.sites:
        started, used = time.perf_counter(), time.process_time()
        accuracies.append(METHODS[method](store, site))
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "processor": processor, "accuracies": accuracies, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sites", 16), ("scenes", 1000), ("features", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where the store goes (about 2 GB); a temporary folder by default")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.folder, given.measure)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        make_store(Path(temporary), given.sites, given.scenes, given.features)
        found = {}
        for method in METHODS:
            command = [sys.executable, __file__, "--folder", temporary, "--measure", method]
            found[method] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for method, result in found.items():
        accuracy = ", ".join(f"{value:.3f}" for value in result["accuracies"])
        times = f"{sum(result['seconds']):.1f} s ({sum(result['processor']):.1f} s of processor)"
        print(f"{method}: {times} for {given.sites} sites, peak memory {result['peak_mb']:.0f} MB")
        print(f"    accuracies {accuracy}")
    ours, theirs = found.values()
    gap = max(abs(a - b) for a, b in zip(ours["accuracies"], theirs["accuracies"], strict=True))
    ratio, processor = (sum(theirs[key]) / sum(ours[key]) for key in ("seconds", "processor"))
    print(f"{ratio:.1f} times faster ({processor:.1f} in processor time); largest difference in accuracy {gap:.4f}")


if __name__ == "__main__":
    main()
