"""The sweep over corrections against a full forward pass with a hook, for every question and setting."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from stage_inputs import job, make_reader, make_scenes
from vlm_spatial.amplification.corrections import NormMatched, Oracle, Projection
from vlm_spatial.amplification.scoring import SCHEMA
from vlm_spatial.amplification.sweep import Asked, Setting, Sweep
from vlm_spatial.errors import UserError
from vlm_spatial.interventions.patch import Run
from vlm_spatial.interventions.subspaces import random_basis
from vlm_spatial.measures.amplification import RANDOM, choose
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.saved import save_probes
from vlm_spatial.stages.amplification import amplification
from vlm_spatial.stages.behaviour import behaviour

pytestmark = pytest.mark.model

PROMPTS = ("which object is on the left ?", "which object is on the right ?", "what is on the top of red ?", "where is the circle ?")


def settings_of(adapter: Adapter) -> list[Setting]:
    generator = np.random.default_rng(0)
    made = []
    for site in ("connector", "vision.0"):
        features = adapter.site_shape(site)[1]
        basis, other = random_basis(2, features, generator), random_basis(2, features, generator)
        directions, slots = generator.standard_normal((3, features)), np.arange(36) % 3
        made += [
            Setting(site, "projection", 0, 4.0, lambda _scene, basis=basis: Projection(basis, 4.0)),
            Setting(site, "projection", 0, 1.0, lambda _scene, basis=basis: Projection(basis, 1.0)),
            Setting(site, "random", 0, 4.0, lambda _scene, basis=basis, other=other: NormMatched(basis, other, 4.0)),
            Setting(site, "oracle", 0, 2.0, lambda _scene, d=directions, s=slots: Oracle(d, s, 2.0)),
        ]
    return made


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:2], PROMPTS[:1]])
def test_equal_to_a_full_forward_pass(adapter: Adapter, picture: Callable[..., Image.Image], prompts: tuple[str, ...]) -> None:
    image, settings = picture("red", "green", "blue"), settings_of(adapter)
    tokens = [[1, 5, 9], [3, 2], [7, 8, 4], [6]]
    questions = [Asked(prompt, prompt, wanted) for prompt, wanted in zip(prompts, tokens, strict=False)]
    # Two rows a batch at most, so that the settings are split.
    sweep = Sweep(adapter, memory_gb=1e-9)
    found = sweep.scores(Run(image, prompts[0]), "scene", questions, settings)
    again = Sweep(adapter).scores(Run(image, prompts[0]), "scene", questions, settings)
    for question, following, others in zip(questions, found, again, strict=True):
        scores = following.scores
        torch.testing.assert_close(scores, others.scores, rtol=1e-4, atol=1e-5)
        prepared = adapter.prepare([image], [question.prompt])
        untouched = adapter.run(prepared)[0][0].double().log_softmax(-1)
        for setting, of_setting, likeliest in zip(settings, scores, following.likeliest, strict=True):
            make = setting.make("scene")
            full = adapter.run(prepared, edits={setting.site: lambda values, make=make: make(values[0])[None]})[0][0].double()
            full = full.log_softmax(-1)
            wanted = full[list(question.tokens)]
            # Of two tokens all but equally likely either may be named.
            assert float(full.max() - full[likeliest]) <= 1e-4
            assert float((of_setting - wanted).abs().max()) <= 1e-5 * float(full.abs().max()) + 1e-6
            if not setting.changes_nothing:
                assert not torch.allclose(wanted, untouched[list(question.tokens)], atol=1e-4)


def test_what_questions_share_is_computed_once(adapter: Adapter, picture: Callable[..., Image.Image]) -> None:
    """Counted, not timed: positions through the language blocks and images through the vision encoder."""
    image, settings = picture("red", "green", "blue"), [setting for setting in settings_of(adapter) if setting.site == "connector"]
    prompts = [f"which object is on the {one} of {other} ?" for one in ("left", "right", "top") for other in ("red", "green", "blue")]
    done = {"language": 0, "vision": 0}

    def language(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        done["language"] += output.shape[0] * output.shape[1]

    def vision(*_: object) -> None:
        done["vision"] += 1

    hooks = [block.register_forward_hook(language) for block in adapter.language_blocks]
    hooks.append(adapter.vision_blocks[0].register_forward_hook(vision))
    try:
        Sweep(adapter).scores(Run(image, prompts[0]), "scene", [Asked(prompt, prompt, [1]) for prompt in prompts], settings)
        swept, done = done, {"language": 0, "vision": 0}
        for prompt in prompts:
            adapter.run(adapter.prepare([image], [prompt]))
    finally:
        for hook in hooks:
            hook.remove()
    # Where image tokens see the question, nothing of a question serves the next.
    assert swept["vision"] == (len(prompts) if adapter.reach == "prompt" else 1)
    assert done["vision"] == len(prompts)
    # Each of the settings would take one such pass a question. Where nothing is shared, none takes more than that.
    assert swept["language"] * (1 if adapter.reach == "prompt" else 3) < done["language"] * len(settings)


def test_a_question_before_the_image_shares_nothing_and_is_still_right(
    adapter: Adapter, picture: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, settings = picture("red", "green", "blue"), settings_of(adapter)
    questions = [Asked(prompt, prompt, [1, 2]) for prompt in PROMPTS[:2]]
    expected = Sweep(adapter).scores(Run(image, PROMPTS[0]), "scene", questions, settings)
    sweep = Sweep(adapter)
    shared = sweep._shared
    monkeypatch.setattr(sweep, "_shared", lambda run, asked: None if len(asked) > 1 else shared(run, asked))
    for one, other in zip(sweep.scores(Run(image, PROMPTS[0]), "scene", questions, settings), expected, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)


STAGE = {
    "sites": ["vision.-1", "connector"],
    "questions": 9,
    "random_draws": 2,
    "projection_alphas": [1.0, 4.0],
    "oracle_alphas": [0.0, 2.0],
    "control_alphas": [],
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny reader, its scenes and answers, and random probes of two sites for it."""
    folder = tmp_path_factory.mktemp("ready")
    scenes, reader = make_scenes(folder / "scenes"), make_reader(folder / "reader", "gemma3")
    behaviour(job(reader, scenes, folder, "behaviour", {}))
    return {"scenes": scenes, "reader": reader, "behaviour": folder / "behaviour.parquet"}


