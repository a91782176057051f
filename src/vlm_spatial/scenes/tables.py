"""The tables of a dataset, as polars frames with the documented columns."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import product

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from vlm_spatial.scenes.pairs import HYPOTHESES, Pair
from vlm_spatial.scenes.plan import Planned, image_path
from vlm_spatial.scenes.questions import ask, has_relations
from vlm_spatial.scenes.sources.settings import Template, Wording
from vlm_spatial.scenes.sources.source import SetAside

WITH_QUESTIONS = ("main", "decorrelated", "mirror", "pair", "photo", "self_merge")

Columns = dict[str, DataType | DataTypeClass]

SCENES_SCHEMA: Columns = {
    "scene_id": pl.String,
    "variant": pl.String,
    "split": pl.String,
    "axis": pl.String,
    "image": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "objects": pl.List(pl.String),
    "phrases": pl.List(pl.String),
    "slots": pl.List(pl.Int32),
    "boxes": pl.List(pl.List(pl.Float32)),
    "background": pl.String,
    "box_source": pl.String,
    "box_quality": pl.Float32,
    "mirrored_from": pl.String,
    "picture": pl.List(pl.Float32),
    "grid": pl.List(pl.Int32),
    "bands": pl.List(pl.Float32),
    "photograph": pl.String,
}

QUESTIONS_SCHEMA: Columns = {
    "question_id": pl.String,
    "scene_id": pl.String,
    "variant": pl.String,
    "split": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "slot": pl.Int32,
    "prompt": pl.String,
    "answer": pl.String,
    "candidates": pl.List(pl.String),
    "option_order": pl.Int32,
}

PAIRS_SCHEMA: Columns = {
    "pair_id": pl.String,
    "experiment": pl.String,
    "axis": pl.String,
    "template": pl.String,
    "clean_scene": pl.String,
    "counterfactual_scene": pl.String,
    "unrelated_scene": pl.String,
    "slots": pl.List(pl.Int32),
    "prompt": pl.String,
    "counterfactual_prompt": pl.String,
    "candidates": pl.List(pl.String),
    "clean_answer": pl.String,
    "counterfactual_answer": pl.String,
    "hypotheses": pl.Struct(dict.fromkeys(HYPOTHESES, pl.String)),
}

SET_ASIDE_SCHEMA: Columns = {"file": pl.String, "reason": pl.String}


def scenes_table(planned: Iterable[Planned]) -> pl.DataFrame:
    """``scenes.parquet``."""
    rows = [
        {
            "scene_id": item.scene_id,
            "variant": item.scene.variant,
            "split": item.split,
            "axis": item.scene.axis,
            "image": image_path(item.scene_id),
            "width": item.scene.width,
            "height": item.scene.height,
            "objects": list(item.scene.objects),
            "phrases": list(item.scene.phrases),
            "slots": list(item.scene.slots),
            "boxes": [list(box) for box in item.scene.boxes],
            "background": item.scene.background,
            "box_source": item.box_source,
            "box_quality": item.box_quality,
            "mirrored_from": item.mirrored_from,
            "picture": None if item.scene.picture is None else list(item.scene.picture),
            "grid": None if item.scene.grid is None else list(item.scene.grid),
            "bands": None if item.scene.bands is None else list(item.scene.bands),
            "photograph": item.scene.photograph,
        }
        for item in planned
    ]
    return pl.DataFrame(rows, schema=SCENES_SCHEMA)


def questions_table(
    planned: Iterable[Planned], templates: Sequence[Template], wording: Wording, asked_slots: Sequence[int] = (0, 1, 2)
) -> pl.DataFrame:
    """``questions.parquet``: every template about every slot asked of every scene with questions; relations of three objects only."""
    rows = []
    for item in planned:
        if item.scene.variant not in WITH_QUESTIONS:
            continue
        asked = [each for each in templates if each != "relation_to_object" or has_relations(item.scene)]
        for template, slot in product(asked, (slot for slot in item.scene.asked or item.scene.slots if slot in asked_slots)):
            for order in (0, 1) if item.scene.both_orders and template != "content" else (None,):
                rows.append(_question_row(item, template, slot, wording, order))
    return pl.DataFrame(rows, schema=QUESTIONS_SCHEMA)


def _question_row(item: Planned, template: Template, slot: int, wording: Wording, order: int | None) -> dict[str, object]:
    question = ask(item.scene, template, slot, wording, order)
    return {
        "question_id": f"{item.scene_id}/{template}/{slot}" + ("" if order is None else f"/{order}"),
        "scene_id": item.scene_id,
        "variant": item.scene.variant,
        "split": item.split,
        "axis": item.scene.axis,
        "template": template,
        "slot": slot,
        "prompt": question.prompt,
        "answer": question.answer,
        "candidates": list(question.candidates),
        "option_order": order,
    }


def pairs_table(pairs: Iterable[Pair]) -> pl.DataFrame:
    """``pairs.parquet``; hypotheses that an experiment does not have are null."""
    rows = [asdict(pair) | {"hypotheses": {name: pair.hypotheses.get(name) for name in HYPOTHESES}} for pair in pairs]
    return pl.DataFrame(rows, schema=PAIRS_SCHEMA)


def set_aside_table(set_aside: Iterable[SetAside]) -> pl.DataFrame:
    """``set_aside.parquet``: photos (or pairs of photos) that are not used, and why."""
    return pl.DataFrame([asdict(item) for item in set_aside], schema=SET_ASIDE_SCHEMA)
