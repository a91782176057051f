"""presets/paper.yaml is the published protocol, and docs/comparison.md names keys that there are."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from paper_preset import PRESET, filled
from vlm_spatial.config.reading import parse_config
from vlm_spatial.config.workflow import Config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.scenes.sources.layouts import LAYOUTS
from vlm_spatial.scenes.sources.registry import SOURCES, source_of
from vlm_spatial.scenes.sources.settings import DatasetSettings
from vlm_spatial.workflow.layout_check import misfits

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[1]
PROTOCOL = REPOSITORY.parent / "shared" / "PROTOCOL.md"

_STATEMENT = {"relation_to_object": "The color of the square {relation} the {reference} is {blank}"}
_POOL = {"right_by": "top1_word", "first": 50}
# Every row in which the published protocol differs from ours (PROTOCOL.md, section 6): keys of presets/paper.yaml that hold what is theirs.
ROWS: dict[str, dict[str, object]] = {
    "models": {
        "models.qwen2-vl-7b.checkpoint": "Qwen/Qwen2-VL-7B-Instruct",
        "models.gemma-3-4b.checkpoint": "google/gemma-3-4b-it",
        "models.pixtral-12b.checkpoint": "mistral-community/pixtral-12b",
        "models.qwen2-vl-2b-coco.checkpoint": "Qwen/Qwen2-VL-2B-Instruct",
    },
    "precision": {
        "models.qwen2-vl-7b.dtype": "float32",
        "models.gemma-3-4b.dtype": "float32",
        "models.pixtral-12b.dtype": "bfloat16",
        "models.pixtral-12b-coco.dtype": "float32",
    },
    "Qwen's rotary positions": {
        "models.qwen2-vl-7b-running.quirks.running_positions": True,
        "models.qwen2-vl-2b-coco.quirks.running_positions": False,
    },
    "begin-of-sequence, Gemma": {"models.gemma-3-4b.quirks.second_bos": False, "models.gemma-3-4b-coco.quirks.second_bos": True},
    "canvas and grid": {
        "datasets.squares-qwen.layout.grid": 12,
        "datasets.squares-qwen.layout.cell": 28,
        "datasets.squares-gemma.layout.grid": 16,
        "datasets.squares-gemma.layout.cell": 56,
        "datasets.squares-pixtral.layout.grid": 15,
        "datasets.squares-pixtral.layout.cell": 16,
    },
    "objects": {
        "datasets.shapes-qwen.layout.side": 2,
        "datasets.shapes-qwen.layout.gap": 2,
        "datasets.shapes-gemma.layout.side": 3,
        "datasets.shapes-gemma.layout.gap": 3,
        "datasets.shapes-pixtral.layout.side": 2,
        "datasets.shapes-pixtral.layout.gap": 2,
    },
    "background": {"datasets.squares-qwen.background": "white", "datasets.objects-gemma.background": "white"},
    "colours": {"datasets.squares-gemma.palette": "pure", "datasets.squares-pixtral.palette": "pure-orange"},
    "Shapes": {"datasets.shapes-qwen.paired": True},
    "Objects": {"datasets.objects-qwen.pictures": "eight", "datasets.objects-pixtral.pictures": "seven"},
    "items": {
        "datasets.objects-gemma.items": "every_triple",
        "datasets.objects-gemma.scenes": {"train": 189, "validation": 63, "test": 84},
        "behaviour.splits": ["train", "validation", "test"],
    },
    "What'sUp": {
        "datasets.whatsup-qwen.subset": "A",
        "datasets.whatsup-qwen.halves": "qwen2-vl",
        "datasets.whatsup-gemma.halves": "gemma-3",
        "datasets.whatsup-pixtral.halves": "pixtral",
        "datasets.whatsup-qwen.one_token_in": "",
    },
    "prompt": {
        "datasets.squares-qwen.wording": _STATEMENT,
        "models.gemma-3-4b.prompting.system": "You are a helpful assistant. Your reply is one token.",
    },
    "what is asked": {"datasets.shapes-gemma.templates": ["relation_to_object"], "datasets.shapes-gemma.asked_slots": [0, 2]},
    "behaviour score": {},
    "pair count": {"datasets.squares-qwen.pairs.vision": 200, "interchange.pool.first": 50, "datasets.squares-qwen.pairs.file": None},
    "filter": {"interchange.pool.right_by": "top1_word"},
    "criss-cross": {
        "interchange.crosswise_sites": ["connector", "language.*"],
        "interchange.crosswise_sets": ["object", "strip"],
    },
    "strips": {
        "datasets.squares-qwen.layout.strips": [4, 8],
        "datasets.squares-gemma.layout.strips": [5, 11],
        "datasets.squares-pixtral.layout.strips": [5, 10],
    },
    "matching in strips": {"interchange.crosswise_match": "place"},
    "last token": {
        "datasets.squares-qwen.pairs.last_token": 200,
        "interchange.last_token_sites": ["language.*"],
        "interchange.last_token_groups": ["last"],
    },
    "outcome": {"answers.forms": ["{word}", "{Word}", " {word}", " {Word}"]},
    "ablation": {"ablation.methods": ["neutral"], "ablation.neutral_place": "middle"},
    "ablated accuracy": {"ablation.questions": "all"},
    "language sweep under ablation": {"ablation.crosswise_sets": ["object"], "ablation.pool": _POOL},
    "probe": {"probes.published_sites": ["connector"]},
    "COCO": {
        "datasets.coco.kind": "coco",
        "datasets.coco.questions": "items.json",
        "datasets.coco.items_boxes": "largest",
        "datasets.coco.items_ask": "subject",
        "datasets.coco.canvas": "as_is",
        "datasets.coco-gemma.canvas": "squeezed",
    },
    "correction": {"amplification.item_alphas": [float(alpha) for alpha in range(16)]},
    "choice of α": {},
    "control": {"amplification.item_random_draws": 1},
    "success": {"amplification.items_right_by": "top1_word"},
}
# What is measured beside ours whatever the configuration: rows of docs/measures.md.
MEASURED = {
    "behaviour score": ("behaviour", "top1_accuracy"),
    "outcome": ("crosswise", "probability_flip"),
    "ablated accuracy": ("ablation", "top1_accuracy"),
    "choice of α": ("items", "published_best_alpha"),
    "success": ("items", "published_any_alpha"),
}


def has_key(model: Any, parts: list[str]) -> bool:
    """Whether a section has a key; ``*`` stands for a name that the user chooses."""
    if not parts:
        return True
    if model is DatasetSettings:
        return any(has_key(source.settings, parts) for source in SOURCES)
    if get_origin(model) is dict:
        kinds = [get_args(each)[0] if get_args(each) and not isinstance(each, type) else each for each in get_args(model)[1:]]
        return parts[0] == "*" and any(has_key(kind, parts[1:]) for kind in kinds)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return parts[0] in model.model_fields and has_key(model.model_fields[parts[0]].annotation, parts[1:])
    return any(has_key(each, parts) for each in get_args(model) if each is not type(None))


def test_every_row_names_keys_that_there_are() -> None:
    page = (REPOSITORY / "docs/comparison.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"`((?:models|datasets|behaviour|interchange|ablation|probes|amplification|answers)\.[\w.*]+)", page))
    assert len(keys) >= 25
    assert sorted(key for key in keys if not has_key(Config, key.split("."))) == []
    assert not has_key(Config, ["interchange", "crosswise_macth"])
    assert not has_key(Config, ["datasets", "*", "colour"])


@pytest.mark.slow
def test_the_preset_states_the_published_protocol(tmp_path: Path) -> None:
    config = parse_config(filled(tmp_path, {}), Source(PRESET))
    published = {"qwen": ("qwen2-vl", "float32"), "gemma": ("gemma-3", "float32"), "pixtral": ("pixtral", "bfloat16")}
    for of_model, model in config.models.items():
        if of_model.endswith("-coco"):
            assert (model.dtype, model.prompting.system) == ("float32", "")
            # Gemma-3 is shown them squeezed.
            canvas = {"coco": "as_is", "coco-gemma": "squeezed"}
            assert model.datasets == (("coco-gemma",) if of_model.startswith("gemma") else ("coco",))
            assert all(config.datasets[name].canvas == canvas[name] for name in model.datasets)
            of_items = [config.datasets[name].model_dump(include={"items_ask", "items_boxes"}) for name in model.datasets]
            assert of_items == [{"items_ask": "subject", "items_boxes": "largest"}]
            assert model.quirks.second_bos == (not of_model.startswith("qwen"))
            continue
        layout, dtype = published[model.datasets[0].split("-")[1]]
        assert model.dtype == dtype
        assert [name.split("-")[0] for name in model.datasets] == ["squares", "shapes", "objects", "whatsup"]
        for name in model.datasets:
            settings: Any = config.datasets[name]
            if settings.kind == "whatsup":
                assert (settings.subset, settings.halves, settings.asked_slots) == ("A", layout, (0, 2))
                # Two items a picture.
                pictures = {"qwen2-vl": 628, "gemma-3": 2148, "pixtral": 484}[layout] // 2
                counts = settings.scenes
                assert counts.train + counts.validation + counts.test == pictures
                assert counts.test / pictures == pytest.approx(0.25, abs=0.01)
                continue
            assert settings.layout == LAYOUTS[layout]
            assert (settings.background, settings.items, settings.asked_slots) == ("white", "every_triple", (0, 2))
            assert settings.templates == ("relation_to_object",)
            counts = settings.scenes
            assert counts.test / (counts.train + counts.validation + counts.test) == pytest.approx(0.25, abs=0.01)
            words = source_of(settings.kind).object_words(settings)
            assert ("orange" in words) == ("pixtral" in name or settings.kind == "objects")
            # Refused here, if triples were left out.
            source_of(settings.kind).check(settings, lambda _key: pytest.MonkeyPatch.context())  # type: ignore[arg-type,return-value]
    sections = dict(config)
    assert sections["interchange"].pool.model_dump() == {"right_by": "top1_word", "first": 50}
    assert sections["interchange"].crosswise_match == "place"
    assert sections["amplification"].item_alphas == tuple(map(float, range(16)))


def at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


@pytest.mark.slow
def test_every_row_of_the_protocol_is_reached_by_configuration(tmp_path: Path) -> None:
    values = parse_config(filled(tmp_path, {}), Source(PRESET)).model_dump(mode="json")
    for row, keys in ROWS.items():
        assert keys or row in MEASURED, row
        for key, wanted in keys.items():
            found = at(values, key)
            if isinstance(found, str) and str(tmp_path) in found:
                found = found.removeprefix(str(tmp_path)).strip("/").rpartition("/")[2]
            assert found == wanted, (row, key)
    documented = (REPOSITORY / "docs/measures.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in documented.splitlines() if line.startswith("| `")]
    for row, (experiment, measure) in MEASURED.items():
        assert row in ROWS
        assert any(f"`{experiment}`" in made and f"`{measure}`" in of for made, of in rows), row


@pytest.mark.skipif(not PROTOCOL.is_file(), reason=f"the published protocol is not at {PROTOCOL}")
def test_no_row_of_the_protocol_is_missing() -> None:
    section = PROTOCOL.read_text(encoding="utf-8").split("\n## 6. ")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 25
    assert rows == list(ROWS)


def test_the_preset_as_it_stands_says_what_to_fill_in() -> None:
    with pytest.raises(UserError, match=r"fill in datasets\.objects-qwen\.pictures, .*models\.qwen2-vl-7b\.revision.*; found FILL-IN"):
        parse_config(yaml.safe_load(PRESET.read_text(encoding="utf-8")), Source(PRESET))


def test_a_layout_of_another_grid_is_told_before_any_job(tmp_path: Path) -> None:
    six = {"kind": "squares", "layout": {"grid": 6, "cell": 70, "side": 1, "gap": 1}}
    values = {
        "datasets": {"six": six, "gemma": {"kind": "squares", "layout": "gemma-3"}},
        "models": {"mine": {"checkpoint": str(REPOSITORY / "organisms/natural-gemma3"), "datasets": ["six", "gemma"]}},
    }
    cache = tmp_path / "grids.json"
    [(key, wrong)] = misfits(Config.model_validate(values), cache)
    assert key == "models.mine.datasets"
    assert wrong == (
        "gemma is laid out for 16×16 visual tokens, and an image of 896 pixels becomes 6×6 to this model; give it a dataset with the "
        "layout of its own grid (1 other datasets are left)"
    )
    assert cache.is_file()
