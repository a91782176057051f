"""Answers to questions under edits of their own runs, not of the image alone, as rows of ``amplification.parquet``."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from PIL import Image
from torch import Tensor

from vlm_spatial.amplification.scoring import SCHEMA, answer_row
from vlm_spatial.interventions.answers import AnswerReader, wrote
from vlm_spatial.interventions.edited_runs import finite
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.memory import pairs_at_once
from vlm_spatial.interventions.patch import InBlocks, PairRuns, Patch, Run
from vlm_spatial.interventions.pictures import pictures
from vlm_spatial.interventions.prefetch import prefetch
from vlm_spatial.progress import progress
from vlm_spatial.scenes.dataset import Dataset

Parts = tuple[Patch | InBlocks, ...]


@dataclass(frozen=True)
class EditedRun:
    """What is done to a question's runs.

    Attributes:
        parts: makes the edits of pair number ``pair`` with its clean run; none of them: the run is an untouched one.
    """

    site: str
    method: str
    alpha: float
    parts: Callable[[int, Run], Parts]


def score_edited(
    engine: PatchEngine, dataset: Dataset, asked: pl.DataFrame, edits_of: Callable[[Mapping[str, Any]], Sequence[EditedRun]], what: str
) -> pl.DataFrame:
    """Every question under each of its edits.

    Args:
        asked: as :func:`~vlm_spatial.amplification.questions.sample_questions` gives them.
        edits_of: a question's edits; a question without any has no rows.
        what: named in the progress bar.
    """
    planned = [(question, edits) for question in asked.iter_rows(named=True) if (edits := edits_of(question))]
    readers = [AnswerReader.of(engine.adapter, question["candidates"], question["template"]) for question, _ in planned]
    most = max((len(reader.beginnings) * len(edits) for reader, (_, edits) in zip(readers, planned, strict=True)), default=1)
    size = pairs_at_once(engine.adapter.vocabulary, most)
    groups = [list(range(start, min(start + size, len(planned)))) for start in range(0, len(planned), size)]
    rows: list[dict[str, object]] = []

    def read(group: Sequence[int]) -> dict[str, Image.Image]:
        return pictures(engine.adapter, dataset, dict.fromkeys(planned[number][0]["scene_id"] for number in group))

    for group, images in progress(prefetch(groups, read), what, len(groups)):
        rows += _rows(engine, images, [(*planned[number], readers[number]) for number in group], what)
    return pl.DataFrame(rows, schema=SCHEMA)


def _rows(
    engine: PatchEngine,
    images: Mapping[str, Image.Image],
    group: Sequence[tuple[Mapping[str, Any], Sequence[EditedRun], AnswerReader]],
    what: str,
) -> Iterator[dict[str, object]]:
    runs: list[PairRuns] = []
    # What is done to which run, in the order of the rows.
    wanted: list[tuple[int, Parts]] = []
    for question, edits, reader in group:
        first, prompts = len(runs), reader.prompts(question["prompt"])
        runs += [PairRuns(question["question_id"], Run(images[question["scene_id"]], prompt)) for prompt in prompts]
        wanted += [(number, edit.parts(number, runs[number].clean)) for edit in edits for number in range(first, len(runs))]
    edited = [(number, parts) for number, parts in wanted if parts]
    untouched = [number for number, parts in wanted if not parts]
    made = iter(finite(engine, engine.run(runs, [parts for _, parts in edited]), [runs[number] for number, _ in edited], what))
    clean = iter(finite(engine, engine.clean([runs[number] for number in untouched]), [runs[number] for number in untouched], what))
    following: Iterator[Tensor] = (next(made) if parts else next(clean) for _, parts in wanted)
    decode = engine.adapter.processor.tokenizer.decode
    for question, edits, reader in group:
        for edit in edits:
            of_run = torch.stack(list(itertools.islice(following, len(reader.beginnings))))
            written = wrote(reader, of_run.argmax(dim=-1).tolist(), decode)[1]
            yield answer_row(question, reader, reader.log_probabilities(of_run), written, edit.site, edit.method, edit.alpha)
