"""What the report says of each dataset: a picture of it, and how many scenes there are of what kind."""

from typing import Any

import polars as pl

from vlm_spatial.figures.strip_maps import picture
from vlm_spatial.report.results import Results
from vlm_spatial.scenes.contact_sheet import contact_sheet

WIDTH = 1050
"""Width of a contact sheet in the page, in pixels."""
SHEET_BYTES = 400_000


def described(results: Results) -> list[dict[str, Any]]:
    """A row a dataset that a model is analysed on, in order of name."""
    rows = []
    for name, opened in sorted(results.datasets.items()):
        sheet = contact_sheet(opened)
        scale = min(1.0, WIDTH / sheet.width)
        rows.append(
            {
                "name": name,
                "scenes": opened.scenes.height,
                "questions": opened.questions.height,
                "pairs": opened.pairs.height,
                "set_aside": results.set_aside[name].height if name in results.set_aside else 0,
                "counts": _counts(opened.scenes),
                "sheet": picture(sheet, round(scale * max(sheet.size)), limit=SHEET_BYTES),
                "width": round(scale * sheet.width),
                "height": round(scale * sheet.height),
            }
        )
    return rows


def _counts(scenes: pl.DataFrame) -> list[dict[str, Any]]:
    wide = scenes.group_by("variant", "axis", "split").len().pivot("split", index=["variant", "axis"], values="len").fill_null(0)
    missing = [pl.lit(0).alias(split) for split in ("train", "validation", "test") if split not in wide.columns]
    return wide.with_columns(missing).sort("variant", "axis").to_dicts()
