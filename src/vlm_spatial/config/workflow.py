"""The whole of ``workflow_config.yaml``."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.config.datasets import AnyDataset
from vlm_spatial.config.models import ModelSettings
from vlm_spatial.config.organisms import OrganismSettings
from vlm_spatial.config.settings import Count, Name, Settings, UserPath
from vlm_spatial.stages.registry import STAGES, fixed_names


def _results_folder(path: str) -> str:
    # It becomes part of the rules' patterns and of commands, where spaces, braces and the like mean something.
    if not re.fullmatch(r"/?[\w-][\w.-]*(/[\w-][\w.-]*)*", path):
        raise ValueError("a folder whose names have letters, digits, -, _ and . only (no space), and no .. in its path")
    return path


class _Named(Settings):
    """What the user names, and where the results go."""

    seed: Count = 0
    results: Annotated[UserPath, AfterValidator(_results_folder)] = Field(
        "results",
        description="folder of everything that is made; letters, digits, -, _ and . in its names, no ..",
    )
    datasets: dict[Name, AnyDataset]
    # A section whose entries are all commented out is none.
    organisms: Annotated[dict[Name, OrganismSettings], BeforeValidator(lambda found: {} if found is None else found)] = Field({})
    models: dict[Name, ModelSettings]
    answers: AnswerSettings = AnswerSettings()


if TYPE_CHECKING:
    _WithSections = _Named
else:
    # A section for every stage that has settings.
    _sections = {name: (stage.settings, stage.settings()) for name, stage in STAGES.items() if stage.settings is not None}
    _WithSections = create_model("_WithSections", __base__=_Named, **_sections)


class Config(_WithSections):
    """The whole of ``workflow_config.yaml``."""

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
        published = dict(self)["figures"].published
        if published:
            _known("figures.published", tuple(published), self.models)
        for name, organism in self.organisms.items():
            _known(f"organisms.{name}.datasets", organism.datasets, self.datasets)
            photos = [dataset for dataset in organism.datasets if not self.datasets[dataset].drawn]
            if photos:
                raise ValueError(f"organisms.{name}.datasets: {photos[0]!r} is of photos, which cannot be sampled; train on drawn scenes")
        for name, model in self.models.items():
            self._words_are_known(name, model)
        beside_models, beside_datasets = fixed_names("") | {"logs", "benchmarks"}, fixed_names("{model}/")
        for section, names, taken in (("models", self.models, beside_models), ("datasets", self.datasets, beside_datasets)):
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
                if self.datasets[dataset].drawn:
                    todo = f"add {dataset} to organisms.{model.organism}.datasets (now {', '.join(trained)}), or leave it out here"
                raise ValueError(f"models.{name}.datasets: organism {model.organism!r} does not know the words of {dataset!r}; {todo}")


def _known(key: str, names: tuple[str, ...], allowed: dict[str, Any]) -> None:
    if not names:
        raise ValueError(f"{key}: name at least one of {', '.join(sorted(allowed)) or '(none defined)'}")
    for name in names:
        if name not in allowed:
            raise ValueError(f"{key}: {name!r} is not defined; allowed are {', '.join(sorted(allowed)) or '(none defined)'}")
