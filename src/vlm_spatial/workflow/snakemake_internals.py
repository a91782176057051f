"""Every attribute of Snakemake's workflow that its documentation does not have, for what it offers no documented way; three in all.

``tests/test_snakemake_internals.py`` fails loudly when one of them is gone or works in another way.
"""

from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError


def config_files(workflow: Any) -> list[Path]:
    """The files of ``--configfile``. Documented is only what all of them give together, laid over the Snakefile's own file."""
    return [Path(path) for path in workflow.overwrite_configfiles]


def executor(workflow: Any) -> str | None:
    """Name of what runs jobs (``local``, ``slurm``, …); ``None`` for a dry-run and all else that only looks.

    Known once the graph of jobs is being made, not while the Snakefile is read.
    """
    plugin = workflow.executor_plugin
    return None if plugin is None or plugin.common_settings.dryrun_exec else plugin.name


def force(workflow: Any, output: str) -> None:
    """Have the job of ``output`` run, if it is among those that are needed; call it from an input function of that job.

    ``--forcerun`` is no way: it is read before any code of a workflow knows which jobs are needed, and makes targets of what it names.

    Raises:
        UserError: if this version of Snakemake cannot be told.
    """
    forced = getattr(workflow.dag, "forcefiles", None)
    if not isinstance(forced, set):
        raise UserError(
            f"{output}: has to be made again, which this version of Snakemake cannot be told; install one that pyproject.toml names"
        )
    forced.add(output)
