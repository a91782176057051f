"""docs/benchmarks.md and its figure, from benchmarks/results/*.json and nothing else: ``python -m benchmarks.page``."""

import json
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OURS = "vlm_spatial"
TITLES = {
    "patch_sweep_qwen2_vl": "Patch sweep, Qwen2-VL",
    "patch_sweep_gemma3": "Patch sweep, Gemma-3",
    "patch_sweep_7b": "Patch sweep, Qwen2-VL at 7B size, bfloat16, GPU",
    "extraction": "Activations to disk",
    "probes": "Probe training",
    "amplification": "Amplification sweep",
}
WORK = {
    "patch_sweep": "{patches} patches (all language layers × 4 token sets) of {pairs} pairs, 256 visual tokens, random weights",
    "extraction": "{scenes} scenes, {sites} sites, every visual token, from images to files; {parameters:,} parameters ({family})",
    "probes": "{sites} sites × {scenes} scenes × 30 tokens × {features} features, four regularisation strengths chosen on validation",
    "amplification": "{settings} corrections × {questions} questions × {images} image, 256 visual tokens, random weights ({family})",
}
LOWER_IS_BETTER = {"seconds": "time", "peak_mb": "peak memory", "bytes_on_disk": "bytes on disk"}
HEAD = """# Measured against the peers

Written by `python -m benchmarks.page` from `benchmarks/results/*.json`, which `make bench` writes (its own environment, peers
pinned in `benchmarks/requirements.txt`; the same command uses a GPU where there is one). All sides have the same model and the same
inputs. They run in one process and take turns, in an order that changes each round. Times are medians over the rounds, lowest and
highest in brackets. **Results are compared after every round, and no time is given unless they agree** (the column difference: the
largest, relative to the largest value). Peak memory is what the work took above what was held before. Operations are those of matrix
products and attention.
"""
OTHER_LOSSES = """
The peers do what this package does not:

- gradients and attribution;
- single heads, neurons and any module of the network (here: the visual tokens of blocks' outputs);
- generation under an intervention;
- models of other families, and without images.

A sweep of one patch gains little: the clean and the source run cost two forward passes here as everywhere. Patches batched by hand
may make a peer faster than its documented way, which is what was measured.
"""


def main() -> None:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    parts = [HEAD]
    if not found:
        parts.append("`make bench` has not been run for this version yet; there are no numbers to show.\n")
    else:
        figure(found, ROOT / "docs" / "images" / "benchmarks.svg")
        parts.append("![How much longer the peers take, and how our cost grows](images/benchmarks.svg)\n")
    for name, title in TITLES.items():
        if name == "extraction" and "patch_sweep_families" in found:
            parts += ["## Patch sweep, every family\n", families(found["patch_sweep_families"])]
        if name in found:
            parts += [f"## {title}\n", comparison(found[name])]
    if "stores" in found:
        parts += ["## Shards of activations, written and read\n", stores(found["stores"])]
    if "scenes" in found:
        parts += ["## Scenes\n", scenes(found["scenes"])]
    if "scaling" in found:
        parts += ["## Growth\n", scaling(found["scaling"])]
    if "profile" in found:
        parts += ["## Where the default run's seconds go\n", profile(found["profile"])]
    if found:
        parts += ["## What we lose at\n", losses(found) + OTHER_LOSSES]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(parts), encoding="utf-8")


def where(result: dict[str, Any]) -> str:
    """Device and versions, in a line."""
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items() if number)
    device = f"{result['device_name']}, {result['threads']} threads of {result['cores']} cores, {result['memory_gb']} GB"
    measured = f"{device}; load before the start {result['load_before']}; {result['date']}"
    return f"*{measured}.* `Python {result['python']}, {versions}`\n"


