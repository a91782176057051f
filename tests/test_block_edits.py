"""Edits inside language blocks: engine and plain pass agree, no bit changes without an effect, and attention recomputed by hand agrees."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import InBlocks, PairRuns, Patch, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import BlockEdit, HeadOutput, Knockout, PositionIds, Rescaled, head_count, head_width
from vlm_spatial.models.families import NAMES
from vlm_spatial.models.heads import head_outputs

pytestmark = pytest.mark.model

RELATIVE = 1e-5
PROMPTS = ["which object is on the left ?", "what is left ?"]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def pair(number: int) -> PairRuns:
    prompt = PROMPTS[number]
    return PairRuns(f"pair-{number}", Run(noise(2 * number), prompt), {"counterfactual": Run(noise(2 * number + 1), prompt)})


PAIRS = [pair(0), pair(1)]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)).max().item()


def length(adapter: Adapter, number: int) -> int:
    run = PAIRS[number].clean
    return adapter.tokens(run.image, run.prompt)[0].shape[1]


def ids(adapter: Adapter, number: int) -> torch.Tensor:
    run = PAIRS[number].clean
    made: torch.Tensor = adapter.prepare([run.image], [run.prompt]).inputs["position_ids"]
    return made


@st.composite
def edit_of(draw: st.DrawFn, adapter: Adapter, number: int) -> BlockEdit:
    positions = length(adapter, number)
    depth = len(adapter.language_blocks)
    some = st.lists(st.integers(0, positions - 1), min_size=1, max_size=positions, unique=True)
    text = st.integers(1, 8).map(lambda last: list(range(positions - last, positions)))
    queries = np.array(draw(st.one_of(text, some)))
    keys = np.array(draw(some))
    first = draw(st.integers(0, depth - 1))
    last = draw(st.integers(first, depth - 1))
    kind = draw(st.sampled_from(["knockout", "rescaled", "head", "ids"]))
    if kind == "knockout":
        heads = draw(st.one_of(st.none(), st.just((head_count(adapter) - 1,))))
        return Knockout(queries, keys, first, last, heads)
    if kind == "rescaled":
        keys = np.setdiff1d(keys, queries)
        if len(keys):
            return Rescaled(queries, keys, first, last, draw(st.sampled_from([0.5, 1.0, 2.0])), draw(st.sampled_from([0.0, 1.0])))
        return Knockout(queries, queries, first, last)
    if kind == "head":
        heads = draw(st.sampled_from([(0,), (head_count(adapter) - 1,), tuple(range(head_count(adapter)))[::-1]]))
        values = np.random.default_rng(draw(st.integers(0, 9))).normal(size=(len(queries), len(heads), head_width(adapter)))
        return HeadOutput(first, heads, queries, torch.tensor(values).float())
    moved = ids(adapter, number).clone()
    at = torch.as_tensor(keys)
    moved[..., at] = moved[..., at.flip(0)] + draw(st.integers(0, 2))
    return PositionIds(moved, first, last)


@pytest.mark.parametrize("family", NAMES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_equal_to_the_plain_forward_pass(adapter_of: Callable[[str], Adapter], family: str, data: st.DataObject) -> None:
    """Several edits in a run, and edits with patches."""
    adapter = adapter_of(family)
    interventions = []
    for _ in range(data.draw(st.integers(1, 5))):
        number = data.draw(st.integers(0, 1))
        parts: list[Patch | InBlocks] = [InBlocks(number, data.draw(edit_of(adapter, number))) for _ in range(data.draw(st.integers(1, 3)))]
        if data.draw(st.booleans()):
            site = data.draw(st.sampled_from(adapter.sites))
            parts.append(Patch(number, site, np.arange(data.draw(st.integers(1, 36)))))
        interventions.append(tuple(parts) if len(parts) > 1 else parts[0])
    assert difference(PatchEngine(adapter).run(PAIRS, interventions), run_plain(adapter, PAIRS, interventions)) <= RELATIVE


def test_what_has_no_effect_changes_no_bit(adapter: Adapter) -> None:
    """A head's own output is an edit all the same: in the engine it goes with a batch's rounding."""
    last, depth = length(adapter, 0) - 1, len(adapter.language_blocks)
    own = head_outputs_by_hand(adapter, PAIRS[0].clean, 1)[-1:]
    written = HeadOutput(1, (1,), np.array([-1]), own[:, None, head_width(adapter) : 2 * head_width(adapter)])
    edits: list[BlockEdit] = [
        Rescaled(np.array([-1]), np.arange(5), 0, depth - 1),
        PositionIds(ids(adapter, 0), 0, depth - 1),
        # A position always keeps itself.
        Knockout(np.array([last]), np.array([last]), 0, depth - 1),
    ]
    if adapter.reach != "prompt":
        # Nobody sees what comes later.
        edits += [Knockout(np.arange(3), np.array([-1, -2]), 0, depth - 1), Rescaled(np.arange(3), np.array([-1]), 0, depth - 1, 3.0, 0.0)]
    pair, every = PAIRS[:1], tuple(InBlocks(0, edit) for edit in edits)
    engine = PatchEngine(adapter)
    for run, clean in (
        (engine.run, engine.clean(pair)),
        (lambda *given: run_plain(adapter, *given), adapter.run(adapter.prepare([pair[0].clean.image], [pair[0].clean.prompt]))[0]),
    ):
        for edit in edits:
            assert torch.equal(run(pair, [InBlocks(0, edit)]), clean), edit
        assert torch.equal(run(pair, [every]), clean)
        # Nothing is added to what another edit does.
        knockout = InBlocks(0, Knockout(np.array([-1]), np.arange(9), 0, depth - 1))
        assert torch.equal(run(pair, [(*every, knockout)]), run(pair, [knockout]))
    assert torch.equal(run_plain(adapter, pair, [InBlocks(0, written)]), clean)
    assert difference(engine.run(pair, [InBlocks(0, written)]), clean) <= RELATIVE


def test_own_position_ids_take_back_what_was_moved(adapter: Adapter) -> None:
    depth = len(adapter.language_blocks)
    moved = ids(adapter, 0).clone()
    moved[..., 8:14] = moved[..., 8:14].flip(-1) + 1
    back = [InBlocks(0, PositionIds(moved, 0, depth - 1)), InBlocks(0, PositionIds(ids(adapter, 0), 1, depth - 1))]
    found = PatchEngine(adapter).run(PAIRS[:1], [back])
    assert difference(found, run_plain(adapter, PAIRS[:1], [InBlocks(0, PositionIds(moved, 0, 0))])) <= RELATIVE
    assert difference(found, run_plain(adapter, PAIRS[:1], back[:1])) > 1e-4


def head_outputs_by_hand(adapter: Adapter, run: Run, layer: int) -> torch.Tensor:
    """``[positions, heads * width]``, what the output projection is given."""
    seen = []
    handle = adapter.language_blocks[layer].self_attn.o_proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0]))
    adapter.run(adapter.prepare([run.image], [run.prompt]))
    handle.remove()
    return torch.as_tensor(seen[0])


def test_position_ids_in_all_blocks_are_those_the_model_is_given(adapter: Adapter) -> None:
    run = PAIRS[0].clean
    moved = ids(adapter, 0).clone()
    moved[..., 8:14] = moved[..., 8:14].flip(-1) + 1
    prepared = adapter.prepare([run.image], [run.prompt])
    masks = adapter.run(prepared)[0]
    given = adapter.run(type(prepared)(prepared.inputs | {"position_ids": moved}, prepared.visual_positions, prepared.grid))[0]
    found = run_plain(adapter, PAIRS, [InBlocks(0, PositionIds(moved, 0, len(adapter.language_blocks) - 1))])
    assert difference(found, given) <= RELATIVE
    assert difference(found, masks) > 1e-4


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_attention_by_hand(adapter_of: Callable[[str], Adapter], family: str) -> None:
    """Softmax over what is open, keys or values multiplied, from the block's own projections; one head, one query."""
    adapter = adapter_of(family)
    run, layer, query, head = PAIRS[0].clean, 1, -2, 1
    keys, factor = np.array([5, 6, 7, 20]), 1.7
    scores, values = scores_by_hand(adapter, run, layer, query, head)
    closed, scaled = scores.clone(), scores.clone()
    closed[keys] = -torch.inf
    scaled[keys] *= factor
    weights = scores.softmax(0)
    emptied = weights.clone()
    emptied[keys] = 0
    half_emptied = values.clone()
    half_emptied[keys[:2]] = 0
    queries = np.array([query])
    expected = {
        Knockout: (Knockout(queries, keys, layer, layer), closed.softmax(0) @ values),
        "one head": (Knockout(queries, keys, layer, layer, (head,)), closed.softmax(0) @ values),
        "another head": (Knockout(queries, keys, layer, layer, (0,)), weights @ values),
        "keys": (Rescaled(queries, keys, layer, layer, of_keys=factor), scaled.softmax(0) @ values),
        "values": (Rescaled(queries, keys, layer, layer, of_values=0.0), emptied @ values),
        "two that meet": (
            # What only one of them is about comes first: the last run is of the query that is looked at.
            (Rescaled(np.array([-1, query]), keys[:2], layer, layer, of_values=0.0), Rescaled(queries, keys, layer, layer, of_keys=factor)),
            scaled.softmax(0) @ half_emptied,
        ),
    }
    width = head_width(adapter)
    for name, (edits, output) in expected.items():
        seen: list[torch.Tensor] = []
        handle = adapter.language_blocks[layer].self_attn.o_proj.register_forward_pre_hook(
            lambda _module, inputs, seen=seen: seen.append(inputs[0][0])
        )
        run_plain(adapter, PAIRS, [[InBlocks(0, edit) for edit in (edits if isinstance(edits, tuple) else (edits,))]])
        handle.remove()
        found = seen[-1][query, head * width : (head + 1) * width]
        assert torch.allclose(found, output, atol=1e-5), name


