"""Answers in the published vocabularies of Qwen2-VL, Gemma-3 and Pixtral: whole words, in every form, by every path that scores them."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers.models.pixtral import image_processing_pil_pixtral

from real_checkpoints import REAL_FAMILIES, real_checkpoint
from tiny_workflow import REPOSITORY
from vlm_spatial.amplification.sweep import Asked, Setting, Sweep
from vlm_spatial.config.answers import AnswerSettings
from vlm_spatial.interventions.answers import AnswerReader, mass
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.patch import PairRuns, Patch, Run
from vlm_spatial.interventions.reference import run_plain
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import Begun
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.build import render, sample_scene
from vlm_spatial.scenes.questions import ask
from vlm_spatial.scenes.sources.registry import source_of

pytestmark = [pytest.mark.model, pytest.mark.slow]

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter, bench,
bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant,
bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
COCO = [name.strip() for name in _NAMES.replace("\n", " ").split(",")]
PROMPT = "Which object is on the left? Answer with one word."


@pytest.fixture(scope="module", params=REAL_FAMILIES)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(real_checkpoint(tmp_path_factory.mktemp("real") / request.param, request.param), device="cpu")


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 168, 3), dtype=np.uint8))


def chance(adapter: Adapter, image: Image.Image, text: str) -> float:
    """Probability of a text as the model's answer, by transformers' own forward pass over prompt and answer together."""
    tokenizer = adapter.processor.tokenizer
    opening = adapter.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(opening[-30:] + text, add_special_tokens=False)["input_ids"]
    answer = tuple(ids[len(tokenizer(opening[-30:], add_special_tokens=False)["input_ids"]) :])
    assert tokenizer.decode(answer) == text
    prepared = adapter.prepare([image], [Begun(PROMPT, answer)])
    with torch.inference_mode():
        logits = adapter.model(**prepared.inputs, use_cache=False, logits_to_keep=len(answer) + 1).logits[0]
    ends = logits[:-1].double().log_softmax(-1)
    return float(np.exp(sum(float(row[token]) for row, token in zip(ends, answer, strict=True))))


def clean_scores(adapter: Adapter, image: Image.Image, reader: AnswerReader) -> np.ndarray:
    return reader.log_probabilities(PatchEngine(adapter).clean([PairRuns("pair", Run(image, prompt)) for prompt in reader.prompts(PROMPT)]))


def forms(word: str) -> list[str]:
    return [word, word[0].upper() + word[1:], f" {word}", f" {word[0].upper()}{word[1:]}"]


def test_all_names_of_coco_can_be_scored_and_told_apart(adapter: Adapter) -> None:
    """Any three of them; those that begin alike are scored whole."""
    pairs = list(itertools.combinations(COCO, 2))
    readers = [AnswerReader.of(adapter, pair) for pair in pairs]
    whole = {pair for pair, reader in zip(pairs, readers, strict=True) if len(reader.beginnings) > 1}
    if adapter.family == "qwen2_vl":
        assert {("car", "carrot"), ("toilet", "toaster"), ("bottle", "bowl")} & whole
    assert len(whole) < len(pairs) / 10
    for pair in whole:
        reader = AnswerReader.of(adapter, pair)
        rows = torch.randn(len(reader.beginnings), adapter.vocabulary, generator=torch.Generator().manual_seed(1))
        assert mass(reader.log_probabilities(rows)) < 1


@pytest.mark.parametrize("words", [["globe", "guitar", "bell"], ["toothbrush", "toilet", "toaster"]])
def test_words_that_begin_alike_have_the_probability_of_their_forms(adapter: Adapter, image: Image.Image, words: list[str]) -> None:
    reader = AnswerReader.of(adapter, words)
    if adapter.family == "qwen2_vl":
        assert reader.whole_words
    scores = clean_scores(adapter, image, reader)
    if reader.whole_words:
        expected = [sum(chance(adapter, image, form) for form in forms(word)) for word in words]
        np.testing.assert_allclose(np.exp(scores), expected, rtol=2e-4)


@pytest.mark.parametrize("words", [["balloon", "mushroom", "snowman"], ["snowman", "whale", "umbrella"]])
def test_first_tokens_bound_words_that_begin_differently(adapter: Adapter, image: Image.Image, words: list[str]) -> None:
    """One run where first tokens tell the words apart: the candidates' mass is then too large, and said to be; whole words have theirs."""
    first = AnswerReader.of(adapter, words)
    assert (len(first.beginnings), first.whole_words) == (1, False)
    adapter.cache.answers = AnswerSettings(whole_words=True)
    whole = AnswerReader.of(adapter, words)
    adapter.cache.answers = AnswerSettings()
    assert whole.whole_words
    scores = clean_scores(adapter, image, whole)
    expected = [sum(chance(adapter, image, form) for form in forms(word)) for word in words]
    np.testing.assert_allclose(np.exp(scores), expected, rtol=2e-4)
    assert mass(scores) == pytest.approx(sum(expected), rel=2e-4)
    bounds = clean_scores(adapter, image, first)
    # Runs that share a beginning with others round differently.
    assert (bounds >= scores - 1e-5).all()
    assert mass(bounds) > mass(scores)


