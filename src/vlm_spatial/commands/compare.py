"""``vlm-spatial compare``: the findings of two models, or of two runs, side by side."""

import math
from pathlib import Path
from typing import Annotated

import typer

from vlm_spatial.errors import UserError


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a model, a results folder, or FOLDER:MODEL")],
    second: Annotated[str, typer.Argument(metavar="B", help="likewise")],
    findings: Annotated[Path, typer.Option(help="where models are looked up")] = Path("results/findings.json"),
) -> None:
    """Show two models, or two runs, side by side.

    \b
    Examples:
      vlm-spatial compare gemma3-natural mine          two models of one run
      vlm-spatial compare results results-mine         two runs of one model each
      vlm-spatial compare results results-mine:mine    a model of another run
    """
    from rich.console import Console
    from rich.table import Table

    from vlm_spatial.measures.claims import BY_NAME
    from vlm_spatial.report.compare import compare as pair
    from vlm_spatial.report.compare import read_side
    from vlm_spatial.report.numbers import interval, shown

    table = Table("dataset", "claim", first, second, "difference", box=None, pad_edge=False)
    marks = {"supported": "✓", "refuted": "✗", "mixed": "±", "inconclusive": "?"}
    for found in pair(read_side(first, findings), read_side(second, findings)):
        if found.claim not in BY_NAME:
            raise UserError(f"claim {found.claim!r}: not one of this version ({', '.join(BY_NAME)}); make them again")
        unit = BY_NAME[found.claim].unit
        cells = [f"{marks[r['verdict']]} {shown(r['estimate'], unit)} ({interval(r)})" for r in (found.first, found.second)]
        step = "–" if math.isnan(found.change) else shown(found.change, "change" if unit == "share" else unit)
        table.add_row(found.dataset, BY_NAME[found.claim].title, *cells, f"{step}{' *' if found.apart else ''}")
    # A pipe or a log file has no width of its own.
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(table)
    typer.echo("✓ supported, ✗ refuted, ± mixed, ? inconclusive; * the 95% intervals do not touch")
