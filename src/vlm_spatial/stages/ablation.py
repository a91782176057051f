"""Stage: the layout removed from the vision output, the ordering removed from the language model; what is lost, what takes over."""

import sys
from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from vlm_spatial.activations.store import Store
from vlm_spatial.config.ablation import AblationSettings
from vlm_spatial.files import read_parquet, write_parquet
from vlm_spatial.interventions.ablation import GridScenes, SceneInputs, check_store, language_ablation, vision_erasures
from vlm_spatial.interventions.ablation_check import CHECK_SCHEMA, read_slots
from vlm_spatial.interventions.accuracy import ACCURACY_SCHEMA, EditsOf, ask, sample_questions
from vlm_spatial.interventions.crosswise import Match, crosswise_cases, crosswise_plan
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.erasure import Erasure
from vlm_spatial.interventions.labels import ABLATION_CONTROLS, CONNECTOR, INTACT, LANGUAGE_ERASED, joined
from vlm_spatial.interventions.language import exchangeable, language_plan
from vlm_spatial.interventions.neutral import NeutralEncoder, Place
from vlm_spatial.interventions.ordering import best_layer
from vlm_spatial.interventions.pairs_on_grid import Case, EditOf, read_cases
from vlm_spatial.interventions.sweep import SCHEMA, Condition, run_sweep
from vlm_spatial.models.adapter import Adapter
from vlm_spatial.models.load import load_adapter
from vlm_spatial.models.values import Edit, Site
from vlm_spatial.probes.probe import Probe
from vlm_spatial.probes.saved import Probes, load_probes
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.stage import Job, run_stage, section


def ablation(job: Job) -> None:
    """Write three tables: the language and crosswise sweeps under every ablation, the accuracy under each, and what a probe still reads.

    ``interchange`` holds the intact sweeps, which are not run again: their sites are swept, and the peak of the language sweep stands in
    where an ablation has none.
    """
    settings = section(job, AblationSettings)
    dataset = Dataset.open(job.inputs["scenes"])
    store = Store.open(job.inputs["store"], job.inputs["manifest"])
    scenes = GridScenes(load_adapter(**job.settings["model"]), dataset)
    check_store(scenes, store)
    at_connector = _connector_probes(load_probes(job.inputs["probes"]), scenes.axes)
    interchange = read_parquet(job.inputs["interchange"])
    intact = interchange.filter(experiment="language")
    crossed = interchange.filter(experiment="crosswise")
    questions = sample_questions(dataset, settings.questions, job.settings["seed"])
    cases = exchangeable(read_cases(dataset, scenes.adapter, "language"))
    crosswise = crosswise_cases(read_cases(dataset, scenes.adapter, "vision")) if settings.crosswise_sets and len(crossed) else []
    if questions.is_empty() and not cases and not crosswise:
        print("ablation: no question of main test scenes and no pair, so there is nothing to ablate", file=sys.stderr, flush=True)
        for output, schema in (("sweep", SCHEMA), ("accuracy", ACCURACY_SCHEMA), ("check", CHECK_SCHEMA)):
            write_parquet(pl.DataFrame(schema=schema), job.outputs[output])
        return
    seed = job.settings["seed"]
    conditions = _conditions(scenes, store, settings, questions, [*cases, *crosswise], seed)
    controls = _controls(scenes, store, settings, questions, conditions, seed)

    write_parquet(read_slots(scenes, store, at_connector, [*conditions, *controls], settings.fit_scenes), job.outputs["check"])
    engine = PatchEngine(scenes.adapter, memory_gb=settings.memory_gb)
    plan = language_plan(_sites(intact), job.settings["seed"])
    ablated = [
        run_sweep(engine, dataset, cases, plan, condition, f"language interchange, {condition.name}", settings.pool)
        for condition in conditions
        if condition.name != INTACT
    ]
    if crosswise:
        match: Match = "place" if set(crossed["match"]) == {"place"} else "offset"
        plan = crosswise_plan(_sites(crossed), settings.crosswise_sets, job.settings["seed"], match, scenes.adapter.quirks.shifted_cells)
        ablated += [
            run_sweep(engine, dataset, crosswise, plan, condition, f"crosswise interchange, {condition.name}", settings.pool)
            for condition in conditions
            if condition.name != INTACT
        ]
    write_parquet(pl.concat([pl.DataFrame(schema=SCHEMA), *ablated]), job.outputs["sweep"])
    sweeps = pl.concat([intact, *ablated])
    answers = [pl.DataFrame(schema=ACCURACY_SCHEMA)]
    inputs = SceneInputs(scenes, settings.batch)
    for control in controls:
        answers.append(ask(engine, dataset, questions, control.name, _at_connector(control), batch=settings.batch))
    for condition in conditions:
        edits_of = _at_connector(condition)
        answers.append(ask(engine, dataset, questions, condition.name, edits_of, batch=settings.batch))
        sites = ordering_sites(scenes.adapter, sweeps, condition.name, settings.ordering_layers)
        if not sites:
            print(f"ablation: no answer follows the ordering at any layer ({condition.name}), so there is none to erase", file=sys.stderr)
            continue
        both = language_ablation(scenes, inputs, sites, edits_of, limit=settings.fit_scenes, condition=condition.name)
        if both is not None:
            name = joined(condition.name, LANGUAGE_ERASED)
            answers.append(ask(engine, dataset, questions, name, both, site=sites[0], batch=settings.batch))
    write_parquet(pl.concat(answers), job.outputs["accuracy"])