def comparison(result: dict[str, Any]) -> str:
    """One table: every method, then every peer that cannot."""
    lines = [WORK[result["benchmark"]].format(**result) + ".\n", where(result)]
    lines += [
        "| | seconds | × ours | processor s | peak MB | operations | block calls | on disk | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, side in result["methods"].items():
        slower = side.get("times_slower", {}).get("seconds")
        cells = [
            f"**{name}**" if name == OURS else with_version(name, result),
            _spread(side["seconds"]),
            "1" if name == OURS else f"{slower}",
            f"{side['processor_seconds']['median']:g}",
            _spread(side["peak_mb"]),
            _operations(side, result),
            f"{side['language_block_calls']:,}" if "language_block_calls" in side else "–",
            f"{side['bytes_on_disk'] / 1e6:.1f} MB" if "bytes_on_disk" in side else "–",
            f"{side['difference']:.0e}" if side["difference"] else "0",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if "share_of_ideal" in result:
        lines.append(
            f"\nOurs takes {1 / result['share_of_ideal']:.1f} times what its operations would at the rate of a plain matrix product "
            f"({result['matmul_gflops']:g} GFLOP/s here). The vision tower is {result['vision_share_of_one_run']:.0%} of a pass. "
            f"The peers made {result['share_of_patches_by_peers']} of the patches in each round, others each time; their times are "
            "scaled to all."
        )
    lines += ["", *(f"- {with_version(name, result)}: {why}" for name, why in result["unsupported"].items())]
    return "\n".join(lines) + "\n"


SEES = {"causal": "earlier tokens", "image": "its image, too", "prompt": "the whole prompt"}


def families(result: dict[str, Any]) -> str:
    """One row a family."""
    patches = next(iter(result["families"].values()))["patches"]
    lines = [
        f"{patches} patches, both axes, 256 visual tokens, {result['size']['text_layers']} language blocks, random weights: "
        "`python -m benchmarks.families`. Times are of the processor. They say how many times as long hooks take, one by one and "
        "batched by hand, 8 at a time.\n",
        "Operations are counts, the same on every machine: those of plain hooks over those of the engine. The ideal is the same, if no "
        "batch computed a position in vain. What is left then is needed, since every position behind the first patched one changes in "
        "every later block. So two things decide. One is the share of the vision encoder, which the engine runs once an image. "
        "The other is what a visual token sees: where it sees the whole prompt, every position is computed again. Marks between rows of "
        "cells (Pixtral, Mistral 3) have seen the clean image. So a patch of all cells follows the source in the first row alone.\n",
        where(result),
        "| family | a visual token sees | vision, of a pass | ours, s | plain hooks, s | batched, s | × time | × time, batched "
        "| × operations | ideal | difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in result["families"].items():
        cells = [
            name,
            SEES[one["reach"]],
            f"{one['vision_share_of_one_run']:.0%}",
            _spread(one["processor_seconds"]),
            _spread(one["processor_seconds_plain"]),
            _spread(one["processor_seconds_batched"]),
            f"**{one['times_slower']:.1f}**",
            f"**{one['times_slower_batched']:.1f}**",
            f"{one['times_more_operations']:.1f}",
            f"{one['ideal']:.1f}",
            f"{one['difference']:.0e}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_version(name: str, result: dict[str, Any]) -> str:
    number = result["versions"].get(name)
    return f"{name} {number}" if number else name


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:g} ({values['low']:g}–{values['high']:g})"


def _operations(side: dict[str, Any], result: dict[str, Any]) -> str:
    if "operations" not in side:
        return "–"
    ratio = side["operations"] / result["methods"][OURS]["operations"]
    return f"{side['operations'] / 1e9:.0f} G" + (f" (× {ratio:.1f})" if ratio != 1 else "")


def scenes(result: dict[str, Any]) -> str:
    lines = [f"{result['scenes']} scenes a kind, {result['workers']} workers; no peer draws any.\n", where(result)]
    lines += ["| kind | scenes a second | bytes a scene |", "|---|---|---|"]
    lines += [f"| {kind} | {_spread(one['scenes_per_second'])} | {one['bytes_per_scene']} |" for kind, one in result["kinds"].items()]
    return "\n".join(lines) + "\n"


def stores(result: dict[str, Any]) -> str:
    """One row a shape and kind of work: processor seconds of every side, and memory."""
    names = list(next(iter(next(iter(result["shapes"].values()))["work"].values())))
    lines = [
        "The package writes and reads zarr's sharding format by code of its own. Here it is held against libraries that do the same: "
        "`python -m benchmarks.compare_stores`. All write the same arrays, and take each shard's SHA-256. Libraries get whole shards "
        "(64 scenes), since each write into a part of one makes all of it anew. So they hold a shard of every site in memory, and our "
        "code one batch. Scattered are 32 random scenes. Files are read from the system's cache. The table has processor seconds, and "
        "peak memory in MB. Beside a model, its products of matrices are in the numbers.\n",
        where(result),
        "| values | work | " + " | ".join(f"{with_version(name, result)}, s (MB)" for name in names) + " |",
        "|---" * (2 + len(names)) + "|",
    ]
    for shape, one in result["shapes"].items():
        sizes = "×".join(str(one["shape"][name]) for name in ("scenes", "rows", "features"))
        for work, sides in one["work"].items():
            best = min(side["processor_seconds"]["median"] for side in sides.values())
            cells = []
            for side in sides.values():
                seconds = side["processor_seconds"]
                shown = f"{seconds['median']:.2g} ({side['peak_mb']['median']:.0f})"
                cells.append(f"**{shown}**" if seconds["median"] == best else shown)
            lines.append(f"| {shape} ({sizes}) | {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def scaling(result: dict[str, Any]) -> str:
    lines = [
        "Cost = a · quantity^b. The table has b of the seconds measured, of the ideal, and of one full forward pass a patch. The ideal is "
        "the operations made; for scenes, bare forward passes.\n",
        where(result),
        "| quantity | values | b, seconds | b, ideal | b, plain | seconds over ideal seconds, first to last |",
        "|---|---|---|---|---|---|",
    ]
    for quantity, curve in result["curves"].items():
        points, b = curve["points"], curve["growth"]
        ratios = [point["seconds"]["median"] / point["ideal_seconds"] for point in (points[0], points[-1])]
        values = ", ".join(str(point["value"]) for point in points)
        ideal = b.get("operations", b.get("ideal_seconds"))
        plain = b.get("operations_plain", "–")
        lines.append(
            f"| {quantity} ({curve['work']}) | {values} | {b['seconds']} | {ideal} | {plain} | {ratios[0]:.1f} to {ratios[1]:.1f} |"
        )
    return "\n".join(lines) + "\n"


def profile(result: dict[str, Any]) -> str:
    """Shares of every stage's wall time, as ``benchmarks/profile_run.py`` sampled them."""
    kinds = result["kinds"]
    lines = [
        f"`{result['command']}`: {result['seconds']:.0f} s by the clock; the jobs took {result['seconds_in_jobs']:.0f} s, "
        f"the rest is Snakemake ({result['seconds_outside_jobs']:.0f} s). Sampled by `python -m benchmarks.profile_run`. "
        f"Model compute in the model stages: **{result['model_compute_share']:.0%}**. A moment counts as model compute if any thread is "
        "inside a module of the model. Otherwise it counts as what the main thread does or, where that waits, the others.\n",
        "These were the three largest wastes:\n",
        "- Inputs were prepared while the model waited. Now the next batch is read in a thread of its own, and the same image is decoded, "
        "hashed and resized once.",
        "- Garbage was searched among what modules hold while they are imported.",
        "- Code and images were checked in every job as if nothing were known of them ([caching](caching.md)).\n",
        where(result),
        "| stage | runs | seconds | " + " | ".join(kinds) + " |",
        "|---" * (3 + len(kinds)) + "|",
    ]
    for stage, one in result["stages"].items():
        shares = [f"{one['kinds'].get(kind, 0) / one['seconds']:.0%}" for kind in kinds]
        lines.append(f"| {stage} | {one['runs']} | {one['seconds']:.1f} | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def losses(found: dict[str, Any]) -> str:
    """Every measured quantity in which a peer's median is better than ours."""
    lines = []
    for name, result in found.items():
        methods = result.get("methods", {})
        for key, word in LOWER_IS_BETTER.items():
            own = _median(methods.get(OURS, {}), key)
            better = [(other, _median(side, key)) for other, side in methods.items() if other != OURS]
            for other, value in better:
                if own is not None and value is not None and value < own:
                    lines.append(f"- {TITLES[name]}: {word}, {other} {value:g}, ours {own:g}")
    return "\n".join(lines or ["- In nothing measured here."]) + "\n"


def _median(side: dict[str, Any], key: str) -> float | None:
    value = side.get(key)
    return value["median"] if isinstance(value, dict) else value


def figure(found: dict[str, Any], path: Path) -> None:
    """Left: how many times longer each peer takes; right: our cost as quantities grow, beside the ideal."""
    bars = pl.DataFrame(
        [
            {"benchmark": TITLES[name], "method": other, "ratio": side["times_slower"]["seconds"]}
            for name, result in found.items()
            if name in TITLES
            for other, side in result["methods"].items()
            if "times_slower" in side
        ],
        schema={"benchmark": pl.String, "method": pl.String, "ratio": pl.Float64},
    )
    rows = alt.Y("method:N", title=None, sort="x")
    bar = alt.Chart(bars).mark_bar().encode(x=alt.X("ratio:Q", title="seconds, times ours"), y=rows)
    label = alt.Chart(bars).mark_text(align="left", dx=3).encode(x="ratio:Q", y=rows, text=alt.Text("ratio:Q", format=".2~f"))
    rule = alt.Chart(bars).mark_rule(strokeDash=[4, 3]).encode(x=alt.datum(1))
    left = (
        alt.layer(bar, label, rule)
        .properties(width=300)
        .facet(row=alt.Row("benchmark:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")))
    )
    charts: list[Any] = [left.resolve_scale(y="independent")]
    if "scaling" in found:
        points = pl.DataFrame(
            [
                {"quantity": f"{quantity} ({curve['work']})", "value": float(point["value"]), "line": line, "seconds": float(seconds)}
                for quantity, curve in found["scaling"]["curves"].items()
                for point in curve["points"]
                for line, seconds in (("measured", point["seconds"]["median"]), ("ideal", point["ideal_seconds"]))
            ]
        )
        curve = (
            alt.Chart(points)
            .mark_line(point=True)
            .encode(
                x=alt.X("value:Q", scale=alt.Scale(type="log"), title=None),
                y=alt.Y("seconds:Q", scale=alt.Scale(type="log"), title="seconds"),
                strokeDash=alt.StrokeDash("line:N", title=None, sort=["measured", "ideal"]),
            )
            .properties(width=150, height=130)
            .facet(facet=alt.Facet("quantity:N", title=None), columns=2)
            .resolve_scale(x="independent", y="independent")
        )
        charts.append(curve)
    path.parent.mkdir(parents=True, exist_ok=True)
    alt.hconcat(*charts).save(str(path))


if __name__ == "__main__":
    main()
