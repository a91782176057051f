"""What ``benchmarks/compare_amplification.py`` measures: corrections, questions, and the two ways to score every one under every other.

Nine questions about each image, as three slots and three templates give; corrections at the connector and at a vision layer: the
label-free form over a grid of alpha, and random subspaces as its controls.
"""

import numpy as np
import torch
from PIL import Image

from vlm_spatial.amplification.corrections import NormMatched, Projection
from vlm_spatial.amplification.sweep import Asked, Setting, Sweep
from vlm_spatial.interventions.patch import Run
from vlm_spatial.interventions.subspaces import random_basis
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
                found.append(
                    adapter.run(prepared, edits={setting.site: lambda values, c=correct: c(values[0])[None]})[0][0]
                    .double()
                    .log_softmax(-1)[tokens]
                )  # type: ignore[misc]
    return torch.stack(found).reshape(len(images), len(PROMPTS), len(settings), len(tokens))


def swept(adapter: Adapter, images: list[Image.Image], settings: list[Setting], tokens: list[int]) -> torch.Tensor:
    """The same with the sweep."""
    questions = [Asked(prompt, prompt, tokens) for prompt in PROMPTS]
    sweep = Sweep(adapter)
    found = [sweep.scores(Run(image, PROMPTS[0]), "scene", questions, settings) for image in images]
    return torch.stack([torch.stack([each.scores for each in of_image]) for of_image in found])
