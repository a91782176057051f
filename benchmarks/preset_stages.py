"""Every stage of a preset with a published configuration and random weights, whole or cut in depth: the stages and their times.

    python -m benchmarks.preset_stages --preset paper --family qwen2_vl --tokenizer FOLDER     # whole, on a GPU of 48 GB
    python -m benchmarks.preset_stages --family gemma3                                         # presets/extended.yaml, on one of 24 GB
    python -m benchmarks.preset_stages --family gemma3 --layers 1 --vision-layers 1 --datasets squares     # on a CPU: fewer layers

A preset's models of that checkpoint are run in the dtype that it gives them. ``--tokenizer`` names a folder with the published
``tokenizer.json`` and ``tokenizer_config.json``. ``presets/paper.yaml`` needs it; for the other one a word-level tokenizer takes its place.
Datasets whose files are not given are left out. Scenes, pairs and questions are few, unless ``--whole`` asks for the preset's own numbers.
Pairs and items are taken whether or not they are answered right, as random models do not. The figures need no model and are left out.

Writes ``benchmarks/results/preset_stages_<family>.json``. The results say nothing of the published models.
"""

import argparse
import contextlib
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from benchmarks.genuine import LAYERS, NAME, REVISION, WORDS, genuine_adapter, loader
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

PRESETS = Path(__file__).parents[1] / "presets"
CHECKPOINTS = {"qwen2_vl": "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl_2b": "Qwen/Qwen2-VL-2B-Instruct", "gemma3": "google/gemma-3-4b-it"}
COCO = {"images": "val2017", "annotations": "instances_val2017.json", "questions": "coco_qa_two_obj.json"}
"""Files in the folder that ``--coco`` names."""
FEWER: dict[str, Any] = {
    "scenes": {"train": 3, "validation": 1, "test": 1},
    "variants": {"decorrelated": {"train": 2, "validation": 1, "test": 1}},
    "axes": ["horizontal"],
    "items": "sampled",
}
"""Of a drawn dataset."""
FEWER_PHOTOS: dict[str, Any] = {"scenes": {"train": 6, "validation": 6, "test": 6}}
FEWER_ITEMS = 4
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
        "item_alphas": [0, 1, 15],
    },
}
BLANK = "FILL-IN"
DRAWN_KINDS = [kind.kind for kind in DRAWN]
KINDS = [*DRAWN_KINDS, "whatsup", "coco"]
Load = Callable[..., Adapter]


@dataclass(frozen=True)
class StageTime:
    """How long one job took; ``of`` is what it was run for, such as its dataset."""

    stage: str
    of: str
    seconds: float


@dataclass(frozen=True)
class Files:
    """What a preset leaves blank; None where it is not at hand.

    Attributes:
        pictures: a folder of objects' pictures.
        whatsup: the folder of What'sUp's photos.
        coco: a folder with what ``COCO`` names.
    """

    tokenizer: Path | None = None
    pictures: Path | None = None
    whatsup: Path | None = None
    coco: Path | None = None

    def fill(self, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """A dataset with its blanks filled in, as far as they can be."""
        of_coco = {key: self.coco and self.coco / name for key, name in COCO.items()}
        known = {"pictures": self.pictures, "root": self.whatsup, "one_token_in": self.tokenizer, **of_coco}
        there = {key: str(path.resolve()) for key, path in known.items() if path is not None and dataset.get(key) == BLANK}
        return {**dataset, **there}


def preset_values(preset: str, family: str, kinds: Collection[str], files: Files, folder: Path, *, whole: bool = False) -> dict[str, Any]:
    """A preset's models of one checkpoint, on their datasets of some kinds whose files are there.

    Args:
        folder: where a shorter list of items is written.
        whole: with the preset's own numbers of scenes, pairs and questions.

    Raises:
        SystemExit: if no dataset is left.
    """
    values: dict[str, Any] = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    # No figures are made; what is published is so of other models.
    values.pop("figures", None)
    models = {name: model for name, model in values["models"].items() if model["checkpoint"] == CHECKPOINTS[family]}
    names = [name for model in models.values() for name in model["datasets"] if values["datasets"][name]["kind"] in kinds]
    filled = {name: files.fill(values["datasets"][name]) for name in names}
    values["datasets"] = {name: dataset for name, dataset in filled.items() if BLANK not in dataset.values()}
    values["models"] = {}
    for name, model in models.items():
        if there := [dataset for dataset in model["datasets"] if dataset in values["datasets"]]:
            # The hub is never asked for it.
            values["models"][name] = {**model, "checkpoint": NAME, "revision": REVISION, "datasets": there}
    if not values["models"]:
        raise SystemExit(f"error: presets/{preset}.yaml asks {CHECKPOINTS[family]} nothing about these datasets with the files given")
    for section in ("interchange", "ablation"):
        values.setdefault(section, {})["pool"] = {"first": 0}
    values.setdefault("amplification", {})["items_right_by"] = "candidates"
    for dataset in values["datasets"].values():
        # Of 200 pairs of an axis, the published run keeps 50 that are answered right in either direction.
        dataset["pairs"] = {of: min(count, 100 if whole else 1) for of, count in dataset["pairs"].items()}
    if not whole:
        for name, dataset in values["datasets"].items():
            dataset |= FEWER if dataset["kind"] in DRAWN_KINDS else FEWER_PHOTOS
            if "questions" in dataset:
                items = json.loads(Path(dataset["questions"]).read_text(encoding="utf-8"))[:FEWER_ITEMS]
                dataset["questions"] = str(folder / f"{name}.json")
                write_json(items, Path(dataset["questions"]))
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
    parser.add_argument("--preset", choices=["paper", "extended"], default="extended")
    parser.add_argument("--family", choices=LAYERS, required=True, help="qwen2_vl is 7B; paper.yaml asks 2B about COCO")
    parser.add_argument("--layers", type=int, help="of the language model; all of them by default")
    parser.add_argument("--vision-layers", type=int, help="all of them by default")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER")
    parser.add_argument("--datasets", nargs="+", choices=KINDS, default=KINDS, help="by kind; all by default whose files are given")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="pictures of objects for paper.yaml")
    parser.add_argument("--whatsup", type=Path, metavar="FOLDER", help="What'sUp's photos")
    parser.add_argument("--coco", type=Path, metavar="FOLDER", help=f"holds {', '.join(COCO.values())}")
    parser.add_argument("--whole", action="store_true", help="the preset's own numbers of scenes, pairs and questions: hours")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.preset == "paper" and given.tokenizer is None:
        parser.error("presets/paper.yaml keeps to names that are one token: give the published --tokenizer")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    words = [*WORDS, *(word for kind in DRAWN for word in vocabulary(dataset_settings({"kind": kind.kind})))]
    files = Files(given.tokenizer, given.pictures, given.whatsup, given.coco)
    times = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        values = preset_values(given.preset, given.family, given.datasets, files, folder, whole=given.whole)
        [dtype] = {model["dtype"] for model in values["models"].values()}
        depths = given.layers, given.vision_layers
        adapter = genuine_adapter(given.family, *depths, device, dtype, tokenizer=given.tokenizer, words=words)
        adapter.model.eval().requires_grad_(False)
        for each in run_stages(values, folder, loader(adapter), lambda: wait_for(device)):
            times.append(each)
            print(f"{each.stage:16} {each.of:14} {each.seconds:8.1f} s", flush=True)
    text, vision = LAYERS[given.family]
    result = {
        "environment": environment(device),
        "preset": given.preset,
        "family": given.family,
        "dtype": dtype,
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
