"""How long slot probes of a whole store take, against scikit-learn's LogisticRegression site by site.

    python benchmarks/probes.py                          # 16 sites × 1,000 scenes × 30 tokens × 1,024 features
    python benchmarks/probes.py --reference-sites 16     # scikit-learn at all of them, which takes most of ten minutes
    python benchmarks/probes.py --sites 4                # a quarter of it

Both sides read the same store, standardise the same training tokens, fit the same four strengths, choose by
validation accuracy and score the test scenes; each runs in a process of its own, so that peak memory is its own. The
activations are random with a power-law spectrum, and a slot signal that grows from site to site.

This package runs at every site, scikit-learn at ``--reference-sites`` of them (4), evenly spread from the weakest signal
to the strongest. Times and accuracies are compared over those sites only; nothing is extrapolated to the others.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
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


def measure(folder: Path, method: str, sites: Sequence[str]) -> None:
    """Run one side on ``sites`` and print its times, accuracies and peak memory as JSON."""
    store = Store.open(folder / "activations.zarr")
    warm_up(store, method, sites[0])
    found: dict[str, dict[str, float]] = {}
    for site in sites:
        started, used = time.perf_counter(), time.process_time()
        accuracy = METHODS[method](store, site)
        found[site] = {"seconds": time.perf_counter() - started, "processor": time.process_time() - used, "accuracy": accuracy}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"sites": found, "peak_mb": peak}))


def warm_up(store: Store, method: str, site: str) -> None:
    """Imports and thread pools are not what is measured: one small fit. Both sides have read the store from the page cache."""
    x, y = rows(store, site, "validation")
    x, y = x[:600, :32].copy(), y[:600]
    if method == "here":
        part = Rows(x, one_hot(y, 3), 20)
        fit_probes(part, Rows(x.copy(), part.targets, 20), STRENGTHS, {})
    else:
        from sklearn.linear_model import LogisticRegression

        LogisticRegression().fit(x, y)


def spread(sites: Sequence[str], count: int) -> list[str]:
    """``count`` of the sites, the first and the last among them, at even distances."""
    return [sites[round(place)] for place in np.linspace(0, len(sites) - 1, min(count, len(sites)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sites", 16), ("scenes", 1000), ("features", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--reference-sites", type=int, default=4, help="sites that scikit-learn is measured at, evenly spread")
    parser.add_argument("--folder", type=Path, help="where the store goes (about 2 GB); a temporary folder by default")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--at", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.folder, given.measure, given.at)
        return
    names = [f"language.{layer}" for layer in range(given.sites)]
    compared = spread(names, given.reference_sites)
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        make_store(Path(temporary), given.sites, given.scenes, given.features)
        found = {}
        for method, at in (("here", names), ("scikit-learn", compared)):
            command = [sys.executable, __file__, "--folder", temporary, "--measure", method, "--at", *at]
            found[method] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout)
    for method, result in found.items():
        sites = result["sites"].values()
        accuracy = ", ".join(f"{site['accuracy']:.3f}" for site in sites)
        times = f"{sum(s['seconds'] for s in sites):.1f} s ({sum(s['processor'] for s in sites):.1f} s of processor)"
        print(f"{method}: {times} for {len(sites)} of {given.sites} sites, peak memory {result['peak_mb']:.0f} MB")
        print(f"    accuracies {accuracy}")
    ours, theirs = ([found[method]["sites"][site] for site in compared] for method in ("here", "scikit-learn"))
    gap = max(abs(a["accuracy"] - b["accuracy"]) for a, b in zip(ours, theirs, strict=True))
    ratio, processor = (sum(site[key] for site in theirs) / sum(site[key] for site in ours) for key in ("seconds", "processor"))
    print(f"over the {len(compared)} sites that both ran at: {', '.join(compared)}")
    print(f"{ratio:.1f} times faster ({processor:.1f} in processor time); largest difference in accuracy {gap:.4f}")


if __name__ == "__main__":
    main()