def test_one_token_words_rank_as_their_whole_words(adapter: Adapter, image: Image.Image) -> None:
    words = ["red", "green", "blue", "black"]
    reader = AnswerReader.of(adapter, words)
    assert reader.prompts(PROMPT) == [PROMPT]
    assert reader.whole_words
    scores = clean_scores(adapter, image, reader)
    expected = [sum(chance(adapter, image, form) for form in forms(word)) for word in words]
    np.testing.assert_allclose(np.exp(scores), expected, rtol=2e-4)
    assert np.argsort(scores).tolist() == np.argsort(expected).tolist()


def test_whole_words_under_patches_and_corrections_equal_the_plain_way(adapter: Adapter, image: Image.Image) -> None:
    words = ["globe", "guitar", "bell"]
    # An article makes all of them begin alike, in every vocabulary.
    adapter.cache.answers = AnswerSettings(forms=("{word}", "the {word}"))
    vars(adapter.cache).pop("_forms", None)
    reader = AnswerReader.of(adapter, words)
    assert reader.whole_words
    other = image.transpose(Image.Transpose.ROTATE_180)
    pairs = [PairRuns("pair", Run(image, prompt), {"counterfactual": Run(other, prompt)}) for prompt in reader.prompts(PROMPT)]
    cells = np.arange(5, 20)
    for site in ("vision.0", "connector", "language.0"):
        patches = [Patch(pair, site, cells) for pair in range(len(pairs))]
        fast, plain = (
            reader.log_probabilities(way(pairs, patches)) for way in (PatchEngine(adapter).run, lambda *a: run_plain(adapter, *a))
        )
        np.testing.assert_allclose(fast, plain, atol=1e-3)

    double = Setting("connector", "projection", 0, 2.0, lambda _scene: lambda values: values * 1.5)
    asked = [Asked("q", prompt, reader.wanted(begin)) for begin, prompt in zip(reader.beginnings, reader.prompts(PROMPT), strict=True)]
    swept = Sweep(adapter).scores(Run(image, PROMPT), "scene", asked, [double])
    rows = [
        adapter.run(adapter.prepare([image], [prompt]), edits={"connector": lambda values: values * 1.5})[0][0]
        for prompt in reader.prompts(PROMPT)
    ]
    found = reader.added_up([each.scores[0].numpy() for each in swept])
    np.testing.assert_allclose(found, reader.log_probabilities(torch.stack(rows)), atol=1e-3)


def test_prompts_and_identity(adapter: Adapter, image: Image.Image) -> None:
    """A system turn, the beginning of the answer: what the model reads, and what follows it."""
    again = load_adapter(
        adapter.identity.checkpoint,
        device="cpu",
        prompting={"system": "Answer with one token.", "answer_prefix": "The answer is"},
    )
    assert again.identity.prompting != adapter.identity.prompting
    ids = again.prepare([image], [PROMPT]).inputs["input_ids"][0]
    text = again.processor.tokenizer.decode(ids)
    assert text.index("Answer with one token.") < text.index(PROMPT)
    assert "You are a helpful assistant" not in text
    assert text.endswith(("assistant\nThe answer is", "model\nThe answer is", "[/INST]The answer is"))
    [one] = {len(form) for form in again.cache.answer_forms("red")[2:3]}
    assert one == 1


@pytest.mark.parametrize("adapter", ["pixtral"], indirect=True)
def test_pixtral_reads_what_its_own_processor_makes(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own wants torchvision, for its image processor alone: the one on Pillow stands in for it."""
    name = "transformers.models.pixtral.processing_pixtral"
    monkeypatch.setitem(sys.modules, "transformers.models.pixtral.image_processing_pixtral", image_processing_pil_pixtral)
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    ours = adapter.processor
    own = module.PixtralProcessor(ours.image_processor, ours.tokenizer, patch_size=16, chat_template=ours.chat_template)
    # Neither side is a multiple of a cell's.
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 475, 3), dtype=np.uint8))
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    text = own.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    made = own(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
    prepared = adapter.prepare([image], [PROMPT])
    assert (prepared.grid.rows, prepared.grid.cols) == (19, 30)
    for key in ("input_ids", "attention_mask", "pixel_values", "image_sizes"):
        assert torch.equal(made[key], prepared.inputs[key]), key


def test_the_questions_of_a_scene_cost_a_sixth_of_as_many_whole_prompts(adapter: Adapter) -> None:
    """Positions that the language blocks compute for the paper preset and a scene of the published size, against every prompt whole."""
    preset = yaml.safe_load((REPOSITORY / "presets" / "extended.yaml").read_text(encoding="utf-8"))
    settings = source_of("squares").settings.model_validate(preset["datasets"]["squares"])
    scene = sample_scene(settings, "horizontal", "main", np.random.default_rng(0))
    prompts = [ask(scene, template, slot, settings.wording).prompt for template in settings.templates for slot in scene.slots]
    shown = render(scene)
    computed: list[int] = []
    first = adapter.language_blocks[0]
    handle = first.register_forward_hook(lambda _module, inputs, _output: computed.append(inputs[0].shape[0] * inputs[0].shape[1]))
    engine = PatchEngine(adapter)
    asked = [PairRuns(prompt, Run(shown, prompt)) for prompt in prompts]
    # Once before counting: what the blocks are called with is recorded first, which computes nothing.
    engine.clean(asked)
    computed.clear()
    found = engine.clean(asked)
    handle.remove()
    whole = sum(adapter.tokens(shown, prompt)[0].shape[1] for prompt in prompts)
    assert len(prompts) >= 9
    assert sum(computed) <= whole / 6
    alone = torch.cat([engine.clean([one]) for one in asked])
    assert (found - alone).abs().max() <= 1e-5 * alone.abs().max()
