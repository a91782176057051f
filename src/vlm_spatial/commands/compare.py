"""``vlm-spatial compare``: the findings of two models, or of two runs, or ours and published ones, side by side."""

import math
from pathlib import Path
from typing import Annotated

import typer

from vlm_spatial.errors import UserError


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a model, a results folder, or FOLDER:MODEL")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="likewise; leave it out with --published")] = None,
    findings: Annotated[Path, typer.Option(help="where models are looked up")] = Path("results/findings.json"),
    published: Annotated[
        str | None, typer.Option(metavar="NAME", help="hold the model A against what is published of NAME, such as gemma-3-4b-it")
    ] = None,
) -> None:
    """Show two models, two runs, or a model and published numbers.

    \b
    Examples:
      vlm-spatial compare gemma3-natural mine          two models of one run
      vlm-spatial compare results results-mine         two runs of one model each
      vlm-spatial compare results results-mine:mine    a model of another run
      vlm-spatial compare qwen --published Qwen2-VL-7B-Instruct
    """
    if (second is None) == (published is None):
        raise UserError("compare: name two sides, A and B, or one model and --published NAME")
    if published is not None:
        _published(first, published, findings.parent)
        return
    assert second is not None
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
