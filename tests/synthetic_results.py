"""A results folder made by hand: every table of `docs/formats.md`, with planted counts that figures and findings must give back.

No model runs here. The counts are exact (the first ``round(rate * n)`` of ``n`` rows are hits), so that a test can name the number.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from vlm_spatial.files import write_json, write_parquet
from vlm_spatial.interventions.spatial_ids import SCHEMA as IDS
from vlm_spatial.measures.amplification import METHODS, RANDOM, at, choose
from vlm_spatial.probes.geometry_table import SCHEMA as GEOMETRY
from vlm_spatial.stages.measures import measures
from vlm_spatial.stages.stage import Job

AXES = ("horizontal", "vertical")
SIDE, CELLS = 112, 8
COLOURS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f5fd0", "yellow": "#e6c700", "purple": "#8e44ad", "orange": "#ff7f0e"}
VISION, LANGUAGE = 4, 6
SITES = (*(f"vision.{i}" for i in range(VISION)), "connector", *(f"language.{i}" for i in range(LANGUAGE)))
PAIRS = 50
SET_ASIDE = 4
"""Pairs of each axis that the untouched model gets wrong, the last ones."""


@dataclass(frozen=True)
class Planted:
    """What one model of the synthetic results does; shares are of the included pairs (46 an axis)."""

    mechanism: str | None = None
    accuracy: float = 0.9
    flips: dict[str, float] = field(
        default_factory=lambda: {"object": 0.1, "strip": 0.95, "rim": 0.6, "background": 0.7, "all": 1.0, "random": 0.05}
    )
    move: float = 0.1
    """Share of conflict pairs whose answer moves; the others stay."""
    background_probe: float = 0.9
    ordering: tuple[float, ...] = (0.0, 0.1, 0.3, 0.1, 0.0, 0.0)
    ordering_ablated: tuple[float, ...] = (0.0, 0.2, 0.5, 0.8, 0.3, 0.0)
    ablated_accuracy: float = 0.5
    corrected: float = 0.6
    """Share of the errors that projection corrects at alpha 3."""


STRIP = Planted(mechanism="strip")
NATURAL = Planted(
    mechanism="natural",
    accuracy=0.98,
    flips={"object": 1.0, "strip": 1.0, "rim": 0.0, "background": 0.0, "all": 1.0, "random": 0.02},
    move=1.0,
    background_probe=0.36,
    ordering=(0.0, 0.4, 0.9, 0.8, 0.2, 0.0),
    ordering_ablated=(0.0, 0.4, 0.9, 0.8, 0.2, 0.0),
    ablated_accuracy=0.97,
    corrected=0.0,
)
MODELS = {"strip-organism": STRIP, "natural-organism": NATURAL}
PARAMETERS = 681_120
IDENTITY = {"family": "gemma3", "weights": "0" * 64}


def write_scenes(folder: Path, *, train: int = 2, validation: int = 10, test: int = 20) -> None:
    """Scenes, questions and pairs of one dataset, with real images whose boxes hold a square of the slot's colour."""
    generator = np.random.default_rng(7)
    scenes, questions, pairs = [], [], []
    (folder / "images").mkdir(parents=True)
    for variant, counts in (
        ("main", {"train": train, "validation": validation, "test": test}),
        ("decorrelated", {"test": 4}),
        ("pair", {"test": 2 * PAIRS}),
    ):
        for axis in AXES:
            for split, count in counts.items():
                for index in range(count):
                    scene = _scene(folder, f"{variant}-{axis}-{split}-{index:05d}", variant, split, axis, generator)
                    scenes.append(scene)
                    questions += _questions(scene)
    by_axis = {axis: [s for s in scenes if s["variant"] == "pair" and s["axis"] == axis] for axis in AXES}
    for experiment, names in (("vision", ("stay", "flip")), ("language", ("stay", "ordering", "content")), ("conflict", ("stay", "move"))):
        for axis in AXES:
            for index in range(PAIRS):
                clean, other = by_axis[axis][2 * index], by_axis[axis][2 * index + 1]
                words = [*clean["objects"][:2], other["objects"][0]]
                pairs.append(
                    {
                        "pair_id": f"{experiment}-{axis}-{index:05d}",
                        "experiment": experiment,
                        "axis": axis,
                        "template": "slot_to_object",
                        "clean_scene": clean["scene_id"],
                        "counterfactual_scene": other["scene_id"] if experiment != "conflict" else clean["scene_id"],
                        "unrelated_scene": other["scene_id"],
                        "slots": [0, 1],
                        "prompt": _prompt(axis, 0),
                        "counterfactual_prompt": _prompt(axis, 0),
                        "candidates": sorted(COLOURS),
                        "clean_answer": clean["objects"][0],
                        "counterfactual_answer": other["objects"][0],
                        "hypotheses": {
                            name: words[names.index(name)] if name in names else None
                            for name in ("stay", "flip", "ordering", "content", "move")
                        },
                    }
                )
    write_parquet(pl.DataFrame(scenes, schema_overrides={"mirrored_from": pl.String, "photograph": pl.String}), folder / "scenes.parquet")
    write_parquet(pl.DataFrame(questions, schema_overrides={"option_order": pl.Int32}), folder / "questions.parquet")
    write_parquet(pl.DataFrame(pairs), folder / "pairs.parquet")


