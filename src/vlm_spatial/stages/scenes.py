"""Stage ``scenes``: draw (or cut from photos) a dataset's images and write its tables."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.config.settings import Settings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet, written_then_renamed
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.contact_sheet import write_contact_sheet
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.pairs import Pair, plan_pairs
from vlm_spatial.scenes.photo_merges import draw_photo
from vlm_spatial.scenes.photos import SetAside
from vlm_spatial.scenes.plan import Planned, plan_scenes
from vlm_spatial.scenes.sources.whatsup import plan_whatsup
from vlm_spatial.scenes.tables import pairs_table, questions_table, scenes_table, set_aside_table
from vlm_spatial.stages.stage import Job, run_stage


class ScenesJob(Settings):
    """Settings of the stage: one dataset, its name and the workflow's seed."""

    dataset: DatasetSettings
    name: str
    seed: int = 0


def scenes(job: Job) -> None:
    """Write one dataset's folder: images, scenes.parquet, questions.parquet, pairs.parquet, set_aside.parquet and contact_sheet.png.

    Input ``boxes``: what the boxes stage found, for a dataset with a detector.
    """
    settings = _settings(job.settings)
    dataset = settings.dataset
    planned, pairs, drawings, draw, set_aside = _plan(dataset, settings.seed, job.inputs.get("boxes"))
    with written_then_renamed(job.outputs["folder"]) as folder:
        checksums = write_images(folder, drawings, draw)
        tables = {
            "scenes": scenes_table(planned, checksums),
            "questions": questions_table(planned, dataset.templates, dataset.wording),
            "pairs": pairs_table(pairs),
        }
        for name, table in tables.items():
            write_parquet(table, folder / f"{name}.parquet")
        write_parquet(set_aside_table(set_aside), folder / "set_aside.parquet")
        write_contact_sheet(folder, **tables)
    if set_aside:
        print(f"scenes: {len(set_aside)} files set aside, listed in set_aside.parquet; {len(planned)} scenes made", file=sys.stderr)


def _plan(
    dataset: DatasetSettings, seed: int, detected: Path | None
) -> tuple[list[Planned], list[Pair], Mapping[str, Any], Callable[[Any], Image.Image], list[SetAside]]:
    """Scenes, pairs, what to draw and how, and what is not used."""
    if dataset.kind == "whatsup":
        photos = plan_whatsup(dataset, seed, detected)
        return photos.scenes, photos.pairs, photos.drawings, draw_photo, photos.set_aside
    pair_scenes, pairs = plan_pairs(dataset, seed)
    planned = [*plan_scenes(dataset, seed), *pair_scenes]
    return planned, pairs, {item.scene_id: item.scene for item in planned}, render, []


def _settings(values: dict[str, Any]) -> ScenesJob:
    try:
        return ScenesJob.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"settings.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


if __name__ == "__main__":
    run_stage("scenes", scenes)
