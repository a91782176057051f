"""The whole of ``workflow_config.yaml``."""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from vlm_spatial.config.ablation import AblationSettings
from vlm_spatial.config.activations import ActivationsSettings
from vlm_spatial.config.amplification import AmplificationSettings
from vlm_spatial.config.behaviour import BehaviourSettings
from vlm_spatial.config.conflict import ConflictSettings
from vlm_spatial.config.datasets import DatasetSettings
from vlm_spatial.config.figures import FiguresSettings
from vlm_spatial.config.interchange import InterchangeSettings
from vlm_spatial.config.models import ModelSettings
from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.config.probes import ProbesSettings
from vlm_spatial.config.settings import Count, Name, Settings, UserPath

MODEL_STAGES = ("behaviour", "activations", "probes", "interchange", "conflict", "ablation", "amplification")
# One job a model of several datasets.
ACROSS_STAGES = ("generalisation", "transfer")

# What lies beside the models' folders in the results.
_TAKEN = frozenset({"scenes", "boxes", "organisms", "figures", "logs", "benchmarks", "report.html", "findings.json"})
# What lies beside the datasets' folders in a model's.
_TAKEN_BY_MODELS = frozenset({"generalisation.parquet", "between_datasets.parquet", "transfer.parquet"})


def _results_folder(path: str) -> str:
    # It becomes part of the rules' patterns and of commands, where spaces, braces and the like mean something.
    if not re.fullmatch(r"/?[\w-][\w.-]*(/[\w-][\w.-]*)*", path):
        raise ValueError("a folder whose names have letters, digits, -, _ and . only (no space), and no .. in its path")
    return path


class Config(Settings):
    """The whole of ``workflow_config.yaml``."""

    seed: Count = 0
    results: Annotated[UserPath, AfterValidator(_results_folder)] = Field(
        "results",
        description="folder of everything that is made; letters, digits, -, _ and . in its names, no ..",
    )
    datasets: dict[Name, DatasetSettings]
    organisms: dict[Name, OrganismSettings] = Field({})
    models: dict[Name, ModelSettings]
    behaviour: BehaviourSettings = BehaviourSettings()
    activations: ActivationsSettings = ActivationsSettings()
    probes: ProbesSettings = ProbesSettings()
    interchange: InterchangeSettings = InterchangeSettings()
    conflict: ConflictSettings = ConflictSettings()
    ablation: AblationSettings = AblationSettings()
    amplification: AmplificationSettings = AmplificationSettings()
    figures: FiguresSettings = FiguresSettings()

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        if not self.datasets:
            raise ValueError("datasets: name at least one dataset")
        if not self.models:
            raise ValueError("models: name at least one model")
        for name, model in self.models.items():
            _known(f"models.{name}.datasets", model.datasets, self.datasets)
            if model.organism is not None:
                _known(f"models.{name}.organism", (model.organism,), self.organisms)
        for name, organism in self.organisms.items():
            _known(f"organisms.{name}.datasets", organism.datasets, self.datasets)
            photos = [dataset for dataset in organism.datasets if self.datasets[dataset].kind == "whatsup"]
            if photos:
                raise ValueError(f"organisms.{name}.datasets: {photos[0]!r} is of photos, which cannot be sampled; train on drawn scenes")
        for name, model in self.models.items():
            self._words_are_known(name, model)
        for section, names, taken in (("models", self.models, _TAKEN), ("datasets", self.datasets, _TAKEN_BY_MODELS)):
            reserved = taken & names.keys()
            if reserved:
                raise ValueError(
                    f"{section}.{min(reserved)}: {', '.join(sorted(taken))} are other parts of the results, choose another name"
                )
        return self

    def _words_are_known(self, name: str, model: ModelSettings) -> None:
        """An organism reads the words that it was trained on only, and each kind of scene has words of its own."""
        if model.organism is None:
            return
        trained = self.organisms[model.organism].datasets
        kinds = {self.datasets[dataset].kind for dataset in trained}
        for dataset in model.datasets:
            if self.datasets[dataset].kind not in kinds:
                todo = "leave it out here, photos are for checkpoints"
                if self.datasets[dataset].kind != "whatsup":
                    todo = f"add {dataset} to organisms.{model.organism}.datasets (now {', '.join(trained)}), or leave it out here"
                raise ValueError(f"models.{name}.datasets: organism {model.organism!r} does not know the words of {dataset!r}; {todo}")


def _known(key: str, names: tuple[str, ...], allowed: dict[str, Any]) -> None:
    if not names:
        raise ValueError(f"{key}: name at least one of {', '.join(sorted(allowed)) or '(none defined)'}")
    for name in names:
        if name not in allowed:
            raise ValueError(f"{key}: {name!r} is not defined; allowed are {', '.join(sorted(allowed)) or '(none defined)'}")
