"""benchmarks/paper_hour.py: what it counts, what it keeps when a part fails or the time is over, and its table."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import paper_hour
from benchmarks.arithmetic import Shape, counted_work
from benchmarks.measure import operations
from benchmarks.midsize import QUICK, midsize_adapter
from benchmarks.paper_parts import PARTS, STAGES, Bench, Line, Preset
from benchmarks.patch_sweep import pairs_of, patches_of
from benchmarks.peers import batched_sweep, plain_sweep
from PIL import Image

pytestmark = pytest.mark.workflow

ARGUMENTS = ["--device", "cpu", "--count-only", "--layers", "1", "--vision-layers", "1"]


def line(stage: str, seconds: float = 2.0, done: float = 4.0) -> Line:
    return Line(stage, "some", seconds, done, 100.0, "pairs", int(3e12), 5, 1000, None)


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_operations_worked_out_from_shapes_are_those_that_torch_counts(family: str) -> None:
    adapter = midsize_adapter(family, QUICK)
    side = 256 if family == "qwen2_vl" else 512
    prepared = adapter.prepare([Image.new("RGB", (side, side), "red")] * 2, ["which object is on the left ?"] * 2)
    with counted_work(adapter) as work:
        adapter.run(prepared)
    shape = Shape.of(adapter, side)
    expected = operations(lambda: adapter.run(prepared))
    # torch also counts rotary angles and the first convolution.
    assert 0.93 < work.operations(shape) / expected <= 1
    assert 2 * shape.forward(prepared.inputs["input_ids"].shape[1], prepared.grid.size) == pytest.approx(work.operations(shape), rel=1e-9)
    assert work.calls == QUICK.text_layers + QUICK.vision_layers


def test_attention_of_grouped_queries_is_counted_by_its_formula() -> None:
    query, key = torch.ones(1, 4, 8, 16), torch.ones(1, 2, 8, 16)
    assert operations(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)) == 2 * 4 * 8 * 8 * (
        16 + 16
    )


def test_hooks_batched_by_hand_give_what_plain_hooks_give() -> None:
    adapter = midsize_adapter("qwen2_vl", QUICK)
    pairs, patches = pairs_of(2, 256), patches_of(adapter, 2)[::5]
    assert torch.allclose(batched_sweep(adapter, pairs, patches, 3), plain_sweep(adapter, pairs, patches), atol=1e-4)


def test_the_preset_is_counted_without_drawing_an_image() -> None:
    preset = Preset.read()
    assert preset.stored() == 1802
    assert preset.pairs_of("vision") == 100
    # 150 questions of an axis, twelve a scene.
    assert preset.asked_scenes("validation", 150) == 2 * 12


def test_counts_of_a_whole_stage_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "hour.json"
    assert paper_hour.main([*ARGUMENTS, "--parts", "conflict", "--out", str(out)]) == 0
    written = json.loads((tmp_path / "hour_counted.json").read_text(encoding="utf-8"))
    [measured] = written["lines"]
    assert (measured["stage"], measured["of"], written["failures"]) == ("conflict", 100, {})
    # Two images, encoded for the untouched and for the patched runs. One vision block at Qwen2-VL-7B's widths is 1,024 patches × 44 MFLOP,
    # the connector 256 rows × 89 MFLOP; the only language block computes little more than the last position.
    encoded = 2 * 2 * (1024 * 44e6 + 256 * 89e6)
    assert encoded < measured["operations"] < 2.5 * encoded
    # A stand-in's seconds mean nothing, so they are not shown.
    assert "conflict       all                                  –          –" in capsys.readouterr().out


def test_a_part_that_fails_costs_no_other_and_a_budget_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Bench) -> Iterator[Line]:
        yield line("behaviour")
        raise ValueError("no such\nthing")

    def endless(_: Bench) -> Iterator[Line]:
        yield line("conflict")
        # The end of the budget comes now, however busy the machine is.
        signal.raise_signal(signal.SIGALRM)

    def never(_: Bench) -> Iterator[Line]:
        raise AssertionError

    for name, part in {"behaviour": fails, "conflict": endless, "ablation": never}.items():
        monkeypatch.setitem(PARTS, name, part)
    out = tmp_path / "hour.json"
    chosen = ["--parts", "behaviour", "conflict", "ablation"]
    assert paper_hour.main([*ARGUMENTS, *chosen, "--budget-seconds", "3600", "--out", str(out)]) == 1
    written = json.loads((tmp_path / "hour_counted.json").read_text(encoding="utf-8"))
    assert [row["stage"] for row in written["lines"]] == ["behaviour", "conflict"]
    assert written["lines"][0]["extrapolated"] == 50.0
    assert written["failures"]["behaviour"] == "ValueError: no such"
    assert "are over" in written["failures"]["budget"]
    assert "FAILED: ValueError: no such" in capsys.readouterr().out


def test_rows_add_up_their_parts(tmp_path: Path) -> None:
    report = paper_hour.Report(tmp_path / "x.json", {})
    report.rates = {"matmul": 1e13, "bare_forward": 5e12}
    for stage in ("conflict", "conflict", "ablation"):
        report.add(line(stage))
    rows: dict[str, Any] = {row.split()[0]: row.split() for row in report.table().splitlines()[2:]}
    # 2 s for 4 of 100 pairs, twice; 1.5 TFLOP/s of 5 and of 10.
    assert rows["conflict"][2:5] == ["4.00", "100.0", "0.15"]
    assert rows["conflict"][-2:] == ["0.30", "0.15"]
    assert set(rows) >= {"conflict", "ablation", "one"}
    assert set(STAGES) >= {"conflict", "ablation"}
