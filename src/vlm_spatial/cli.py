"""The command line ``vlm-spatial``: what a user does beside running the workflow."""

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlm_spatial import __version__
from vlm_spatial.commands.amplify import amplify
from vlm_spatial.commands.check import check
from vlm_spatial.commands.compare import compare
from vlm_spatial.commands.inspect import inspect
from vlm_spatial.commands.why import why
from vlm_spatial.errors import UserError


class _Commands(TyperGroup):
    """Ends with status 1 and one line on a :class:`UserError`."""

    def invoke(self, ctx: Any) -> Any:
        # A terminal that cannot show a sign shows ? in its place.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vlm-spatial {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")] = False,
) -> None:
    """Where does a vision-language model compute which object is where?

    The workflow itself is run with snakemake; these commands look at its configuration and its results.

    \b
    1. vlm-spatial check                         can the configuration and the files that it names be used?
    2. snakemake --cores 8 --resources gpu=1     make everything that workflow_config.yaml asks for
    3. open results/report.html                  what was found, and how sure
    4. vlm-spatial why                           why a result would be made again
       vlm-spatial compare A B                   two models, or two runs, side by side
       vlm-spatial inspect STORE                 what an activation store holds
       vlm-spatial amplify                       a correction file for a model

    Each command has examples: vlm-spatial compare --help. Documentation: docs/index.md, or mkdocs serve.
    """


app.command("amplify")(amplify)
app.command("check")(check)
app.command("compare")(compare)
app.command("inspect")(inspect)
app.command("why")(why)
