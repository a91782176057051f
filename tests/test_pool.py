"""Which pairs are kept: the first so many that are right, judged by the best candidate or by the likeliest word."""

from pathlib import Path

import numpy as np
import pytest

from vlm_spatial.config.pool import PoolSettings
from vlm_spatial.interventions.answers import AnswerReader, normalised, wrote
from vlm_spatial.interventions.crosswise import crosswise_cases, crosswise_plan
from vlm_spatial.interventions.engine import PatchEngine
from vlm_spatial.interventions.pairs_on_grid import read_cases
from vlm_spatial.interventions.sweep import run_sweep
from vlm_spatial.models.load import load_adapter
from vlm_spatial.scenes.dataset import Dataset
from vlm_spatial.stages.scenes import scenes
from vlm_spatial.stages.stage import Job

pytestmark = pytest.mark.model

ORGANISMS = Path(__file__).parents[1] / "organisms"

WORDS = [" Red", "red", "RED.", "blue", " the", "re d"]


@pytest.mark.parametrize(("likeliest", "candidate"), [(0, "red"), (1, "red"), (2, "red"), (3, "blue"), (4, None), (5, "red")])
def test_the_likeliest_word_is_compared_by_letters_and_digits(likeliest: int, candidate: str | None) -> None:
    reader = AnswerReader.from_forms(["red", "blue"], [[(1,)], [(3,)]])
    assert wrote(reader, [likeliest], lambda tokens: "".join(WORDS[token] for token in tokens)) == (WORDS[likeliest], candidate)
    assert normalised(" Number 7!") == "number7"


@pytest.mark.slow
def test_the_first_right_pairs_of_each_direction_are_patched(tmp_path: Path) -> None:
    settings = {
        "kind": "squares",
        "axes": ["horizontal"],
        "scenes": {"train": 1, "validation": 1, "test": 1},
        "variants": {"decorrelated": {"train": 1, "validation": 1, "test": 1}},
        "templates": ["relation_to_object"],
        "asked_slots": [0, 2],
        "pairs": {"vision": 8, "language": 0, "conflict": 0},
    }
    scenes(Job({"dataset": settings, "name": "squares", "seed": 0}, {}, {"folder": tmp_path / "squares"}))
    tiny, adapter = Dataset.open(tmp_path / "squares"), load_adapter(ORGANISMS / "vision-0", device="cpu")
    engine, cases = PatchEngine(adapter), crosswise_cases(read_cases(tiny, adapter, "vision"))
    plan = crosswise_plan(["connector"], ("object",), 0)
    every = run_sweep(engine, tiny, cases, plan)
    for right_by in ("candidates", "top1_word"):
        kept = run_sweep(engine, tiny, cases, plan, pool=PoolSettings(right_by=right_by, first=1))  # type: ignore[arg-type]
        assert kept["included"].all()
        first: dict[int, str] = {}
        for case in cases:
            if every.filter(pair_id=case.pair_id)["included"].all():
                first.setdefault(case.slots[0], case.pair_id)
        # This organism writes nothing but words, so that both rules agree.
        assert kept["pair_id"].to_list() == sorted(first.values())
        assert kept.height == 2
        same = every.filter(every["pair_id"].is_in(list(first.values())))
        np.testing.assert_allclose(kept["log_odds"], same["log_odds"], atol=1e-4)
