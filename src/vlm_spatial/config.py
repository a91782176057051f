"""The one typed model of ``workflow_config.yaml``; every key is documented where it is declared."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vlm_spatial.errors import UserError

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]

AXES = ("horizontal", "vertical")
Template = Literal["slot_to_object", "object_to_slot", "relation_to_object", "content"]
TEMPLATES: tuple[Template, ...] = ("slot_to_object", "object_to_slot", "relation_to_object")
MODEL_STAGES = ("behaviour", "activations", "probes", "interchange", "conflict", "ablation", "amplification")


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Splits(Settings):
    """How many scenes each split holds, for each axis."""

    train: Count = 300
    validation: Count = 100
    test: Count = 200


class Difficulty(Settings):
    """What makes a rendered scene harder. The defaults are the easy, paper-like scenes."""

    object_size: tuple[float, float] = Field(
        (0.16, 0.26),
        description="smallest and largest side of an object, as a share of the canvas",
    )
    jitter: Share = Field(
        0.5,
        description="how far an object strays from its slot's centre, as a share of the free room",
    )
    distractors: Count = Field(0, description="small marks without a name scattered over the background")
    noise: Share = Field(
        0.0,
        description="standard deviation of Gaussian pixel noise, as a share of full scale",
    )

    @field_validator("object_size")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 0.3:
            raise ValueError("must be two shares with 0 < smallest <= largest <= 0.3")
        return value


class Variants(Settings):
    """Control scenes made beside the main ones, for each axis and split (``blank``: one image in all)."""

    decorrelated: Splits = Field(
        Splits(train=150, validation=50, test=100),
        description="objects anywhere along the axis: slot is not absolute position",
    )
    single: Count = Field(0, description="scenes with one object only, in the test split")
    mirror: bool = Field(
        False,
        description="every main test scene flipped along its axis, answers flipped with it",
    )


class Pairs(Settings):
    """How many clean/counterfactual pairs each experiment gets, for each axis."""

    vision: Count = 50
    language: Count = 50
    conflict: Count = 50


class DatasetSettings(Settings):
    """One entry of ``datasets``."""

    kind: Literal["squares", "shapes", "objects", "whatsup"]
    axes: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal", "vertical")
    scenes: Splits = Splits()
    variants: Variants = Variants()
    pairs: Pairs = Pairs()
    templates: tuple[Template, ...] = Field(
        TEMPLATES,
        description="questions asked; 'content' (is there a ... in the picture?) is not spatial and measures what an intervention costs",
    )
    wording: Literal["plain", "one_word"] = Field(
        "plain",
        description="'plain' is what organisms are trained on; 'one_word' asks an instruction-tuned model for one word",
    )
    difficulty: Difficulty = Difficulty()
    root: str | None = Field(
        None,
        description="whatsup only: the folder that holds data/controlled_*_dataset.json",
    )
    subset: Literal["A", "B"] = Field("B", description="whatsup only: A controlled_images, B controlled_clevr")
    boxes: str | None = Field(
        None,
        description="whatsup only: a JSON file of boxes; without it they are found from the photos",
    )
    seed: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.axes)) != len(self.axes) or not self.axes:
            raise ValueError("axes: name each of horizontal, vertical at most once, and at least one")
        if not set(TEMPLATES) & set(self.templates):
            raise ValueError("templates: name at least one of " + ", ".join(TEMPLATES))
        if self.kind == "whatsup" and "content" in self.templates:
            raise ValueError("templates: 'content' needs objects known to be absent, which photos do not give; leave it out for whatsup")
        if self.kind == "whatsup" and self.root is None:
            raise ValueError("root: a whatsup dataset needs the folder that holds data/controlled_*_dataset.json")
        if self.kind == "whatsup" and "horizontal" not in self.axes:
            raise ValueError("axes: photos can be merged along the horizontal axis only; name horizontal")
        if self.kind != "whatsup" and (self.root or self.boxes):
            raise ValueError("root and boxes: only a dataset of kind whatsup has them")
        if self.kind != "whatsup" and not (self.scenes.train and self.scenes.validation and self.scenes.test):
            raise ValueError("scenes: train, validation and test must each be at least 1 (an empty dataset answers nothing)")
        return self


class OrganismSettings(Settings):
    """One entry of ``organisms``: a small VLM that the workflow trains itself."""

    family: Literal["gemma3", "qwen2_vl"] = "gemma3"
    mechanism: Literal["natural", "vision", "language", "strip", "object"] = "natural"
    datasets: tuple[Name, ...] = ("squares",)
    steps: PositiveCount = 1200
    batch: PositiveCount = 16
    accuracy: Share = Field(
        0.95,
        description="held-out accuracy that every question template must reach; training fails below it",
    )
    seed: Count = 0


class ModelSettings(Settings):
    """One entry of ``models``: what to analyse. Exactly one of ``organism`` and ``checkpoint``."""

    organism: Name | None = Field(None, description="name of an entry of organisms")
    checkpoint: str | None = Field(None, description="hub id such as Qwen/Qwen2-VL-7B-Instruct, or a folder")
    revision: str | None = Field(None, description="commit of a hub id; required for one")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_map: Literal["auto"] | None = Field(
        None,
        description="'auto' spreads a checkpoint over several devices (needs accelerate)",
    )
    datasets: tuple[Name, ...] = ("squares",)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.organism is None) == (self.checkpoint is None):
            raise ValueError("give exactly one of organism and checkpoint")
        if self.checkpoint is not None and self.is_hub_id and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("revision: a hub checkpoint needs the 40-digit commit it is pinned to, and a folder must exist")
        return self

    @property
    def is_hub_id(self) -> bool:
        """Whether ``checkpoint`` names a hub repository rather than a folder on this machine."""
        name = self.checkpoint or ""
        return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith((".", "/")) and not Path(name).is_dir()


class BehaviourSettings(Settings):
    """Next-token scoring of the untouched model."""

    batch: PositiveCount = Field(256, description="questions handed over at once; what does not fit into memory_gb is split")
    splits: tuple[Literal["train", "validation", "test"], ...] = ("validation", "test")
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of questions")


class ActivationsSettings(Settings):
    """What is written to ``activations.zarr``."""

    sites: tuple[str, ...] = Field(
        ("vision.*", "connector", "language.*"),
        description="site names or patterns; vision.*, language.0, ...",
    )
    pooling: Literal["none", "cell", "token_set"] = Field(
        "cell",
        description="none: every patch; cell: vision patches averaged to the token they become; token_set: mean over each token set",
    )
    batch: PositiveCount | Literal["auto"] = "auto"
    shard_scenes: PositiveCount = Field(64, description="scenes in one shard file: the unit of resumption")


class ProbesSettings(Settings):
    """Slot probes and their controls."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.1, 1.0, 10.0),
        description="inverse regularisation strengths C tried on the validation split",
    )
    token_sets: tuple[Literal["object", "strip", "rim", "background", "all"], ...] = ("object", "strip", "rim", "background", "all")
    bootstrap: PositiveCount = 1000
    strip_map_scenes: PositiveCount = Field(24, description="test scenes an axis whose strip map is kept")


