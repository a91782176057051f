"""The engine equals the plain hooked forward pass, for every family, site and kind of patch; and really saves work."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch, Run
from vlm_spatial.interventions.plan import Attention, Row, batches, plan
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.decoder import Layout
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.values import EMBEDDING
from vlm_spatial.tokens import TokenGrid

pytestmark = pytest.mark.model

PROMPTS = ["which object is on the left ?", "what is left ?", "where is the red square ?", "which object is on the right ?"]
CELLS = 36
# Of the largest logit; sums of a few hundred float32 terms in another order.
RELATIVE = 1e-5


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def pair(number: int, ablated: bool = False) -> PairRuns:
    prompt = PROMPTS[number % len(PROMPTS)]
    edit = (lambda values: values.flip(1) * 1.1) if ablated else None
    sources = {"counterfactual": Run(noise(3 * number + 1), prompt, edit), "unrelated": Run(noise(3 * number + 2), prompt)}
    return PairRuns(f"vision-{number}", Run(noise(3 * number), prompt, edit), sources)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)).max().item()


def double(clean: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return 2 * source - 0.5 * clean


@st.composite
def patch_of(draw: st.DrawFn, pairs: int, sites: tuple[str, ...]) -> Patch:
    """Any patch; stretches from the first cell on, whole images and untouched copies come up often."""
    first_cells = st.integers(1, CELLS).map(np.arange)
    some_cells = st.lists(st.integers(0, CELLS - 1), min_size=1, max_size=CELLS, unique=True).map(np.array)
    to_cells = draw(st.one_of(first_cells, some_cells))
    exchanged = st.permutations(range(CELLS)).map(lambda order: np.array(order[: len(to_cells)]))
    return Patch(
        pair=draw(st.integers(0, pairs - 1)),
        site=draw(st.sampled_from(sites)),
        to_cells=to_cells,
        source=draw(st.sampled_from(["counterfactual", "unrelated", CLEAN])),
        from_cells=draw(st.one_of(st.none(), st.just(to_cells), exchanged)),
        transform=draw(st.sampled_from([None, None, double])),
    )


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data(), ablated=st.lists(st.booleans(), min_size=1, max_size=4))
@pytest.mark.parametrize("family", NAMES)
def test_equal_to_the_plain_forward_pass(
    adapter_of: Callable[[str], Adapter], family: str, data: st.DataObject, ablated: list[bool]
) -> None:
    adapter = adapter_of(family)
    pairs = [pair(number, flag) for number, flag in enumerate(ablated)]
    patches = data.draw(st.lists(patch_of(len(pairs), adapter.sites), min_size=1, max_size=8))
    assert difference(PatchEngine(adapter).run(pairs, patches), run_plain(adapter, pairs, patches)) <= RELATIVE


def questions(number: int) -> PairRuns:
    """A pair whose sources ask something else, in prompts of another length."""
    asked = [PROMPTS[(number + offset) % len(PROMPTS)] for offset in range(3)]
    edit = (lambda values: values * 0.9) if number == 1 else None
    sources = {"counterfactual": Run(noise(3 * number + 1), asked[1], edit), "unrelated": Run(noise(3 * number), asked[2])}
    return PairRuns(f"language-{number}", Run(noise(3 * number), asked[0], edit), sources)


@st.composite
def text_patch(draw: st.DrawFn, pair: int, sites: tuple[str, ...]) -> Patch:
    """Any prompt positions, from the start or the end; visual tokens are among them."""
    positions = st.lists(st.integers(-40, 39), min_size=1, max_size=12, unique_by=lambda place: place % 40).map(np.array)
    to = draw(st.one_of(st.just(np.array([-1])), st.integers(1, 6).map(lambda last: -np.arange(1, last + 1)), positions))
    return Patch(
        pair=pair,
        site=draw(st.sampled_from(sites)),
        source=draw(st.sampled_from(["counterfactual", "unrelated", CLEAN])),
        transform=draw(st.sampled_from([None, None, double])),
        to_positions=to,
        from_positions=draw(st.one_of(st.none(), st.permutations(range(40)).map(lambda order: np.array(order[: len(to)])))),
    )


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("family", NAMES)
def test_several_edits_of_cells_and_prompt_positions_equal_the_plain_pass(
    adapter_of: Callable[[str], Adapter], family: str, data: st.DataObject
) -> None:
    """Of runs that ask something else, too."""
    adapter = adapter_of(family)
    pairs = [questions(number) for number in range(2)]
    lengths = [adapter.tokens(one.clean.image, one.clean.prompt)[0].shape[1] for one in pairs]
    interventions = []
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, 1))
        made = []
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                made.append(replace(data.draw(patch_of(1, adapter.sites)), pair=number))
                continue
            patch = data.draw(text_patch(number, adapter.text_sites))
            assert patch.to_positions is not None
            # Positions from both ends may be one.
            kept = np.unique(patch.to_positions % lengths[number], return_index=True)[1]
            taken = None if patch.from_positions is None else patch.from_positions[kept]
            made.append(replace(patch, to_positions=patch.to_positions[kept], from_positions=taken))
        interventions.append(tuple(made) if len(made) > 1 else made[0])
    assert difference(PatchEngine(adapter).run(pairs, interventions), run_plain(adapter, pairs, interventions)) <= RELATIVE


def test_prompt_positions_by_hand(adapter: Adapter) -> None:
    """The last position alone decides at the last block; the embeddings of all positions are the whole run."""
    pairs = [questions(0)]
    source = pairs[0].sources["unrelated"]
    engine, last = PatchEngine(adapter), adapter.text_sites[-1]
    clean, asked = engine.clean(pairs), engine.clean([PairRuns("other", source)])
    end = np.array([-1])
    found = engine.run(pairs, [Patch(0, last, source="unrelated", to_positions=end), Patch(0, last, to_positions=np.array([-2, -3]))])
    assert difference(found[:1], asked) <= RELATIVE
    assert difference(found[1:], clean) <= RELATIVE
    assert difference(asked, clean) > 0.01
    same = PairRuns("same", Run(noise(5), PROMPTS[0]), {"counterfactual": Run(noise(6), PROMPTS[0])})
    length = adapter.tokens(same.clean.image, same.clean.prompt)[0].shape[1]
    everything = Patch(0, EMBEDDING, to_positions=np.arange(length))
    if adapter.late_entries == 0:
        swapped = engine.clean([PairRuns("swapped", same.sources["counterfactual"])])
        assert difference(engine.run([same], [everything]), swapped) <= RELATIVE


def test_an_edit_that_lays_the_runs_own_values_on_themselves_changes_no_bit(adapter: Adapter) -> None:
    pairs = [questions(0)]
    own = [Patch(0, site, source=CLEAN, to_positions=np.arange(-5, 0)) for site in adapter.text_sites]
    cells = [Patch(0, site, np.arange(7), CLEAN) for site in adapter.sites]
    assert torch.equal(
        run_plain(adapter, pairs, [*own, *cells, (*own, *cells)]), run_plain(adapter, pairs, own[:1]).expand(len(own) + len(cells) + 1, -1)
    )
    found = PatchEngine(adapter).run(pairs, [*own, (*cells, *own)])
    assert torch.equal(found, PatchEngine(adapter).clean(pairs).expand(len(found), -1))


def sweep(adapter: Adapter, pairs: int) -> list[Patch]:
    sets = [np.arange(CELLS), np.arange(12), np.array([7, 8, 13, 14]), np.arange(2, CELLS, 6), np.array([CELLS - 1])]
    copies = [Patch(number, site, cells) for number in range(pairs) for site in adapter.sites for cells in sets]
    # The unrelated run has no edit of its own, also where the clean run has one.
    return [*copies, *(Patch(number, site, sets[0], "unrelated") for number in range(pairs) for site in adapter.sites)]


@pytest.mark.slow
def test_a_whole_sweep_is_equal_and_in_order(adapter: Adapter) -> None:
    pairs = [pair(number, ablated=number == 1) for number in range(3)]
    patches = sweep(adapter, len(pairs))
    expected = run_plain(adapter, pairs, patches)
    assert difference(PatchEngine(adapter).run(pairs, patches), expected) <= RELATIVE
    back = PatchEngine(adapter).run(pairs, patches[::-1])
    assert difference(back.flip(0), expected) <= RELATIVE
    # For this test to mean anything, patches must matter and differ from each other.
    clean = PatchEngine(adapter).clean(pairs)[[patch.pair for patch in patches]]
    matters = (expected - clean).abs().amax(dim=1) > 0.01 * expected.abs().amax()
    assert matters.float().mean() > 0.5


def test_too_little_memory_only_makes_smaller_batches(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair(0), pair(3)]
    patches = sweep(adapter, len(pairs))[::3]
    expected = PatchEngine(adapter).run(pairs, patches)
    largest = []
    real = adapter.head
    monkeypatch.setattr(adapter, "head", lambda hidden: largest.append(len(hidden)) or real(hidden))
    found = PatchEngine(adapter, memory_gb=1e-6).run(pairs, patches)
    assert max(largest) == 1
    assert difference(found, expected) <= RELATIVE


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, list, tuple, torch.tensor])
def test_cells_of_any_integer_type_are_cells(adapter_of: Callable[[str], Adapter], kind: Any) -> None:
    adapter, numbers = adapter_of("gemma3"), [0, 1, 1 + 6, 20]
    make = kind if kind in (list, tuple, torch.tensor) else partial(np.array, dtype=kind)
    for run in (PatchEngine(adapter).run, lambda *asked: run_plain(adapter, *asked)):
        expected = run([pair(0)], [Patch(0, "language.0", np.array(numbers), from_cells=np.array(numbers[::-1]))])
        assert torch.equal(run([pair(0)], [Patch(0, "language.0", make(numbers), from_cells=make(numbers[::-1]))]), expected)


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
@pytest.mark.slow
def test_eager_attention_gives_what_sdpa_gives(family: str, checkpoint: Callable[[str], Path]) -> None:
    adapters = [load_adapter(checkpoint(family), device="cpu", attn_implementation=kind) for kind in ("sdpa", "eager")]
    assert [adapter.identity.attention for adapter in adapters] == ["sdpa", "eager"]
    patches = sweep(adapters[0], 1)[::4]
    sdpa, eager = (PatchEngine(adapter).run([pair(0)], patches) for adapter in adapters)
    assert difference(eager, sdpa) <= RELATIVE
    assert difference(eager, run_plain(adapters[1], [pair(0)], patches)) <= RELATIVE


def test_clean_is_the_plain_run(adapter: Adapter) -> None:
    pairs = [pair(0), pair(1, ablated=True), pair(2)]
    rows = []
    for one in pairs:
        edits = {"connector": one.clean.connector} if one.clean.connector else {}
        rows.append(adapter.run(adapter.prepare([one.clean.image], [one.clean.prompt]), edits=edits)[0])
    assert difference(PatchEngine(adapter).clean(pairs), torch.cat(rows)) <= RELATIVE
    assert PatchEngine(adapter).clean([]).shape == (0, adapter.vocabulary)
    assert PatchEngine(adapter).run(pairs, []).shape == (0, adapter.vocabulary)


def test_bfloat16_agrees_as_far_as_it_can(checkpoint: Callable[[str], Path]) -> None:
    adapter = load_adapter(checkpoint("gemma3"), dtype="bfloat16", device="cpu")
    pairs = [pair(0), pair(1)]
    patches = sweep(adapter, 2)[::8]
    assert difference(PatchEngine(adapter).run(pairs, patches), run_plain(adapter, pairs, patches)) < 0.05


def test_images_and_untouched_runs_are_computed_once(adapter: Adapter) -> None:
    """Two pairs share their images; all patches enter after block 1, so block 0 sees untouched runs only."""
    prompt = PROMPTS[0]
    clean, other = Run(noise(0), prompt), Run(noise(1), prompt)
    pairs = [
        PairRuns("vision-0", clean, {"counterfactual": other}),
        PairRuns("vision-1", Run(noise(1), prompt), {"counterfactual": clean}),
    ]
    patches = [Patch(number, "language.1", np.array([cell])) for number in range(2) for cell in range(10)]
    engine = PatchEngine(adapter)
    engine.run(pairs, patches[:1])  # records the blocks' arguments, once a layout
    images, rows = [], []
    handles = [
        adapter.vision_blocks[0].register_forward_hook(lambda _m, _i, output: images.append(output.shape[:-1].numel())),
        adapter.language_blocks[0].register_forward_hook(lambda _m, _i, output: rows.append(output.shape[0])),
    ]
    engine.run(pairs, patches)
    for handle in handles:
        handle.remove()
    assert images == [2 * (CELLS * adapter.vision_shape[0] + getattr(adapter, "class_tokens", 0))]
    assert rows == [2]


def test_runs_of_one_image_are_told_apart_by_prompt_and_edit(adapter: Adapter) -> None:
    def edited(factor: float) -> Run:
        return Run(noise(0), "which object is left ?", lambda values: values * factor)

    plain = Run(noise(0), "which object is left ?")
    other_words = Run(noise(0), "which object is right ?")
    pairs = [
        PairRuns("vision-0", plain, {"counterfactual": edited(1.5)}),
        PairRuns("vision-1", edited(0.5), {"counterfactual": plain}),
        PairRuns("vision-2", other_words, {"counterfactual": other_words}),
    ]
    patches = [Patch(number, site, np.arange(4, 30)) for number in range(3) for site in adapter.sites]
    assert difference(PatchEngine(adapter).run(pairs, patches), run_plain(adapter, pairs, patches)) <= RELATIVE
    clean = PatchEngine(adapter).clean(pairs)
    assert all(difference(clean[[one]], clean[[other]]) > 0.001 for one, other in [(0, 1), (0, 2), (1, 2)])


def test_positions_computed_are_those_the_patch_can_reach(adapter: Adapter) -> None:
    computed = []
    engine = PatchEngine(adapter)
    pairs = [pair(0)]
    engine.clean(pairs)
    layout = next(iter(engine._decoders))
    handle = adapter.language_blocks[1].register_forward_hook(lambda _m, _i, output: computed.append(output.shape[1]))
    engine.run(pairs, [Patch(0, "language.0", np.array([20]))])
    engine.run(pairs, [Patch(0, "language.0", np.arange(CELLS))])
    handle.remove()
    first_reached = layout.positions[20] if adapter.reach == "causal" else layout.first
    # Marks between rows of cells have seen the clean image.
    followed = layout.positions[layout.unbroken - 1] + 1
    expected = [layout.length, layout.length - first_reached, layout.length, layout.length - followed]
    if adapter.reach == "prompt":
        expected = [layout.length] * 4
    if adapter.late_entries:
        # More of the clean image enters behind block 0: the positions do not follow the source.
        expected[3] = layout.length - layout.first
    assert computed == expected


LAYOUT = Layout(length=50, positions=tuple(range(4, 40)), grid=TokenGrid(6, 6))


@pytest.mark.parametrize(
    ("patch", "causal", "bidirectional"),
    [
        (Patch(0, "language.2", np.array([5, 9])), Row(1, 3, 9, False), Row(1, 3, 4, False)),
        (Patch(0, "connector", np.array([5, 9])), Row(1, 0, 9, False), Row(1, 0, 4, False)),
        (Patch(0, "language.2", np.array([1, 0, 2, 9])), Row(1, 3, 7, True), Row(1, 3, 4, False)),
        (Patch(0, "language.2", np.arange(36)), Row(1, 3, 40, True), Row(1, 3, 40, True)),
        (Patch(0, "language.2", np.arange(36), transform=double), Row(1, 3, 4, False), Row(1, 3, 4, False)),
        (Patch(0, "language.2", np.arange(3), from_cells=np.arange(3)), Row(1, 3, 7, True), Row(1, 3, 4, False)),
        (Patch(0, "language.2", np.arange(3), from_cells=np.arange(3) + 1), Row(1, 3, 4, False), Row(1, 3, 4, False)),
    ],
)
def test_plan_starts_where_the_patch_begins_to_matter(patch: Patch, causal: Row, bidirectional: Row) -> None:
    assert plan(1, [patch], LAYOUT, Attention("causal")) == causal
    assert plan(1, [patch], LAYOUT, Attention("image")) == bidirectional


@given(
    starts=st.lists(st.tuples(st.integers(4, 49), st.integers(0, 5)), min_size=1, max_size=60),
    most=st.integers(1, 9),
)
def test_batches_hold_every_row_once_and_waste_little(starts: list[tuple[int, int]], most: int) -> None:
    rows = [Row(number, entry, start, False) for number, (start, entry) in enumerate(starts)]
    made = list(batches(rows, LAYOUT, lambda _: most))
    assert sorted(row.number for batch in made for row in batch) == list(range(len(rows)))
    for batch in made:
        assert len(batch) <= most
        assert [row.entry for row in batch] == sorted(row.entry for row in batch)
        first = min(row.start for row in batch)
        assert max(row.start for row in batch) - first <= 0.1 * (LAYOUT.length - first)


RUN = Run(noise(0), PROMPTS[0])
GOOD = PairRuns("vision-7", RUN, {"counterfactual": Run(noise(1), PROMPTS[0])})


@pytest.mark.parametrize(
    ("pairs", "patch", "says"),
    [
        ([GOOD], Patch(0, "language.99", np.arange(2)), r"pair vision-7, patch at language\.99: the model has no such site"),
        ([GOOD], Patch(0, "connector", np.arange(0)), "pair vision-7, patch at connector: the token set is empty"),
        ([GOOD], Patch(0, "connector", np.array([1, 36])), "cells must be whole numbers from 0 to 35, found 1 to 36"),
        ([GOOD], Patch(0, "connector", np.array([-1])), "cells must be whole numbers from 0 to 35"),
        ([GOOD], Patch(0, "connector", np.array([0.5])), "cells must be whole numbers"),
        ([GOOD], Patch(0, "connector", np.array([2, 2])), "a cell is written twice"),
        ([GOOD], Patch(0, "connector", np.ones(36, dtype=bool)), r"found a mask; give np\.flatnonzero\(mask\)"),
        (
            [GOOD],
            Patch(0, "connector", np.zeros((2, 2), dtype=int)),
            r"cells must be whole numbers in one list, found int64 of shape \(2, 2\)",
        ),
        ([GOOD], Patch(0, "connector", np.array(3)), r"cells must be whole numbers in one list, found int64 of shape \(\)"),
        ([GOOD], Patch(0, "connector", np.array(["a"])), "cells must be whole numbers in one list, found <U1"),
        ([GOOD], Patch(0, "connector", np.arange(2), from_cells=np.array([True, False])), r"found a mask; give np\.flatnonzero\(mask\)"),
        ([GOOD], Patch(0, "language.0", to_positions=np.array([0.0])), "positions must be whole numbers in one list"),
        ([GOOD], Patch(0, "connector"), "give either to_cells or to_positions"),
        ([GOOD], Patch(0, "connector", to_positions=np.array([0])), r"prompt positions exist at embedding, language\.0"),
        ([GOOD], Patch(0, "embedding", np.array([0])), "cells enter at connector"),
        ([GOOD], Patch(0, "language.0", to_positions=np.array([-99])), "positions must be whole numbers from -"),
        ([GOOD], Patch(0, "language.0", to_positions=np.array([0]), from_cells=np.array([0])), "goes with from_positions"),
        ([GOOD], Patch(0, "connector", np.arange(3), from_cells=np.arange(2)), "2 cells to copy from and 3 to write to"),
        ([GOOD], Patch(0, "connector", np.arange(3), source="other"), "no source 'other'; this pair has clean, counterfactual"),
        ([GOOD], Patch(1, "connector", np.arange(3)), "pair number 1; there are 1 pairs"),
        (
            [GOOD],
            Patch(0, "connector", np.arange(3), transform=lambda clean, _: clean[..., :5]),
            r"its transform makes values of shape \(3, 1, 5\); the site holds \(3, 1, 32\)",
        ),
        (
            [GOOD],
            Patch(0, "vision.0", np.arange(3), transform=lambda clean, _: clean + torch.ones(7)),
            r"its transform cannot take values of shape \(3, 4, 32\)",
        ),
        (
            [PairRuns("vision-8", RUN, {CLEAN: RUN})],
            Patch(0, "connector", np.arange(3)),
            "pair vision-8: no source may be called 'clean'",
        ),
        (
            [PairRuns("vision-8", RUN, {"counterfactual": Run(noise(1).resize((128, 64)), PROMPTS[0])})],
            Patch(0, "connector", np.arange(3)),
            "pair vision-8: the clean image has 6×6 visual tokens, that of 'counterfactual' 4×8",
        ),
    ],
)
def test_bad_pairs_and_patches_are_refused_before_anything_runs(
    adapter_of: Callable[[str], Adapter], pairs: list[PairRuns], patch: Patch, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of("qwen2_vl")

    def ran(*_: object, **__: object) -> None:
        pytest.fail("the model ran")

    monkeypatch.setattr(adapter.model, "forward", ran)
    monkeypatch.setattr(adapter, "encode", ran)
    for run in (PatchEngine(adapter).run, lambda *given: run_plain(adapter, *given)):
        with pytest.raises(UserError, match=says):
            run(pairs, [Patch(0, "connector", np.arange(2)), patch])


def test_the_documentation_page_runs(adapter: Adapter) -> None:
    page = (Path(__file__).parent.parent / "docs" / "engine.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names = {"adapter": adapter, "clean_image": noise(0), "other_image": noise(1)}
    exec(code, names)
    assert names["logits"].shape == (len(adapter.sites), adapter.vocabulary)
    assert names["untouched"].shape == (1, adapter.vocabulary)


def test_questions_of_one_image_share_it_and_equal_the_plain_run(adapter: Adapter) -> None:
    """Of each image, prompts of several lengths; one image is edited at the connector and behind a language block."""
    edited = {"language.1": lambda values: values * 0.5}
    images = [
        Run(noise(0), ""),
        Run(noise(1), "", lambda values: values * 1.5, edited),
        Run(noise(2), ""),
    ]
    prompts = ["which object is left ?", "which object is right ?", "where is the red square ?", "which is left of the blue square ?"]
    runs = [replace(image, prompt=prompt) for prompt in prompts for image in images]
    rows = []
    for run in runs:
        edits = ({"connector": run.connector} if run.connector else {}) | dict(run.language)
        rows.append(adapter.run(adapter.prepare([run.image], [run.prompt]), edits=edits)[0])
    engine = PatchEngine(adapter)
    asked = [PairRuns(str(number), run) for number, run in enumerate(runs)]
    assert difference(engine.clean(asked), torch.cat(rows)) <= RELATIVE
    # Many portions: room for one image at a time.
    assert difference(PatchEngine(adapter, memory_gb=1e-6).clean(asked), torch.cat(rows)) <= RELATIVE

    positions = []
    handle = adapter.language_blocks[1].register_forward_hook(lambda _m, _i, output: positions.append(output.shape[0] * output.shape[1]))
    engine.clean(asked)
    handle.remove()
    whole = sum(adapter.tokens(run.image, run.prompt)[0].shape[1] for run in runs)
    if adapter.reach == "prompt":
        assert sum(positions) == whole
    else:
        ends = [engine.layout(run).end for run in runs]
        longest = max(ends)
        # Three images once; behind them, at most what follows the image in each prompt.
        assert sum(positions) <= 3 * (longest + 4) + whole - len(runs) * longest


def test_runs_with_edits_behind_language_blocks_are_not_patched(adapter_of: Callable[[str], Adapter]) -> None:
    adapter = adapter_of("gemma3")
    one = PairRuns(
        "a", Run(noise(0), PROMPTS[0], language={"language.0": lambda values: values}), {"counterfactual": Run(noise(1), PROMPTS[0])}
    )
    with pytest.raises(UserError, match="pair a: runs with edits behind language blocks cannot be patched"):
        PatchEngine(adapter).run([one], [Patch(0, "connector", np.array([0]))])
