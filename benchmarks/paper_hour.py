"""How long does the paper take on this machine? Every stage's inner work at a genuine shape, extrapolated to presets/extended.yaml.

    python -m benchmarks.paper_hour --device cuda --family qwen2_vl --budget-seconds 200 --out FILE.json      # wants a GPU of 40 GB or more
    python -m benchmarks.paper_hour --device cpu                                                               # counts, and fewer layers

The model has the published configuration and random weights, made on the device. Each line is printed and written to the file as soon as
it is measured; the budget ends the run, not what was measured before. A part that fails says why and the others go on.

On a GPU every part is timed whole. On a CPU two models run each part: a narrow one of full depth counts what the published shape would
compute (exact, since what is computed depends on depths and positions, not on widths), and one of the published widths with ``--layers``
of its layers is timed.

Seconds are those of one model on one dataset. ``share of bare forward``: operations a second, relative to plain forward passes over
batches of 32 images. ``share of matmul``: relative to a matrix product of the language model's MLP.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.arithmetic import Shape
from benchmarks.genuine import LAYERS, WORDS, genuine_adapter
from benchmarks.measure import RESULTS, device_named, environment, wait_for
from benchmarks.midsize import MidSize, midsize_adapter
from benchmarks.paper_parts import DATASET, DATASETS, MODELS, PARTS, STAGES, Bench, Line, Preset
from benchmarks.patch_sweep import product_rate

from vlm_spatial.activations.extraction import PROMPT
from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.scenes.questions import vocabulary

NARROW = MidSize(text_width=64, text_heads=2, text_key_value_heads=1, vision_width=32, vision_heads=2)


class Overdue(Exception):  # noqa: N818 - the run's own end
    """The budget is used up."""


class Report:
    """Lines as they come: printed, and written to the file each time.

    Args:
        timed: whether seconds mean anything: those of a stand-in do not.
    """

    def __init__(self, path: Path, about: dict[str, Any], timed: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.about, self.timed = path, about, timed
        self.lines: list[Line] = []
        self.failures: dict[str, str] = {}
        self.rates: dict[str, float] = {}

    def add(self, line: Line) -> None:
        self.lines.append(line)
        print(self.row(line.stage, line.part, [line], f"{line.done:.4g} of {line.of:.6g} {line.unit}"), flush=True)
        self.write()

    def fail(self, part: str, reason: str) -> None:
        self.failures[part] = reason
        print(f"{part:14} FAILED: {reason}", flush=True)
        self.write()

    def row(self, stage: str, part: str, lines: Sequence[Line], note: str = "") -> str:
        seconds, extrapolated = sum(line.seconds for line in lines), sum(line.extrapolated for line in lines)
        operations = sum(line.operations * line.of / line.done for line in lines)
        stored = sum(line.bytes * line.of / line.done for line in lines)
        peaks = [line.peak_gb for line in lines if line.peak_gb is not None]
        rate = operations / extrapolated if extrapolated else 0.0
        shares = [f"{rate / self.rates[key]:.2f}" if operations and self.rates.get(key) else "–" for key in ("bare_forward", "matmul")]
        gigabytes = f"{stored / 1e9:.1f}" if stored else "–"
        peak = f"{max(peaks):.1f}" if peaks else "–"
        times = (f"{seconds:.2f}", f"{extrapolated:.1f}") if self.timed else ("–", "–")
        return (
            f"{stage:14} {part:28} {times[0]:>9} {times[1]:>10} {operations / 1e15:9.2f} {gigabytes:>7} {peak:>7} "
            f"{shares[0]:>6} {shares[1]:>6}  {note}"
        )

    def table(self) -> str:
        """A row a stage, and the sum."""
        rows = [self.row(stage, "all", lines) for stage in STAGES if (lines := [line for line in self.lines if line.stage == stage])]
        if not rows:
            return "nothing was measured"
        hours = sum(line.extrapolated for line in self.lines) * DATASETS * MODELS / 3600
        last = [f"{DATASETS} datasets × {MODELS} such models: {hours:.2f} h"] if self.timed else []
        return "\n".join([HEAD, *rows, self.row("one model,", "one dataset", self.lines), *last])

    def write(self) -> None:
        result = self.about | {
            "rates": self.rates,
            "lines": [asdict(line) | {"extrapolated": line.extrapolated} for line in self.lines],
            "failures": self.failures,
        }
        # Under another name first: a run that is killed leaves the last whole file.
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(self.path)


HEAD = (
    f"{'stage':14} {'part':28} {'s here':>9} {'s preset':>10} {'PFLOP':>9} {'GB':>7} {'GPU GB':>7} {'bare':>6} {'matmul':>6}\n"
    f"{'':14} {'':28} {'':9} {'1 dataset':>10} {'1 dataset':>9} {'disk':>7} {'peak':>7} {'share':>6} {'share':>6}"
)


@contextmanager
def budget(seconds: float | None) -> Iterator[None]:
    """Raises :class:`Overdue` in the work when the time is over."""

    def end(*_: object) -> None:
        raise Overdue

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure_rates(bench: Bench) -> dict[str, float]:
    """Operations a second of a matrix product and of bare forward passes, and images a second of these."""
    adapter = bench.adapter
    text = adapter.model.config.get_text_config()
    product = product_rate(adapter, text.hidden_size, text.intermediate_size, 8192 if adapter.device.type == "cuda" else 2048)
    batch = 32 if adapter.device.type == "cuda" else 1
    images = [bench.dataset.image(name) for name in bench.main["scene_id"][:batch]]
    prepared = adapter.prepare(images, [PROMPT] * len(images))
    adapter.run(prepared)
    rounds = 3 if adapter.device.type == "cuda" else 1
    wait_for(adapter.device)
    started = time.perf_counter()
    for _ in range(rounds):
        adapter.run(prepared)
    wait_for(adapter.device)
    images_a_second = rounds * len(images) / (time.perf_counter() - started)
    own = Shape.of(adapter)
    forward = own.forward(prepared.inputs["input_ids"].shape[1], prepared.grid.size)
    return {"matmul": product, "bare_forward": images_a_second * forward, "bare_images_a_second": images_a_second}


def run(bench: Bench, report: Report, parts: Sequence[str]) -> None:
    """Measure the parts, one after another.

    Raises:
        Overdue: when the budget is used up.
    """
    for name in parts:
        try:
            for line in PARTS[name](bench):
                report.add(line)
        except Overdue:
            raise
        except Exception as error:
            # The other parts are measured all the same.
            traceback.print_exc(file=sys.stdout)
            report.fail(name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        if bench.adapter.device.type == "cuda":
            torch.cuda.empty_cache()


def models(given: argparse.Namespace, device: torch.device, words: Sequence[str]) -> Iterator[tuple[str, Adapter, Shape]]:
    """What is run, with its name, and whose operations are told."""
    text, vision = LAYERS[given.family]
    if device.type == "cuda":
        adapter = genuine_adapter(given.family, given.layers, given.vision_layers, device, given.dtype or "bfloat16", words=words)
        yield "whole", adapter, Shape.of(adapter)
        return
    published = Shape.of(genuine_adapter(given.family, device="meta", words=words))
    narrow = MidSize(**{**vars(NARROW), "text_layers": given.layers or text, "vision_layers": given.vision_layers or vision})
    yield "counted", midsize_adapter(given.family, narrow, words=words), published
    if not given.count_only:
        cut = genuine_adapter(given.family, given.layers or 1, given.vision_layers or 1, device, given.dtype or "float32", words=words)
        yield "cut", cut, Shape.of(cut)


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--family", choices=["qwen2_vl", "gemma3"], default="qwen2_vl")
    parser.add_argument("--budget-seconds", type=float)
    parser.add_argument("--scenes", type=int, help="main scenes; 128 on a GPU, 4 on a CPU")
    parser.add_argument("--pairs", type=int, help="of each experiment and axis; 2 on a GPU, 1 on a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--layers", type=int, help="of the language model; all of them on a GPU")
    parser.add_argument("--vision-layers", type=int)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--count-only", action="store_true", help="on a CPU: run nothing at the published widths")
    parser.add_argument("--out", type=Path, help="benchmarks/results/paper_hour_<family>.json by default")
    given = parser.parse_args(arguments)
    device = device_named(given.device)
    on_gpu = device.type == "cuda"
    preset = Preset.read()
    words = [*WORDS, *vocabulary(dataset_settings(preset.values["datasets"][DATASET]))]
    path = given.out or RESULTS / f"paper_hour_{given.family}.json"
    failed = 0
    # What is made here may be large, and the disk of a machine for computing is the place for it.
    with tempfile.TemporaryDirectory() as folder:
        for name, adapter, shape in models(given, device, words):
            left = None if given.budget_seconds is None else given.budget_seconds - (time.perf_counter() - began)
            about = {"benchmark": "paper_hour", "family": given.family, "model": name, "depths": shape.depths, **environment(device)}
            report = Report(path.with_stem(f"{path.stem}_{name}") if name != "whole" else path, about, timed=name != "counted")
            sizes = (given.scenes or (128 if on_gpu else 4), given.pairs or (2 if on_gpu else 1))
            bench = Bench(adapter, shape, Path(folder), *sizes, preset)
            print(f"{given.family}, {name}, {adapter.dtype}, after {time.perf_counter() - began:.1f} s\n{HEAD}", flush=True)
            try:
                # Bars of progress would hide the lines.
                with budget(left), report.path.with_suffix(".log").open("w", encoding="utf-8") as log, contextlib.redirect_stderr(log):
                    if report.timed:
                        report.rates = measure_rates(bench)
                        told = ", ".join(f"{key} {value:.4g}" for key, value in report.rates.items())
                        print(f"rates: {told} (operations a second)", flush=True)
                    run(bench, report, given.parts)
            except Overdue:
                report.fail("budget", f"{given.budget_seconds:.0f} s are over; what follows is not measured")
            report.write()
            print(f"\n{report.table()}\nwritten to {report.path}\n", flush=True)
            failed += len(report.failures)
            bench.stores.clear()
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
