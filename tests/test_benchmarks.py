"""The benchmarks' own rules: no time without equal results, growth and losses computed from the numbers, a page from JSON alone."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import page
from benchmarks.bound import LENGTH, Row, batched, patched, sweep
from benchmarks.measure import Unsupported, counted, operations, rounds_of, scaled, spread, write
from benchmarks.midsize import QUICK, midsize_adapter
from benchmarks.profile_run import covered, stage_of
from benchmarks.sampling.sitecustomize import kind_of, kind_of_all, sample
from benchmarks.scaling import growth

from vlm_spatial.models.adapter import Adapter

pytestmark = pytest.mark.workflow

CPU = torch.device("cpu")


def distance(results: dict[str, torch.Tensor], _: int) -> dict[str, float]:
    return {name: (found - results["a"]).abs().max().item() for name, found in results.items()}


def test_sides_take_turns_and_differing_results_give_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def side(name: str, wrong_in: int) -> Any:
        def work(number: int) -> torch.Tensor:
            order.append(name)
            return torch.tensor([1.0 if number == wrong_in else 0.0])

        return work

    found = rounds_of({"a": side("a", -1), "b": side("b", -1)}, 3, distance, CPU, 1e-5)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found["b"]["difference"] == 0
    assert set(found["b"]["seconds"]) == {"median", "low", "high"}
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"b: results differ by 1\.0e\+00"):
        rounds_of({"a": side("a", -1), "b": side("b", 2)}, 3, distance, CPU, 1e-5)
    assert "seconds" not in capsys.readouterr().out
    # Not a number is not equal.
    with pytest.raises(SystemExit):
        rounds_of({"a": side("a", -1)}, 1, lambda *_: {"a": float("nan")}, CPU, 1e-5)


def test_peak_memory_is_that_of_the_work_alone() -> None:
    held = torch.ones(4_000_000)

    def work(_: int) -> torch.Tensor:
        return torch.ones(16_000_000).sum().reshape(1)

    found = rounds_of({"a": work, "b": lambda _: held[:1] * 16_000_000}, 2, lambda *_: {"a": 0.0}, CPU, 1.0)
    assert 55 < found["a"]["peak_mb"]["median"] < 90
    assert found["b"]["peak_mb"]["high"] < 30


def test_operations_are_counted_as_the_formula_says(adapter_of: Any) -> None:
    assert operations(lambda: torch.ones(3, 4) @ torch.ones(4, 5)) == 2 * 3 * 4 * 5
    query = torch.ones(1, 2, 8, 16)
    attention = operations(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert attention == 2 * 2 * 8 * 8 * (16 + 16)
    adapter: Adapter = adapter_of("gemma3")
    with counted(adapter) as calls:
        adapter.language_blocks  # noqa: B018 - nothing runs, nothing is counted
    assert not calls


def test_times_are_scaled_and_memory_is_not() -> None:
    side = {"seconds": spread([1.0, 2.0, 4.0]), "peak_mb": spread([10.0]), "difference": 0.0}
    assert scaled(side, 3)["seconds"] == {"median": 6.0, "low": 3.0, "high": 12.0}
    assert scaled(side, 3)["peak_mb"]["median"] == 10


def test_growth_is_the_exponent() -> None:
    points = [{"value": value, "cost": 3.0 * value**1.7} for value in (2, 4, 8)]
    assert growth(points, lambda point: point["cost"]) == 1.7


def test_the_quick_model_has_the_grid_of_the_published_ones() -> None:
    adapter = midsize_adapter("qwen2_vl", QUICK)
    assert adapter.grid(256, 256).size == 256
    assert (len(adapter.vision_blocks), len(adapter.language_blocks)) == (QUICK.vision_layers, QUICK.text_layers)
    assert adapter.site_shape("language.0") == (1, QUICK.text_width)


def test_what_transformer_lens_says_of_an_architecture_is_passed_on(adapter_of: Any) -> None:
    from benchmarks.peers import TransformerLens

    # Not installed, or of an architecture it does not know: never silently left out.
    with pytest.raises(Unsupported, match=r"transformer_lens|Unsupported architecture: Qwen2VL"):
        TransformerLens(adapter_of("qwen2_vl"))


def test_the_bound_counts_every_position_once() -> None:
    rows = sweep(2)
    assert len(rows) == 2 * 4 * 15
    exact = batched(rows, 0.0)
    assert sorted((row.start, row.entry) for row in exact) == sorted((row.start, row.entry) for row in rows)
    # Batches begin earlier than some of their rows need, by at most the share allowed.
    early = sum(row.start for row in rows) - sum(row.start for row in batched(rows, 0.08))
    assert 0 < early < 0.08 * sum(LENGTH - row.start for row in rows)
    assert patched(Row(5, 1), mixed=True) < patched(Row(5, 1), mixed=False)
    assert patched(Row(LENGTH - 1, 14), mixed=False) < patched(Row(5, 14), mixed=False)


def test_jobs_that_overlap_are_counted_once() -> None:
    assert covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == 4.0
    assert covered([]) == 0.0
    assert stage_of(["python", "-m", "vlm_spatial.stages.probes", "--settings", "{}"]) == "probes"
    assert stage_of(["python", "-m", "snakemake"]) is None


class Frame:
    """A stack as the sampler sees it."""

    def __init__(self, *places: tuple[str, str]) -> None:
        (file, name), *rest = places
        self.f_code = type("Code", (), {"co_filename": file, "co_name": name})
        self.f_back = Frame(*rest) if rest else None


def test_a_stack_is_of_the_first_kind_that_fits() -> None:
    module = ("/site-packages/torch/nn/modules/module.py", "_call_impl")
    engine = ("/src/vlm_spatial/interventions/engine.py", "run")
    assert kind_of(Frame(module, engine)) == "model compute"
    assert kind_of(Frame(("<frozen importlib._bootstrap>", "_load"), module, engine)) == "importing"
    assert kind_of(Frame(engine)) == "other Python"
    assert kind_of(None) == "other Python"


def test_a_moment_is_compute_if_any_thread_computes() -> None:
    module = Frame(("/site-packages/torch/nn/modules/module.py", "_call_impl"))
    engine, waiting = Frame(("/src/vlm_spatial/interventions/engine.py", "run")), Frame(("/lib/python3.11/threading.py", "wait"))
    pixels = Frame(("/src/vlm_spatial/models/inputs.py", "image"))
    writing = Frame(("/src/vlm_spatial/activations/writer.py", "append"))
    assert kind_of_all(waiting, [module, writing]) == "model compute"
    assert kind_of_all(pixels, [module]) == "model compute"
    assert kind_of_all(module, [pixels]) == "model compute"
    # Who waits does what the other one does; who works does not.
    assert kind_of_all(waiting, [engine, writing, pixels]) == "preparing inputs"
    assert kind_of_all(waiting, [waiting]) == "other Python"
    assert kind_of_all(engine, [pixels]) == "other Python"


def test_the_sampler_sees_a_model_that_computes_in_another_thread() -> None:
    model, stop = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8))), threading.Event()
    sums: dict[str, float] = {}
    sampler = threading.Thread(target=sample, args=(sums, threading.get_ident(), stop))
    rows = torch.ones(256, 512)
    sampler.start()
    with ThreadPoolExecutor(1) as pool:
        until = time.monotonic() + 0.5

        def compute() -> None:
            while time.monotonic() < until:
                model(rows)

        pool.submit(compute).result()
    stop.set()
    sampler.join()
    assert sums["model compute"] > 0.6 * sum(sums.values()) > 0.2


ENVIRONMENT = {"device_name": "a processor", "threads": 2, "cores": 2, "memory_gb": 8, "python": "3.12", "load_before": 0.1}
ENVIRONMENT |= {"date": "2026-01-01", "versions": {"torch": "2.13.0", "nnsight": "0.8.1", "pyvene": None}}


def side(seconds: float, megabytes: float, slower: float | None = None) -> dict[str, Any]:
    made = {"seconds": spread([seconds]), "processor_seconds": spread([seconds]), "peak_mb": spread([megabytes]), "difference": 1e-7}
    made |= {"operations": int(seconds * 1e9), "language_block_calls": 7}
    return made if slower is None else made | {"times_slower": {"seconds": slower}}


def test_the_page_is_made_of_the_results_and_says_what_we_lose_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    (tmp_path / "docs").mkdir()
    page.main()
    assert "has not been run" in (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    result = {"benchmark": "patch_sweep", "patches": 64, "pairs": 1, "share_of_patches_by_peers": "1/3", **ENVIRONMENT}
    result |= {"methods": {page.OURS: side(2.0, 300), "plain hooks": side(10.0, 50, 5.0), "nnsight": side(11.0, 310, 5.5)}}
    result |= {"unsupported": {"pyvene": "not installed"}, "share_of_ideal": 0.5, "matmul_gflops": 50.0, "vision_share_of_one_run": 0.4}
    write("patch_sweep_qwen2_vl", result, tmp_path / "results")
    points = [{"value": value, "seconds": spread([value * 0.1]), "ideal_seconds": value * 0.05} for value in (1, 2, 4)]
    curve = {"work": "patch sweep", "points": points, "growth": {"seconds": 1.0, "operations": 1.0, "operations_plain": 1.2}}
    write("scaling", {"curves": {"pairs": curve}, **ENVIRONMENT}, tmp_path / "results")
    one = {"reach": "prompt", "patches": 8, "times_slower": 2.9, "times_slower_batched": 2.8, "times_more_operations": 2.7, "ideal": 2.75}
    one |= {name: spread([1.0]) for name in ("processor_seconds", "processor_seconds_plain", "processor_seconds_batched")}
    one |= {"vision_share_of_one_run": 0.12, "difference": 5e-7}
    write("patch_sweep_families", {"size": vars(QUICK), "families": {"paligemma": one}, **ENVIRONMENT}, tmp_path / "results")
    write("extraction", result | {"benchmark": "patch_sweep", "methods": {}}, tmp_path / "results")
    work = {"write": {page.OURS: side(0.5, 8.6), "zarrs": side(1.5, 559)}}
    shape = {"scenes": 128, "rows": 256, "features": 3584, "batch": 8}
    write("stores", {"shapes": {"7B": {"shape": shape, "work": work}}, **ENVIRONMENT}, tmp_path / "results")
    page.main()
    text = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "| 7B (128×256×3584) | write | **0.5 (9)** | 1.5 (559) |" in text
    assert "| paligemma | the whole prompt | 12% | 1 (1–1) | 1 (1–1) | 1 (1–1) | **2.9** | **2.8** | 2.7 | 2.8 | 5e-07 |" in text
    assert "| nnsight 0.8.1 | 11 (11–11) | 5.5 |" in text
    assert "- pyvene: not installed" in text
    assert "- Patch sweep, Qwen2-VL: peak memory, plain hooks 50, ours 300" in text
    assert "peak memory, nnsight" not in text
    assert "time, " not in text.partition("## What we lose at")[2]
    assert "| pairs (patch sweep) | 1, 2, 4 | 1.0 | 1.0 | 1.2 | 2.0 to 2.0 |" in text
    drawn = (tmp_path / "docs" / "images" / "benchmarks.svg").read_text(encoding="utf-8")
    assert "nnsight" in drawn


def test_results_are_plain_json(tmp_path: Path) -> None:
    path = write("one", {"seconds": spread(np.array([1.0, 2.0]).tolist())}, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"seconds": {"median": 1.5, "low": 1.0, "high": 2.0}}