def _scene(folder: Path, scene_id: str, variant: str, split: str, axis: str, generator: np.random.Generator) -> dict:
    image = Image.new("RGB", (SIDE, SIDE), "#dddddd")
    draw = ImageDraw.Draw(image)
    words = [str(word) for word in generator.permutation(sorted(COLOURS))[:3]]
    boxes = []
    for slot, word in enumerate(words):
        along = [6, 44, 82][slot] + int(generator.integers(0, 7))
        across = int(generator.integers(8, 80))
        left, top = (along, across) if axis == "horizontal" else (across, along)
        boxes.append([float(left), float(top), float(left + 22), float(top + 22)])
        draw.rectangle((left, top, left + 21, top + 21), fill=COLOURS[word])
    path = folder / "images" / f"{scene_id}.png"
    image.save(path)
    return {
        "scene_id": scene_id,
        "variant": variant,
        "split": split,
        "axis": axis,
        "image": f"images/{scene_id}.png",
        "width": SIDE,
        "height": SIDE,
        "objects": words,
        "phrases": [f"{word} square" for word in words],
        "boxes": boxes,
        "slots": [0, 1, 2],
        "background": "plain",
        "box_source": "rendered",
        "box_quality": 1.0,
        "mirrored_from": None,
        "photograph": None,
    }


def _prompt(axis: str, slot: int) -> str:
    place = (("left", "middle", "right") if axis == "horizontal" else ("top", "middle", "bottom"))[slot]
    return f"what color is the {place} square ?"


def _questions(scene: dict) -> list[dict]:
    return [
        {
            "question_id": f"{scene['scene_id']}/slot_to_object/{slot}",
            **{key: scene[key] for key in ("scene_id", "variant", "split", "axis")},
            "template": "slot_to_object",
            "slot": slot,
            "prompt": _prompt(scene["axis"], slot),
            "option_order": None,
            "answer": scene["objects"][slot],
            "candidates": list(scene["objects"]),
        }
        for slot in range(3)
    ]


