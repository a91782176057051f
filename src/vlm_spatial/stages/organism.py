"""Stage: train a model organism and write it as an ordinary checkpoint folder."""

from pydantic import ValidationError
from transformers.utils import logging

from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.errors import UserError
from vlm_spatial.models.organisms.organism import make_organism
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.stages.stage import Job, run_stage, section
from vlm_spatial.workflow.code_identity import CODE_CACHE, stage_identity


def organism(job: Job) -> None:
    """Train the organism of ``settings["organism"]`` on scenes sampled from ``settings["datasets"]``; writes ``folder``."""
    settings = section(job, OrganismSettings, "organism")
    try:
        datasets = {name: drawn_source(values["kind"]).settings.model_validate(values) for name, values in job.settings["datasets"].items()}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"--settings: datasets: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    # Loading and saving this small model takes no time that a bar could show.
    logging.disable_progress_bar()
    code = stage_identity("organism", CODE_CACHE).digest
    make_organism(job.outputs["folder"], job.settings["name"], settings, datasets, job.settings["seed"], code)


if __name__ == "__main__":
    run_stage("organism", organism)
