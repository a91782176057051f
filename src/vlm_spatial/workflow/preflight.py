"""Files from outside that a configuration names, judged before any job: a mistake found here costs a second, in a job an hour.

Only what can be told in moments: nothing is loaded, and of weights and photos no more than the beginning is read.
"""

import itertools
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.config.workflow import Config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.models.folder import check_folder, config_file
from vlm_spatial.models.peft import check_peft
from vlm_spatial.models.weights import check_weights
from vlm_spatial.scenes.sources.registry import source_of
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.workflow.answer_check import answer_reports, never_likeliest
from vlm_spatial.workflow.layout_check import misfits


def check_outside(config: Config, source: Source, *, quiet: bool = False) -> None:
    """Refuse checkpoints, detectors, photos and boxes that no job could use, and a results folder that is none.

    Args:
        config: validated; folders that it names exist.
        source: the configuration's files, for messages.
        quiet: say nothing of what is no fault.

    Raises:
        UserError: naming the key, the file, what was found and what to do.
    """
    results = Path(config.results)
    with _about(source, "results"):
        for path in (results, *results.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; move it, or give another folder")
    for name, model in config.models.items():
        if model.checkpoint is not None and not model.is_hub_id:
            with _about(source, f"models.{name}.checkpoint"):
                check_folder(Path(model.checkpoint), model.prompting.chat_template, model.device)
        if model.peft is not None:
            with _about(source, f"models.{name}.peft"):
                check_peft(Path(model.peft))
    for name, dataset in config.datasets.items():
        source_of(dataset.kind).check(dataset, lambda key, name=name: _about(source, f"datasets.{name}.{key}"))  # type: ignore[misc]
        outlook = source_of(dataset.kind).outlook(dataset)
        if outlook and not quiet:
            print(f"datasets.{name}: {outlook}", file=sys.stderr)
        for key, folder in dataset.checkpoints.items():
            with _about(source, f"datasets.{name}.{key}"):
                config_file(folder)
                check_weights(folder)
    # A login node may have no GPU where its jobs do.
    probes: ProbesSettings = getattr(config, STAGES["probes"].key)
    if probes.device == "cuda" and shutil.which("sbatch") is None:
        from vlm_spatial.models.on_device import device_named

        with _about(source, "probes.device"):
            device_named("cuda")
    for key, wrong in misfits(config):
        raise UserError(f"{source.at(key)}: {key}: {wrong}")
    for report in answer_reports(config):
        if report.remarkable and not quiet:
            print(f"{report.model} on {report.dataset}: {report.summary}", file=sys.stderr)
        with _about(source, f"models.{report.model}.datasets"):
            never = never_likeliest(report, config)
        if never and not quiet:
            print(f"{report.model} on {report.dataset}: {never}", file=sys.stderr)


@contextmanager
def _about(source: Source, key: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{source.at(key)}: {key}: {error}") from error


def without_slurm(command: Sequence[str]) -> str | None:
    """What to tell whose Snakemake command asks for SLURM, also by a profile, on a machine that has none; else ``None``."""
    if shutil.which("sbatch") is not None:
        return None
    for option, value in itertools.pairwise(word for part in command for word in part.split("=", 1)):
        profile = Path(value, "config.yaml")
        says = profile.read_text(encoding="utf-8") if option.endswith("profile") and profile.is_file() else ""
        if re.search(r"^executor: *slurm\b", says, re.MULTILINE) or (option, value) == ("--executor", "slurm"):
            return "there is no SLURM on this machine (sbatch: not found): a dry-run shows the jobs, submit them where there is one"
    return None