class InterchangeSettings(Settings):
    """Interchange in the vision encoder, at the connector and in the language model."""

    vision_sites: tuple[str, ...] = ("vision.*", "connector")
    language_sites: tuple[str, ...] = ("connector", "language.*")
    token_sets: tuple[Literal["object", "strip", "rim", "background", "all", "random"], ...] = (
        "object",
        "strip",
        "rim",
        "background",
        "all",
        "random",
    )
    unrelated_control: bool = Field(
        True,
        description="also patch from a scene that shares nothing with the clean one",
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")


class ConflictSettings(Settings):
    """Exchange of two slots' visual tokens at the connector."""

    token_sets: tuple[Literal["object", "strip"], ...] = ("object", "strip")
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")


class AblationSettings(Settings):
    """Removal of the layout from the vision output."""

    methods: tuple[Literal["erasure", "neutral"], ...] = Field(
        ("erasure", "neutral"),
        description="erasure: LEACE at the connector; neutral: every object encoded alone at the canvas centre",
    )
    language_sites: tuple[str, ...] = ("connector", "language.*")
    ordering_layers: Literal["peak", "from_peak"] = Field(
        "from_peak",
        description="where the language ordering is erased: at the layer where it peaks, or there and at every later one",
    )
    questions: PositiveCount = Field(300, description="test questions of an axis asked under every condition, whole scenes drawn at random")
    fit_scenes: PositiveCount = Field(
        150,
        description="training scenes of an axis that the language ordering (to be erased) and each condition's slot probe are fitted on",
    )
    batch: PositiveCount = 32
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of patched runs")


class AmplificationSettings(Settings):
    """Scaling of the slot signal."""

    sites: tuple[str, ...] = ("connector",)
    projection_alphas: tuple[float, ...] = Field(
        (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0),
        description="label-free form, h + (alpha - 1) P h; 1 changes nothing",
    )
    oracle_alphas: tuple[float, ...] = Field(
        (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0),
        description="oracle form, h + alpha d(slot); 0 changes nothing",
    )
    random_draws: Annotated[int, Field(ge=2)] = Field(20, description="random subspaces of the same rank, each as a control")
    control_alphas: tuple[float, ...] = Field(
        (2.0, 4.0, 8.0), description="alphas at which the controls run, beside the one that validation chooses"
    )
    questions: PositiveCount = Field(150, description="questions of an axis and a split, whole scenes drawn at random")
    memory_gb: Annotated[float, Field(gt=0)] = Field(4.0, description="limit for one packed batch of corrected runs")


class FiguresSettings(Settings):
    """Looks only: nothing here reruns a model stage."""

    title: str = "Where does it compute which object is where?"
    explorer_scenes: PositiveCount = Field(12, description="scenes an axis in the report's scene explorer")
    palette: Literal["okabe-ito", "viridis"] = "okabe-ito"


class Config(Settings):
    """The whole of ``workflow_config.yaml``."""

    seed: Count = 0
    results: Annotated[str, Field(pattern=r"^/?[\w-][\w.-]*(/[\w-][\w.-]*)*$")] = Field(
        "results",
        description="folder of everything that is made; letters, digits, -, _ and . in its names, no ..",
    )
    datasets: dict[Name, DatasetSettings]
    organisms: dict[Name, OrganismSettings] = {}
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
        reserved = {"scenes", "organisms", "figures"} & self.models.keys()
        if reserved:
            raise ValueError(f"models.{min(reserved)}: scenes, organisms and figures are names of results folders, choose another")
        return self


def _known(key: str, names: tuple[str, ...], allowed: dict[str, Any]) -> None:
    if not names:
        raise ValueError(f"{key}: name at least one of {', '.join(sorted(allowed)) or '(none defined)'}")
    for name in names:
        if name not in allowed:
            raise ValueError(f"{key}: {name!r} is not defined; allowed are {', '.join(sorted(allowed)) or '(none defined)'}")


def parse_config(values: Any, source: str = "workflow_config.yaml") -> Config:
    """Validate a configuration mapping.

    Raises:
        UserError: one line for the first fault, naming the key, what was found and what is allowed.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: must be a mapping of sections, found {type(values).__name__}")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_one_line(error)}") from error
    for name, model in config.models.items():
        if model.checkpoint is not None and not model.is_hub_id and not Path(model.checkpoint).is_dir():
            raise UserError(
                f"{source}: models.{name}.checkpoint: no folder {model.checkpoint!r}; give a checkpoint folder, or a hub id owner/name"
            )
    for name, dataset in config.datasets.items():
        if dataset.root is not None and not Path(dataset.root, "data").is_dir():
            raise UserError(f"{source}: datasets.{name}.root: no folder {str(Path(dataset.root, 'data'))!r}; give the folder that holds it")
        if dataset.boxes is not None and not Path(dataset.boxes).is_file():
            raise UserError(f"{source}: datasets.{name}.boxes: no file {dataset.boxes!r}")
    return config


def load_config(path: Path) -> Config:
    """Read and validate a YAML configuration file.

    Raises:
        UserError: if the file is missing, is not YAML, or does not fit the model.
    """
    return parse_config(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: if the file is missing or is not YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error


def _one_line(error: ValidationError) -> str:
    found_faults = error.errors(include_url=False)
    # A misspelt key is also a missing one: the misspelling is what helps.
    misspelt = [fault for fault in found_faults if fault["type"] == "extra_forbidden" and fault["loc"][:-1] == found_faults[0]["loc"][:-1]]
    first = misspelt[0] if misspelt and found_faults[0]["type"] == "missing" else found_faults[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; allowed are {', '.join(sorted(_allowed_keys(first['loc'][:-1])))}"
    found = first.get("input")
    shown = "" if isinstance(found, dict | list | BaseModel) else f", found {found!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key + ': ' if key else ''}{message}{shown if first['type'] != 'extra_forbidden' else ''}{more}"


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at ``location``, found by walking the model's annotations."""
    model: Any = Config
    for part in location:
        is_section = isinstance(model, type) and issubclass(model, BaseModel)
        # Otherwise a dict[Name, Section]: the part is a name the user chose.
        model = model.model_fields[str(part)].annotation if is_section else model.__args__[1]
    return list(model.model_fields)


def plain(settings: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """``settings`` as plain builtins with sorted keys, which is all that Snakemake compares faithfully."""
    values = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
    return {key: plain(value) if isinstance(value, dict) else value for key, value in sorted(values.items())}
