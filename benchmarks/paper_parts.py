"""The inner work of every stage of presets/extended.yaml on a few scenes and pairs, each part timed and counted by itself.

A part says how many of its units it did, and how many the preset has for one model and one dataset. What a part needs beside the model is
imported inside it: a package that is missing costs its own parts only.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
import torch
import yaml
from benchmarks.arithmetic import Shape, counted_work
from benchmarks.measure import wait_for

from vlm_spatial.config.settings import Settings
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.tokens import AXES

if TYPE_CHECKING:
    from vlm_spatial.config.activations import ActivationsSettings

Section = TypeVar("Section", bound=Settings)
PRESET = Path(__file__).parents[1] / "presets/extended.yaml"
DATASET = "squares"
"""The preset's dataset whose scenes stand for every one's."""
DATASETS, MODELS = 4, 2
STAGES = ("behaviour", "activations", "probes", "interchange", "conflict", "ablation", "amplification", "transfer", "start")


@dataclass(frozen=True)
class Line:
    """One part, measured.

    Attributes:
        done, of: units measured, and units of the preset for one model and dataset.
        operations: of the blocks, in the units measured, at the shape that is asked about.
        bytes: on disk, of the units measured.
        peak_gb: GPU memory, the weights among it.
    """

    stage: str
    part: str
    seconds: float
    done: float
    of: float
    unit: str
    operations: int
    calls: int
    bytes: int = 0
    peak_gb: float | None = None

    @property
    def extrapolated(self) -> float:
        """Seconds of the preset's units."""
        return self.seconds * self.of / self.done


@dataclass(frozen=True)
class Preset:
    """What presets/extended.yaml asks of one model on one dataset."""

    values: dict[str, Any]
    scenes: pl.DataFrame
    questions: pl.DataFrame
    pairs: pl.DataFrame

    @classmethod
    def read(cls) -> "Preset":
        from vlm_spatial.config.datasets import dataset_settings
        from vlm_spatial.scenes.sources.registry import source_of
        from vlm_spatial.scenes.tables import pairs_table, questions_table, scenes_table

        values = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
        dataset = dataset_settings(values["datasets"][DATASET])
        planned = source_of(dataset.kind).plan(dataset, 0, None)
        questions = questions_table(planned.scenes, dataset.templates, dataset.wording)
        return cls(values, scenes_table(planned.scenes), questions, pairs_table(planned.pairs))

    def section(self, settings: type[Section], key: str) -> Section:
        return settings.model_validate(self.values.get(key, {}))

    def stored(self) -> int:
        return self.scenes.filter(pl.col("variant") != "pair").height

    def pairs_of(self, experiment: str) -> int:
        return self.pairs.filter(experiment=experiment).height

    def asked_scenes(self, split: str, questions: int) -> int:
        """Main scenes whose questions are about ``questions`` an axis."""
        of_split = self.questions.filter(variant="main", split=split)
        a_scene = of_split.height / of_split["scene_id"].n_unique()
        return len(AXES) * max(1, round(questions / a_scene))


