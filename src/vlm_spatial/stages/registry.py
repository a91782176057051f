"""Every stage of the workflow, once: what it reads, what it writes, what it is run for.

Rules, planning, reports, profiles and tests read this list, so a new stage or a new table is one entry here. Nothing heavy is imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from vlm_spatial.config.ablation import AblationSettings
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.config.behaviour import BehaviourSettings
from vlm_spatial.config.conflict import ConflictSettings
from vlm_spatial.config.figures import FiguresSettings
from vlm_spatial.config.interchange import InterchangeSettings
from vlm_spatial.config.positions import PositionsSettings
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.config.readout import ReadoutSettings
from vlm_spatial.config.routes import RoutesSettings
from vlm_spatial.config.settings import Settings

Scope = Literal["dataset", "organism", "model and dataset", "model", "all"]
"""What one job is run for. ``model``: all datasets of a model together; only models of several datasets have such jobs."""
SCOPES: dict[Scope, tuple[str, ...]] = {
    "dataset": ("dataset",),
    "organism": ("organism",),
    "model and dataset": ("model", "dataset"),
    "model": ("model",),
    "all": (),
}
"""The names in a scope's paths."""


@dataclass(frozen=True)
class Output:
    """One result of a stage.

    Attributes:
        path: below the results, with ``{model}``, ``{dataset}`` or ``{organism}`` in it. A table's columns are in docs/formats.md.
        folder: whether it is a folder.
    """

    path: str
    folder: bool = False

    @property
    def file(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def is_table(self) -> bool:
        """Whether it is a table that the report reads."""
        return self.path.endswith(".parquet")


@dataclass(frozen=True)
class Stage:
    """One stage: ``python -m vlm_spatial.stages.<name>``, rule ``rules/<name>.smk``.

    Attributes:
        inputs: the output that each input is, as ``stage.output``, by the name that the stage has for it. A stage across datasets gets
            one of every dataset, named ``name:dataset``; a stage for all gets those of all models, named ``name:model:dataset``.
        device: ``gpu`` for stages that run a model.
        settings: the model of its section in the configuration; None if it has no section of its own.
        section: the configuration's section that it goes by, if not the one called like the stage.
        only: whether there is a job for a dataset, judged by its section in the configuration.
        optional: whether it is run only where its section says ``enabled``; without, its tables are not missed.
    """

    name: str
    scope: Scope
    outputs: Mapping[str, Output]
    inputs: Mapping[str, str] = field(default_factory=dict)
    device: Literal["gpu", "cpu"] = "cpu"
    settings: type[Settings] | None = None
    section: str = ""
    only: Callable[[Any], bool] = lambda _: True
    optional: bool = False

    @property
    def key(self) -> str:
        """Name of its section in the configuration."""
        return self.section or self.name

    @property
    def loads_model(self) -> bool:
        """Whether it runs an analysed model: then an organism's checkpoint is an input."""
        return self.device == "gpu" and "model" in SCOPES[self.scope]

    @property
    def place(self) -> str:
        """Where a job's log (``logs/…``) and benchmark (``benchmarks/…``) lie, without their suffix."""
        first = next(iter(self.outputs.values()))
        match self.scope:
            case "model and dataset":
                return f"{{model}}/{{dataset}}/{self.name}"
            case "model":
                return f"{{model}}/{self.name}"
            case "all":
                return self.name
            case _:
                return str(PurePosixPath(first.path).with_suffix(""))

    @property
    def sources(self) -> dict[str, tuple["Stage", str]]:
        """The stage and the output that each input is."""
        split = {name: reference.split(".") for name, reference in self.inputs.items()}
        return {name: (STAGES[stage], key) for name, (stage, key) in split.items()}

    @property
    def tables(self) -> dict[str, Output]:
        """Its tables, by the name that the report gives them: that of the file."""
        return {PurePosixPath(output.path).stem: output for output in self.outputs.values() if output.is_table}


def _has_detector(dataset: Any) -> bool:
    return dataset.boxes_stage is not None


def _files(folder: str, **names: str) -> dict[str, Output]:
    """Outputs below one folder, by the names that the stage gives them."""
    return {name: Output(f"{folder}/{file}", folder=file.endswith(".zarr")) for name, file in names.items()}


def _every_table(stages: tuple[Stage, ...]) -> dict[str, str]:
    """Inputs of a stage that reads all tables made so far."""
    return {
        name: f"{stage.name}.{key}"
        for stage in stages
        for name, output in stage.tables.items()
        for key in stage.outputs
        if stage.outputs[key] is output
    }


_ON_DATASET, _ON_MODEL = "{model}/{dataset}", "{model}"
_SCENES = {"scenes": "scenes.folder"}
_STORE = {"store": "activations.store", "manifest": "activations.manifest"}

_EXPERIMENTS = (
    Stage("boxes", "dataset", {"boxes": Output("boxes/{dataset}.json")}, device="gpu", only=_has_detector),
    Stage("scenes", "dataset", {"folder": Output("scenes/{dataset}", folder=True)}, {"boxes": "boxes.boxes"}),
    Stage("organism", "organism", {"folder": Output("organisms/{organism}", folder=True)}),
    Stage(
        "behaviour",
        "model and dataset",
        _files(_ON_DATASET, behaviour="behaviour.parquet"),
        _SCENES,
        device="gpu",
        settings=BehaviourSettings,
    ),
    Stage(
        "activations",
        "model and dataset",
        _files(_ON_DATASET, store="activations.zarr", manifest="activations.json"),
        _SCENES,
        device="gpu",
        settings=ActivationsSettings,
    ),
    Stage(
        "probes",
        "model and dataset",
        _files(
            _ON_DATASET,
            probes="probes.safetensors",
            decorrelated="probes_decorrelated.safetensors",
            table="probes.parquet",
            strip_map="strip_map.parquet",
            geometry="geometry.parquet",
        ),
        {**_SCENES, **_STORE},
        settings=ProbesSettings,
    ),
    Stage(
        "generalisation",
        "model",
        _files(_ON_MODEL, table="generalisation.parquet", geometry="between_datasets.parquet"),
        {**_SCENES, **_STORE, "main": "probes.probes", "decorrelated": "probes.decorrelated"},
        section="probes",
    ),
    Stage(
        "interchange",
        "model and dataset",
        _files(_ON_DATASET, table="interchange.parquet"),
        _SCENES,
        device="gpu",
        settings=InterchangeSettings,
    ),
    Stage(
        "conflict",
        "model and dataset",
        _files(_ON_DATASET, table="conflict.parquet"),
        _SCENES,
        device="gpu",
        settings=ConflictSettings,
    ),
    Stage(
        "readout",
        "model and dataset",
        _files(_ON_DATASET, table="readout.parquet", ids="spatial_ids.parquet"),
        _SCENES,
        device="gpu",
        settings=ReadoutSettings,
        optional=True,
    ),
    Stage(
        "routes",
        "model and dataset",
        _files(_ON_DATASET, table="routes.parquet", heads="heads.parquet"),
        _SCENES,
        device="gpu",
        settings=RoutesSettings,
        optional=True,
    ),
    Stage(
        "positions",
        "model and dataset",
        _files(_ON_DATASET, table="positions.parquet"),
        _SCENES,
        device="gpu",
        settings=PositionsSettings,
        optional=True,
    ),
    Stage(
        "ablation",
        "model and dataset",
        _files(_ON_DATASET, sweep="ablation_sweep.parquet", accuracy="ablation_accuracy.parquet", check="ablation_check.parquet"),
        {**_SCENES, "probes": "probes.probes", **_STORE, "interchange": "interchange.table"},
        device="gpu",
        settings=AblationSettings,
    ),
    Stage(
        "amplification",
        "model and dataset",
        _files(_ON_DATASET, table="amplification.parquet", of_items="amplification_items.parquet"),
        {**_SCENES, "probes": "probes.probes", "behaviour": "behaviour.behaviour"},
        device="gpu",
        settings=AmplificationSettings,
    ),
    Stage(
        "transfer",
        "model",
        _files(_ON_MODEL, table="transfer.parquet"),
        {**_SCENES, "probes": "probes.probes", "amplification": "amplification.table"},
        device="gpu",
        section="amplification",
    ),
)

_MEASURES = Stage(
    "measures",
    "model and dataset",
    _files(_ON_DATASET, table="measures.parquet"),
    {**_SCENES, **_every_table(_EXPERIMENTS)},
)

_FIGURES = Stage(
    "figures",
    "all",
    {"figures": Output("figures", folder=True), "report": Output("report.html"), "findings": Output("findings.json")},
    {**_SCENES, "manifest": "activations.manifest", **_every_table((*_EXPERIMENTS, _MEASURES))},
    settings=FiguresSettings,
)

STAGES = {stage.name: stage for stage in (*_EXPERIMENTS, _MEASURES, _FIGURES)}
"""Every stage by name, each after those whose outputs it reads."""


def of_scope(*scopes: Scope, optional: bool = False) -> tuple[str, ...]:
    """Names of the stages that are run for one of ``scopes``; with ``optional`` also those that a setting turns on."""
    return tuple(stage.name for stage in STAGES.values() if stage.scope in scopes and (optional or not stage.optional))


def tables(scope: Scope) -> dict[str, Output]:
    """Every table that the stages of a scope write, by the name that the report gives it."""
    return {name: table for stage in STAGES.values() if stage.scope == scope for name, table in stage.tables.items()}


def fixed_names(folder: str) -> frozenset[str]:
    """Names that no model or dataset may have, as stages write results called so into ``folder``: ``""`` or ``"{model}/"``."""
    paths = [output.path for stage in STAGES.values() for output in stage.outputs.values()]
    below = {path.removeprefix(folder).split("/")[0] for path in paths if path.startswith(folder)}
    return frozenset(name for name in below if "{" not in name)