def behaviour(questions: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """Right answers to the first ``accuracy`` of the questions of each axis and split; candidates are the scene's three objects."""
    rows = []
    for _, part in sorted(questions.filter(pl.col("split") != "train").partition_by("variant", "split", "axis", as_dict=True).items()):
        right = round(planted.accuracy * part.height)
        for index, row in enumerate(part.iter_rows(named=True)):
            wrong = next(word for word in row["candidates"] if word != row["answer"])
            predicted = row["answer"] if index < right else wrong
            rows.append(
                {
                    **{key: value for key, value in row.items() if key not in ("prompt", "option_order")},
                    "predicted": predicted,
                    "correct": index < right,
                    "top1": predicted,
                    "top1_correct": index < right,
                    "answer_probability": 0.9 if index < right else 0.1,
                    "margin": 2.0 if index < right else -2.0,
                    "log_probabilities": [-0.5 if word == predicted else -2.5 for word in row["candidates"]],
                    "candidate_mass": 0.9,
                    "whole_words": True,
                }
            )
    return pl.DataFrame(rows)


def probes(planted: Planted) -> pl.DataFrame:
    """Background accuracy rises to ``background_probe`` at the connector; every control sits at chance plus or minus 0.04."""
    rows = []
    for axis in AXES:
        for site in SITES:
            depth = SITES.index(site) / (len(SITES) - 1)
            for token_set in ("object", "strip", "rim", "background", "all"):
                reached = planted.background_probe if token_set in ("rim", "background") else 0.97
                for scored_on in ("main", "decorrelated"):
                    value = reached if site == "connector" else 1 / 3 + (reached - 1 / 3) * min(1.0, 2 * depth)
                    for kind in ("logistic", "centroid", "shuffled", "control_task", "pixels", "position", "other_scene"):
                        score = value if kind in ("logistic", "centroid") else 1 / 3
                        rows.append(
                            {
                                "site": site,
                                "kind": kind,
                                "axis": axis,
                                "trained_on": "main",
                                "scored_on": scored_on,
                                "split": "test",
                                "token_set": token_set,
                                "strength": 1.0,
                                "accuracy": score,
                                "low": score - 0.04,
                                "high": min(1.0, score + 0.04),
                                "n": 100,
                                "chance": 1 / 3,
                            }
                        )
    return pl.DataFrame(rows)


def strip_map(scenes: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """Bands at the connector that agree with the strips (or slot 0 everywhere where the background says nothing)."""
    rows = []
    chosen = scenes.filter((pl.col("variant") == "main") & (pl.col("split") == "test"))
    for scene in chosen.iter_rows(named=True):
        low = 0 if scene["axis"] == "horizontal" else 1
        centres = [(box[low] + box[low + 2]) / 2 for box in scene["boxes"]]
        edges = [(centres[0] + centres[1]) / 2, (centres[1] + centres[2]) / 2]
        for site in ("vision.0", "connector", "language.2"):
            for token in range(CELLS * CELLS):
                row, col = divmod(token, CELLS)
                x, y = (col + 0.5) * SIDE / CELLS, (row + 0.5) * SIDE / CELLS
                slot = int(np.searchsorted(edges, x if scene["axis"] == "horizontal" else y))
                inside = any(left <= x < right and top <= y < bottom for left, top, right, bottom in scene["boxes"])
                knows = inside or planted.background_probe > 0.5
                predicted = slot if knows else 0
                rows.append(
                    {
                        "scene_id": scene["scene_id"],
                        "axis": scene["axis"],
                        "site": site,
                        "token": token,
                        "row": row,
                        "col": col,
                        "slot": slot,
                        "predicted": predicted,
                        "probability": [0.9 if s == predicted else 0.05 for s in range(3)],
                        "token_set": "object" if inside else "rim",
                        "kind": "logistic",
                    }
                )
    return pl.DataFrame(rows)


def interchange(planted: Planted) -> pl.DataFrame:
    """The vision sweep (token sets × vision sites and connector) and the intact language sweep."""
    rows = []
    for site in SITES[: VISION + 1]:
        # Replacing tokens early in the encoder does nothing; from the middle on the planted rates hold.
        reached = 1.0 if site == "connector" else min(1.0, (int(site[-1]) + 1) / VISION)
        for token_set, rate in planted.flips.items():
            for source in ("counterfactual", "unrelated"):
                rows += _pair_rows(
                    "vision", "intact", site, token_set, source, {"flip": rate * reached if source == "counterfactual" else 0.0}
                )
    rows += language(planted.ordering, "intact")
    rows += crosswise(planted, "intact")
    for site, rates in zip(("embedding", *SITES[VISION + 1 :]), LAST_TOKEN, strict=True):
        rows += _pair_rows("last_token", "intact", site, "last", "counterfactual", dict(zip(("ordinal", "attribute"), rates, strict=True)))
    for site, rate in zip(SITES[VISION:], (0.0, *planted.ordering), strict=False):
        rows += _pair_rows("displaced", "intact", site, "object", "counterfactual", {"ordering": rate})
    return pl.DataFrame(rows, infer_schema_length=None)


RANDOM_TOKENS = {"random_object": 4, "random_strip": 20, "last": 1}
CROSSWISE_SETS = ("object", "strip", "rim", "random_object", "random_strip")
LAST_TOKEN = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.5, 0.0), (0.8, 0.1), (0.1, 0.9), (0.0, 1.0))
"""Shares of the answers that follow the slot, and that are the source's, at what enters the language model and after each layer."""
REACH = (1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0)
"""Share of the planted flips that a crosswise exchange still makes: at the connector, then by language layer."""


def crosswise(planted: Planted, condition: str) -> list[dict]:
    """The crosswise sweep: each set flips as planted up to the second language layer, random tokens never; the mirror form, too."""
    rows = []
    for site, reach in zip(SITES[VISION:], REACH, strict=True):
        for token_set in CROSSWISE_SETS:
            rate = planted.flips.get(token_set, 0.0) * reach
            rows += _pair_rows("crosswise", condition, site, token_set, "counterfactual", {"flip": rate})
        if condition == "intact":
            mirrored = _pair_rows("mirror", condition, site, "strip", "counterfactual", {"flip": planted.flips["strip"] * reach})
            rows += [row for row in mirrored if row["axis"] == "horizontal"]
    return rows


def language(rates: tuple[float, ...], condition: str) -> list[dict]:
    """The language sweep on object tokens: never ordering at the connector, then ``rates`` by layer."""
    rows = _pair_rows("language", condition, "connector", "object", "counterfactual", {"ordering": 0.0})
    for layer, rate in enumerate(rates):
        rows += _pair_rows("language", condition, f"language.{layer}", "object", "counterfactual", {"ordering": rate})
    return rows


def conflict(planted: Planted) -> pl.DataFrame:
    """Answers move in the share ``move`` of the pairs, for both kinds of block."""
    rows = []
    for token_set in ("object", "strip"):
        rows += _pair_rows("conflict", "intact", "connector", token_set, "clean", {"move": planted.move})
    return pl.DataFrame(rows, infer_schema_length=None)


