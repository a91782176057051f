"""The sweep over corrections: many settings and questions for each image, every shared computation done once.

The vision encoder runs once an image. In most families a visual token attends to nothing after the image, so what the language
model makes of a corrected image serves every question about it: its keys and values are computed once a setting, up to where the questions
begin to differ, and each question adds its own few tokens to them. Equal to a full forward pass with a hook for every question and
setting, within the rounding of float32.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_spatial.interventions.clean_runs import Vision, resumed, run_vision
from vlm_spatial.interventions.memory import Memory
from vlm_spatial.interventions.patch import Run
from vlm_spatial.interventions.shared_prompts import common_length
from vlm_spatial.measures.amplification import NEUTRAL
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.decoder import Decoder, KeysValues, Layout
from vlm_spatial.models.inputs import Prompt
from vlm_spatial.models.values import Site, SiteValues

Correction = Callable[[Float[Tensor, "cells patches features"]], Float[Tensor, "cells patches features"]]


@dataclass(frozen=True)
class Setting:
    """One correction at one site. ``make`` builds it for a scene (only the oracle form needs to know which).

    ``axes`` are those of the scenes that it can be made for; None for all.
    """

    site: Site
    method: str
    draw: int
    alpha: float
    make: Callable[[str], Correction]
    axes: frozenset[str] | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether this is the alpha at which the method leaves every value as it is."""
        return self.alpha == NEUTRAL[self.method]


@dataclass(frozen=True)
class Asked:
    """A question to sweep over: its prompt, and the tokens whose log-probabilities are wanted."""

    question_id: str
    prompt: Prompt
    tokens: Sequence[int]


@dataclass(frozen=True)
class Following:
    """What follows a question under each setting, on the CPU.

    Attributes:
        scores: log-probabilities of the wanted tokens, float64.
        likeliest: the token of highest probability.
    """

    scores: Float[Tensor, "settings tokens"]
    likeliest: Int[Tensor, " settings"]

    @classmethod
    def of(cls, logits: Float[Tensor, "settings vocabulary"], tokens: Sequence[int]) -> "Following":
        """From the logits behind a question."""
        scores = logits[:, list(tokens)].double() - logits.logsumexp(-1).double()[:, None]
        return cls(scores.cpu(), logits.argmax(dim=-1).cpu())

    @classmethod
    def joined(cls, parts: "Sequence[Following]", rows: Sequence[int]) -> "Following":
        """Rows of several parts, in another order."""
        return cls(torch.cat([part.scores for part in parts])[rows], torch.cat([part.likeliest for part in parts])[rows])


