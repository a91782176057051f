"""The pairs of an experiment as the interventions need them: scenes, token sets, candidates and hypotheses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from PIL import Image, ImageOps

from vlm_spatial.errors import UserError
from vlm_spatial.interventions.answers import AnswerReader
from vlm_spatial.interventions.labels import INTENDED
from vlm_spatial.interventions.patch import PairRuns, Run
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import Prompt
from vlm_spatial.models.values import Edit
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import SceneTokens

MIRRORED = "mirrored"
"""Stands for the id of a scene: the mirror image of a pair's own."""

EditOf = Callable[[str], Edit | None]
"""Scene id → the edit of what enters the language model in a run of that scene (None: none)."""


@dataclass(frozen=True)
class Case:
    """One row of ``pairs.parquet`` on one model's token grid, or a pair of a scene and its mirror image (``mirror``).

    Attributes:
        slots: the two slots exchanged; the first is the one asked about.
        tokens, counterfactual_tokens: token sets of the two scenes; the same for rendered scenes, whose geometry a pair shares.
        hypotheses: predicted answer of every hypothesis, all different.
    """

    pair_id: str
    experiment: str
    axis: str
    template: str
    clean_scene: str
    counterfactual_scene: str
    unrelated_scene: str | None
    slots: tuple[int, int]
    prompt: str
    counterfactual_prompt: str
    clean_answer: str
    counterfactual_answer: str
    hypotheses: dict[str, str]
    tokens: SceneTokens
    counterfactual_tokens: SceneTokens
    reader: AnswerReader

    @property
    def shown(self) -> list[str]:
        """The scenes whose images its runs show."""
        counterfactual = [] if self.experiment in ("conflict", "mirror") else [self.counterfactual_scene]
        return [self.clean_scene, *counterfactual, *([] if self.unrelated_scene is None else [self.unrelated_scene])]

    def runs(self, images: Mapping[str, Image.Image], edit: EditOf | None = None) -> list[PairRuns]:
        """The clean run and its sources, once for each prompt that the reader asks for.

        Args:
            images: of the scenes that are ``shown``.
            edit: of a scene; mirrored images have none, so no ``mirror`` pair is run with it.
        """
        images = dict(images)
        if self.experiment == "mirror":
            images[MIRRORED] = ImageOps.mirror(images[self.clean_scene])
            # Shown several times: of a read-only image the key is worked out once (see image_key).
            images[MIRRORED].readonly = 1
        made = []
        for clean, counterfactual in zip(self.reader.prompts(self.prompt), self.reader.prompts(self.counterfactual_prompt), strict=True):
            sources = {}
            if self.experiment == "mirror":
                sources["counterfactual"] = Run(images[MIRRORED], clean)
            elif self.experiment != "conflict":
                sources["counterfactual"] = _run(images, self.counterfactual_scene, counterfactual, edit)
            if self.unrelated_scene is not None:
                sources["unrelated"] = _run(images, self.unrelated_scene, clean, edit)
            made.append(PairRuns(self.pair_id, _run(images, self.clean_scene, clean, edit), sources))
        return made


def _run(images: Mapping[str, Image.Image], scene_id: str, prompt: Prompt, edit: EditOf | None) -> Run:
    return Run(images[scene_id], prompt, None if edit is None else edit(scene_id))


def read_cases(dataset: Dataset, adapter: Adapter, experiment: str, *, unrelated: bool = False) -> list[Case]:
    """The pairs of ``experiment``, in the order of the table.

    Args:
        unrelated: keep the unrelated scene, as a second source.

    Raises:
        UserError: if a pair's hypotheses agree, or predict what is no candidate, or its images give different token grids.
    """
    sizes = {scene: (width, height) for scene, width, height in dataset.scenes.select("scene_id", "width", "height").iter_rows()}
    rows = dataset.pairs.filter(pl.col("experiment") == experiment).iter_rows(named=True)
    return [_case(row, dataset, adapter, sizes, unrelated) for row in rows]


def _case(row: dict[str, Any], dataset: Dataset, adapter: Adapter, sizes: dict[str, tuple[int, int]], unrelated: bool) -> Case:
    pair_id, experiment = row["pair_id"], row["experiment"]
    hypotheses = {name: answer for name, answer in row["hypotheses"].items() if answer is not None}
    for needed in ("stay", INTENDED[experiment]):
        if needed not in hypotheses:
            raise UserError(f"pair {pair_id}: has no hypothesis {needed!r}; {experiment} pairs need it")
    if len(set(hypotheses.values())) < len(hypotheses) or not set(hypotheses.values()) <= set(row["candidates"]):
        raise UserError(f"pair {pair_id}: hypotheses {hypotheses} must be different candidates of {list(row['candidates'])}")
    # Few photographs may leave a pair without a scene that shares nothing with it.
    unrelated = unrelated and row["unrelated_scene"] is not None
    scenes = [row["clean_scene"], row["counterfactual_scene"], *([row["unrelated_scene"]] if unrelated else [])]
    grids = [adapter.grid(*sizes[scene]) for scene in scenes]
    if any(grid != grids[0] for grid in grids):
        raise UserError(f"pair {pair_id}: its scenes give token grids {grids}; both runs of a pair need the same grid")
    return Case(
        pair_id=pair_id,
        experiment=experiment,
        axis=row["axis"],
        template=row["template"],
        clean_scene=row["clean_scene"],
        counterfactual_scene=row["counterfactual_scene"],
        unrelated_scene=row["unrelated_scene"] if unrelated else None,
        slots=(int(row["slots"][0]), int(row["slots"][1])),
        prompt=row["prompt"],
        counterfactual_prompt=row["counterfactual_prompt"],
        clean_answer=row["clean_answer"],
        counterfactual_answer=row["counterfactual_answer"],
        hypotheses=hypotheses,
        tokens=dataset.tokens(row["clean_scene"], grids[0]),
        counterfactual_tokens=dataset.tokens(row["counterfactual_scene"], grids[0]),
        reader=AnswerReader.of(adapter, row["candidates"], row["template"]),
    )
