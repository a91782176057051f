"""Activations of every visual token of every site to disk: ours, plain hooks, nnsight and TransformerLens, in one process.

    python -m benchmarks.compare_extraction --scenes 192 --rounds 3

The peers do as their users do: one image at a time, every site, one ``torch.save`` an image. The reference is plain hooks; before
any time is given, all sites of some scenes are read back from disk and compared. ``benchmarks.extraction`` has the ratio to bare
forward passes, and reading speed.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from benchmarks.extraction import MODELS, extraction, make_scenes, size_on_disk
from benchmarks.measure import Unsupported, device_named, environment, rounds_of, write
from benchmarks.patch_sweep import OURS, REFERENCE, VLM_LENS
from benchmarks.peers import Traced, TransformerLens, missing

from vlm_spatial.activations.extraction import PROMPT
from vlm_spatial.activations.store import Store
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.organisms.checkpoint import new_checkpoint
from vlm_spatial.models.values import Site, SiteValues
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.scenes.questions import vocabulary

TOLERANCE = 1e-5
COMPARED = 8
Capture = Callable[[Any], dict[Site, SiteValues]]


def captures(adapter: Adapter) -> tuple[dict[str, Capture], dict[str, str]]:
    """How each peer reads all sites in one run, and why one cannot."""
    sites = list(adapter.sites)
    found: dict[str, Capture] = {REFERENCE: lambda inputs: adapter.run(inputs, capture=sites)[1]}
    reasons = {
        "pyvene": "collects listed positions of one module's output; there is no way to ask for all sites of a run and write them",
        "vlm-lens": f"{VLM_LENS}; one image at a time into SQLite, like the loop here",
    }
    why = missing("nnsight")
    if why is None:
        traced = Traced(adapter)
        found["nnsight"] = lambda inputs: traced.capture(inputs, sites)
    else:
        reasons["nnsight"] = why
    try:
        lens = TransformerLens(adapter)
        found["transformer-lens"] = lambda inputs: lens.capture(inputs, sites)
    except Unsupported as error:
        reasons["transformer-lens"] = str(error)
    return found, reasons


def save_each(adapter: Adapter, capture: Capture, dataset: Dataset, ids: list[str], folder: Path) -> Path:
    """The peers' loop; returns the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for scene in ids:
        values = capture(adapter.prepare([dataset.image(scene)], [PROMPT]))
        torch.save({site: value.cpu() for site, value in values.items()}, folder / f"{scene}.pt")
    return folder


def compare(name: str, device: torch.device, scenes: int, rounds: int) -> dict[str, Any]:
    """Times of all sides on one model and dataset."""
    family, size = MODELS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = make_scenes(folder / "scenes", scenes)
        ids = dataset.scenes.filter(pl.col("variant") == "main")["scene_id"].to_list()
        table = dataset.scenes.filter(pl.col("scene_id").is_in(ids))
        words = vocabulary(dataset_settings(kind="squares"))
        adapter = load_adapter(new_checkpoint(folder / "checkpoint", family, words, size=size), device=device.type)
        ways, reasons = captures(adapter)

        def ours(_: int) -> Path:
            shutil.rmtree(folder / "ours", ignore_errors=True)
            extraction(adapter, dataset, table, folder / "ours")
            return folder / "ours"

        def check(results: dict[str, Path], _: int) -> dict[str, float]:
            apart = dict.fromkeys(results, 0.0)
            store = Store.open(results[OURS] / "activations.zarr")
            for scene in ids[:: max(1, len(ids) // COMPARED)]:
                expected = torch.load(results[REFERENCE] / f"{scene}.pt")
                for peer, where in results.items():
                    if peer != OURS:
                        found = torch.load(where / f"{scene}.pt")
                        apart[peer] = max(apart[peer], *(_apart(found[site], expected[site]) for site in expected))
                for site in expected:
                    stored = torch.as_tensor(next(iter(store.batches(site, [scene], 1)))[1])
                    # The store may hold one mean a cell.
                    wanted = expected[site] if stored.numel() == expected[site].numel() else expected[site].mean(dim=2)
                    apart[OURS] = max(apart[OURS], _apart(stored.reshape(wanted.shape), wanted))
            return apart

        sides: dict[str, Callable[[int], Path]] = {OURS: ours}
        for peer, capture in ways.items():
            sides[peer] = lambda _, peer=peer, capture=capture: save_each(adapter, capture, dataset, ids, folder / peer.replace(" ", "_"))
        found = rounds_of(sides, rounds, check, device, TOLERANCE)
        for peer in sides:
            found[peer]["bytes_on_disk"] = size_on_disk(folder / ("ours" if peer == OURS else peer.replace(" ", "_")))
            found[peer]["forward_passes"] = len(ids)
        for peer in ways:
            found[peer]["times_slower"] = {
                key: round(found[peer][key]["median"] / found[OURS][key]["median"], 2) for key in ("seconds", "processor_seconds")
            }
        return {
            "model": name,
            "family": family,
            "parameters": sum(parameter.numel() for parameter in adapter.model.parameters()),
            "sites": len(adapter.sites),
            "scenes": len(ids),
            "methods": found,
            "unsupported": reasons,
        }


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="organism")
    parser.add_argument("--scenes", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args()
    device = device_named(given.device)
    write("extraction", {"benchmark": "extraction", **compare(given.model, device, given.scenes, given.rounds), **environment(device)})


if __name__ == "__main__":
    main()
