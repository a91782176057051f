"""Rows of the amplification figures against counts made by hand."""

import polars as pl
import pytest

from vlm_spatial.figures import amplification, amplification_detail, amplified_accuracy, amplified_models
from vlm_spatial.figures.amplification import BRIER, CORRECTED, NET
from vlm_spatial.figures.amplification_detail import RANDOM_OF
from vlm_spatial.figures.figure import BOTH
from vlm_spatial.measures import corrections
from vlm_spatial.measures.amplification import at, choose
from vlm_spatial.measures.corrections import ALL, NOT_SPATIAL, PRESENT

pytestmark = pytest.mark.unit


def table(best: float) -> pl.DataFrame:
    """Eight scenes of four questions: the slot 0 question and the content question are wrong at first.

    ``best`` is the alpha at which projection mends slot 0 and breaks slot 2 of the first scene; the other one does nothing.
    """
    rows = []
    settings = [("projection", 0, alpha) for alpha in (1.0, 4.0, 8.0)] + [
        ("random", draw, alpha) for draw in (0, 1) for alpha in (4.0, 8.0)
    ]
    for split in ("validation", "test"):
        for scene in range(8):
            for slot, template in ((0, "slot_to_object"), (1, "slot_to_object"), (2, "object_to_slot"), (1, "content")):
                before = slot != 0 and template != "content"
                for method, draw, alpha in settings:
                    after = before
                    if method == "projection" and alpha == best:
                        after = (before or slot == 0) and not (slot == 2 and scene == 0)
                    if method == "random" and draw == 1 and slot == 0 and scene < 4:
                        after = True
                    rows.append(
                        {
                            "question_id": f"{split}{scene}{slot}{template}",
                            "scene_id": f"{split}{scene}",
                            "split": split,
                            "axis": "horizontal" if scene % 2 else "vertical",
                            "template": template,
                            "slot": slot,
                            "site": "connector",
                            "method": method,
                            "draw": draw,
                            "alpha": alpha,
                            "predicted": "a",
                            "correct": after,
                            "correct_before": before,
                            "answer_probability": 0.5,
                            "confidence_before": 0.5,
                            "confidence": 0.5,
                            "brier_before": 0.5,
                            "brier": 0.25 if after else 0.5,
                            "present_before": True if template == "slot_to_object" else None,
                            "present": (alpha != best or scene > 1) if template == "slot_to_object" else None,
                        }
                    )
    return pl.DataFrame(rows).filter((pl.col("method") == "projection") | (pl.col("split") == "test"))


def values(rows: pl.DataFrame, column: str, **where: str) -> dict[str, float]:
    return dict(rows.filter(**where).select(column, "estimate").iter_rows())


def test_groups_tell_slots_templates_and_cost_apart() -> None:
    rows = amplification_detail.group_rows({"measures": corrections.by_group(table(4.0))})
    net = values(rows, "group", series="projection", measure=NET, axis=BOTH)
    assert net == pytest.approx(
        {
            ALL: 7 / 24,
            "slot 0": 1.0,
            "slot 1": 0.0,
            "slot 2": -1 / 8,
            "object to slot": -1 / 8,
            "slot to object": 0.5,
            PRESENT: -0.25,
            NOT_SPATIAL: 0.0,
        }
    )
    corrected = rows.filter(series="projection", measure=CORRECTED, axis=BOTH, group=ALL).row(0, named=True)
    assert (corrected["estimate"], corrected["n"], corrected["alpha"]) == (1.0, 8, 4.0)
    assert values(rows, "group", series=RANDOM_OF["projection"], measure=CORRECTED, axis=BOTH)[ALL] == pytest.approx(
        0.25
    )  # none in one draw, half in the other
    assert values(rows, "group", series="projection", measure=BRIER, axis="vertical")["slot 0"] == pytest.approx(-0.25)
    assert set(rows.filter(group=PRESENT)["measure"]) == {NET}
    shown = rows.with_columns(dataset=pl.lit("squares"))
    assert "n = 4 to 24 questions" in amplification_detail.group_caption(shown)


