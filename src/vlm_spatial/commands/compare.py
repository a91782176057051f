"""``vlm-spatial compare``: the findings of several models or runs, or ours and published ones, side by side."""

import math
from pathlib import Path
from typing import Annotated

import typer

from vlm_spatial.errors import UserError


def compare(
    sides: Annotated[list[str], typer.Argument(metavar="A B ...", help="models, results folders, or FOLDER:MODEL; one with --published")],
    findings: Annotated[Path, typer.Option(help="where models are looked up")] = Path("results/findings.json"),
    published: Annotated[
        str | None, typer.Option(metavar="NAME", help="hold the model A against what is published of NAME, such as gemma-3-4b-it")
    ] = None,
) -> None:
    """Show models or runs side by side, or a model and published numbers.

    \b
    Examples:
      vlm-spatial compare gemma3-natural mine          two models of one run
      vlm-spatial compare small middle large           any number of models; differences are to the first
      vlm-spatial compare results results-mine         two runs of one model each
      vlm-spatial compare results results-mine:mine    a model of another run
      vlm-spatial compare qwen --published Qwen2-VL-7B-Instruct
    """
    if (len(sides) == 1) != (published is not None):
        raise UserError("compare: name two sides or more, or one model and --published NAME")
    if published is not None:
        _published(sides[0], published, findings.parent)
        return
    from rich.console import Console
    from rich.table import Table

    from vlm_spatial.measures.claims import BY_NAME
    from vlm_spatial.report.compare import compare as pair
    from vlm_spatial.report.compare import read_side
    from vlm_spatial.report.numbers import interval, shown

    two = len(sides) == 2
    table = Table("dataset", "claim", *sides, *(["difference"] if two else []), box=None, pad_edge=False)
    marks = {"supported": "✓", "refuted": "✗", "mixed": "±", "inconclusive": "?"}
    first, *others = [read_side(side, findings) for side in sides]
    to_first = [{(found.dataset, found.claim): found for found in pair(first, other)} for other in others]
    for record in first:
        key = record["dataset"], record["claim"]
        found = [of_side.get(key) for of_side in to_first]
        if not any(found):
            continue
        if record["claim"] not in BY_NAME:
            raise UserError(f"claim {record['claim']!r}: not one of this version ({', '.join(BY_NAME)}); make them again")
        unit = BY_NAME[record["claim"]].unit
        cells = [
            "–" if one is None else f"{marks[one['verdict']]} {shown(one['estimate'], unit)} ({interval(one)})"
            for one in (record, *(each.second if each else None for each in found))
        ]
        stars = [" *" if each and each.apart else "" for each in found]
        if two:
            assert found[0] is not None
            change = found[0].change
            cells.append("–" if math.isnan(change) else shown(change, "change" if unit == "share" else unit))
            stars = ["", *stars]
        table.add_row(record["dataset"], BY_NAME[record["claim"]].title, cells[0], *map(str.__add__, cells[1:], stars))
    # A pipe or a log file has no width of its own.
    console = Console() if Console().is_terminal else Console(width=90 + 35 * len(sides))
    console.print(table)
    typer.echo("✓ supported, ✗ refuted, ± mixed, ? inconclusive; * the 95% interval does not touch the first's")


def _published(model: str, name: str, results: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from vlm_spatial.report.published import beside, measures_below

    rows = beside(name, measures_below(results, model))
    table = Table("dataset", "published", "theirs", "n", "ours", "95%", "n", "difference", "covered", box=None, pad_edge=False)
    for row in rows:
        if row.ours is None:
            continue
        theirs = "–" if row.theirs is None else f"{row.theirs:.3f}"
        limits = "–" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        difference = "–" if row.difference is None else f"{row.difference:+.3f}"
        covered = {None: "–", True: "yes", False: "no"}[row.covered]
        table.add_row(
            row.dataset, row.what, theirs, str(row.their_n or "–"), f"{row.ours:.3f}", limits, str(row.our_n), difference, covered
        )
    console = Console() if Console().is_terminal else Console(width=200)
    console.print(table)
    without = [row for row in rows if row.ours is None]
    typer.echo(f"left out: {len(without)} of {len(rows)} published figures of {name}")
    for reason in dict.fromkeys(row.left_out for row in without):
        typer.echo(f"  {sum(row.left_out == reason for row in without)}: {reason}")
    typer.echo("covered: our 95% interval holds their number. Other pictures, questions and counts than theirs: see docs/comparison.md")
