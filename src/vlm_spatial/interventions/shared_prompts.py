"""Logits of untouched runs. What the prompts of one image have in common, the image above all, is computed once an image.

Exact where image tokens attend to nothing behind the image. Where they attend to the whole prompt, every run is computed whole.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_spatial.interventions.clean_runs import Vision, edit_cells, run_language, run_vision
from vlm_spatial.interventions.memory import Memory
from vlm_spatial.interventions.patch import Run
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.block_edits import KeysValues
from vlm_spatial.models.decoder import Decoder, Layout

DecoderOf = Callable[[Layout, Run], Decoder]
"""Gives the language model for a layout. The run is an example: its prompt has that layout, or begins with it."""


@dataclass
class _Images:
    """Which images some runs show, and what they ask about each. An image with other edits is another image.

    Attributes:
        firsts: one run of each image.
        asked: one entry a question: the number of its image, and a run that asks it.
        question: number of each run's question, by the run's identity.
    """

    firsts: list[Run] = field(default_factory=list)
    asked: list[tuple[int, Run]] = field(default_factory=list)
    question: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Sequence[Run], vision: Vision) -> "_Images":
        made = cls()
        images: dict[Hashable, int] = {}
        questions: dict[Hashable, int] = {}
        for run in runs:
            key = (id(vision.values[id(run)]), run.edits_key)
            if key not in images:
                images[key] = len(made.firsts)
                made.firsts.append(run)
            posed = (images[key], run.prompt)
            if posed not in questions:
                questions[posed] = len(made.asked)
                made.asked.append((images[key], run))
            made.question[id(run)] = questions[posed]
        return made


def answers(adapter: Adapter, decoder_of: DecoderOf, runs: Sequence[Run], memory: Memory) -> Float[Tensor, "runs vocabulary"]:
    """Last-position logits of every run, float32 on the CPU.

    Args:
        runs: whose images have one token grid, and stand at the same place in their prompts.
    """
    vision = run_vision(adapter, runs, [], memory)
    images = _Images.of(runs, vision)
    layouts = [Layout.of(adapter, run.image, run.prompt) for _, run in images.asked]
    ids = [adapter.tokens(run.image, run.prompt)[0][0] for _, run in images.asked]
    shared = common_length(ids) if adapter.reach != "prompt" and len(images.firsts) < len(images.asked) else 0
    known = (
        _beginnings(adapter, decoder_of, images.firsts, vision, layouts[0], ids[0][:shared], memory) if shared >= layouts[0].end else None
    )
    found = torch.empty(len(images.asked), adapter.vocabulary)
    by_layout: dict[Layout, list[int]] = defaultdict(list)
    for number, layout in enumerate(layouts):
        by_layout[layout].append(number)
    for layout, members in by_layout.items():
        alike = [images.asked[number][1] for number in members]
        decoder = decoder_of(layout, alike[0])
        if known is None:
            states = run_language(adapter, decoder, alike, vision, memory, keep=False)
            found[members] = states.logits[[states.row[id(run)] for run in alike]]
            continue
        size = memory.rows(adapter, layout.length - shared, layout.length)
        for start in range(0, len(members), size):
            part = members[start : start + size]
            of_images = torch.tensor([images.asked[number][0] for number in part])
            found[part] = _endings(adapter, decoder, torch.stack([ids[number][shared:] for number in part]), known, of_images, shared)
    return found[[images.question[id(run)] for run in runs]]


def common_length(ids: Sequence[Int[Tensor, " positions"]]) -> int:
    """How many first tokens all rows have in common, the last token of the shortest row left out."""
    longest = min(len(row) for row in ids) - 1
    differing = (torch.stack([row[:longest] for row in ids]) != ids[0][:longest]).any(dim=0).nonzero()
    return int(differing[0]) if len(differing) else longest


def _beginnings(
    adapter: Adapter,
    decoder_of: DecoderOf,
    runs: Sequence[Run],
    vision: Vision,
    layout: Layout,
    ids: Int[Tensor, " positions"],
    memory: Memory,
) -> list[KeysValues]:
    """Keys and values of every block for the positions of ``ids``, a row a run."""
    decoder = decoder_of(Layout(len(ids), layout.positions, layout.grid), runs[0])
    size = memory.rows(adapter, len(ids), len(ids))
    made: list[list[KeysValues]] = [[] for _ in range(decoder.depth)]
    for start in range(0, len(runs), size):
        part = runs[start : start + size]
        connectors = torch.cat([vision.connector(run) for run in part])
        positions = torch.as_tensor(layout.positions, device=adapter.device).expand(len(part), -1)
        hidden = adapter.embed(ids.to(adapter.device).expand(len(part), -1), positions, connectors)
        for layer in range(decoder.depth):
            hidden = decoder.entering(layer, hidden, connectors)
            if layer == decoder.depth - 1:
                made[layer].append(decoder.keys_values(layer, hidden))
            else:
                hidden, new = decoder.block(layer, hidden)
                made[layer].append(new)
                edit_cells(hidden, part, layer, layout)
    return [(torch.cat([keys for keys, _ in parts]), torch.cat([values for _, values in parts])) for parts in made]


def _endings(
    adapter: Adapter,
    decoder: Decoder,
    ids: Int[Tensor, "rows positions"],
    known: Sequence[KeysValues],
    of_images: Int[Tensor, " rows"],
    shared: int,
) -> Float[Tensor, "rows vocabulary"]:
    """Logits of rows that go on from position ``shared`` with ``ids``, each after the beginning of its image."""
    hidden = adapter.model.get_input_embeddings()(ids.to(adapter.device))
    for layer in range(decoder.depth - 1):
        hidden, _ = decoder.block(layer, hidden, shared, _of(known[layer], of_images))
    return decoder.answer(hidden, shared, _of(known[-1], of_images))[0].cpu()


def _of(pair: KeysValues, rows: Int[Tensor, " rows"]) -> KeysValues:
    keys, values = pair
    return keys[rows.to(keys.device)], values[rows.to(values.device)]
