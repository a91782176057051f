"""The sweep over corrections: many settings for each question, the vision tower run once an image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import CLEAN, PairRuns, Patch, Run
from vlm_spatial.models.adapter import Site, SiteValues


@dataclass(frozen=True)
class Setting:
    """One correction at one site. ``make`` builds it for a question (only the oracle form needs to know which)."""

    site: Site
    method: str
    draw: int
    alpha: float
    make: Callable[[str], Callable[[SiteValues], SiteValues]]


@dataclass(frozen=True)
class Asked:
    """A question to sweep over: its id and its scene's, and the run."""

    question_id: str
    scene_id: str
    run: Run


def sweep(
    engine: PatchEngine, questions: Sequence[Asked], settings: Sequence[Setting], cells: int, chunk: int = 64
) -> Iterator[tuple[Sequence[Asked], Float[Tensor, "questions settings vocabulary"]]]:
    """Next-token logits of every question under every setting, a chunk of questions at a time (bounded memory)."""
    everywhere = np.arange(cells)
    for start in range(0, len(questions), chunk):
        part = questions[start : start + chunk]
        pairs = [PairRuns(q.question_id, q.run) for q in part]
        patches = [
            Patch(index, setting.site, everywhere, source=CLEAN, transform=_on_clean(setting.make(question.scene_id)))
            for index, question in enumerate(part)
            for setting in settings
        ]
        yield part, engine.run(pairs, patches).reshape(len(part), len(settings), -1)


def _on_clean(correction: Callable[[SiteValues], SiteValues]) -> Callable[[SiteValues, SiteValues], SiteValues]:
    return lambda clean, _source: correction(clean)