def scores_by_hand(adapter: Adapter, run: Run, layer: int, query: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of one query before the softmax, and the values, of one head."""
    block = adapter.language_blocks[layer]
    given: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    handle = block.self_attn.register_forward_pre_hook(
        lambda _module, inputs, named: given.append((named["hidden_states"] if "hidden_states" in named else inputs[0], named)),
        with_kwargs=True,
    )
    adapter.run(adapter.prepare([run.image], [run.prompt]))
    handle.remove()
    hidden, named = given[0]
    cos, sin = named["position_embeddings"]
    width = head_width(adapter)
    attention = block.self_attn

    def split(made: torch.Tensor) -> torch.Tensor:
        return made[0].reshape(made.shape[1], -1, width).transpose(0, 1)

    def turned(made: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-made[..., width // 2 :], made[..., : width // 2]], dim=-1)
        return made * cos[0] + half * sin[0]

    queries, keys, values = (split(projection(hidden)) for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
    group = len(queries) // len(keys)
    scores = turned(queries)[head, query] @ turned(keys)[head // group].T / width**0.5
    positions = torch.arange(len(scores))
    return scores.masked_fill(positions > len(scores) + query, -torch.inf), values[head // group]


def test_a_head_output_of_all_heads_is_the_attention_output(adapter: Adapter) -> None:
    """All heads of the last block at the last position, from the counterfactual: by hand, the source's attention in the clean stream."""
    layer = len(adapter.language_blocks) - 1
    pair = PAIRS[0]
    width, source = head_width(adapter), head_outputs_by_hand(adapter, pair.sources["counterfactual"], layer)
    slices = [source[-1:, None, head * width : (head + 1) * width] for head in range(head_count(adapter))]
    parts = [InBlocks(0, HeadOutput(layer, (head,), np.array([-1]), made)) for head, made in enumerate(slices)]
    found = run_plain(adapter, PAIRS, [parts])
    together = HeadOutput(layer, tuple(range(len(slices))), np.array([-1]), torch.cat(slices, dim=1))
    assert torch.equal(found, run_plain(adapter, PAIRS, [InBlocks(0, together)]))
    counterfactual = pair.sources["counterfactual"]
    assert torch.equal(head_outputs(adapter, counterfactual.image, counterfactual.prompt, np.array([-1]))[layer], together.values)
    projection = adapter.language_blocks[layer].self_attn.o_proj
    output = projection(source)[-1]

    def laid(_module: torch.nn.Module, _inputs: object, made: torch.Tensor) -> torch.Tensor:
        made = made.clone()
        made[0, -1] = output
        return made

    handle = projection.register_forward_hook(laid)
    expected = adapter.run(adapter.prepare([pair.clean.image], [pair.clean.prompt]))[0]
    handle.remove()
    assert difference(found, expected) <= RELATIVE
    assert difference(found, run_plain(adapter, PAIRS, [InBlocks(0, Knockout(np.array([0]), np.array([0]), 0, 0))])) > 1e-4


def test_edits_at_text_rows_reuse_the_image(adapter_of: Callable[[str], Adapter]) -> None:
    """An edit computes its rows, from its first block on, and one position in the last block: nothing of the image."""
    adapter = adapter_of("qwen2_vl")
    depth, rows = len(adapter.language_blocks), 3
    engine, text = PatchEngine(adapter), np.arange(-rows, 0)
    edits = [InBlocks(0, Knockout(text, np.arange(10 + number, 40), layer, layer)) for layer in range(depth) for number in range(8)]
    computed: list[int] = []
    handles = [
        block.register_forward_hook(lambda _module, inputs, _output: computed.append(inputs[0].shape[0] * inputs[0].shape[1]))
        for block in adapter.language_blocks
    ]
    engine.clean(PAIRS[:1])
    computed.clear()
    engine.run(PAIRS[:1], edits)
    for handle in handles:
        handle.remove()
    clean = length(adapter, 0) * (depth - 1) + 1
    assert sum(computed) == clean + sum(rows * (depth - 1 - edit.edit.first) + 1 for edit in edits)
    # At the published size, 24 rows of text behind 256 cells, of a prompt of 300 tokens, in 28 blocks: under a tenth of a full pass.
    assert (24 * 27 + 1) / (300 * 28) <= 0.1


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Knockout(np.array([1]), np.array([0]), 0, 9), "pair pair-0, attention knockout: language blocks 0 to 9; this model has 0 to 2"),
        (Knockout(np.array([1]), np.array([0]), 2, 1), "language blocks 2 to 1; this model has 0 to 2"),
        (Knockout(np.array([1]), np.array([0]), 0, 0, (2,)), "head 2; this model has 0 to 1"),
        (Knockout(np.array([], dtype=int), np.array([0]), 0, 0), "the token set is empty"),
        (Knockout(np.array([1]), np.array([99]), 0, 0), "positions must be whole numbers from -"),
        (Rescaled(np.array([1]), np.array([0, 1]), 0, 0), "a position always sees itself as it is"),
        (HeadOutput(0, (0,), np.array([1]), torch.zeros(2, 1, 16)), r"values of shape \(2, 1, 16\); needed are \(1, 1, 16\)"),
        (HeadOutput(0, (0, 2), np.array([1]), torch.zeros(1, 2, 16)), "head output: head 2; this model has 0 to 1"),
        (PositionIds(torch.zeros(1, 5), 0, 0), r"position ids: ids of shape \(1, 5\); this prompt has \(3, 1, "),
    ],
)
def test_bad_edits_are_refused_before_anything_runs(
    adapter_of: Callable[[str], Adapter], edit: BlockEdit, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of("qwen2_vl")
    monkeypatch.setattr(adapter.model, "forward", lambda *_, **__: pytest.fail("the model ran"))
    for run in (PatchEngine(adapter).run, lambda *given: run_plain(adapter, *given)):
        with pytest.raises(UserError, match=says):
            run(PAIRS, [InBlocks(0, edit)])


def test_flash_attention_takes_no_mask(adapter_of: Callable[[str], Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_of("qwen2_vl")
    monkeypatch.setattr(adapter.model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UserError, match="needs a mask, which attention 'flash_attention_2' cannot take"):
        PatchEngine(adapter).run(PAIRS, [InBlocks(0, Knockout(np.array([1]), np.array([0]), 0, 0))])
