"""From the configuration to the jobs of each stage, their settings and their paths. Knows nothing of Snakemake."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_spatial.config.settings import plain
from vlm_spatial.config.workflow import Config
from vlm_spatial.scenes.sources.registry import dataset_files
from vlm_spatial.stages.registry import SCOPES, STAGES, Stage
from vlm_spatial.workflow.code_identity import CONTENT_CACHE, external_content

DEFAULT_FILE = "workflow_config.yaml"
# What of a dataset cannot matter to a model that samples its own training scenes.
_NOT_FOR_TRAINING = frozenset({"scenes", "variants", "pairs", "seed"})


# How a model is loaded: keys of its entry that are arguments of ``load_adapter``.
LOADING = frozenset(
    {"revision", "dtype", "device", "device_map", "attn_implementation", "peft", "min_pixels", "max_pixels", "prompting", "quirks"}
)


def _from_here(path: Path) -> str:
    """A path as one types it in the working folder, however it was given."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


class Plan:
    """The settings of every job that ``config`` asks for; each is one dict of plain builtins with sorted keys.

    Args:
        files: that the configuration comes from, for the command that the report shows; the default file needs no naming.
    """

    def __init__(self, config: Config, files: Sequence[Path] = ()) -> None:
        self.config = config
        self.files = [name for name in map(_from_here, files) if name != DEFAULT_FILE]
        self.results = Path(config.results)

    def scenes(self, dataset: str) -> dict[str, Any]:
        """Settings of the scenes stage."""
        return plain({"dataset": plain(self.config.datasets[dataset]), "name": dataset, "seed": self.config.seed})

    def boxes(self, dataset: str) -> dict[str, Any]:
        """Settings of the boxes stage, which only a dataset with a detector has: all that its boxes depend on."""
        return plain({"dataset": self.config.datasets[dataset].boxes_stage or {}, "name": dataset})

    def organism(self, organism: str) -> dict[str, Any]:
        """Settings of the organism stage: the organism, and what its training scenes look like."""
        settings = self.config.organisms[organism]
        datasets = {
            name: {key: value for key, value in plain(self.config.datasets[name]).items() if key not in _NOT_FOR_TRAINING}
            for name in settings.datasets
        }
        return plain({"organism": plain(settings), "datasets": datasets, "name": organism, "seed": self.config.seed})

    def checkpoint(self, model: str) -> str:
        """Hub id or folder of ``model``; an organism's folder lies below the results."""
        settings = self.config.models[model]
        if settings.organism is not None:
            return str(self.results / "organisms" / settings.organism)
        assert settings.checkpoint is not None
        return settings.checkpoint

    def model(self, stage: str, model: str) -> dict[str, Any]:
        """Settings of one of the stages that analyse a model, on a dataset or across all of its datasets."""
        settings, registered = self.config.models[model], STAGES[stage]
        source: dict[str, Any] = {"checkpoint": self.checkpoint(model)}
        source |= {key: value for key, value in plain(settings).items() if key in LOADING}
        # Of the stages that run a model, one asks it nothing.
        if registered.device == "gpu" and stage != "activations":
            source["answers"] = plain(self.config.answers)
        across = {"datasets": sorted(settings.datasets)} if registered.scope == "model" else {}
        return plain({"model": source, "seed": self.config.seed, "stage": self._section(registered), **across})

    def _section(self, stage: Stage) -> dict[str, Any]:
        return plain(getattr(self.config, stage.key, {}))

    def of_all(self, stage: str) -> dict[str, Any]:
        """Settings of a stage that is run once, for all models and datasets."""
        models = {}
        for name, model in self.config.models.items():
            mechanism = model.mechanism if model.organism is None else self.config.organisms[model.organism].mechanism
            models[name] = {"datasets": list(model.datasets), "checkpoint": self.checkpoint(name), "mechanism": mechanism}
        return plain(
            {
                stage: self._section(STAGES[stage]),
                "models": models,
                "datasets": {name: plain(dataset) for name, dataset in self.config.datasets.items()},
                "seed": self.config.seed,
                **({"config_files": self.files} if self.files else {}),
            }
        )

    def settings(self, stage: str, names: tuple[str, ...]) -> dict[str, Any]:
        """Settings of ``stage`` for ``names``: ``(dataset,)``, ``(organism,)``, ``(model, dataset)``, ``(model,)`` or ``()``."""
        match STAGES[stage].scope:
            case "dataset":
                return self.boxes(*names) if stage == "boxes" else self.scenes(*names)
            case "organism":
                return self.organism(*names)
            case "all":
                return self.of_all(stage)
            case _:
                return self.model(stage, names[0])

    # --- jobs -------------------------------------------------------------------------------------------------------

    def jobs(self, stage: str, **given: str) -> list[dict[str, str]]:
        """The names that each job of ``stage`` is run for (such as its model and dataset), of jobs that have the names given.

        A stage across datasets is for models of several. An optional one has jobs where its section says so.
        """
        config, registered = self.config, STAGES[stage]
        if registered.optional and not getattr(config, registered.key).enabled:
            return []
        models = {name: model for name, model in config.models.items() if given.get("model", name) == name}
        used = {dataset for model in models.values() for dataset in model.datasets} if "model" in given else set(config.datasets)
        datasets = [name for name in config.datasets if name in used and given.get("dataset", name) == name]
        match registered.scope:
            case "dataset":
                return [{"dataset": name} for name in datasets if registered.only(config.datasets[name])]
            case "organism":
                return [{"organism": name} for name in config.organisms if given.get("organism", name) == name]
            case "model and dataset":
                return [
                    {"model": name, "dataset": dataset}
                    for name, model in models.items()
                    for dataset in model.datasets
                    if dataset in datasets
                ]
            case "model":
                return [{"model": name} for name, model in models.items() if len(model.datasets) > 1]
            case "all":
                return [{}]

    def results_of(self, stage: str, **given: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Path and names of every result of the jobs of ``stage`` that have the names given."""
        for names in self.jobs(stage, **given):
            for output in STAGES[stage].outputs.values():
                yield self.results / output.path.format(**names), tuple(names.values())

    def inputs(self, stage: str, **names: str) -> dict[str, dict[str, Path]]:
        """Paths of a job's inputs, by the input's name and then by the name on its command line: ``name`` or ``name:dataset``."""
        found: dict[str, dict[str, Path]] = {}
        for name, (producer, key) in STAGES[stage].sources.items():
            found[name] = {}
            for job in sorted(self.jobs(producer.name, **names), key=lambda job: tuple(job.values())):
                label = ":".join([name, *(value for part, value in job.items() if part not in names)])
                found[name][label] = self.results / producer.outputs[key].path.format(**job)
        return found

    def times_and_training(self) -> list[str]:
        """Inputs of the figures that no rule makes, as ``name=path``: benchmarks and training curves, shown where they are found.

        The stage fills in ``{model}`` and ``{dataset}``.
        """
        curves = {name: Path(self.checkpoint(name), "training.parquet") for name in self.config.models}
        # An organism's comes to be before the figures do; a checkpoint from elsewhere may have one.
        trained = [name for name, model in self.config.models.items() if model.organism is not None or curves[name].is_file()]
        found = [f"training:{name}={curves[name]}" for name in trained]
        for stage in STAGES.values():
            path = f"{self.results}/benchmarks/{stage.place}.tsv"
            if stage.scope == "organism":
                found += [f"benchmark:{stage.name}:{name}={path.format(organism=name)}" for name in self.config.organisms]
            elif stage.scope != "all":
                found.append(f"benchmark:{stage.name}:{'/'.join(f'{{{name}}}' for name in SCOPES[stage.scope])}={path}")
        return found

    def content(self, settings: dict[str, Any]) -> dict[str, str]:
        """Hashes of the files from outside that ``settings`` name; results have records instead and are not among them."""
        checkpoint = settings.get("model", {}).get("checkpoint")
        # Asked before the jobs run: an organism that is not finished has no record yet.
        if checkpoint is not None and Path(checkpoint).parent == self.results / "organisms":
            return {}
        return external_content(settings, CONTENT_CACHE, dataset_files)
