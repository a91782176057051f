"""Slot probes of a store, against scikit-learn's LogisticRegression, in rounds: ``python -m benchmarks.compare_probes --rounds 3``.

Each side runs in a process of its own (see ``benchmarks/probes.py``), the sides take turns. nnsight, pyvene and TransformerLens train no
probes. Equal means: test accuracies within 0.01 of each other at every site (the two stop at different tolerances).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import environment, spread, write
from benchmarks.patch_sweep import OURS, VLM_LENS
from benchmarks.probes import make_store

SIDES = {OURS: "here", "scikit-learn": "scikit-learn"}
TOLERANCE = 0.01
SCRIPT = Path(__file__).with_name("probes.py")


def compare(sites: int, scenes: int, features: int, rounds: int) -> dict[str, Any]:
    taken: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "processor_seconds": [], "peak_mb": []} for name in SIDES}
    apart = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        make_store(Path(temporary), sites, scenes, features)
        for number in range(rounds):
            accuracies = {}
            for name, method in list(SIDES.items())[:: 1 if number % 2 else -1]:
                at = [f"language.{layer}" for layer in range(sites)]
                command = [sys.executable, str(SCRIPT), "--folder", temporary, "--measure", method, "--at", *at]
                found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout)
                of_sites = [found["sites"][site] for site in at]
                accuracies[name] = [one["accuracy"] for one in of_sites]
                taken[name]["seconds"].append(sum(one["seconds"] for one in of_sites))
                taken[name]["processor_seconds"].append(sum(one["processor"] for one in of_sites))
                taken[name]["peak_mb"].append(found["peak_mb"])
                print(f"  round {number + 1} of {rounds}: {name} done", flush=True)
            apart = max(apart, *(abs(a - b) for a, b in zip(*accuracies.values(), strict=True)))
            if apart > TOLERANCE:
                raise SystemExit(f"accuracies differ by {apart:.3f} (allowed {TOLERANCE}); the times would mean nothing")
    methods: dict[str, dict[str, Any]] = {name: {key: spread(values) for key, values in taken[name].items()} for name in SIDES}
    own, other = methods[OURS], methods["scikit-learn"]
    own["difference"], other["difference"] = apart, 0.0
    other["times_slower"] = {key: round(other[key]["median"] / own[key]["median"], 2) for key in ("seconds", "processor_seconds")}
    none = "trains no probes"
    reasons = {"nnsight": none, "pyvene": none, "transformer-lens": none}
    reasons["vlm-lens"] = f"{VLM_LENS}; trains a small network on one site at a time"
    return {"sites": sites, "scenes": scenes, "features": features, "methods": methods, "unsupported": reasons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sites", 2), ("scenes", 400), ("features", 512), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    result = compare(given.sites, given.scenes, given.features, given.rounds)
    write("probes", {"benchmark": "probes", **result, **environment(torch.device("cpu"))})


if __name__ == "__main__":
    main()