ROUTES = {
    "image_to_question": 0.5,
    "image_to_answer": 0.1,
    "image_to_both": 0.8,
    "question_to_answer": 0.7,
    "object_to_question": 0.4,
    "object_to_answer": 0.0,
}
"""Share of answers that are lost with a route closed in all layers; in a window the half of it, with the control closed none."""


def routes() -> pl.DataFrame:
    """Attention knockout: the first included pairs lose their answers."""
    rows = []
    for route, rate in ROUTES.items():
        control = "random" if route.startswith("object") else "half"
        for keys, first, last, share in (("all", 0, LANGUAGE - 1, rate), (control, 0, LANGUAGE - 1, 0.0), ("all", 2, 3, rate / 2)):
            for axis in AXES:
                for index in range(PAIRS):
                    lost = index < round(share * (PAIRS - SET_ASIDE))
                    rows.append(
                        {
                            "pair_id": f"vision-{axis}-{index:05d}",
                            "experiment": "knockout",
                            "axis": axis,
                            "template": "slot_to_object",
                            "condition": "intact",
                            "route": route,
                            "keys": keys,
                            "form": "renormalised",
                            "layer_from": first,
                            "layer_to": last,
                            "all_layers": last - first == LANGUAGE - 1,
                            "included": index < PAIRS - SET_ASIDE,
                            "outcome": "flip" if lost else "stay",
                            "right_after": not lost,
                            "relative_probability": -0.9 if lost else 0.0,
                            "margin_clean": -3.0,
                            "margin_source": 3.0,
                            "margin": 3.0 if lost else -3.0,
                            "candidate_mass_clean": 0.97,
                            "candidate_mass": 0.3 if lost else 0.97,
                        }
                    )
    return pl.DataFrame(rows, infer_schema_length=None)


MOVED = {("exchanged", "kept"): 0.5, ("kept", "exchanged"): 0.8, ("exchanged", "exchanged"): 0.0, ("kept", "kept"): 0.0}
"""Share of answers that move, by what of the strips is exchanged; in a window of exchanged ids 0.2, of random tokens none."""


