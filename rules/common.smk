# What all rules share: the validated configuration, settings and identities as params, resources.
import functools
import os
import sys
from pathlib import Path

from snakemake.io import apply_wildcards


from vlm_spatial.config.reading import parse_config
from vlm_spatial.stages.registry import of_scope, tables
from vlm_spatial.workflow.environment import prepend_paths
from vlm_spatial.errors import UserError
from vlm_spatial.workflow.code_identity import stage_identity
from vlm_spatial.workflow.preflight import check_outside
from vlm_spatial.workflow.lock import InUseError, WorkflowLock
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.slurm import cancel_left_over

# The stages run the code that lies beside the Snakefile, with the interpreter that runs Snakemake.
prepend_paths(PYTHONPATH=SOURCE, PATH=str(Path(sys.executable).parent))


def validated_plan():
    """The plan of the configuration; one clean line and the end where it or a file it names is wrong, before any job."""
    try:
        found = parse_config(config, CONFIG_FILES)
        # Not again in each job that is submitted.
        if workflow.is_main_process:
            check_outside(found, CONFIG_FILES)
        return Plan(found)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


plan = validated_plan()
RESULTS = plan.config.results
# Held by the workflow that runs jobs, from its plan on: what another one is changing cannot be planned with. The kernel lets go
# of it when that process ends, however it ends.
running = WorkflowLock(Path(RESULTS))


# A model uses what cores there are; never more threads than cores, which slows everything down.
CORES = len(os.sched_getaffinity(0))


def one_of(names):
    return "|".join(re.escape(name) for name in names) or "none"


wildcard_constraints:
    dataset=one_of(plan.config.datasets),
    organism=one_of(plan.config.organisms),
    model=one_of(plan.config.models),


def code(stage):
    """Hash of the code that a stage imports and of its packages' versions: Snakemake itself sees neither."""
    return stage_identity(stage).digest


def model_settings(stage):
    """Settings param of a stage that analyses a model: one dict of plain builtins, sorted."""
    return lambda wildcards: plan.model(stage, wildcards.model)


def model_content(stage):
    """Checksums of a checkpoint folder that no rule made."""
    return lambda wildcards: plan.content(plan.model(stage, wildcards.model))


def organism_of(wildcards):
    """Folder of the organism that a model is; nothing for a checkpoint from elsewhere."""
    organism = plan.config.models[wildcards.model].organism
    return [] if organism is None else f"{RESULTS}/organisms/{organism}"


def of_every_model(path):
    """`path` for each model and each of its datasets."""
    return [
        path.format(model=model, dataset=dataset)
        for model, settings in plan.config.models.items()
        for dataset in settings.datasets
    ]


def across_datasets(path):
    """`path` for each model of several datasets."""
    return [
        path.format(model=model)
        for model, settings in plan.config.models.items()
        if len(settings.datasets) > 1
    ]


def datasets_of(wildcards):
    return sorted(plan.config.models[wildcards.model].datasets)


def of_its_datasets(path):
    """Input function: `path` for each dataset of the model."""
    return lambda wildcards: [
        path.format(model=wildcards.model, dataset=dataset)
        for dataset in datasets_of(wildcards)
    ]


def named_by_dataset(*names):
    """Param: a stage's inputs of each dataset of the model, as `name:dataset=path`."""
    return lambda wildcards, input: [
        f"--input={name}:{dataset}={path}"
        for name in names
        for dataset, path in zip(datasets_of(wildcards), input[name], strict=True)
    ]


def detected_boxes(wildcards):
    """Boxes that a detector finds for a dataset; nothing for a dataset without one."""
    found = plan.config.datasets[wildcards.dataset].boxes_stage
    return [] if found is None else [f"{RESULTS}/boxes/{wildcards.dataset}.json"]


@functools.cache
def weights_mb(model):
    """MB of a model's weights; None where they are not on this machine."""
    settings = plan.config.models[model]
    if settings.organism is not None:
        return 10
    weights = list(Path(settings.checkpoint).glob("*.safetensors"))
    return sum(path.stat().st_size for path in weights) // 10**6 if weights else None


def model_memory(wildcards, attempt):
    """MB of main memory for a stage that loads a model; more with each attempt."""
    # A hub checkpoint's size is not known before it is here: enough for 8 billion bfloat16 parameters.
    size = weights_mb(wildcards.model)
    return (3000 + 2 * (16500 if size is None else size)) * attempt


def is_small(model):
    """Whether a model is done with a stage in minutes: an organism, or a checkpoint of up to 1 GB."""
    size = weights_mb(model)
    return size is not None and size <= 1000


def model_runtime(wildcards, attempt):
    """Minutes for a stage that loads a model; more with each attempt."""
    return (30 if is_small(wildcards.model) else 360) * attempt


def together(stage):
    """Group of a stage's jobs on the datasets of one small model, which go to a cluster as one submission.

    Only where the profile asks for it, under `group-components`, and never jobs of two models: if one fails, its whole group does.
    """

    def group(wildcards):
        if stage not in workflow.group_settings.group_components:
            return None
        if not is_small(wildcards.model):
            return None
        name = f"{stage}_{wildcards.model}"
        workflow.parent_groupids[name] = stage
        return name

    return group


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


MODEL_STAGES, ACROSS_STAGES = of_scope("model and dataset"), of_scope("model")
# Every table of a model on a dataset that the figures are made of, by the name that the stage knows it by.
TABLES = {"manifest": "activations.json"} | {
    name: table.file for name, table in tables("model and dataset").items()
}
# Those of a model, if it has several datasets; the stage ignores what others may have left over.
TABLES_ACROSS = {name: table.file for name, table in tables("model").items()}


def figure_inputs():
    """The command line's inputs: the stage fills in {model} and {dataset} itself."""
    named = [
        f"scenes:{dataset}={RESULTS}/scenes/{dataset}"
        for dataset in plan.config.datasets
    ]
    named += [
        f"{name}:{{model}}:{{dataset}}={RESULTS}/{{model}}/{{dataset}}/{table}"
        for name, table in TABLES.items()
    ]
    named += [
        f"{name}:{{model}}={RESULTS}/{{model}}/{table}"
        for name, table in TABLES_ACROSS.items()
    ]
    # Not results of a rule, so not inputs to Snakemake: training curves and times, shown where they are found.
    named += [
        f"training:{model}={plan.checkpoint(model)}/training.parquet"
        for model, settings in plan.config.models.items()
        if settings.organism is not None
        or Path(settings.checkpoint, "training.parquet").is_file()
    ]
    named += [
        f"benchmark:{stage}:{{model}}/{{dataset}}={RESULTS}/benchmarks/{{model}}/{{dataset}}/{stage}.tsv"
        for stage in MODEL_STAGES
    ]
    named += [
        f"benchmark:{stage}:{{model}}={RESULTS}/benchmarks/{{model}}/{stage}.tsv"
        for stage in ACROSS_STAGES
    ]
    named += [
        f"benchmark:scenes:{dataset}={RESULTS}/benchmarks/scenes/{dataset}.tsv"
        for dataset in plan.config.datasets
    ]
    named += [
        f"benchmark:organism:{organism}={RESULTS}/benchmarks/organisms/{organism}.tsv"
        for organism in plan.config.organisms
    ]
    return [f"--input={item}" for item in named]


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
