"""The figure of what merging photos does, on answers whose accuracies are counted by hand."""

from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from vlm_spatial.figures import merge_effect
from vlm_spatial.figures.catalogue import FIGURES
from vlm_spatial.figures.paper import export, on_paper, printed
from vlm_spatial.measures.behaviour import merging

pytestmark = pytest.mark.unit


def table(split: str = "test") -> pl.DataFrame:
    """40 photos, all right; of their self-merges every fourth is wrong, and number 7 was not made; of the merges half are wrong."""
    rows = []
    for variant, count, slots in (("photo", 40, (0, 2)), ("self_merge", 40, (0, 2)), ("main", 20, (0, 1, 2))):
        for number in range(count):
            if variant == "self_merge" and number == 7:
                continue
            for template in ("object_to_slot", "slot_to_object"):
                for slot in slots:
                    right = {"photo": True, "self_merge": number % 4 != 0, "main": number % 2 == 0}[variant]
                    rows.append(
                        {
                            "scene_id": f"{variant}-horizontal-{split}-{number:05d}",
                            "variant": variant,
                            "split": split,
                            "axis": "horizontal",
                            "template": template,
                            "slot": slot,
                            "correct": right,
                            "candidates": ["a", "b", "c"][: len(slots)],
                        }
                    )
    return pl.DataFrame(rows)


def shown_of(answers: pl.DataFrame) -> pl.DataFrame:
    """Rows of the figure, from ``behaviour.parquet`` by way of the measures."""
    return merge_effect.rows({"measures": merging(answers)})


def test_the_three_kinds_of_picture_stand_side_by_side() -> None:
    rows = shown_of(table())
    every = {row["series"]: row for row in rows.filter(template=merge_effect.ALL).iter_rows(named=True)}
    assert every["photo as taken"]["estimate"] == 1
    assert every["photo merged with itself"]["estimate"] == pytest.approx(29 / 39)
    assert every["two photos merged"]["estimate"] == pytest.approx(0.5)
    assert [every[series]["chance"] for series in merge_effect.SERIES] == pytest.approx([1 / 2, 1 / 2, 1 / 3])
    assert [every[series]["n"] for series in merge_effect.SERIES] == [160, 156, 120]
    assert set(rows["template"]) == {merge_effect.ALL, "object_to_slot", "slot_to_object"}


def test_merging_alone_is_a_paired_difference_over_the_photos_that_have_a_self_merge() -> None:
    rows = shown_of(table())
    change = rows.filter(template=merge_effect.ALL, series=merge_effect.DIFFERENCE).row(0, named=True)
    assert change["estimate"] == pytest.approx(-10 / 39)
    assert (change["n"], change["pictures"]) == (39 * 4, 39)
    assert -0.43 < change["low"] < change["estimate"] < change["high"] < -0.08


def test_only_held_out_photos_count_and_other_datasets_have_no_such_figure() -> None:
    assert merge_effect.rows({}).is_empty()
    assert shown_of(table().filter(variant="main")).is_empty()
    both = pl.concat([table(), table("validation").with_columns(correct=pl.lit(False))])
    assert shown_of(both).equals(shown_of(table()))


@pytest.mark.slow
def test_it_is_in_the_report_and_says_its_numbers(tmp_path: Path) -> None:
    assert merge_effect.FIGURE in FIGURES
    rows = shown_of(table()).with_columns(dataset=pl.lit("photos"))
    shown = on_paper(merge_effect.FIGURE, rows)
    text = merge_effect.caption(shown)
    assert "Merging alone (photos): −25.6 points [" in text
    assert "the same 39 photos as taken, over the same 156 questions" in text
    assert "n = 60 to 160 questions about 20 to 40 pictures an entry" in text
    export(printed(merge_effect.FIGURE, shown, "okabe-ito"), tmp_path, "merge_effect", shown)
    picture = ElementTree.parse(tmp_path / "merge_effect.svg").getroot()
    words = " ".join(text for text in picture.itertext() if text.strip())
    assert all(series in words for series in merge_effect.SERIES)
    # The difference is said in the caption, not drawn among accuracies.
    assert merge_effect.DIFFERENCE not in words
    assert float(picture.attrib["width"]) <= 7 * 96
