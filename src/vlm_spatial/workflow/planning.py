"""From the configuration to each stage's settings, and from there to what an existing result lacks.

Knows nothing of Snakemake: the rules ask it for settings, ``vlm-spatial why`` for differences.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_spatial import __version__
from vlm_spatial.config.settings import plain
from vlm_spatial.config.workflow import Config
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.registry import dataset_files
from vlm_spatial.stages.registry import SCOPES, STAGES, Stage
from vlm_spatial.workflow.code_identity import CONTENT_CACHE, external_content, stage_identity
from vlm_spatial.workflow.provenance import damage, is_of_another_version, is_of_older_layout, read_record, why_no_record

# What of a dataset cannot matter to a model that samples its own training scenes.
_NOT_FOR_TRAINING = frozenset({"scenes", "variants", "pairs", "seed"})


# How a model is loaded: keys of its entry that are arguments of ``load_adapter``.
LOADING = frozenset({"revision", "dtype", "device", "device_map", "attn_implementation", "peft", "min_pixels", "max_pixels", "prompting"})


class Plan:
    """The settings of every job that ``config`` asks for; each is one dict of plain builtins with sorted keys."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.results = Path(config.results)
        self._digests: dict[str, str | None] = {}

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

        A stage across datasets is for models of several.
        """
        config, registered = self.config, STAGES[stage]
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

    # --- existing results -----------------------------------------------------------------------------------------

    def existing(self) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Every result on disk that the configuration asks for, with the names it belongs to."""
        for stage in STAGES:
            yield from ((path, names) for path, names in self.results_of(stage) if path.exists())

    def reasons(self, result: Path, names: tuple[str, ...]) -> list[str]:
        """Why ``result`` has to be made anew, in words that name the setting, module, package or file; empty if it does not."""
        record = read_record(result)
        if record is None:
            return [why_no_record(result)]
        try:
            identity = stage_identity(record.stage)
        except UserError:
            return [f"made by stage {record.stage!r}, which this version does not have"]
        settings = self.settings(record.stage, names)
        place = result.relative_to(self.results).parts
        reasons = [] if Path(record.result).parts[-len(place) :] == place else [f"made as {record.result}"]
        reasons += [f"setting {difference}" for difference in _differences(record.settings, settings)]
        reasons += [f"code {difference}" for difference in _changed(record.modules, identity.modules)]
        reasons += [f"package {difference}" for difference in _differences(record.packages, identity.packages)]
        reasons += [f"file {difference}" for difference in _changed(record.content, self.content(settings))]
        reasons += [f"input {path} changed" for path, digest in record.inputs.items() if self._digest(path) != digest]
        damaged = damage(result)
        return reasons + ([damaged] if damaged else [])

    def upgrade_note(self, result: Path) -> str | None:
        """For a result that has to be made anew: if another release made it, what that means and how to keep it; else ``None``."""
        if is_of_older_layout(result):
            older = sum(is_of_older_layout(path) for path, _ in self.existing())
            return (
                f"{self.results}: {older} results of an older layout are made again, the other {len(list(self.existing())) - older} are "
                "reused where nothing changed; nothing is deleted before it is made again (docs/upgrading.md)"
            )
        record = read_record(result)
        if record is None and not is_of_another_version(result):
            return None
        made_by = "" if record is None else record.version
        if made_by == __version__:
            return None
        age = "a newer" if _numbers(made_by) > _numbers(__version__) else "an older"
        return (
            f"results from {age} version (made by vlm_spatial {made_by or 'without a number'}, this is {__version__}): what this version "
            "makes differently is made again; to keep the old results, set another results: folder or check out that version "
            "(docs/caching.md)"
        )

    def _digest(self, path: str) -> str | None:
        if path not in self._digests:
            record = read_record(Path(path))
            self._digests[path] = None if record is None else record.digest
        return self._digests[path]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield f"{key}: {old!r} → {new!r}"


def _changed(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    """Names whose hash differs; the hashes themselves tell a reader nothing."""
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name} " + ("is new" if name not in old else "is gone" if name not in new else "changed")
