"""Stage ``scenes``: draw (or cut from photos) a dataset's images and write its tables."""

import sys
from typing import Any

from pydantic import ValidationError

from vlm_spatial.config.datasets import AnyDataset
from vlm_spatial.config.settings import Settings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet, written_then_renamed
from vlm_spatial.scenes.contact_sheet import write_contact_sheet
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.plan import SPLITS
from vlm_spatial.scenes.sources.registry import dataset_files, source_of
from vlm_spatial.scenes.tables import pairs_table, questions_table, scenes_table, set_aside_table
from vlm_spatial.stages.stage import Job, run_stage


class ScenesJob(Settings):
    """Settings of the stage: one dataset, its name and the workflow's seed."""

    dataset: AnyDataset
    name: str
    seed: int = 0


def scenes(job: Job) -> None:
    """Write one dataset's folder: images, scenes.parquet, questions.parquet, pairs.parquet, set_aside.parquet and contact_sheet.png.

    Input ``boxes``: what the boxes stage found, for a dataset with a detector.
    """
    settings = _settings(job.settings)
    dataset = settings.dataset
    planned = source_of(dataset.kind).plan(dataset, settings.seed, job.inputs.get("boxes"))
    with written_then_renamed(job.outputs["folder"]) as folder:
        write_images(folder, planned.drawings, planned.draw)
        tables = {
            "scenes": scenes_table(planned.scenes),
            "questions": questions_table(planned.scenes, dataset.templates, dataset.wording, dataset.asked_slots),
            "pairs": pairs_table(planned.pairs),
        }
        for name, table in tables.items():
            write_parquet(table, folder / f"{name}.parquet")
        write_parquet(set_aside_table(planned.set_aside), folder / "set_aside.parquet")
        write_contact_sheet(folder, **tables)
    three = {item.split for item in planned.scenes if item.scene.variant == "main"}
    empty = [split for split in SPLITS if getattr(dataset.scenes, split) and split not in three]
    if empty:
        print(f"scenes: no scene of three objects in {', '.join(empty)}; set_aside.parquet says why, or give more photos", file=sys.stderr)
    if planned.set_aside:
        left_out, made = len(planned.set_aside), len(planned.scenes)
        print(f"scenes: {left_out} files set aside, listed in set_aside.parquet; {made} scenes made", file=sys.stderr)


def _settings(values: dict[str, Any]) -> ScenesJob:
    try:
        return ScenesJob.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"settings.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


if __name__ == "__main__":
    run_stage("scenes", scenes, outside=dataset_files)