def probes_for(ready: dict[str, Path], path: Path, *, weights: str | None = None, features: int | None = None) -> Path:
    from vlm_spatial.models.load import load_adapter

    adapter, generator = load_adapter(ready["reader"], device="cpu"), np.random.default_rng(0)
    made = {}
    for axis in ("horizontal", "vertical"):
        for site in (f"vision.{len(adapter.vision_blocks) - 1}", "connector"):
            width = features or adapter.site_shape(site)[1]
            weight = generator.standard_normal((3, width)).astype(np.float32)
            zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
            made[axis, site] = Probe(weight, np.zeros(3, np.float32), zeros, ones, weight, 1.0, weight[::-1].copy())
    save_probes(made, {"identity": {"weights": weights or adapter.identity.weights}}, path)
    return path


@pytest.mark.slow
def test_the_stage_sweeps_vision_layers_and_connector(ready: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"probes": probes_for(ready, tmp_path / "p.safetensors"), "behaviour": ready["behaviour"]}
    amplification(job(ready["reader"], ready["scenes"], tmp_path, "table", STAGE, **inputs))
    table = pl.read_parquet(tmp_path / "table.parquet")
    assert dict(table.schema) == SCHEMA
    assert {site.split(".")[0] for site in table["site"]} == {"vision", "connector"}
    test = table.filter(split="test")
    for site in table["site"].unique():
        here = test.filter(site=site)
        # Every site has its controls at the alpha that validation chose there.
        for form, control in RANDOM.items():
            choice = choose(table.filter(site=site), form)
            assert choice is not None
            assert here.filter(method=control, alpha=choice[1])["draw"].n_unique() == 2
        assert set(here["method"]) == {"projection", "oracle", "random", "complement", "shuffled", "uncentred", "oracle_random"}
        # Per slot and per axis, for every question there is.
        for method in here["method"].unique():
            assert set(here.filter(method=method)["axis"]) == {"horizontal", "vertical"}
            assert set(here.filter(method=method)["slot"]) == {0, 1, 2}
    # Each random subspace has chosen for itself, among all that the form chose among, and has test rows there.
    for draw in range(2):
        own = table.filter(method="random", draw=draw)
        assert set(own.filter(split="validation").select("site", "alpha").rows()) == {(s, a) for s in set(test["site"]) for a in (1.0, 4.0)}
        choice = choose(own, "random")
        assert choice is not None
        assert own.filter(split="test", site=choice[0], alpha=choice[1])["question_id"].n_unique() == test["question_id"].n_unique()
    questions = test["question_id"].n_unique()
    assert test.filter(method="projection").height == 2 * 2 * questions
    neutral = table.filter(
        ((pl.col("method") == "projection") & (pl.col("alpha") == 1)) | ((pl.col("method") == "oracle") & (pl.col("alpha") == 0))
    )
    assert (neutral["correct"] == neutral["correct_before"]).all()
    np.testing.assert_allclose(neutral["brier"], neutral["brier_before"], atol=1e-4)
    np.testing.assert_allclose(neutral["confidence"], neutral["confidence_before"], atol=1e-4)


@pytest.mark.parametrize(
    ("probe", "stage", "said"),
    [
        ({"weights": "other"}, {}, "trained on weights other, the model has"),
        ({"features": 7}, {}, "has 7 features, the model has"),
        ({}, {"sites": ["vision.0"]}, "no probe for vision.0; there are connector, vision.1"),
        ({}, {"sites": ["vision.-9"]}, "site 'vision.-9': this model has"),
        ({}, {"sites": ["language.0"]}, "language.0 is in the language model"),
        ({}, {"projection_alphas": [1.0, float("nan")]}, "projection_alphas.1"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    ready: dict[str, Path], tmp_path: Path, probe: dict[str, object], stage: dict[str, object], said: str
) -> None:
    inputs = {"probes": probes_for(ready, tmp_path / "p.safetensors", **probe), "behaviour": ready["behaviour"]}  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        amplification(job(ready["reader"], ready["scenes"], tmp_path, "table", STAGE | stage, **inputs))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "table.parquet").exists()