def positions() -> pl.DataFrame:
    """Answers follow exchanged position ids, and 0.6 of them are lost where all tokens are shuffled."""
    every = (0, LANGUAGE - 1)
    moves = [(name, *how, "none", *every, share * (name == "strip")) for name in ("strip", "random") for how, share in MOVED.items()]
    moves += [("strip", "kept", "exchanged", "none", 2, 3, 0.2)]
    moves += [("all", "shuffled", ids, name, *every, 0.6 * (name == "all")) for ids in ("kept", "shuffled") for name in ("all", "object")]
    rows = []
    for token_set, values, ids, shuffle, first, last, share in moves:
        for axis in AXES:
            for index in range(PAIRS):
                moved = index < round(share * (PAIRS - SET_ASIDE))
                included = index < PAIRS - SET_ASIDE
                rows.append(
                    {
                        "pair_id": f"conflict-{axis}-{index:05d}",
                        "axis": axis,
                        "template": "slot_to_object",
                        "token_set": token_set,
                        "values": values,
                        "ids": ids,
                        "shuffle": shuffle,
                        "layer_from": first,
                        "layer_to": last,
                        "all_layers": (first, last) == every,
                        "included": included,
                        "outcome": ("other" if shuffle != "none" else "move") if moved else "stay",
                        "right_before": included,
                        "right_after": included and not moved,
                        "candidate_mass_clean": 0.97,
                        "candidate_mass": 0.97,
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


STEERED = {"id": 0.6, "random": 0.1, "other_axis": 0.0}
"""Share of answers that an added vector turns, at layer 2 alone."""
TEXT_DECIDES, TEXT_SUFFICES = 0.9, 0.7
"""Share of answers that follow the question's residuals of every layer, and that are right over a grey picture with them."""


def readout() -> pl.DataFrame:
    """The image decides up to layer 2, the question from then on."""
    taken = [("usage", "own", "image", "counterfactual", layer, float(layer < 3)) for layer in range(LANGUAGE)]
    taken += [("usage", "own", "question", "counterfactual", layer, float(layer >= 3)) for layer in range(LANGUAGE)]
    taken += [("usage", "own", "question", "counterfactual", None, TEXT_DECIDES), ("usage", "own", "question", "unrelated", None, 0.0)]
    taken += [("sufficiency", "grey", "question", "original", None, TEXT_SUFFICES), ("sufficiency", "grey", None, "original", None, 0.3)]
    for layer in (1, 2):
        taken += [("steer", "own", "word.target", source, layer, share * (layer == 2)) for source, share in STEERED.items()]
    rows = []
    for experiment, picture, group, source, layer, share in taken:
        for axis in AXES:
            for index in range(PAIRS):
                hit = index < round(share * (PAIRS - SET_ASIDE))
                flips = hit and experiment != "sufficiency"
                rows.append(
                    {
                        "pair_id": f"vision-{axis}-{index:05d}",
                        "experiment": experiment,
                        "axis": axis,
                        "template": "slot_to_object",
                        "picture": picture,
                        "group": group,
                        "source": source,
                        "site": None if layer is None else f"language.{layer}",
                        "layer": layer,
                        "alpha": 2.0 if experiment == "steer" else None,
                        "draw": 0 if source == "random" else None,
                        "all_layers": group is not None and layer is None,
                        "included": index < PAIRS - SET_ASIDE,
                        "outcome": "flip" if flips else "stay" if experiment != "sufficiency" or hit else "other",
                        "right_after": hit if experiment == "sufficiency" else not flips,
                        "candidates": ["red", "green", "blue"],
                        "margin_clean": -3.0,
                        "margin_source": 3.0,
                        "margin": 3.0 if flips else -3.0,
                        "candidate_mass_clean": 0.97,
                        "candidate_mass": 0.97,
                    }
                )
    return pl.DataFrame([*rows, *id_readings()], infer_schema_length=None)


def id_readings() -> list[dict]:
    """Spatial IDs read at names: at layer 1 never the truth; at layer 2 of most right answers, and of wrong ones the answer given."""
    rows = []
    for layer, right_read, given in ((1, 0, 0), (2, 18, 10)):
        for axis in AXES:
            for index in range(32):
                right = index < 20
                agrees = index < right_read if right else index - 20 < given
                rows.append(
                    {
                        "pair_id": f"{axis}-{index}/object_to_slot",
                        "experiment": "read",
                        "axis": axis,
                        "template": "object_to_slot",
                        "picture": "own",
                        "group": "word.target",
                        "source": "id",
                        "site": f"language.{layer}",
                        "layer": layer,
                        "all_layers": False,
                        "included": True,
                        "outcome": ("truth" if right else "given") if agrees else "other" if right else "truth",
                        "right_after": right,
                        "candidates": ["red", "green", "blue"],
                        "candidate_mass_clean": 0.97,
                        "candidate_mass": 0.97,
                    }
                )
    return rows


HEADS = 2
"""Attention heads of a language layer."""


def heads() -> pl.DataFrame:
    """Head 1 of layer 4 brings three quarters of the other run's answer, head 0 of layer 3 half of its slot, the others nothing."""
    every = LANGUAGE * HEADS
    single = [("head", "patched", "each", layer, head, 1, None) for layer in range(LANGUAGE) for head in range(HEADS)]
    several = [("heads_cumulative", "patched", "all", None, None, every, None)]
    for form in ("patched", "mean"):
        several += [("heads_cumulative", form, "ranked", None, None, count, None) for count in (1, every)]
        several += [("heads_cumulative", form, "random", None, None, 1, draw) for draw in range(2)]
    rows = []
    for experiment, form, chosen, layer, head, count, draw in (*single, *several):
        share = {"ranked": 40 / 46, "random": 0.1}.get(chosen, 0.0) if count < every else 1.0
        attribute = 7.5 if (layer, head) == (4, 1) else 10 * share
        ordinal = 2.0 if (layer, head) == (3, 0) else 4.0 * (count == every)
        for axis in AXES:
            for index in range(PAIRS):
                follows = index < round(share * (PAIRS - SET_ASIDE))
                rows.append(
                    {
                        "pair_id": f"last_token-{axis}-{index:05d}",
                        "experiment": experiment,
                        "axis": axis,
                        "template": "relation_to_object",
                        "condition": "intact",
                        "group": "last",
                        "form": form,
                        "chosen": chosen,
                        "layer": layer,
                        "head": head,
                        "heads": count,
                        "model_heads": every,
                        "draw": draw,
                        "included": index < PAIRS - SET_ASIDE,
                        "outcome": ("attribute" if form == "patched" else "other") if follows else "stay",
                        "ordinal_log_odds_clean": -3.0,
                        "ordinal_log_odds": ordinal - 3.0,
                        "ordinal_log_odds_source": 1.0,
                        "attribute_log_odds_clean": -5.0,
                        "attribute_log_odds": attribute - 5.0,
                        "attribute_log_odds_source": 5.0,
                        "atp": attribute / 2 if chosen == "each" else None,
                        "candidate_mass_clean": 0.97,
                        "candidate_mass": 0.97,
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def ablation_sweep(planted: Planted) -> pl.DataFrame:
    """The language sweep under each ablation."""
    rows = [row for condition in ("erasure", "neutral") for row in language(planted.ordering_ablated, condition)]
    rows += [row for condition in ("erasure", "neutral") for row in crosswise(planted, condition)]
    return pl.DataFrame(rows, infer_schema_length=None)


def ablation_check() -> pl.DataFrame:
    """The slot is read off every object's tokens intact, and as slot 0 under each ablation."""
    rows = []
    for condition in ("intact", "erasure", "neutral"):
        for axis in AXES:
            for scene in range(20):
                for slot in range(3):
                    predicted = slot if condition == "intact" else 0
                    for token_set in ("object", "rim"):
                        for probe in ("saved", "refitted"):
                            rows.append(
                                {
                                    "scene_id": f"main-{axis}-test-{scene:05d}",
                                    "slot": slot,
                                    "axis": axis,
                                    "condition": condition,
                                    "site": "connector",
                                    "token_set": token_set,
                                    "probe": probe,
                                    "predicted": predicted,
                                    "correct": predicted == slot,
                                }
                            )
    return pl.DataFrame(rows)


def ablation_accuracy(questions: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """The accuracy intact and under each ablation."""
    rows = []
    asked = questions.filter((pl.col("split") == "test") & (pl.col("variant") == "main"))
    ablated = planted.ablated_accuracy
    accuracies = {"intact": planted.accuracy, "erasure": ablated, "neutral": ablated, "ordering_erased": planted.accuracy}
    for condition, accuracy in (accuracies | {"neutral+ordering_erased": ablated - 0.3}).items():
        for axis in AXES:
            part = asked.filter(axis=axis)
            for index, row in enumerate(part.iter_rows(named=True)):
                right = index < round(accuracy * part.height)
                rows.append(
                    {
                        "question_id": row["question_id"],
                        "scene_id": row["scene_id"],
                        "axis": axis,
                        "template": row["template"],
                        "condition": condition,
                        "predicted": row["answer"] if right else "grey",
                        "correct": right,
                        "top1_correct": right,
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def _pair_rows(experiment: str, condition: str, site: str, token_set: str, source: str, rates: dict[str, float]) -> list[dict]:
    rows = []
    for axis in AXES:
        included = PAIRS - SET_ASIDE
        for index in range(PAIRS):
            outcome = "stay"
            start = 0
            for name, rate in rates.items():
                if start <= index < start + round(rate * included):
                    outcome = name
                start += round(rate * included)
            rows.append(
                {
                    "pair_id": f"{experiment}-{axis}-{index:05d}",
                    "experiment": experiment,
                    "axis": axis,
                    "template": "slot_to_object",
                    "condition": condition,
                    "site": site,
                    "layer": int(site.partition(".")[2]) if "." in site else None,
                    "token_set": token_set,
                    "source": source,
                    "included": index < included,
                    "clean_predicted": "red",
                    "counterfactual_predicted": "green",
                    "predicted": "red" if outcome == "stay" else "green",
                    "outcome": outcome,
                    "log_odds_clean": -3.0,
                    "log_odds": -3.0 if outcome == "stay" else 3.0,
                    "log_odds_source": 3.0,
                    "content_log_odds_clean": -3.0,
                    "content_log_odds": 3.0 if outcome in ("content", "attribute") else -3.0,
                    "content_log_odds_source": 3.0,
                    "candidates": ["red", "green", "blue"],
                    "log_probabilities_clean": [-0.1, -3.1, -4.0],
                    "log_probabilities": [-0.1, -3.1, -4.0] if outcome == "stay" else [-3.1, -0.1, -4.0],
                    "candidate_mass": 0.97,
                    "whole_words": True,
                    "tokens": {"object": 4, "strip": 24, "rim": 20, "background": 52, "all": 64, "random": 24, **RANDOM_TOKENS}[token_set],
                    "object_tokens": {"object": 4, "strip": 4, "rim": 0, "background": 0, "all": 4, "random": 1}.get(token_set, 0),
                    "strip_tokens": {"object": 4, "strip": 24, "rim": 20, "background": 16, "all": 24, "random": 9, "random_object": 4}.get(
                        token_set, 0
                    ),
                }
            )
    return rows


def geometry(planted: Planted) -> pl.DataFrame:
    """Strip indices as high as the background probe; subspaces 80° apart between the axes, 30° to content, 10° a site between sites."""
    rows = []
    for axis in AXES:
        for site in SITES:
            for other, estimate in (("main", planted.background_probe), ("decorrelated", planted.background_probe - 0.1), ("blank", 0.2)):
                known = other != "blank"
                rows.append(
                    {
                        "measure": "strip_index",
                        "axis": axis,
                        "site": site,
                        "subspace": None,
                        "other": other,
                        "angles": None,
                        "estimate": estimate,
                        "low": estimate - 0.05 if known else None,
                        "high": estimate + 0.05 if known else None,
                        "n": 20 if known else None,
                        "chance": 0.0,
                    }
                )
            for subspace in ("logistic", "means"):
                compared = [("content", "content", 30), ("between_training", "decorrelated", 20)]
                compared += [("between_axes", "vertical", 80)] if axis == "horizontal" else []
                compared += [
                    ("between_sites", other, 10 * (SITES.index(other) - SITES.index(site)))
                    for other in SITES[SITES.index(site) + 1 :]
                    if site.startswith("vision.") == other.startswith("vision.")
                ]
                rows += [_compared(measure, axis, subspace, site, other, float(angle)) for measure, other, angle in compared]
    return pl.DataFrame(rows, schema=GEOMETRY)


def between_datasets(dataset: str = "squares", other: str = "other-squares") -> pl.DataFrame:
    """Subspaces 40° apart between a dataset and another."""
    rows = [
        {"dataset": dataset, **_compared("between_datasets", axis, subspace, site, other, 40.0)}
        for axis in AXES
        for site in SITES
        for subspace in ("logistic", "means")
    ]
    return pl.DataFrame(rows, schema={"dataset": pl.String, **GEOMETRY})


def _compared(measure: str, axis: str, subspace: str, site: str, other: str, angle: float) -> dict:
    nothing = dict.fromkeys(("low", "high", "n"))
    named = {"measure": measure, "axis": axis, "site": site, "subspace": subspace, "other": other}
    return named | nothing | {"angles": [angle, angle], "estimate": float(np.cos(np.radians(angle)) ** 2), "chance": 0.03}


def training(datasets: tuple[str, ...]) -> pl.DataFrame:
    """A learning curve of ten reports: accuracy from a third to one, loss falling."""
    steps = np.arange(100, 1100, 100)
    curve = {"step": steps, "loss": 300.0 / steps, "learning_rate": np.linspace(1, 0, 10)}
    for dataset in datasets:
        for axis in AXES:
            for place, template in enumerate(("slot_to_object", "object_to_slot", "relation_to_object")):
                curve[f"{dataset} {axis} {template}"] = np.minimum(1.0, 1 / 3 + steps / (900 + 300 * place))
    return pl.DataFrame(curve)


def amplification(answered: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """Projection corrects the share ``corrected`` of the errors at alpha 3 and half of it elsewhere above 1; random controls none."""
    asked = answered.filter(pl.col("variant") == "main").sort("question_id")
    rows = []
    settings = [("projection", 0, alpha, planted.corrected * (1.0 if alpha == 3 else 0.5)) for alpha in (0.0, 1.0, 2.0, 3.0, 6.0)]
    settings += [("oracle", 0, alpha, min(1.0, 0.2 * alpha)) for alpha in (0.0, 1.0, 3.0, 6.0)]
    controls = [
        (method, draw, alpha, 0.0)
        # With nothing to correct, validation chooses the alpha that changes nothing.
        for alpha in (1.0, 3.0)
        for method, draw in [*(("random", draw) for draw in range(20)), ("complement", 0), ("shuffled", 0)]
    ]
    controls += [("oracle_random", draw, alpha, 0.0) for alpha in (0.0, 6.0) for draw in range(20)]
    for split in ("validation", "test"):
        part = asked.filter(split=split)
        errors = part.filter(~pl.col("correct"))["question_id"].to_list()
        for method, draw, alpha, share in settings + (controls if split == "test" else []):
            neutral = alpha == {"projection": 1.0, "oracle": 0.0}.get(method)
            mended = set() if neutral else set(errors[: round(share * len(errors))])
            for row in part.iter_rows(named=True):
                correct = row["correct"] or row["question_id"] in mended
                rows.append(
                    {
                        **{key: row[key] for key in ("question_id", "scene_id", "split", "axis", "template", "slot")},
                        "site": "connector",
                        "method": method,
                        "draw": draw,
                        "alpha": alpha,
                        "predicted": row["answer"] if correct else row["predicted"],
                        "correct": correct,
                        "correct_before": row["correct"],
                        "answer_probability": 0.8 if correct else 0.2,
                        "confidence_before": 0.8,
                        "confidence": 0.8,
                        "brier_before": 0.06 if row["correct"] else 1.0,
                        "brier": 0.06 if correct else 1.0,
                        "present_before": None if row["template"] == "object_to_slot" else True,
                        "present": None if row["template"] == "object_to_slot" else True,
                    }
                )
    return pl.DataFrame(rows)


def transfer(swept: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """From one dataset to another projection corrects what it corrects at alpha 2: half as much as at home; the oracle travels whole."""
    parts = []
    for source in swept:
        chosen = {method: choose(swept[source], method) for method in METHODS}
        for target, table in swept.items():
            for method, (site, alpha) in chosen.items():
                weaker = source != target and (method, alpha) == ("projection", 3.0)
                there = at(table, "test", method, site, 2.0 if weaker else alpha).with_columns(alpha=pl.lit(alpha))
                both = [there, at(table, "test", RANDOM[method], site, alpha)]
                parts += [part.select(pl.lit(source).alias("fitted_on"), pl.lit(target).alias("applied_to"), pl.all()) for part in both]
    return pl.concat(parts)


def spatial_ids() -> pl.DataFrame:
    """Slots of an axis lie on a line of its own, the same for both halves of the objects."""
    rows = [
        {"axis": axis, "site": f"language.{layer}", "layer": layer, "half": half, "slot": slot, "vector": [along * part for part in line]}
        for layer in (0, 1)
        for axis, line in (("horizontal", (1.0, 0.0)), ("vertical", (0.0, 1.0)))
        for half in (0, 1)
        for slot, along in ((0, -1.0), (2, 1.0))
    ]
    return pl.DataFrame(rows, schema=IDS)


def tables(scenes: Path, planted: Planted) -> dict[str, pl.DataFrame]:
    """All tables of one model on the dataset in ``scenes``."""
    questions = pl.read_parquet(scenes / "questions.parquet")
    answered = behaviour(questions, planted)
    return {
        "behaviour": answered,
        "probes": probes(planted),
        "strip_map": strip_map(pl.read_parquet(scenes / "scenes.parquet"), planted),
        "geometry": geometry(planted),
        "interchange": interchange(planted),
        "conflict": conflict(planted),
        "routes": routes(),
        "heads": heads(),
        "positions": positions(),
        "readout": readout(),
        "spatial_ids": spatial_ids(),
        "ablation_sweep": ablation_sweep(planted),
        "ablation_accuracy": ablation_accuracy(questions, planted),
        "ablation_check": ablation_check(),
        "amplification": amplification(answered, planted),
        "amplification_items": pl.DataFrame(schema={"item": pl.String}),
    }


def write_measures(inputs: dict[str, Path], model: str, dataset: str, path: Path) -> None:
    """What the measures stage makes of the tables among ``inputs``; adds it to them."""
    endings = (f"scenes:{dataset}", f":{model}:{dataset}", f":{model}")
    of_it = {name.split(":")[0]: table for name, table in inputs.items() if name.endswith(endings)}
    given = {name: table for name, table in of_it.items() if name not in ("training", "measures", "manifest")}
    measures(Job({}, given, {"table": path}))
    inputs[f"measures:{model}:{dataset}"] = path


def write_results(
    folder: Path, models: dict[str, Planted] | None = None, datasets: tuple[str, ...] = ("shapes", "squares"), title: str | None = None
) -> Job:
    """A whole results folder, and the job of the figures stage over it."""
    models = MODELS if models is None else models
    inputs = {}
    for dataset in datasets:
        inputs[f"scenes:{dataset}"] = folder / "scenes" / dataset
        write_scenes(folder / "scenes" / dataset)
        for number, (name, planted) in enumerate(models.items()):
            for table, rows in tables(folder / "scenes" / dataset, planted).items():
                path = folder / name / dataset / f"{table}.parquet"
                write_parquet(rows, path)
                inputs[f"{table}:{name}:{dataset}"] = path
            manifest = folder / name / dataset / "activations.json"
            write_json(
                {
                    "sites": list(SITES),
                    "grid": [CELLS, CELLS],
                    # The second of two models is four times as large.
                    "model": IDENTITY | {"parameters": PARAMETERS * (1 + 3 * number)},
                },
                manifest,
            )
            inputs[f"manifest:{name}:{dataset}"] = manifest
    for name in models:
        if len(datasets) > 1:
            swept = {dataset: pl.read_parquet(inputs[f"amplification:{name}:{dataset}"]) for dataset in datasets}
            others = [between_datasets(one, other) for one in datasets for other in datasets if one != other]
            for table, rows in (("between_datasets", pl.concat(others)), ("transfer", transfer(swept))):
                inputs[f"{table}:{name}"] = folder / name / f"{table}.parquet"
                write_parquet(rows, inputs[f"{table}:{name}"])
        inputs[f"training:{name}"] = folder / "organisms" / name / "training.parquet"
        write_parquet(training(datasets), inputs[f"training:{name}"])
    for name in models:
        for dataset in datasets:
            write_measures(inputs, name, dataset, folder / name / dataset / "measures.parquet")
    settings = {
        "figures": {"published": {next(iter(models)): "Qwen2-VL-7B-Instruct"}} | ({} if title is None else {"title": title}),
        "models": {
            name: {"datasets": list(datasets), "checkpoint": f"results/organisms/{name}", "mechanism": planted.mechanism}
            for name, planted in models.items()
        },
        "datasets": {name: {"kind": "squares"} for name in datasets},
        "seed": 0,
    }
    outputs = {"figures": folder / "figures", "report": folder / "report.html", "findings": folder / "findings.json"}
    return Job(settings, inputs, outputs)
