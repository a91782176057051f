"""How much faster is the sweep over corrections than one full forward pass a question and setting? Both, in one process.

    python benchmarks/amplification.py --family gemma3 --rounds 3 --output benchmarks/amplification_gemma3.json

Random models with 256 visual tokens; nine questions about each image, as three slots and three templates give; corrections at the
connector and at a vision layer: the label-free form over a grid of alpha and random subspaces as its controls. Before any time is printed,
the logits of both ways are compared: a difference above 1e-5 of the largest one ends the benchmark. The two ways take turns. Operations are
those of matrix products and attention; ``one_run`` is what a full forward pass takes.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.midsize import SIDES, MidSize, midsize_adapter
from benchmarks.patch_sweep import operations
from PIL import Image

from vlm_spatial.amplification.corrections import NormMatched, Projection, random_basis
from vlm_spatial.amplification.sweep import Asked, Setting, Sweep
from vlm_spatial.interventions.patch import Run
from vlm_spatial.models.adapter import Adapter

ALPHAS = (0.0, 2.0, 4.0, 8.0)
WORDS = ("left", "right", "middle")
PROMPTS = tuple(
    prompt.format(word)
    for word in WORDS
    for prompt in ("which object is on the {} ?", "which object is left of the {} of red ?", "is the circle on the {} ?")
)
RANK = 4


def settings_of(adapter: Adapter, draws: int) -> list[Setting]:
    """Corrections at a vision layer and at the connector."""
    generator = np.random.default_rng(0)
    made = []
    for site in (f"vision.{len(adapter.vision_blocks) - 2}", "connector"):
        features = adapter.site_shape(site)[1]
        basis = random_basis(RANK, features, generator)
        others = [random_basis(RANK, features, generator) for _ in range(draws)]
        made += [Setting(site, "projection", 0, alpha, lambda _, b=basis, a=alpha: Projection(b, a)) for alpha in ALPHAS]  # type: ignore[misc]
        made += [
            Setting(site, "random", draw, 4.0, lambda _, b=basis, o=other: NormMatched(b, o, 4.0))  # type: ignore[misc]
            for draw, other in enumerate(others)
        ]
    return made


def full_passes(adapter: Adapter, images: list[Image.Image], settings: list[Setting], tokens: list[int]) -> torch.Tensor:
    """``[images, questions, settings, tokens]``: one full forward pass with a hook for each."""
    found = []
    for image in images:
        for prompt in PROMPTS:
            prepared = adapter.prepare([image], [prompt])
            for setting in settings:
                correct = setting.make("scene")
                found.append(adapter.run(prepared, edits={setting.site: lambda values, c=correct: c(values[0])[None]})[0][0, tokens])  # type: ignore[misc]
    return torch.stack(found).reshape(len(images), len(PROMPTS), len(settings), len(tokens))


def swept(adapter: Adapter, images: list[Image.Image], settings: list[Setting], tokens: list[int]) -> torch.Tensor:
    """The same with the sweep."""
    questions = [Asked(prompt, prompt, tokens) for prompt in PROMPTS]
    sweep = Sweep(adapter)
    return torch.stack([torch.stack(sweep.scores(Run(image, PROMPTS[0]), "scene", questions, settings)) for image in images])


def passes(adapter: Adapter, work: Callable[[], Any]) -> dict[str, int]:
    """How many images pass the vision encoder, and how many positions the first language block, in ``work``."""
    count = {"images through the vision encoder": 0, "positions through the language model": 0}

    def vision(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ARG001
        patches, features = adapter.vision_shape
        count["images through the vision encoder"] += output.numel() // (256 * patches * features)

    def language(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ARG001
        count["positions through the language model"] += output.shape[0] * output.shape[1]

    hooks = [adapter.vision_blocks[0].register_forward_hook(vision), adapter.language_blocks[0].register_forward_hook(language)]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return count


def measure(adapter: Adapter, images: int, draws: int, rounds: int, side: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    drawn = [Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(images)]
    settings, tokens = settings_of(adapter, draws), [1, 2, 3]
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "sweep": lambda: swept(adapter, drawn, settings, tokens),
        "full forward passes": lambda: full_passes(adapter, drawn, settings, tokens),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        results = {}
        for name, way in ways.items():
            started, used = time.perf_counter(), time.process_time()
            results[name] = way()
            wall[name].append(round(time.perf_counter() - started, 2))
            processor[name].append(round(time.process_time() - used, 2))
        full = results["full forward passes"]
        apart = ((results["sweep"] - full).abs().max() / full.abs().max()).item()
        if apart > 1e-5:
            raise SystemExit(f"the sweep's logits differ by {apart:.1e} of the largest; the times would mean nothing")
    prepared = adapter.prepare([drawn[0]], [PROMPTS[0]])
    one_run = operations(lambda: adapter.run(prepared)[0])
    forwards = images * len(PROMPTS) * len(settings)
    counted = {"sweep": operations(ways["sweep"]), "full forward passes": forwards * one_run}
    best = {name: min(values) for name, values in processor.items()}
    return {
        "images": images,
        "questions_an_image": len(PROMPTS),
        "settings": len(settings),
        "forward_passes_replaced": forwards,
        "seconds": wall,
        "processor_seconds": processor,
        "times_faster": round(min(wall["full forward passes"]) / min(wall["sweep"]), 2),
        "times_faster_processor": round(best["full forward passes"] / best["sweep"], 2),
        "passes": {name: passes(adapter, way) for name, way in ways.items()},
        "operations": counted | {"one_run": one_run},
        "vision_share_of_one_run": round(operations(lambda: adapter.run_vision(prepared)["connector"]) / one_run, 2),
        "times_fewer_operations": round(counted["full forward passes"] / counted["sweep"], 2),
        "largest_difference": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(SIDES), default="gemma3")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--draws", type=int, default=4, help="random subspaces a site")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--text-layers", type=int, default=16)
    parser.add_argument(
        "--vision-layers", type=int, default=4, help="4 gives the vision tower the share it has in Qwen2-VL-7B and Gemma-3-4B"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = MidSize(text_layers=options.text_layers, vision_layers=options.vision_layers)
    adapter = midsize_adapter(options.family, size)
    result = {
        "family": options.family,
        "size": vars(size),
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        **measure(adapter, options.images, options.draws, options.rounds, SIDES[options.family]),
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
