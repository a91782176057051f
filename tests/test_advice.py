"""Advice that helps: what a message says to do is what puts the fault right, and never harms a good file."""

import json
from pathlib import Path

import polars as pl
import pytest

from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.files import read_json, read_parquet
from vlm_spatial.models.folder import architecture_of
from vlm_spatial.probes.saved import load_probes
from vlm_spatial.report.compare import read_side
from vlm_spatial.scenes.boxes_file import read_boxes
from vlm_spatial.scenes.photos import load_entries

pytestmark = pytest.mark.unit

LIST = "data/controlled_clevr_dataset.json"


def said(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_missing_result_is_not_to_be_deleted(tmp_path: Path) -> None:
    for call in (read_json, read_parquet, load_probes):
        message = said(call, tmp_path / "nothing")
        assert message.endswith("nothing: no such file; run snakemake to make it, or give the path of one that is there")
    assert "delete" not in said(read_side, "a-model", tmp_path / "findings.json")


def test_a_folder_in_place_of_a_file_is_not_to_be_deleted(tmp_path: Path) -> None:
    for call in (read_json, load_probes):
        assert said(call, tmp_path).endswith("is a folder; give the path of a file")


def test_a_table_given_as_probes_is_not_to_be_deleted(tmp_path: Path) -> None:
    pl.DataFrame({"score": [0.5]}).write_parquet(tmp_path / "probes.parquet")
    message = said(load_probes, tmp_path / "probes.parquet")
    assert message.endswith("probes.parquet: is a table; the probes themselves are in probes.safetensors beside it")


def test_a_trailing_comma_in_ones_own_json_is_shown_by_its_line(tmp_path: Path) -> None:
    boxes = written(tmp_path / "boxes.json", '{\n  "a.png": {"mug": [0, 0, 5, 5]},\n}\n')
    assert said(read_boxes, boxes) == f"{boxes}: line 3: is not JSON (a comma before the closing bracket); correct that line"
    photos = written(tmp_path / LIST, '[\n  {"image_path": "a.png"},\n]\n')
    message = said(load_entries, tmp_path, "B")
    assert message.startswith(f"{photos}: line 3: is not JSON (a comma before the closing bracket); correct that line")
    config = written(tmp_path / "model/config.json", '{\n  "architectures": ["Gemma3ForConditionalGeneration"],\n}')
    assert "config.json: line 3: is not JSON (a comma before the closing bracket); correct it" in said(architecture_of, config.parent)


def test_an_empty_list_is_called_empty(tmp_path: Path) -> None:
    written(tmp_path / LIST, "[]")
    assert "the list is empty" in said(load_entries, tmp_path, "B")
    written(tmp_path / LIST, json.dumps({"a": 1}))
    assert "must be a list of photos with image_path and caption_options, found a mapping" in said(load_entries, tmp_path, "B")


def test_types_have_the_names_that_people_use(tmp_path: Path) -> None:
    """Not tuple, dict or NoneType."""
    boxes = written(tmp_path / "boxes.json", "[1]")
    assert said(read_boxes, boxes).endswith("found a list")
    values = {"datasets": {"squares": {"kind": "squares"}}, "models": {"m": {"checkpoint": str(tmp_path), "datasets": "squares"}}}
    assert said(parse_config, values).endswith("models.m.datasets: must be a list, in brackets: [squares], found 'squares'")


def test_unknown_words_of_photos_are_not_to_be_trained_on() -> None:
    """An organism cannot be trained on photos, which the configuration refuses."""
    from vlm_spatial.models.answer_forms import AnswerForms
    from vlm_spatial.models.organisms.checkpoint import family, word_tokenizer

    message = said(AnswerForms(word_tokenizer(["red"], family("gemma3").recipe), "", AnswerSettings()).of, "mug")
    assert "leave this dataset out of the model's datasets" in message
    assert "those of photos it cannot" in message
