"""Probes on disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlm_spatial.errors import UserError
from vlm_spatial.probes.probe import Probe, StackedProbes
from vlm_spatial.probes.saved import load_probes, save_probes
from vlm_spatial.workflow.provenance import MadeBy, write_record

pytestmark = pytest.mark.unit

METADATA = {
    "classes": [0, 1, 2],
    "split": "train",
    "identity": {"weights": "abc"},
    "inconclusive": {"vertical/connector": "2 training scenes for 3 slots"},
}


def some_probe(seed: int = 0) -> Probe:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(3, 7)).astype(np.float32)
    return Probe(
        weight - weight.mean(axis=0),
        generator.normal(size=3).astype(np.float32),
        generator.normal(size=7).astype(np.float32) * 100,
        generator.uniform(0.5, 3, size=7).astype(np.float32),
        generator.normal(size=(3, 7)).astype(np.float32),
        0.1,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_probes(
        {("horizontal", "connector"): some_probe(), ("horizontal", "language.3"): some_probe(1)}, METADATA, tmp_path / "probes.safetensors"
    )
    return tmp_path / "probes.safetensors"


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    probes = load_probes(saved)
    assert set(probes) == {("horizontal", "connector"), ("horizontal", "language.3")}
    loaded, probe = probes["horizontal", "connector"], some_probe()
    for name in ("weight", "bias", "mean", "scale", "class_mean"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(probe, name))
    assert loaded.strength == 0.1
    assert probes.metadata["identity"] == {"weights": "abc"}
    assert set(load_file(saved)) >= {"horizontal/connector/weight", "horizontal/language.3/class_mean"}


def test_probabilities_are_those_of_the_formula(saved: Path) -> None:
    probe = load_probes(saved)["horizontal", "connector"]
    x = np.random.default_rng(5).normal(size=(4, 5, 7)) * 100
    scores = np.einsum("abf,kf->abk", (x - probe.mean) / probe.scale, probe.weight) + probe.bias
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(probe.predict_proba(x), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(probe.predict(x), expected.argmax(-1))


def test_probes_read_together_answer_as_each_alone() -> None:
    probes = [some_probe(0), some_probe(1), some_probe(2)]
    x = (np.random.default_rng(5).normal(size=(4, 5, 7)) * 100).astype(np.float32)
    scores = StackedProbes(probes)(x)
    assert scores.shape == (4, 5, 3, 3)
    for number, probe in enumerate(probes):
        np.testing.assert_allclose(scores[..., number, :], probe.decision_function(x), rtol=1e-3, atol=1e-2)


def test_the_subspace_is_what_the_prediction_depends_on() -> None:
    probe = some_probe()
    basis = probe.subspace()
    assert basis.shape == (2, 7)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-8)
    x = np.random.default_rng(5).normal(size=(20, 7))
    inside = x @ basis.T @ basis
    np.testing.assert_allclose(probe.predict_proba(inside), probe.predict_proba(x), rtol=1e-4)


def test_a_changed_tensor_is_noticed(saved: Path) -> None:
    write_record(saved, MadeBy(stage="probes"))
    load_probes(saved)
    content = bytearray(saved.read_bytes())
    content[-3] ^= 1
    saved.write_bytes(bytes(content))
    with pytest.raises(UserError, match="was altered after it was made"):
        load_probes(saved)


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), (b"{}", "cannot be read as safetensors")])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "probes.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_probes(path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="without this workflow's metadata"):
        load_probes(tmp_path / "other.safetensors")


def test_a_probe_that_could_not_be_fitted_says_why(saved: Path) -> None:
    probes = load_probes(saved)
    with pytest.raises(UserError, match="2 training scenes for 3 slots"):
        probes["vertical", "connector"]
    with pytest.raises(UserError, match=r"there are connector, language\.3"):
        probes["horizontal", "vision.9"]


@pytest.mark.slow
def test_neither_loading_nor_the_stage_imports_torch(saved: Path) -> None:
    load = f"from vlm_spatial.probes.saved import load_probes; load_probes({str(saved)!r})"
    code = f"import sys; {load}; import vlm_spatial.stages.probes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
