"""Every stage of presets/extended.yaml with a published configuration and random weights: the stages and their times.

    python -m benchmarks.preset_stages --family qwen2_vl --tokenizer FOLDER       # whole, in bfloat16; wants a GPU of 24 GB or more
    python -m benchmarks.preset_stages --family gemma3 --layers 1 --vision-layers 1 --datasets squares     # on a CPU: fewer layers

``--tokenizer`` names a folder with the published ``tokenizer.json`` and ``tokenizer_config.json``; without, a word-level one takes their
place. ``--whatsup`` names the photos' folder; without, that dataset is left out. Scenes, pairs and questions are few, unless ``--whole``
asks for the preset's own numbers. The figures, which need no model, are left out.

Writes ``benchmarks/results/preset_stages_<family>.json``. The results say nothing of the published models.
"""

import argparse
import contextlib
import importlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from benchmarks.genuine import LAYERS, NAME, REVISION, WORDS, genuine_adapter
from benchmarks.measure import RESULTS, environment, wait_for

from vlm_spatial.config.datasets import dataset_settings
from vlm_spatial.config.reading import parse_config
from vlm_spatial.files import write_json
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.scenes.questions import vocabulary
from vlm_spatial.scenes.sources.drawn_kinds import DRAWN
from vlm_spatial.stages.registry import STAGES
from vlm_spatial.stages.stage import Job
from vlm_spatial.workflow.planning import Plan

PRESET = Path(__file__).parents[1] / "presets/extended.yaml"
FEWER: dict[str, Any] = {
    "scenes": {"train": 3, "validation": 1, "test": 1},
    "variants": {"decorrelated": {"train": 2, "validation": 1, "test": 1}},
    "pairs": {"vision": 1, "language": 1, "conflict": 1},
    "axes": ["horizontal"],
}
"""Of a drawn dataset."""
FEWER_PHOTOS: dict[str, Any] = {"scenes": {"train": 6, "validation": 6, "test": 6}, "pairs": FEWER["pairs"]}
FEWER_OF_SECTION: dict[str, dict[str, Any]] = {
    "probes": {"strengths": [1.0], "strip_map_scenes": 1},
    "interchange": {"token_sets": ["object", "strip"]},
    "ablation": {"questions": 3, "fit_scenes": 2},
    "amplification": {
        "questions": 3,
        "random_draws": 2,
        "projection_alphas": [1.0, 2.0],
        "oracle_alphas": [0.0, 1.0],
        "control_alphas": [2.0],
    },
}
Load = Callable[..., Adapter]


@dataclass(frozen=True)
class StageTime:
    """How long one job took; ``of`` is what it was run for, such as its dataset."""

    stage: str
    of: str
    seconds: float


def preset_values(datasets: Sequence[str], model: Mapping[str, Any], *, whole: bool = False, whatsup: Path | None = None) -> dict[str, Any]:
    """The preset for one model on some of its datasets.

    Args:
        model: its entry in ``models``, without the datasets.
        whole: with the preset's own numbers of scenes, pairs and questions.
        whatsup: the photos' folder.
    """
    values: dict[str, Any] = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    values["datasets"] = {name: values["datasets"][name] for name in datasets}
    if "whatsup" in datasets:
        values["datasets"]["whatsup"]["root"] = str(whatsup)
    values["models"] = {"model": {**model, "datasets": list(datasets)}}
    # No figures are made; what is published is so of other models.
    values.pop("figures", None)
    if not whole:
        for name, dataset in values["datasets"].items():
            dataset.update(FEWER_PHOTOS if name == "whatsup" else FEWER)
        for section, fewer in FEWER_OF_SECTION.items():
            values[section] = values.get(section, {}) | fewer
    return values


def run_stages(
    values: Mapping[str, Any],
    folder: Path,
    load: Load,
    done: Callable[[], None] = lambda: None,
    wanted: Callable[[str, Mapping[str, str]], bool] = lambda _stage, _names: True,
    made: Collection[str] = (),
) -> Iterator[StageTime]:
    """Run every stage but the figures in this process, in order, below ``folder``; one time a job.

    Args:
        values: a configuration; its results are written to ``folder / values["results"]``.
        load: instead of ``load_adapter``, with the same arguments.
        done: called before a job's time is taken.
        wanted: whether to run a stage for a model and dataset (``names``). What was not made is no input of later jobs.
        made: stages whose results lie there already.
    """
    plan, left_out = Plan(parse_config(dict(values))), set[Path]()
    for stage in (stage for stage in STAGES if stage != "figures"):
        module = importlib.import_module(f"vlm_spatial.stages.{stage}")
        for names in plan.jobs(stage):
            outputs = {key: plan.results / output.path.format(**names) for key, output in STAGES[stage].outputs.items()}
            if not wanted(stage, names):
                left_out |= set(outputs.values())
                continue
            if stage in made:
                continue
            every = {label: path for several in plan.inputs(stage, **names).values() for label, path in several.items()}
            inputs = {label: path for label, path in every.items() if path not in left_out}
            with contextlib.chdir(folder), contextlib.ExitStack() as replaced:
                if hasattr(module, "load_adapter"):
                    replaced.enter_context(mock.patch.object(module, "load_adapter", load))
                for path in outputs.values():
                    path.parent.mkdir(parents=True, exist_ok=True)
                started = time.perf_counter()
                getattr(module, stage)(Job(plan.settings(stage, tuple(names.values())), inputs, outputs))
                done()
                seconds = time.perf_counter() - started
            yield StageTime(stage, names.get("dataset", "all"), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=LAYERS, required=True)
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER")
    parser.add_argument("--whatsup", type=Path, metavar="FOLDER")
    parser.add_argument("--datasets", nargs="+", choices=["squares", "shapes", "objects"], default=["squares", "shapes", "objects"])
    parser.add_argument("--layers", type=int, help="of the language model; all of them by default")
    parser.add_argument("--vision-layers", type=int)
    parser.add_argument("--whole", action="store_true", help="the preset's own numbers of scenes, pairs and questions: hours")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    words = [*WORDS, *(word for kind in DRAWN for word in vocabulary(dataset_settings({"kind": kind.kind})))]
    adapter = genuine_adapter(given.family, given.layers, given.vision_layers, device, tokenizer=given.tokenizer, words=words)
    datasets = [*given.datasets, *(["whatsup"] if given.whatsup else [])]
    # The hub is never asked for it.
    model = {"checkpoint": NAME, "revision": REVISION, "dtype": "bfloat16"}
    values = preset_values(datasets, model, whole=given.whole, whatsup=given.whatsup and given.whatsup.resolve())
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for each in run_stages(values, Path(folder), lambda **_: adapter, lambda: wait_for(device)):
            times.append(each)
            print(f"{each.stage:16} {each.of:10} {each.seconds:8.1f} s", flush=True)
    text, vision = LAYERS[given.family]
    result = {
        "environment": environment(device),
        "family": given.family,
        "layers": given.layers or text,
        "vision_layers": given.vision_layers or vision,
        "tokenizer": "published" if given.tokenizer else "word-level",
        "whole": given.whole,
        "peak_gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
        "stages": [asdict(each) for each in times],
    }
    output = given.output or RESULTS / f"preset_stages_{given.family}.json"
    output.parent.mkdir(exist_ok=True)
    write_json(result, output)
    print(f"all stages: {sum(each.seconds for each in times):.1f} s; written to {output}")


if __name__ == "__main__":
    main()
