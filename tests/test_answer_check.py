"""``vlm-spatial check``: what answers become in a vocabulary, told from the tokenizer's file alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from real_checkpoints import REAL_FAMILIES, real_checkpoint
from vlm_spatial import __version__
from vlm_spatial.cli import app
from vlm_spatial.config.prompting import PromptingSettings
from vlm_spatial.config.reading import parse_config
from vlm_spatial.errors import UserError
from vlm_spatial.models import folder_tokenizer
from vlm_spatial.models.folder_tokenizer import FolderTokenizer, opening
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.sources.drawn_kinds import drawn_source
from vlm_spatial.workflow.answer_check import AnswerReport, answer_reports, never_likeliest

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", params=REAL_FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_checkpoint(tmp_path_factory.mktemp("real") / request.param, request.param)


def config(folder: Path, **more: object) -> dict[str, object]:
    return {
        "datasets": {"objects": {"kind": "objects"}, "squares": {"kind": "squares", "templates": ["slot_to_object", "content"]}},
        "models": {"mine": {"checkpoint": str(folder), "datasets": ["objects", "squares"], **more}},
    }


@pytest.mark.slow
def test_the_file_alone_gives_the_tokens_and_the_opening_of_the_model(folder: Path) -> None:
    prompting = PromptingSettings(system="Be brief.", answer_prefix="It is")
    adapter = load_adapter(folder, device="cpu", prompting=prompting)
    assert opening(folder, prompting) == adapter.cache._forms._opening
    alone = FolderTokenizer(folder)
    for word in (*drawn_source("objects").words(), "traffic light", "toothbrush"):
        for text in (word, f" {word.capitalize()}", f"<|im_start|>model\n{word}"):
            assert alone(text, add_special_tokens=False) == {
                "input_ids": adapter.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            }


@pytest.mark.slow
def test_reports_say_what_the_scoring_does(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "answers.json"
    objects, squares = answer_reports(parse_config(config(folder)), cache)
    assert len(objects.forms) == 39 + 5
    assert (objects.unknown, objects.equal) == ([], [])
    assert set(squares.forms) >= {"red", "yes", "no"}
    if "qwen" in str(folder):
        assert ["globe", "guitar"] in objects.alike
        assert objects.forms["globe"] == ["g|lobe", "G|lobe", " globe", " Globe"]
        assert "globe/guitar" in objects.summary
        assert objects.longest == 3
    else:
        assert bool(objects.alike) == ("pixtral" in str(folder))
    monkeypatch.setattr(folder_tokenizer.FolderTokenizer, "__init__", lambda *_: pytest.fail("read again"))
    assert [objects, squares] == list(answer_reports(parse_config(config(folder)), cache))


@pytest.mark.slow
def test_the_command_shows_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow_config.yaml").write_text(yaml.safe_dump(config(folder)), encoding="utf-8")
    said = CliRunner().invoke(app, ["check", "--forms"])
    assert said.exit_code == 0, said.output
    assert "mine on objects: 44 answers" in said.output
    assert "  apple: 'apple', 'Apple'," in said.output
    assert "can be used" in said.output


def test_words_that_a_tokenizer_lacks_are_named(checkpoint: Callable[[str], Path]) -> None:
    [objects, _] = answer_reports(parse_config(config(checkpoint("gemma3"))), None)
    assert "robot" in objects.unknown
    assert "unknown to the tokenizer: apple" in objects.summary


def test_what_cannot_be_used_is_one_line(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="has no chat template 'rag'; there are default"):
        list(answer_reports(parse_config(config(checkpoint("gemma3"), prompting={"chat_template": "rag"})), None))


def test_answers_that_no_token_spells_are_counted_before_pairs_are_kept_by_the_likeliest() -> None:
    forms = {word: [word, f" {word}"] for word in ("red", "blue", "gray")} | {"teal": ["te|al", " teal"], "ochre": ["o|chre", " o|chre"]}
    report = AnswerReport("mine", "squares", forms, [], [], [])
    assert report.of_several_tokens == ["ochre"]
    models = {"mine": {"checkpoint": "organization/model", "revision": 40 * "0", "datasets": ["squares"]}}
    plain = {"datasets": {"squares": {"kind": "squares"}}, "models": models}
    strict = plain | {"interchange": {"pool": {"right_by": "top1_word"}}}
    assert never_likeliest(report, parse_config(plain)) == ""
    assert never_likeliest(report, parse_config(strict)) == (
        "1 of 5 answers are more than one token, so their pairs never pass interchange.pool.right_by: top1_word: ochre; 4 are left"
    )
    # No pairs, so none to keep.
    nothing = {"squares": {"kind": "squares", "pairs": {"vision": 0, "language": 0, "conflict": 0}}}
    assert never_likeliest(report, parse_config(strict | {"datasets": nothing})) == ""
    few = AnswerReport("mine", "squares", {"red": ["red"], "teal": ["te|al"], "ochre": ["o|chre"]}, [], [], [])
    with pytest.raises(UserError, match=r"2 of 3 answers are more than one token.*teal, ochre; 1 are left, and a scene has 3"):
        never_likeliest(few, parse_config(strict))


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"vlm-spatial {__version__}"
