"""The engine equals other interpretability libraries where they support the model (extra ``peers``)."""

import numpy as np
import pytest
from PIL import Image

from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.models.adapter import Adapter

pytestmark = pytest.mark.model

RELATIVE = 1e-5
PROMPTS = ["which object is on the left ?", "what is left ?"]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


LATE_HOOKS = ("llava", "llava_onevision", "mistral3", "pixtral")
"""Families whose vision features transformers collects with hooks of its own."""

PAIRS = [
    PairRuns(f"vision-{index}", Run(noise(2 * index), prompt), {"counterfactual": Run(noise(2 * index + 1), prompt)})
    for index, prompt in enumerate(PROMPTS)
]


def patches(sites: list[str]) -> list[Patch]:
    generator = np.random.default_rng(5)
    made = []
    for number in range(len(PAIRS)):
        for site in sites:
            order = generator.permutation(36)
            made += [
                Patch(number, site, order[:7]),
                Patch(number, site, order[:5], from_cells=order[5:10]),
                Patch(number, site, np.arange(36)),
            ]
    return made


@pytest.mark.slow
def test_equal_to_nnsight_at_every_site(adapter: Adapter) -> None:
    pytest.importorskip("nnsight", reason="nnsight is not installed (extra peers)")
    from benchmarks.peers import nnsight_sweep

    # With DeepStack the connector's output is no tensor, which this comparison cannot write to.
    asked = patches([site for site in adapter.sites if site != "connector" or adapter.late_entries == 0])
    expected = nnsight_sweep(adapter, PAIRS, asked)
    assert ((PatchEngine(adapter).run(PAIRS, asked) - expected).abs().max() / expected.abs().max()).item() <= RELATIVE


@pytest.mark.slow
def test_equal_to_pyvene_in_the_language_model(adapter: Adapter) -> None:
    pytest.importorskip("pyvene", reason="pyvene is not installed (extra peers)")
    from benchmarks.peers import pyvene_sweep

    if adapter.family in LATE_HOOKS:
        pytest.skip("pyvene keeps transformers from collecting the hidden states that this family's vision features are taken from")
    asked = patches([site for site in adapter.sites if site.startswith("language")])
    expected = pyvene_sweep(adapter, PAIRS, asked)
    assert ((PatchEngine(adapter).run(PAIRS, asked) - expected).abs().max() / expected.abs().max()).item() <= RELATIVE


@pytest.mark.slow
def test_equal_to_transformer_lens_where_it_has_a_hook(adapter: Adapter) -> None:
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed (benchmarks/requirements.txt)")
    from benchmarks.measure import Unsupported
    from benchmarks.peers import TransformerLens

    try:
        lens = TransformerLens(adapter)
    except Unsupported as error:
        pytest.skip(f"TransformerLens: {error}")

    def has(site: str) -> bool:
        # transformers' hook at the feature layer is older: what a later one changes there is lost.
        if site == f"vision.{len(adapter.vision_blocks) - 1}" and adapter.family in LATE_HOOKS:
            return False
        if site == "connector" and adapter.late_entries:
            return False
        try:
            return bool(lens.hook_name(site))
        except Unsupported:
            return False

    sites = [site for site in adapter.sites if has(site)]
    assert {site for site in adapter.sites if site.startswith("language")} <= set(sites)
    asked = patches(sites)
    expected = lens.sweep(PAIRS, asked)
    assert ((PatchEngine(adapter).run(PAIRS, asked) - expected).abs().max() / expected.abs().max()).item() <= RELATIVE
