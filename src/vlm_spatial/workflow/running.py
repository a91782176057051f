"""What a workflow does beside running jobs: it takes its results, and has those made again that are not what they should be."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from vlm_spatial.errors import UserError
from vlm_spatial.workflow.lock import VARIABLE, WorkflowLock, job_lock
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.preflight import without_slurm
from vlm_spatial.workflow.snakemake_internals import executor, force
from vlm_spatial.workflow.staleness import Existing


class Running:
    """One run of Snakemake, as the rules see it; its errors end the run with one line.

    Args:
        workflow: Snakemake's.
    """

    def __init__(self, workflow: Any, plan: Plan) -> None:
        self._workflow, self._plan, self._existing = workflow, plan, Existing(plan)
        self._lock = WorkflowLock(plan.results)
        # Asked before the results are taken: from then on the environment is that of jobs.
        self._is_main = is_main()
        self._said: set[str] = set()
        self._no_slurm = without_slurm(sys.argv)
        self._say(self._no_slurm)
        # A job on a cluster is run by a Snakemake of its own, which removes the results that are there before the stage begins.
        self._share = ExitStack()
        if not self._is_main:
            _or_end(partial(self._share.enter_context, job_lock("snakemake")))
        self._stale: dict[Path, bool] = {}

    def stale(self, stage: str) -> Callable[[Any], list[str]]:
        """Input function that adds no input, but has a job run whose existing results are not what they should be.

        Snakemake trusts a result that it has no record of, and does not look into files. The provenance records say what made a
        result, so damaged results, and those of other code or settings that came without Snakemake's record, are found here.
        The reason is said in words: Snakemake names a changed param only by its hash.
        """

        def force_if_stale(wildcards: Any) -> list[str]:
            if self._is_main:
                self._take_results()
                for path, names in self._plan.results_of(stage, **dict(wildcards.items())):
                    if path.exists() and self._is_stale(path, names):
                        # As the rules name it.
                        output = f"{self._plan.config.results}/{path.relative_to(self._plan.results)}"
                        _or_end(partial(force, self._workflow, output))
            return []

        return force_if_stale

    def _take_results(self) -> None:
        """What another workflow is changing cannot be planned with. A dry-run only looks."""
        if self._lock.held or executor(self._workflow) is None:
            return
        if self._no_slurm and executor(self._workflow) == "slurm":
            raise SystemExit(f"error: {self._no_slurm}")
        _or_end(partial(self._lock.take, self._say))

    def _is_stale(self, path: Path, names: tuple[str, ...]) -> bool:
        if path not in self._stale:
            reasons = self._existing.reasons(path, names)
            self._stale[path] = bool(reasons)
            if reasons:
                more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
                print(f"again: {path}: {'; '.join(reasons[:3])}{more}", file=sys.stderr)
                self._say(self._existing.upgrade_note(path))
        return self._stale[path]

    def _say(self, note: str | None) -> None:
        if note and note not in self._said:
            self._said.add(note)
            print(f"note: {note}", file=sys.stderr, flush=True)


def is_main() -> bool:
    """Whether this is the Snakemake that a user started, not one that a job on a cluster is run by."""
    return not os.environ.get(VARIABLE)


def _or_end(action: Callable[[], None]) -> None:
    try:
        action()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
