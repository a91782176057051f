"""The amplification sweep against one full forward pass a question and setting, by plain hooks and by nnsight.

    python -m benchmarks.compare_amplification --family qwen2_vl --rounds 3

A random model with 256 visual tokens, nine questions about an image, corrections at a vision block and at the connector (see
``benchmarks/amplification.py``, whose parts this uses).
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.amplification import PROMPTS, full_passes, settings_of, swept
from benchmarks.measure import Unsupported, counted, device_named, environment, operations, rounds_of, write
from benchmarks.midsize import SIZES, MidSize, midsize_adapter, side_of
from benchmarks.patch_sweep import OURS, REFERENCE, TOLERANCE, VLM_LENS
from benchmarks.peers import Traced, TransformerLens, missing
from PIL import Image

from vlm_spatial.amplification.sweep import Setting
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.families import NAMES

TOKENS = [1, 2, 3]


def nnsight_passes(adapter: Adapter, images: list[Image.Image], settings: list[Setting]) -> torch.Tensor:
    """As ``full_passes``, one trace each."""
    traced = Traced(adapter)
    found = []
    for image in images:
        for prompt in PROMPTS:
            prepared = adapter.prepare([image], [prompt])
            for setting in settings:
                correct = setting.make("scene")
                logits = traced.edited(prepared, setting.site, lambda values, correct=correct: correct(values[0])[None])
                found.append(logits[0, TOKENS])
    return torch.stack(found).reshape(len(images), len(PROMPTS), len(settings), len(TOKENS))


def compare(adapter: Adapter, side: int, images: int, draws: int, rounds: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    drawn = [Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(images)]
    settings = settings_of(adapter, draws)
    sides: dict[str, Callable[[int], torch.Tensor]] = {
        OURS: lambda _: swept(adapter, drawn, settings, TOKENS),
        REFERENCE: lambda _: full_passes(adapter, drawn, settings, TOKENS),
    }
    reasons = {
        "pyvene": "no position to name: Qwen2-VL's vision blocks give [patches, features], without a sequence of its own for each image",
        "vlm-lens": f"{VLM_LENS}; reads activations, changes none",
    }
    why = missing("nnsight")
    if why is None:
        sides["nnsight"] = lambda _: nnsight_passes(adapter, drawn, settings)
    else:
        reasons["nnsight"] = why
    try:
        TransformerLens(adapter)
        reasons["transformer-lens"] = "knows this architecture; not measured here, see the patch sweep"
    except Unsupported as error:
        reasons["transformer-lens"] = str(error)

    def check(results: dict[str, torch.Tensor], _: int) -> dict[str, float]:
        expected = results[REFERENCE].cpu()
        return {name: ((found.cpu() - expected).abs().max() / expected.abs().max()).item() for name, found in results.items()}

    found = rounds_of(sides, rounds, check, adapter.device, TOLERANCE[adapter.identity.dtype])
    passes = images * len(PROMPTS) * len(settings)
    one_run = operations(lambda: adapter.run(adapter.prepare([drawn[0]], [PROMPTS[0]]))[0])
    with counted(adapter) as calls:
        swept(adapter, drawn, settings, TOKENS)
    found[OURS] |= {"operations": operations(lambda: sides[OURS](0)), "language_block_calls": calls["language_calls"]}
    for name in sides:
        if name != OURS:
            found[name] |= {"operations": one_run * passes, "language_block_calls": passes * len(adapter.language_blocks)}
            found[name]["times_slower"] = {
                key: round(found[name][key]["median"] / found[OURS][key]["median"], 2) for key in ("seconds", "processor_seconds")
            }
            found[name]["times_more_operations"] = round(found[name]["operations"] / found[OURS]["operations"], 2)
    return {"images": images, "questions": len(PROMPTS), "settings": len(settings), "methods": found, "unsupported": reasons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=NAMES, default="qwen2_vl")
    parser.add_argument("--size", choices=sorted(SIZES), default="mid")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--draws", type=int, default=1, help="random subspaces a site")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    given = parser.parse_args()
    size = SIZES[given.size]
    if given.size == "mid":
        size = MidSize(**{**vars(size), "text_layers": 8, "vision_layers": 4})
    device = device_named(given.device)
    adapter = midsize_adapter(given.family, size, device, given.dtype)
    result = compare(adapter, side_of(given.family, size), given.images, given.draws, given.rounds)
    described = {"benchmark": "amplification", "family": given.family, "size": vars(size), "dtype": given.dtype}
    write("amplification", {**described, **result, **environment(device)})


if __name__ == "__main__":
    main()