@dataclass
class Bench:
    """A model, a few scenes, and a folder for what is written.

    Args:
        shape: whose operations are told; that of a whole model where ``adapter`` is cut down.
    """

    adapter: Adapter
    shape: Shape
    folder: Path
    scenes: int
    pairs: int
    preset: Preset
    seed: int = 0
    stores: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def dataset(self) -> Dataset:
        from vlm_spatial.stages.scenes import scenes as scenes_stage
        from vlm_spatial.stages.stage import Job

        values = dict(self.preset.values["datasets"][DATASET])
        train = max(2, self.scenes // 4)
        values["scenes"] = {"train": train, "validation": train // 2, "test": train // 2}
        values["variants"] = {"decorrelated": {"train": 2, "validation": 1, "test": max(6, 2 * self.pairs)}}
        values["pairs"] = {"vision": self.pairs, "language": self.pairs, "conflict": self.pairs}
        folder = self.folder / "scenes"
        if not folder.exists():
            scenes_stage(Job({"dataset": values, "name": DATASET, "seed": self.seed}, {}, {"folder": folder}))
        return Dataset.open(folder)

    def measure(
        self, stage: str, part: str, work: Callable[[], object], done: float, of: float, unit: str, stored: Callable[[], int] = lambda: 0
    ) -> Line:
        """Time and count ``work``."""
        device = self.adapter.device
        wait_for(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with counted_work(self.adapter) as counted:
            started = time.perf_counter()
            work()
            wait_for(device)
            seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        return Line(stage, part, seconds, done, of, unit, counted.operations(self.shape), counted.calls, stored(), peak)

    @property
    def main(self) -> pl.DataFrame:
        return self.dataset.scenes.filter(variant="main")


def behaviour(bench: Bench) -> Iterator[Line]:
    from vlm_spatial.config.behaviour import BehaviourSettings
    from vlm_spatial.interventions.engine import PatchEngine
    from vlm_spatial.interventions.pictures import pictures
    from vlm_spatial.interventions.prefetch import prefetch
    from vlm_spatial.stages.behaviour import score

    settings = bench.preset.section(BehaviourSettings, "behaviour")
    asked = bench.dataset.questions.filter(pl.col("split").is_in(settings.splits), pl.col("variant") == "main")
    rows = asked.sort("scene_id", maintain_order=True).rows(named=True)
    engine = PatchEngine(bench.adapter, memory_gb=settings.memory_gb)
    batches = [rows[start : start + settings.batch] for start in range(0, len(rows), settings.batch)]

    def read(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return pictures(bench.adapter, bench.dataset, (row["scene_id"] for row in batch))

    def work() -> None:
        for batch, images in prefetch(batches, read):
            list(score(engine, images, batch))

    of = bench.preset.questions.filter(pl.col("split").is_in(settings.splits), pl.col("variant") != "pair").height
    yield bench.measure("behaviour", "questions", work, len(rows), of, "questions")


def activations(bench: Bench) -> Iterator[Line]:
    from vlm_spatial.activations.extraction import extract
    from vlm_spatial.activations.store import Store
    from vlm_spatial.config.activations import ActivationsSettings

    settings = bench.preset.section(ActivationsSettings, "activations")

    def store(scenes: pl.DataFrame, name: str) -> Path:
        target = bench.folder / f"{name}.zarr"
        extract(bench.adapter, bench.dataset.image, scenes, target, target.with_suffix(".json"), settings)
        return target

    shutil.rmtree(store(bench.main.head(2), "first"))
    path = bench.folder / "activations.zarr"
    yield bench.measure(
        "activations",
        "extraction",
        lambda: store(bench.main, "activations"),
        bench.main.height,
        bench.preset.stored(),
        "scenes",
        lambda: _bytes_of(bench, settings, path),
    )
    bench.stores["activations"] = Store.open(path, path.with_suffix(".json"), verify=False)


def _bytes_of(bench: Bench, settings: "ActivationsSettings", path: Path) -> int:
    """What a store takes; the arrays of whole scenes, which do not grow with the scenes, as their share of the preset's."""
    from vlm_spatial.activations.schema import WHOLE
    from vlm_spatial.activations.store import Store

    files = [file for file in path.rglob("*") if file.is_file()]
    whole = sum(file.stat().st_size for file in files if file.relative_to(path).parts[0].endswith(WHOLE))
    every = sum(file.stat().st_size for file in files)
    here = Store.open(path, path.with_suffix(".json"), verify=False).manifest.whole_scenes
    variants = bench.preset.scenes.filter(pl.col("variant") != "pair", split="test").select("variant", "axis").unique().height
    there = variants * settings.whole_scenes
    share = there / here * bench.main.height / bench.preset.stored() if here else 0.0
    return round(every - whole + whole * share)


def reading(bench: Bench) -> Iterator[Line]:
    """What probes read of the store: every site, about two thirds of its scenes more than once."""
    opened = bench.stores.get("activations")
    if opened is None:
        return
    names = bench.main["scene_id"].to_list()
    sites = [opened.sites[0], opened.sites[-1]]

    def work() -> None:
        for site in sites:
            for _ in opened.batches(site, names, 32):
                pass

    yield bench.measure(
        "probes", "reading the store", work, len(names) * len(sites), bench.preset.stored() * len(opened.sites), "scenes × sites"
    )


def interchange(bench: Bench) -> Iterator[Line]:
    from vlm_spatial.config.interchange import InterchangeSettings
    from vlm_spatial.interventions.engine import PatchEngine
    from vlm_spatial.interventions.sweep import run_sweep
    from vlm_spatial.stages.interchange import planned_sweeps

    settings = bench.preset.section(InterchangeSettings, "interchange")
    engine = PatchEngine(bench.adapter, memory_gb=settings.memory_gb)
    few = settings.model_copy(update={"displaced_pairs": min(settings.displaced_pairs, bench.pairs)})
    vision = bench.preset.pairs_of("vision")
    planned = {each.name: each for each in planned_sweeps(bench.adapter, bench.dataset, few, bench.seed)}
    # A mirror pair is a vision pair that asks about an outer object: of one pair there may be none.
    of = {"displaced": len(AXES) * settings.displaced_pairs, "language": bench.preset.pairs_of("language"), "mirror": vision / 3}
    run_sweep(engine, bench.dataset, planned["language"].cases[:1], planned["language"].plan)
    for name, each in planned.items():
        if not each.cases:
            print(f"  interchange, {name}: no pair among these few scenes", file=sys.stderr)
            continue
        work = partial(run_sweep, engine, bench.dataset, each.cases, each.plan)
        yield bench.measure("interchange", name, work, len(each.cases), of.get(name, vision), "pairs")


def conflict(bench: Bench) -> Iterator[Line]:
    from vlm_spatial.config.conflict import ConflictSettings
    from vlm_spatial.interventions.engine import PatchEngine
    from vlm_spatial.interventions.language import conflict_plan, exchangeable
    from vlm_spatial.interventions.pairs_on_grid import read_cases
    from vlm_spatial.interventions.sweep import run_sweep

    settings = bench.preset.section(ConflictSettings, "conflict")
    cases = exchangeable(read_cases(bench.dataset, bench.adapter, "conflict"))
    engine = PatchEngine(bench.adapter, memory_gb=settings.memory_gb)
    work = partial(run_sweep, engine, bench.dataset, cases, conflict_plan(settings.token_sets))
    yield bench.measure("conflict", "exchanges", work, len(cases), bench.preset.pairs_of("conflict"), "pairs")


def ablation(bench: Bench) -> Iterator[Line]:
    from vlm_spatial.config.ablation import AblationSettings
    from vlm_spatial.config.interchange import InterchangeSettings
    from vlm_spatial.interventions.ablation import GridScenes, SceneInputs
    from vlm_spatial.interventions.accuracy import ask
    from vlm_spatial.interventions.crosswise import crosswise_cases, crosswise_plan
    from vlm_spatial.interventions.engine import PatchEngine
    from vlm_spatial.interventions.erasure import fit_erasure
    from vlm_spatial.interventions.labels import CONNECTOR
    from vlm_spatial.interventions.language import exchangeable, language_plan
    from vlm_spatial.interventions.neutral import NeutralEncoder
    from vlm_spatial.interventions.pairs_on_grid import read_cases
    from vlm_spatial.interventions.sweep import Condition, run_sweep

    adapter, dataset, preset = bench.adapter, bench.dataset, bench.preset
    settings, swept = preset.section(AblationSettings, "ablation"), preset.section(InterchangeSettings, "interchange")
    engine, scenes = PatchEngine(adapter, memory_gb=settings.memory_gb), GridScenes(adapter, dataset)
    conditions, methods = 1 + len(settings.methods), len(settings.methods)
    controls = methods if settings.controls else 0
    # Of the ordering: from the middle of the language model to its end.
    layers = len(adapter.language_blocks) // 2 or 1
    fitted = preset.scenes.filter(variant="main", split="train").height
    training = min(settings.fit_scenes, fitted // len(AXES)) * len(AXES)
    names = bench.main["scene_id"].to_list()
    tokens = [scenes.tokens(name) for name in names]
    width = adapter.site_shape(CONNECTOR)[1]
    generator = np.random.default_rng(0)
    values = generator.standard_normal((len(names), tokens[0].grid.size, width), dtype=np.float32)
    made = []
    yield bench.measure(
        "ablation",
        "erasures: their equations",
        lambda: made.append(fit_erasure(values[:1], tokens[:1], background=True)),
        1,
        len(AXES) * (2 + conditions * layers),
        "fits",
    )
    least = made[0]
    yield bench.measure(
        "ablation",
        "erasures: their scenes",
        lambda: fit_erasure(values[: len(names) // 2], tokens[: len(names) // 2], background=True),
        len(names) // 2,
        2 * fitted + conditions * layers * training,
        "scenes",
    )
    condition = Condition("erasure", lambda _scene: least)
    cases = exchangeable(read_cases(dataset, adapter, "language"))
    crossed = crosswise_cases(read_cases(dataset, adapter, "vision"))
    plan = language_plan(adapter.matching_sites(swept.language_sites), bench.seed)
    of = preset.pairs_of("language") * methods
    yield bench.measure("ablation", "language sweep", partial(run_sweep, engine, dataset, cases, plan, condition), len(cases), of, "pairs")
    across = crosswise_plan(adapter.matching_sites(swept.crosswise_sites), settings.crosswise_sets, bench.seed, swept.crosswise_match)
    of = preset.pairs_of("vision") * methods
    yield bench.measure(
        "ablation", "crosswise sweep", partial(run_sweep, engine, dataset, crossed, across, condition), len(crossed), of, "pairs"
    )
    questions = dataset.questions.filter(variant="main", split="test")
    asked = len(AXES) * settings.questions
    work = partial(ask, engine, dataset, questions, "erasure", lambda _scene: {CONNECTOR: least}, batch=settings.batch)
    yield bench.measure("ablation", "accuracy", work, questions.height, asked * (2 * conditions + controls), "questions")
    encoder = NeutralEncoder(adapter, dataset, dataset.questions["prompt"][0], settings.batch, seed=bench.seed)
    encoded = 2 * training + preset.asked_scenes("test", settings.questions) + 4 * preset.pairs_of("language")
    yield bench.measure("ablation", "objects alone", partial(encoder.make, names), len(names), 2 * encoded, "scenes")
    inputs, site = SceneInputs(scenes, settings.batch), f"language.{len(adapter.language_blocks) - 1}"

    def residuals() -> None:
        for _, prepared in inputs.batches(names, "ordering"):
            adapter.run(prepared, edits={CONNECTOR: least}, capture=[site])

    yield bench.measure("ablation", "residuals of the ordering", residuals, len(names), conditions * layers * training, "passes")


def corrections(bench: Bench) -> Iterator[Line]:
    """Amplification and transfer: the same work on other settings."""
    from vlm_spatial.amplification.questions import OF_QUESTION
    from vlm_spatial.amplification.scoring import score
    from vlm_spatial.amplification.settings import Fit, slots_of_scenes, visual_sites
    from vlm_spatial.amplification.sweep import Sweep
    from vlm_spatial.config.amplification import AmplificationSettings
    from vlm_spatial.interventions.subspaces import random_basis

    adapter, dataset, preset = bench.adapter, bench.dataset, bench.preset
    settings = preset.section(AmplificationSettings, "amplification")
    generator = np.random.default_rng(0)
    fits = []
    for site in visual_sites(adapter, settings.sites):
        features = adapter.site_shape(site)[1]
        bases = [random_basis(2, features, generator) for _ in range(2)]
        directions = {axis: (generator.standard_normal((3, 2)) @ bases[0]).astype(np.float32) for axis in AXES}
        fits.append(Fit(site, bases[0], directions, bases[1], np.zeros(features, dtype=np.float32)))
    slots_of = slots_of_scenes(dataset, adapter)
    main = [s for fit in fits for s in (*fit.projections(settings.projection_alphas), *fit.oracles(settings.oracle_alphas, slots_of))]
    questions = dataset.questions.filter(variant="main", split="validation")
    few = questions["scene_id"].unique(maintain_order=True)[: max(1, bench.scenes // 32)]
    asked = questions.filter(pl.col("scene_id").is_in(few.implode())).with_columns(
        pl.lit(value).cast(kind).alias(name)
        for name, value, kind in (
            ("correct_before", False, pl.Boolean),
            ("confidence_before", 0.5, pl.Float64),
            ("brier_before", 0.5, pl.Float64),
        )
    )
    asked = asked.select(*OF_QUESTION, "prompt", "candidates", "answer")
    sweep = Sweep(adapter, memory_gb=settings.memory_gb)
    score(sweep, dataset, asked.head(1), main[:4], "first")
    validation, test = (preset.asked_scenes(split, settings.questions) for split in ("validation", "test"))
    rivals = len(fits) * len(settings.projection_alphas) * settings.random_draws
    # At each site: draws at its best alpha, at the chosen ones and with the oracle form, and the three other subspaces.
    controls = len(fits) * (2 + len(settings.control_alphas)) * settings.random_draws + 3 * 2 * len(fits)
    of = validation * (len(main) + rivals) + test * (len(main) + controls)
    work = partial(score, sweep, dataset, asked, main, "amplification")
    yield bench.measure("amplification", "corrected images", work, len(few) * len(main), of, "images")
    carried = [*fits[-1].projections([2.0]), *fits[-1].random_subspaces(fits[-1].random(settings.random_draws, generator), 2.0)]
    work = partial(score, sweep, dataset, asked, carried, "transfer")
    of = (DATASETS - 1) * test * 2 * len(carried)
    yield bench.measure("transfer", "corrected images", work, len(few) * len(carried), of, "images")


class RandomStore:
    """Stands in for a store at full width: noise, and a slot's own direction on the tokens of its object.

    Args:
        tokens: kept of each scene at sites other than the connector; None: all.
        whole: test scenes of an axis and variant that keep every token.
    """

    POOL = 64

    def __init__(self, dataset: Any, grid: Any, widths: dict[str, int], tokens: int | None, whole: int) -> None:
        from vlm_spatial.activations.sampling import sampled_tokens

        self._kept = None if tokens is None else sampled_tokens(dataset.scenes, grid, tokens)
        self._row = {name: row for row, name in enumerate(dataset.scenes["scene_id"])}
        number = pl.int_range(pl.len()).over("axis", "variant")
        few = dataset.scenes.filter(split="test").filter((number < whole) | (pl.col("variant") == "blank"))
        self.whole_scenes = tuple((dataset.scenes if tokens is None else few)["scene_id"])
        generator = np.random.default_rng(0)
        self.scenes, self.grid, self.sites = dataset.scenes, grid, tuple(widths)
        self._dataset, self.own_grids = dataset, dict[str, Any]()
        self._pool = {s: generator.standard_normal((self.POOL, grid.size, w), dtype=np.float32) for s, w in widths.items()}
        self._codes = {s: generator.standard_normal((3, w), dtype=np.float32) for s, w in widths.items()}

    def kept(self, site: str, scene_ids: Sequence[str]) -> Any:
        if self._kept is None or site == "connector":
            return None
        rows = [self._row[name] for name in scene_ids]
        return replace(self._kept, tokens=self._kept.tokens[rows], weights=self._kept.weights[rows])

    def batches(self, site: str, scene_ids: Sequence[str], size: int) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        kept = self.kept(site, scene_ids)
        for start in range(0, len(scene_ids), size):
            part = scene_ids[start : start + size]
            yield part, self._values(site, part, None if kept is None else kept.tokens[start : start + size])

    def read(self, site: str, scene_ids: Sequence[str]) -> np.ndarray:
        return self._values(site, scene_ids, None)

    def _values(self, site: str, part: Sequence[str], tokens: Any) -> np.ndarray:
        rows = np.arange(len(part)) % self.POOL
        found: np.ndarray = self._pool[site][rows] if tokens is None else self._pool[site][rows[:, None], tokens]
        for row, name in enumerate(part):
            if self._dataset.boxes(name):
                for slot, mask in enumerate(self._dataset.tokens(name, self.grid).objects):
                    found[row, mask if tokens is None else mask[tokens[row]]] += 0.1 * self._codes[site][slot % 3]
        return found


class Tables(Dataset):
    """The preset's scenes, with blank images."""

    def image(self, scene_id: str) -> Any:
        from PIL import Image

        return Image.new("RGB", self.size(scene_id), "white")


def probes(bench: Bench) -> Iterator[Line]:
    from vlm_spatial.config.activations import ActivationsSettings
    from vlm_spatial.config.probes import ProbesSettings
    from vlm_spatial.probes.analysis import analyse
    from vlm_spatial.probes.arrays import device_for

    settings = bench.preset.section(ProbesSettings, "probes")
    scenes = bench.preset.scenes.filter(pl.col("variant") != "pair")
    tables = Tables(Path("none"), scenes, bench.preset.questions, bench.preset.pairs)
    grid = bench.adapter.grid(*tables.size(scenes["scene_id"][0]))
    sites = bench.adapter.sites
    width = bench.adapter.site_shape

    asked = bench.preset.section(ActivationsSettings, "activations")
    tokens = None if asked.tokens == "all" else asked.tokens

    def work(*chosen: str) -> Callable[[], object]:
        store = RandomStore(tables, grid, {site: width(site)[1] for site in chosen}, tokens, asked.whole_scenes)
        device = device_for(settings.device, bench.adapter.device.type, max((width(site)[1] for site in chosen), default=0))
        return lambda: analyse(store, tables, settings, bench.seed, device)

    baselines = bench.measure("probes", "baselines", work(), 1, 1, "times")
    yield baselines
    for name, site, of in (
        ("vision sites", "vision.0", sum(s.startswith("vision.") for s in sites)),
        ("connector", "connector", 1),
        ("language sites", "language.0", sum(s.startswith("language.") for s in sites)),
    ):
        line = bench.measure("probes", name, work(site), 1, of, "sites")
        yield replace(line, seconds=max(0.0, line.seconds - baselines.seconds))


def start(bench: Bench) -> Iterator[Line]:
    """Starting processes, and weights from memory to the device; reading them from a disk comes on top."""
    stages = ("behaviour", "activations", "probes", "interchange", "conflict", "ablation", "amplification")

    def imports() -> None:
        subprocess.run([sys.executable, "-c", "import vlm_spatial.stages.amplification"], check=True)

    yield bench.measure("start", "imports", imports, 1, len(stages), "processes")
    if bench.adapter.device.type == "cuda":
        size = 2**30
        host = torch.ones(size, dtype=torch.uint8)
        weights = sum(p.numel() * p.element_size() for p in bench.adapter.model.parameters())
        yield bench.measure("start", "weights to the GPU", lambda: host.to(bench.adapter.device), size, weights * len(stages), "bytes")


PARTS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "activations": activations,
    "behaviour": behaviour,
    "interchange": interchange,
    "corrections": corrections,
    "conflict": conflict,
    "ablation": ablation,
    "reading": reading,
    "probes": probes,
    "start": start,
}
"""In the order in which they are measured: what matters most first."""
