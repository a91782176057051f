"""Stage ``scenes``: draw (or cut from photos) a dataset's images and write its tables."""

from typing import Any

from pydantic import ValidationError

from vlm_spatial.config import DatasetSettings, Settings
from vlm_spatial.errors import UserError
from vlm_spatial.files import write_parquet, written_then_renamed
from vlm_spatial.scenes.build import render
from vlm_spatial.scenes.contact_sheet import write_contact_sheet
from vlm_spatial.scenes.images import write_images
from vlm_spatial.scenes.pairs import plan_pairs
from vlm_spatial.scenes.plan import plan_scenes
from vlm_spatial.scenes.tables import pairs_table, questions_table, scenes_table
from vlm_spatial.stages.stage import Job, run_stage


class ScenesJob(Settings):
    """Settings of the stage: one dataset, its name and the workflow's seed."""

    dataset: DatasetSettings
    name: str
    seed: int = 0


def scenes(job: Job) -> None:
    """Write one dataset's folder: images, scenes.parquet, questions.parquet, pairs.parquet and contact_sheet.png."""
    settings = _settings(job.settings)
    dataset = settings.dataset
    pair_scenes, pairs = plan_pairs(dataset, settings.seed)
    planned = [*plan_scenes(dataset, settings.seed), *pair_scenes]
    with written_then_renamed(job.outputs["folder"]) as folder:
        checksums = write_images(folder, {item.scene_id: item.scene for item in planned}, render)
        tables = {
            "scenes": scenes_table(planned, checksums),
            "questions": questions_table(planned, dataset.templates, dataset.wording),
            "pairs": pairs_table(pairs),
        }
        for name, table in tables.items():
            write_parquet(table, folder / f"{name}.parquet")
        write_contact_sheet(folder, **tables)


def _settings(values: dict[str, Any]) -> ScenesJob:
    try:
        return ScenesJob.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"settings.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


if __name__ == "__main__":
    run_stage("scenes", scenes)