def carried(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """What of ``transfer.parquet`` says which setting each dataset chose."""
    return pl.concat(
        at(table, "test", "projection", *choose(table, "projection")).select(pl.lit(name).alias("fitted_on"), pl.all())
        for name, table in tables.items()
    )


def test_transfer_reads_the_own_curve_at_the_others_choice() -> None:
    tables = {"easy": table(4.0), "hard": table(8.0)}
    rows = amplification_detail.transfer_rows({"measures": corrections.choices_carried(tables["hard"], carried(tables))})
    assert rows.filter(series="projection", measure=NET)["alpha"].to_list() == [4.0, 8.0]
    net = values(rows, "chosen_on", series="projection", measure=NET)
    assert net == pytest.approx({"easy": 0.0, "hard": 7 / 24})


def test_the_curve_states_counts_and_exact_tests() -> None:
    rows = amplification.rows({"measures": corrections.sweep(table(4.0))}).with_columns(dataset=pl.lit("squares"))
    chosen = rows.filter(pl.col("chosen") & (pl.col("measure") == NET) & (pl.col("axis") == BOTH)).row(0, named=True)
    assert (chosen["corrected"], chosen["broken"], chosen["errors"]) == (8, 1, 8)
    assert chosen["p_value"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert chosen["p_holm"] == pytest.approx(3 * chosen["p_value"])  # three alphas
    said = amplification.caption(rows)
    assert "8 of 8 errors corrected, 1 answers broken, exact McNemar p = 0.039, 0.12 after Holm" in said
    calibration = rows.filter(
        (pl.col("measure") == amplification.CALIBRATION) & (pl.col("axis") == BOTH) & (pl.col("series") == "projection")
    )
    # Always at confidence 0.5: the error is how far the accuracy is from one half.
    assert dict(calibration.select("alpha", "estimate").iter_rows()) == pytest.approx({1.0: 1 / 6, 4.0: 23 / 24 - 0.5, 8.0: 1 / 6})


def test_nothing_to_show_without_a_table() -> None:
    assert amplification.rows({}).is_empty()
    assert amplification_detail.group_rows({}).is_empty()
    assert corrections.choices_carried(table(4.0), None).is_empty()


def test_models_stand_side_by_side_before_and_after() -> None:
    """Of 24 spatial test questions 16 are right before; the chosen correction mends 8 and breaks 1, the other one does nothing."""

    def drawn(dataset: str, best: float) -> pl.DataFrame:
        made = amplified_accuracy.rows({"measures": corrections.accuracies(table(best), None, dataset)})
        elsewhere = made.with_columns(fitted_on=pl.lit("elsewhere"), estimate=pl.lit(0.0))
        return pl.concat([made, elsewhere]).with_columns(dataset=pl.lit(dataset))

    of_models = {"one": pl.concat([drawn("a", 4.0), drawn("b", 4.0)]), "other": drawn("a", 99.0), "none": pl.DataFrame()}
    rows = amplified_models.rows(of_models)
    found = {(row["model"], row["dataset"], row["series"]): row["estimate"] for row in rows.iter_rows(named=True)}
    mended, right = pytest.approx(23 / 24), pytest.approx(16 / 24)
    assert found == {
        ("one", "a", "untouched"): right,
        ("one", "a", "projection"): mended,
        ("one", "b", "untouched"): right,
        ("one", "b", "projection"): mended,
        ("other", "a", "untouched"): right,
        ("other", "a", "projection"): right,
    }
    assert "2 models and 2 datasets" in amplified_models.caption(rows)
    assert amplified_models.printed(rows, "okabe-ito") is not None


def test_one_model_on_one_dataset_has_nothing_beside_it() -> None:
    rows = amplified_accuracy.rows({"measures": corrections.accuracies(table(4.0), None, "a")}).with_columns(dataset=pl.lit("a"))
    alone = amplified_models.rows({"one": rows, "none": pl.DataFrame()})
    assert alone.is_empty()
    assert amplified_models.printed(alone, "okabe-ito") is None
    assert amplified_models.printed(amplified_models.rows({}), "okabe-ito") is None
