# One run at a time in a results folder, and what has to be made again although Snakemake trusts it.
import functools
import os
import sys
from pathlib import Path

from snakemake.io import apply_wildcards


from vlm_spatial.errors import UserError
from vlm_spatial.workflow.lock import InUseError, WorkflowLock
from vlm_spatial.workflow.slurm import cancel_left_over

# Held by the workflow that runs jobs, from its plan on: what another one is changing cannot be planned with. The kernel lets go
# of it when that process ends, however it ends.
running = WorkflowLock(Path(RESULTS))


def own_results():
    """Take the results for this workflow, or end where another one has them."""
    try:
        running.take(
            lambda text: print(f"note: {text}", file=sys.stderr), cancel_in_queue
        )
    except InUseError as error:
        raise SystemExit(f"error: {error}") from None


def cancel_in_queue():
    """Jobs of a killed run would write the results that this run is about to write."""
    if workflow.executor_plugin.name == "slurm":
        cancelled = cancel_left_over(Path.cwd())
        if cancelled:
            print(
                f"cancelled jobs of an earlier run: {' '.join(cancelled)}",
                file=sys.stderr,
            )


@functools.cache
def plan_alone():
    """What another workflow is changing cannot be planned with. A dry-run only looks."""
    if workflow.executor_plugin is not None and not workflow.dryrun:
        try:
            own_results()
        except UserError:
            # It cannot be written, which matters to jobs only: where nothing is to be done, a read-only disk will do.
            pass


# The last onstart of all files is the only one that counts.
onstart:
    # Not reached by a dry-run, nor when there is nothing to do.
    if not running.held:
        try:
            own_results()
        except UserError as error:
            raise SystemExit(f"error: {error}") from None


def trusted(stage):
    """Input function that adds no input, but has a job made again whose existing results are not what they should be.

    Snakemake trusts a result that it has no record of, and does not look into files. Records say what made a result, so
    damaged results, and those of other code or settings that came without Snakemake's record, are found here.
    The reason is said in words: Snakemake names a changed param only by its hash.
    """

    def force_if_stale(wildcards):
        if workflow.is_main_process:
            plan_alone()
            for pattern in getattr(rules, stage).output:
                path = apply_wildcards(pattern, wildcards)
                if is_stale(path, tuple(wildcards)):
                    forced(path)
        return []

    return force_if_stale


def forced(path):
    """Has the job of `path` run. Snakemake has no public way for a Snakefile; a test looks whether this one still works."""
    if not isinstance(getattr(workflow.dag, "forcefiles", None), set):
        raise SystemExit(
            f"error: {path}: has to be made again, which this version of Snakemake cannot be told; install one that pyproject.toml names"
        )
    workflow.dag.forcefiles.add(path)


@functools.cache
def say_once(text):
    print(f"note: {text}", file=sys.stderr)


@functools.cache
def is_stale(path, names):
    """Whether a result exists and has to be made anew; says why, once."""
    reasons = plan.reasons(Path(path), names) if os.path.exists(path) else []
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        print(f"again: {path}: {'; '.join(reasons[:3])}{more}", file=sys.stderr)
        note = plan.upgrade_note(Path(path))
        if note:
            say_once(note)
    return bool(reasons)
