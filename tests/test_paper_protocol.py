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
            canvas = {"coco": "native", "coco-gemma": "squeezed"}
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