def _conditions(
    scenes: GridScenes, store: Store, settings: AblationSettings, questions: pl.DataFrame, cases: list[Case], seed: int
) -> list[Condition]:
    found = [Condition()]
    for method in settings.methods:
        if method == "erasure":
            erasures = vision_erasures(scenes, store)
            if erasures is not None:
                found.append(Condition(method, _by_axis(scenes, erasures)))
        else:
            encoder = _encoder(scenes, settings, settings.neutral_place, seed)
            of_pairs = [scene for case in cases for scene in (case.clean_scene, case.counterfactual_scene)]
            encoder.make([*_probed(scenes, settings), *questions["scene_id"], *of_pairs])
            found.append(Condition(method, encoder.edit))
    return found


def _controls(
    scenes: GridScenes, store: Store, settings: AblationSettings, questions: pl.DataFrame, conditions: Sequence[Condition], seed: int
) -> list[Condition]:
    """What is done to the tokens under each condition, without removing the layout."""
    found = []
    for name in (condition.name for condition in conditions if settings.controls and condition.name != INTACT):
        if name == "erasure":
            erasures = vision_erasures(scenes, store, shuffled=seed)
            edit = None if erasures is None else _by_axis(scenes, erasures)
        else:
            encoder = _encoder(scenes, settings, "own", seed)
            encoder.make([*_probed(scenes, settings), *questions["scene_id"]])
            edit = encoder.edit
        found.append(Condition(ABLATION_CONTROLS[name], edit))
    return found


def _encoder(scenes: GridScenes, settings: AblationSettings, place: Place, seed: int) -> NeutralEncoder:
    prompt = scenes.dataset.questions["prompt"][0]
    return NeutralEncoder(scenes.adapter, scenes.dataset, prompt, settings.batch, place=place, seed=seed)


def _probed(scenes: GridScenes, settings: AblationSettings) -> list[str]:
    """The scenes that each condition's slot probe is fitted and read on."""
    return [scene for axis in scenes.axes for split in ("train", "test") for scene in scenes.of(axis, split, settings.fit_scenes)]


def _sites(table: pl.DataFrame) -> list[Site]:
    return table["site"].unique(maintain_order=True).to_list()


def _by_axis(scenes: GridScenes, erasures: Mapping[str, Erasure]) -> EditOf:
    return lambda scene: erasures[scenes.axis(scene)]


def ordering_sites(adapter: Adapter, sweeps: pl.DataFrame, condition: str, layers: Literal["peak", "from_peak"]) -> list[Site]:
    """The language layers whose residual the ordering is erased from, counted from the peak under the same condition, else the intact one.

    Empty if no answer follows the ordering at any layer.
    """
    for name in (condition, INTACT):
        peak = best_layer(sweeps, name)
        if peak is not None:
            last = len(adapter.language_blocks) if layers == "from_peak" else peak + 1
            return [f"language.{layer}" for layer in range(peak, last)]
    return []


def _connector_probes(probes: Probes, axes: Sequence[str]) -> dict[str, Probe]:
    """The connector's probe of each axis; an axis whose data could not bear one is left out with a word on stderr."""
    found = {}
    for axis in axes:
        reason = probes.metadata.get("inconclusive", {}).get(f"{axis}/{CONNECTOR}")
        if reason is None:
            found[axis] = probes[axis, CONNECTOR]
        else:
            print(f"ablation: slot not read out on the {axis} axis: {reason}", file=sys.stderr, flush=True)
    return found


def _at_connector(condition: Condition) -> EditsOf:
    edit = condition.edit
    return lambda scene: {} if edit is None else {CONNECTOR: _given(edit(scene))}


def _given(edit: Edit | None) -> Edit:
    assert edit is not None
    return edit


if __name__ == "__main__":
    run_stage("ablation", ablation)
