"""The probes stage from files to files, on scenes of the scenes stage and a planted store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from activation_stores import MODEL, description
from stage_inputs import SETTINGS
from vlm_spatial.activations.writer import write_arrays
from vlm_spatial.config.reading import parse_config
from vlm_spatial.config.yaml_files import Source
from vlm_spatial.errors import UserError
from vlm_spatial.files import sha256
from vlm_spatial.measures.probes import verdicts
from vlm_spatial.probes import analysis
from vlm_spatial.probes.saved import load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.generalisation import generalisation
from vlm_spatial.stages.probes import PROBES, probes
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job
from vlm_spatial.tokens import TokenGrid
from vlm_spatial.workflow import preflight
from vlm_spatial.workflow.preflight import check_outside

pytestmark = pytest.mark.model

GRID = TokenGrid(6, 6)
SCENES = {
    **SETTINGS,
    "scenes": {"train": 12, "validation": 4, "test": 6},
    "variants": {"decorrelated": {"train": 12, "validation": 4, "test": 6}},
}
OUTPUTS = {
    "probes": "probes.safetensors",
    "decorrelated": "probes_decorrelated.safetensors",
    "table": "probes.parquet",
    "strip_map": "strip_map.parquet",
    "geometry": "geometry.parquet",
}


def planted_store(
    folder: Path, scenes_folder: Path, weights: str = "ab", sites: tuple[str, ...] = ("connector", "language.0"), planted: str = "connector"
) -> dict[str, Path]:
    """A store whose site ``planted`` holds the slot of every cell's strip, and whose other sites are noise."""
    dataset = Dataset.open(scenes_folder)
    table = dataset.scenes.filter(pl.col("variant") != "pair")
    generator = np.random.default_rng(0)
    values = {site: generator.standard_normal((table.height, GRID.size, 8)).astype(np.float32) for site in sites}
    for index, (scene_id, objects) in enumerate(table.select("scene_id", "objects").iter_rows()):
        if len(objects):
            values[planted][index, :, :3] += 6 * dataset.tokens(scene_id, GRID).strips.T
    described = description(
        scenes=table, shapes={site: (GRID.size, 1, 8) for site in sites}, grid=GRID, patches=1, model={**MODEL, "weights": weights}
    )
    folder.mkdir(parents=True)
    write_arrays(folder / "activations.zarr", folder / "activations.json", described, values)
    return {"store": folder / "activations.zarr", "manifest": folder / "activations.json"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("probes")
    scenes(Job({"dataset": SCENES, "name": "tiny", "seed": 0}, {}, {"folder": folder / "scenes"}))
    return {"scenes": folder / "scenes", **planted_store(folder / "model", folder / "scenes")}


def stage_job(inputs: dict[str, Path], out: Path) -> Job:
    settings = {"model": {"checkpoint": "here"}, "seed": 0, "stage": {"strip_map_scenes": 3}}
    return Job(settings, inputs, {name: out / file for name, file in OUTPUTS.items()})


@pytest.mark.slow
def test_the_stage_writes_what_the_formats_page_says(inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes(stage_job(inputs, tmp_path))
    assert "horizontal axis, background of decorrelated scenes: most beyond its controls at connector" in capsys.readouterr().err
    found = load_probes(tmp_path / "probes.safetensors")
    assert set(found) == {(axis, site) for axis in ("horizontal", "vertical") for site in ("connector", "language.0")}
    assert found.metadata["identity"] == MODEL | {"weights": "ab"}
    table = pl.read_parquet(tmp_path / "probes.parquet")
    formats = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8").split("### probes.parquet")[1].split("###")[0]
    for column in table.columns:
        assert column.removesuffix("_low").removesuffix("_high") in formats
    fair = (pl.col("trained_on") == "decorrelated") & (pl.col("scored_on") == "decorrelated")
    background = table.filter(fair & (pl.col("kind") == "logistic") & (pl.col("token_set") == "background"))
    scores = dict(background.group_by("site").agg(pl.col("accuracy").mean()).iter_rows())
    assert scores["connector"] > 0.9
    assert scores["language.0"] < 0.55
    maps = pl.read_parquet(tmp_path / "strip_map.parquet")
    assert maps.height == 2 * 2 * 3 * GRID.size
    assert maps.schema["probability"] == pl.List(pl.Float32)
    assert {"content", "between_sites", "strip_index"} <= set(pl.read_parquet(tmp_path / "geometry.parquet")["measure"])


@pytest.mark.slow
def test_tensors_give_the_scores_of_arrays(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's way through the stage, with tensors on the CPU: probes may differ by the solver's tolerance."""
    probes(stage_job(inputs, tmp_path / "arrays"))
    placed = []
    monkeypatch.setattr(analysis, "placed", lambda x, _: placed.append(torch.from_numpy(x)) or placed[-1])
    probes(stage_job(inputs, tmp_path / "tensors"))
    # Every axis, variant and site.
    assert len(placed) == 2 * 2 * 2 + 2 * 2
    arrays, tensors = (pl.read_parquet(tmp_path / kind / "probes.parquet") for kind in ("arrays", "tensors"))
    text = [name for name, kind in arrays.schema.items() if not kind.is_float()]
    assert tensors.select(text).drop("control").equals(arrays.select(text).drop("control"))
    assert (tensors["accuracy"] - arrays["accuracy"]).abs().max() < 0.01
    found = [load_probes(tmp_path / kind / "probes.safetensors")["horizontal", "connector"] for kind in ("arrays", "tensors")]
    np.testing.assert_allclose(found[1].weight, found[0].weight, atol=0.01 * np.abs(found[0].weight).max())


def test_cuda_is_refused_where_there_is_none(inputs: dict[str, Path], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    job = stage_job(inputs, tmp_path)
    job.settings["stage"]["device"] = "cuda"
    with pytest.raises(UserError, match=r"probes\.device 'cuda': this machine has none"):
        probes(job)


def test_cuda_is_refused_before_any_job_but_not_where_jobs_go_to_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    values = {"datasets": {"squares": {"kind": "squares"}}, "organisms": {"o": {}}, "models": {"m": {"organism": "o"}}}
    config = parse_config(values | {"probes": {"device": "cuda"}})
    monkeypatch.setattr(preflight.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"mine\.yaml: probes\.device: device 'cuda': this machine has none"):
        check_outside(config, Source("mine.yaml"), quiet=True)
    monkeypatch.setattr(preflight.shutil, "which", lambda _: "/usr/bin/sbatch")
    check_outside(config, Source("mine.yaml"), quiet=True)


@pytest.mark.slow
def test_two_runs_write_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    written = []
    for run in ("first", "second"):
        probes(stage_job(inputs, tmp_path / run))
        written.append({name: sha256(tmp_path / run / file) for name, file in OUTPUTS.items()})
    assert written[0] == written[1]


def generalisation_job(given: dict[str, dict[str, Path]], out: Path) -> Job:
    """A job over datasets by name, each with the inputs of its probes stage and the folder where its probes are (``probed``)."""
    inputs = {}
    for name, of_dataset in given.items():
        inputs |= {f"{kind}:{name}": path for kind, path in of_dataset.items() if kind != "probed"}
        inputs |= {f"{variant}:{name}": of_dataset["probed"] / OUTPUTS[PROBES[variant]] for variant in PROBES}
    settings = {"model": {"checkpoint": "here"}, "seed": 0, "stage": {}, "datasets": list(given)}
    return Job(settings, inputs, {"table": out / "generalisation.parquet", "geometry": out / "between_datasets.parquet"})


@pytest.mark.slow
def test_every_probe_of_a_model_is_scored_on_its_other_datasets(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Three stores of the same scenes: the second holds the same code in the same features, the third nothing of it."""
    given = {"tiny": dict(inputs)}
    for name, planted in (("same", "connector"), ("noise", "language.0")):
        given[name] = {**inputs, **planted_store(tmp_path / name, inputs["scenes"], planted=planted)}
    for name in given:
        probes(stage_job(given[name], tmp_path / name))
        given[name]["probed"] = tmp_path / name
    generalisation(generalisation_job(given, tmp_path / "out"))
    table = pl.read_parquet(tmp_path / "out" / "generalisation.parquet")
    own = pl.read_parquet(tmp_path / "tiny" / "probes.parquet")
    assert table.columns == ["trained_dataset", "scored_dataset", *own.columns]
    ordered = set(table.select("trained_dataset", "scored_dataset").unique().iter_rows())
    assert ordered == {(one, other) for one in given for other in given if one != other}
    assert set(table["trained_on"]) == set(table["scored_on"]) == {"main", "decorrelated"}
    assert set(table["kind"]) == {"logistic", "shuffled", "other_scene"}
    fair = table.filter(
        site="connector", trained_on="decorrelated", scored_on="decorrelated", token_set="background", scored_dataset="tiny"
    )
    scores = {(row["trained_dataset"], row["kind"]): row["accuracy"] for row in fair.filter(axis="horizontal").iter_rows(named=True)}
    assert scores["same", "logistic"] > 0.9
    assert max(scores["noise", "logistic"], scores["same", "shuffled"], scores["same", "other_scene"]) < 0.65
    found = fair.filter(axis="horizontal", trained_dataset="same", kind="logistic")
    assert found["margin_low"].item() > 0
    # Far beyond its controls, but on fewer than the ten scenes that a verdict needs.
    assert found["n"].item() < 10
    assert verdicts(found).to_list() == ["inconclusive"]
    assert verdicts(found.with_columns(n=pl.lit(10))).to_list() == ["supported"]
    geometry = pl.read_parquet(tmp_path / "out" / "between_datasets.parquet")
    assert geometry.columns == ["dataset", *pl.read_parquet(tmp_path / "tiny" / "geometry.parquet").columns]
    means = geometry.filter(dataset="tiny", measure="between_datasets", axis="horizontal", site="connector", subspace="means")
    overlap = dict(means.select("other", "estimate").iter_rows())
    assert overlap["same"] > 0.9
    assert overlap["noise"] < 0.6
    # A second way to the same numbers: the twin's probes and scenes are this dataset's, so its scores are those of the probes stage.
    keys = ["site", "kind", "axis", "trained_on", "scored_on", "token_set"]
    there = table.filter(trained_dataset="same", scored_dataset="tiny").select(*keys, "accuracy", "n", "chance")
    assert there.height > 100
    assert there.equals(there.select(keys).join(own.select(*keys, "accuracy", "n", "chance"), on=keys, how="left", maintain_order="left"))


@pytest.mark.slow
def test_a_model_of_one_dataset_has_nothing_to_generalise_to(inputs: dict[str, Path], tmp_path: Path) -> None:
    probes(stage_job(inputs, tmp_path))
    generalisation(generalisation_job({"tiny": {**inputs, "probed": tmp_path}}, tmp_path))
    table, geometry = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("generalisation", "between_datasets"))
    assert table.is_empty()
    assert geometry.is_empty()
    assert list(table.schema.items())[2:] == list(pl.read_parquet_schema(tmp_path / "probes.parquet").items())


@pytest.mark.slow
def test_probes_of_another_model_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    probes(stage_job(inputs, tmp_path / "tiny"))
    probes(stage_job({**inputs, **planted_store(tmp_path / "store", inputs["scenes"], weights="cd")}, tmp_path / "other"))
    given = {"tiny": {**inputs, "probed": tmp_path / "tiny"}, "shapes": {**inputs, "probed": tmp_path / "other"}}
    with pytest.raises(UserError, match="from another model"):
        generalisation(generalisation_job(given, tmp_path))


@pytest.mark.slow
def test_a_store_of_another_checkpoint_or_dataset_is_refused(
    inputs: dict[str, Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job = stage_job(inputs, tmp_path)
    changes = {
        "weights": {"checkpoint": str(checkpoint("gemma3"))},
        "dtype": {"checkpoint": "here", "dtype": "float16"},
        "revision": {"checkpoint": "some/where", "revision": "0" * 40},
    }
    for key, model in changes.items():
        with pytest.raises(UserError, match=rf"activations.zarr: from another model .{key} .*run snakemake"):
            probes(Job({**job.settings, "model": model}, job.inputs, job.outputs))
    scenes(Job({"dataset": SCENES, "name": "tiny", "seed": 1}, {}, {"folder": tmp_path / "scenes"}))
    with pytest.raises(UserError, match=r"activations.zarr: scene '.*': boxes differs from that of scenes.parquet"):
        probes(stage_job({**inputs, "scenes": tmp_path / "scenes"}, tmp_path))


def test_a_store_of_means_over_token_sets_is_refused_in_one_line(inputs: dict[str, Path], tmp_path: Path) -> None:
    dataset = Dataset.open(inputs["scenes"])
    table = dataset.scenes.filter(pl.col("variant") != "pair")
    described = description(scenes=table, shapes={"connector": (GRID.size, 1, 8)}, grid=GRID, patches=1, pooling="token_set")
    values = {array.site: np.zeros(array.shape, dtype=np.float32) for array in described.arrays}
    write_arrays(tmp_path / "activations.zarr", tmp_path / "activations.json", described, values)
    given = {"scenes": inputs["scenes"], "store": tmp_path / "activations.zarr", "manifest": tmp_path / "activations.json"}
    with pytest.raises(UserError, match=r"activations\.pooling"):
        probes(stage_job(given, tmp_path))


@pytest.mark.slow
def test_a_scarce_dataset_ends_well_and_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {
        **SCENES,
        "scenes": {"train": 2, "validation": 1, "test": 1},
        "variants": {"decorrelated": {"train": 0, "validation": 0, "test": 0}},
    }
    scenes(Job({"dataset": few, "name": "few", "seed": 0}, {}, {"folder": tmp_path / "scenes"}))
    given = {"scenes": tmp_path / "scenes", **planted_store(tmp_path / "model", tmp_path / "scenes")}
    probes(stage_job(given, tmp_path))
    said = capsys.readouterr().err
    assert "inconclusive, 2 training scenes for 3 slots" in said
    assert "horizontal axis, background: no score (2 training scenes for 3 slots)" in said
    table = pl.read_parquet(tmp_path / "probes.parquet")
    assert table["accuracy"].is_null().all()
    found = load_probes(tmp_path / "probes.safetensors")
    assert not found
    with pytest.raises(UserError, match="2 training scenes"):
        found["horizontal", "connector"]