class Sweep:
    """Scores questions under many corrections.

    Args:
        adapter: the model.
        memory_gb: limit, in GiB, for the tensors that are alive at once beside the weights.
    """

    def __init__(self, adapter: Adapter, memory_gb: float = 4.0) -> None:
        self.adapter = adapter
        self._memory = Memory(memory_gb)
        self._decoders: dict[Layout, Decoder] = {}

    @torch.inference_mode()
    def scores(self, image: Run, scene_id: str, questions: Sequence[Asked], settings: Sequence[Setting]) -> list[Following]:
        """What follows each question about one image under each setting.

        Args:
            image: a run with the image; its prompt does not matter.
            scene_id: what the settings' corrections are made for.
            questions: about that image.
            settings: those that change nothing share one computation.
        """
        shared = self._shared(image, questions)
        if shared is None:
            # Image tokens that see the question: nothing is shared between questions.
            return [self.scores(image, scene_id, [question], settings)[0] for question in questions]
        active = [number for number, setting in enumerate(settings) if not setting.changes_nothing]
        rows = [None, *(settings[number] for number in active)] if len(active) < len(settings) else [settings[n] for n in active]
        sites = sorted({setting.site for setting in settings if setting.site.startswith("vision.")})
        vision = run_vision(self.adapter, [image], sites, self._memory)
        # Beside the batch that is running, the keys and values of every block are kept.
        computed = shared or self._layout(image, questions[0]).length
        kept = self._memory.pairs(self.adapter, computed, self.adapter.grid(*image.image.size), 1, 0)
        size = min(kept, self._memory.rows(self.adapter, computed, computed))
        parts = [
            self._answers(self._connectors(vision, image, scene_id, rows[start : start + size]), image, questions, shared)
            for start in range(0, len(rows), size)
        ]
        place = {number: row + len(rows) - len(active) for row, number in enumerate(active)}
        order = [place.get(number, 0) for number in range(len(settings))]
        return [Following.joined(of_question, order) for of_question in zip(*parts, strict=True)]

    def _shared(self, image: Run, questions: Sequence[Asked]) -> int | None:
        """How many first positions all questions have in common, the image among them; None if the image is not."""
        ids = [self._ids(image, question) for question in questions]
        shared = common_length(ids)
        layout = self._layout(image, questions[0])
        if self.adapter.reach == "prompt":
            return 0 if len(questions) == 1 else None
        return shared if shared >= layout.end else None

    def _connectors(self, vision: Vision, image: Run, scene_id: str, settings: Sequence[Setting | None]) -> SiteValues:
        """What enters the language model under each setting (None: untouched)."""
        made: dict[int, SiteValues] = {}
        by_layer: dict[int, list[int]] = defaultdict(list)
        for number, setting in enumerate(settings):
            values = vision.at(image, "connector" if setting is None else setting.site)
            changed = values if setting is None else setting.make(scene_id)(values).to(values)
            made[number] = changed[None]
            if setting is not None and setting.site.startswith("vision."):
                by_layer[int(setting.site.split(".")[1])].append(number)
        grid = self.adapter.grid(*image.image.size)
        size = self._memory.images(self.adapter, grid)
        for layer, members in by_layer.items():
            for start in range(0, len(members), size):
                part = members[start : start + size]
                changed = torch.cat([made[number] for number in part])
                made.update(zip(part, resumed(self.adapter, layer, changed, vision, [image] * len(part)).split(1), strict=True))
        return torch.cat([made[number] for number in range(len(settings))])

    def _answers(self, connectors: SiteValues, image: Run, questions: Sequence[Asked], shared: int) -> list[Following]:
        """What follows each question for some settings."""
        if shared == 0:
            return [self._whole(connectors, image, question) for question in questions]
        known = self._until(shared, connectors, image, questions[0])
        by_length: dict[Layout, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            by_length[self._layout(image, question)].append(number)
        found: dict[int, Following] = {}
        count = len(connectors)
        for layout, members in by_length.items():
            decoder = self._decoder(layout, image, questions[members[0]])
            size = max(1, self._memory.rows(self.adapter, layout.length - shared, layout.length) // count)
            for start in range(0, len(members), size):
                part = members[start : start + size]
                ids = torch.stack([self._ids(image, questions[number])[shared:] for number in part]).to(self.adapter.device)
                hidden = self.adapter.model.get_input_embeddings()(ids).repeat(count, 1, 1)
                for layer in range(decoder.depth - 1):
                    hidden, _ = decoder.block(layer, hidden, shared, _repeated(known[layer], len(part)))
                logits = decoder.answer(hidden, shared, _repeated(known[-1], len(part)))[0].reshape(count, len(part), -1)
                for place, number in enumerate(part):
                    found[number] = Following.of(logits[:, place], questions[number].tokens)
        return [found[number] for number in range(len(questions))]

    def _until(self, shared: int, connectors: SiteValues, image: Run, question: Asked) -> list[KeysValues]:
        """Keys and values of every block for the first ``shared`` positions, a row a setting."""
        layout = self._layout(image, question)
        decoder = self._decoder(Layout(shared, layout.positions, layout.grid), image, question)
        known: list[KeysValues] = []
        last = decoder.keys_values(decoder.depth - 1, self._last_input(decoder, connectors, image, question, known))
        return [*known, last]

    def _whole(self, connectors: SiteValues, image: Run, question: Asked) -> Following:
        """What follows one question, nothing shared with others."""
        layout = self._layout(image, question)
        decoder = self._decoder(layout, image, question)
        return Following.of(decoder.answer(self._last_input(decoder, connectors, image, question, []))[0], question.tokens)

    def _last_input(self, decoder: Decoder, connectors: SiteValues, image: Run, question: Asked, known: list[KeysValues]) -> Tensor:
        """What the last block gets at the decoder's positions, a row a setting; earlier blocks' keys and values are put into ``known``."""
        length, count, device = decoder.layout.length, len(connectors), self.adapter.device
        ids = self._ids(image, question)[:length].expand(count, -1).to(device)
        positions = torch.as_tensor(decoder.layout.positions).expand(count, -1).to(device)
        hidden = self.adapter.embed(ids, positions, connectors)
        for layer in range(decoder.depth - 1):
            hidden, made = decoder.block(layer, decoder.entering(layer, hidden, connectors))
            known.append(made)
        return decoder.entering(decoder.depth - 1, hidden, connectors)

    def _ids(self, image: Run, question: Asked) -> Int[Tensor, " positions"]:
        return self.adapter.tokens(image.image, question.prompt)[0][0]

    def _layout(self, image: Run, question: Asked) -> Layout:
        return Layout.of(self.adapter, image.image, question.prompt)

    def _decoder(self, layout: Layout, image: Run, question: Asked) -> Decoder:
        if layout not in self._decoders:
            self._decoders[layout] = Decoder.of(self.adapter, layout, image.image, question.prompt)
        return self._decoders[layout]


def _repeated(pair: KeysValues, times: int) -> KeysValues:
    """Each row of the keys and values ``times`` times: setting by setting, then question by question."""
    keys, values = pair
    return keys.repeat_interleave(times, dim=0), values.repeat_interleave(times, dim=0)


def by_scene(scene_of: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """The places of each scene in a list, scenes in the order of their first place."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, scene in enumerate(scene_of):
        found[scene].append(place)
    yield from found.items()
