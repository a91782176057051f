"""Objects whose names all begin alike for Qwen (g|lobe, g|uitar), through every stage that asks a model: scored as whole words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.preset_stages import run_stages
from PIL import Image

from real_checkpoints import real_checkpoint
from test_every_family import ONE, SCENES, SECTIONS, TWO
from vlm_spatial.amplification.corrections import Projection, probe_basis, probe_centre
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.inputs import Begun
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.values import Edit
from vlm_spatial.probes.saved import load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.registry import STAGES, of_scope

pytestmark = [pytest.mark.model, pytest.mark.slow]

WORDS = ("globe", "guitar", "glove", "giraffe", "gourd", "goggles")
LAYOUT = {"grid": 6, "cell": 28, "side": 1, "gap": 1}
# Stages whose tables hold no answers: activations and probes, and what is read from them.
SILENT = {"activations", "probes", "generalisation", "measures"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Path]:
    """The model, and the folder of its results."""
    folder = tmp_path_factory.mktemp("alike")
    (folder / "pictures").mkdir()
    for number, word in enumerate(WORDS):
        Image.new("RGBA", (8, 8), (40 * number, 90, 255 - 40 * number)).save(folder / "pictures" / f"{word}.png")
    checkpoint = real_checkpoint(folder / "checkpoint", "qwen2_vl")
    dataset = SCENES | {"kind": "objects", "pictures": str(folder / "pictures"), "layout": LAYOUT, "background": "white"}
    values = SECTIONS | {
        "datasets": {ONE: dataset, TWO: dataset},
        "models": {"qwen": {"checkpoint": str(checkpoint), "datasets": [ONE, TWO]}},
    }
    adapter = load_adapter(checkpoint, device="cpu")
    ran = {job.stage for job in run_stages(values, folder, lambda **_: adapter)}
    assert ran >= set(of_scope("model and dataset", "model", optional=True))
    return adapter, folder / "results"


def log_probabilities(adapter: Adapter, image: Image.Image, prompt: str, words: Sequence[str], edits: dict[str, Edit]) -> list[float]:
    """Of whole words in every form, token by token, each by a plain pass of its own."""
    found = []
    for word in words:
        chance = 0.0
        for form in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
            ids = tuple(adapter.processor.tokenizer(form, add_special_tokens=False)["input_ids"])
            steps = [adapter.run(adapter.prepare([image], [Begun(prompt, ids[:known])]), edits=edits)[0][0] for known in range(len(ids))]
            chance += float(np.exp(sum(float(row.double().log_softmax(-1)[token]) for row, token in zip(steps, ids, strict=True))))
        found.append(float(np.log(chance)))
    return found


def test_every_stage_scores_whole_words(ran: tuple[Adapter, Path]) -> None:
    """Every table of candidates holds their log-probabilities, of whole words."""
    _, results = ran
    scored = set()
    for stage in (STAGES[name] for name in of_scope("model and dataset", "model", optional=True)):
        for output in stage.tables.values():
            table = pl.read_parquet(results / output.path.format(model="qwen", dataset=ONE))
            if "candidate_mass" not in table.columns or table.is_empty():
                continue
            scored.add(stage.name)
            assert table["candidate_mass"].is_between(0, 1).all(), output.path
            assert table["whole_words"].all(), output.path
            assert table["log_probabilities"].list.len().equals(table["candidates"].list.len()), output.path
    assert scored == set(of_scope("model and dataset", "model", optional=True)) - SILENT


def test_scores_of_stages_are_those_of_plain_passes(ran: tuple[Adapter, Path]) -> None:
    adapter, results = ran
    dataset = Dataset.open(results / "scenes" / ONE)
    asked = dataset.questions.select("question_id", "prompt")
    probes = load_probes(results / "qwen" / ONE / "probes.safetensors")
    basis = probe_basis(probes, "connector", adapter.identity.weights, adapter.site_shape("connector")[1])
    correct = Projection(basis, 3.0, probe_centre(probes, "connector"))
    edits: dict[str, dict[str, Any]] = {"amplification": {"connector": lambda values: correct(values[0])[None]}}
    names = ("behaviour", "ablation_accuracy", "amplification")
    tables = {name: pl.read_parquet(results / "qwen" / ONE / f"{name}.parquet") for name in names}
    chosen = {
        "behaviour": tables["behaviour"],
        "ablation_accuracy": tables["ablation_accuracy"].filter(condition="intact"),
        "amplification": tables["amplification"].filter(method="projection", alpha=3.0),
    }
    for name, table in chosen.items():
        assert table.height >= 2, name
        for row in table.join(asked, on="question_id").head(2).iter_rows(named=True):
            with torch.inference_mode():
                image = dataset.image(row["scene_id"])
                expected = log_probabilities(adapter, image, row["prompt"], row["candidates"], edits.get(name, {}))
            np.testing.assert_allclose(row["log_probabilities"], expected, atol=1e-4, err_msg=name)
