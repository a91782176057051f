# What all rules share: the validated configuration, directives made from the registry, memory and time.
import functools
import os
import sys
from pathlib import Path

from vlm_spatial.config.reading import parse_config
from vlm_spatial.stages.registry import SCOPES, STAGES, of_scope
from vlm_spatial.errors import UserError
from vlm_spatial.workflow.code_identity import CODE_CACHE, stage_identity
from vlm_spatial.workflow.preflight import check_outside
from vlm_spatial.workflow.planning import Plan
from vlm_spatial.workflow.running import Running, is_main
from vlm_spatial.workflow.snakemake_internals import executor

# The stages run the code that lies beside the Snakefile, with the interpreter that runs Snakemake.
for variable, folder in {
    "PYTHONPATH": SOURCE,
    "PATH": str(Path(sys.executable).parent),
}.items():
    os.environ[variable] = os.pathsep.join(
        filter(None, [folder, os.environ.get(variable)])
    )


def validated_plan():
    """The plan of the configuration; one clean line and the end where it or a file it names is wrong, before any job."""
    try:
        found = parse_config(config, CONFIG_FILES)
        # Not again in each job that is submitted.
        if is_main():
            check_outside(found, CONFIG_FILES)
        return Plan(found, given)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


plan = validated_plan()
RESULTS = plan.config.results
running = Running(workflow, plan)


# A model uses what cores there are; never more threads than cores, which slows everything down.
CORES = len(os.sched_getaffinity(0))


def one_of(names):
    return "|".join(re.escape(name) for name in names) or "none"


wildcard_constraints:
    dataset=one_of(plan.config.datasets),
    organism=one_of(plan.config.organisms),
    model=one_of(plan.config.models),


def inputs(stage):
    """Input directive: a function for each input that the registry names; what runs a model also waits for its organism."""

    def paths_of(name):
        return lambda wildcards: list(paths(stage, wildcards)[name].values())

    named = {name: paths_of(name) for name in STAGES[stage].inputs}
    if STAGES[stage].loads_model:
        named["organism"] = organism_of
    return {**named, "stale": running.stale(stage)}


def paths(stage, wildcards):
    """Paths of a job's inputs: by the registry's name, then by the name on the command line."""
    return paths_of_job(stage, tuple(wildcards.items()))


# Each input of a job asks for all of them.
@functools.cache
def paths_of_job(stage, names):
    found = plan.inputs(stage, **dict(names))
    return {
        name: {label: str(path) for label, path in of_name.items()}
        for name, of_name in found.items()
    }


def outputs(stage):
    """Output directive: every result that the registry names."""
    return {
        name: (
            directory(f"{RESULTS}/{output.path}")
            if output.folder
            else f"{RESULTS}/{output.path}"
        )
        for name, output in STAGES[stage].outputs.items()
    }


def log_of(stage):
    return f"{RESULTS}/logs/{STAGES[stage].place}.log"


def benchmark_of(stage):
    return f"{RESULTS}/benchmarks/{STAGES[stage].place}.tsv"


def params(stage, also=()):
    """Params of a stage's rule, all plain builtins: what the job is given, and what Snakemake must see to know when to make it again.

    settings: one sorted dict. code: hash of the code that the stage imports and of its packages' versions, as Snakemake sees neither.
    content: checksums of files from outside that the settings name. given: the names and paths of inputs and outputs, and `also`.
    """

    def settings(wildcards):
        return plan.settings(stage, tuple(wildcards))

    def given(wildcards, input, output):
        if STAGES[stage].scope == "all":
            # The stage fills in {model} and {dataset} itself: the paths of twenty models are longer than a command may be.
            named = [
                ":".join([name, *(f"{{{part}}}" for part in SCOPES[of.scope])])
                + f"={RESULTS}/{of.outputs[key].path}"
                for name, (of, key) in STAGES[stage].sources.items()
                if plan.jobs(of.name)
            ]
        else:
            named = [
                f"{label}={path}"
                for name, of_name in paths(stage, wildcards).items()
                for label, path in zip(of_name, input[name], strict=True)
            ]
        return [
            *(f"--input={item}" for item in (*named, *also)),
            *(f"--output={name}={path}" for name, path in output.items()),
        ]

    return {
        "stage": stage,
        "settings": settings,
        "code": stage_identity(stage, CODE_CACHE).digest,
        "content": lambda wildcards: plan.content(settings(wildcards)),
        "given": given,
    }


def organism_of(wildcards):
    """Folder of the organism that a model is; nothing for a checkpoint from elsewhere."""
    organism = plan.config.models[wildcards.model].organism
    return [] if organism is None else f"{RESULTS}/organisms/{organism}"


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


def plain_memory(wildcards, attempt):
    """MB of main memory for a stage that loads none."""
    return 6000 * attempt


def is_small(model):
    """Whether a model is done with a stage in minutes: an organism, or a checkpoint of up to 1 GB."""
    size = weights_mb(model)
    return size is not None and size <= 1000


def is_tiny(model):
    """Whether a model gains nothing from a GPU or a second core: an organism, or another checkpoint of up to 50 MB."""
    size = weights_mb(model)
    return size is not None and size <= 50


def model_threads(wildcards):
    """Several jobs of tiny models side by side are done sooner than one after the other."""
    return 1 if is_tiny(wildcards.model) else CORES


def model_gpus(wildcards):
    """On one machine, tiny models leave the GPU alone. On a cluster every stage that runs a model asks for one."""
    here = executor(workflow) in (None, "local")
    return 0 if here and is_tiny(wildcards.model) else 1


def probes_gpus(wildcards):
    """Probes are fitted on a GPU where the settings let them and it pays, which it does not for tiny models."""
    asked = plan.config.probes.device
    if asked == "auto" and plan.config.models[wildcards.model].device != "cpu":
        return 0 if is_tiny(wildcards.model) else 1
    return 1 if asked == "cuda" else 0


def model_runtime(wildcards, attempt):
    """Minutes for a stage that loads a model; more with each attempt."""
    return (30 if is_small(wildcards.model) else 360) * attempt


def together(stage):
    """Group of a stage's jobs for small models: as many as the profile's `group-components` says go to a cluster as one submission.

    Jobs of large models go alone: if one of a group fails, the whole group is repeated. Runs on one machine know no groups.
    """
    return lambda wildcards: stage if is_small(wildcards.model) else None
