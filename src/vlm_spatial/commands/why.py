"""``vlm-spatial why``: why a result would be made again, in words."""

from pathlib import Path
from typing import Annotated

import typer


def why(
    result: Annotated[Path | None, typer.Argument(help="one result, such as results/report.html; by default all")] = None,
    config: Annotated[Path, typer.Option(help="the configuration file")] = Path("workflow_config.yaml"),
) -> None:
    """Say why results would be made again.

    Names the setting, code module, package or file that changed since. Shows what changed itself; what is made of it follows.
    snakemake --dry-run shows all jobs.

    \b
    Examples:
      vlm-spatial why
      vlm-spatial why results/report.html
      vlm-spatial why --config presets/paper.yaml
    """
    from vlm_spatial.config.reading import load_config
    from vlm_spatial.errors import UserError
    from vlm_spatial.workflow.planning import Plan
    from vlm_spatial.workflow.staleness import Existing

    found = Existing(Plan(load_config(config), [config]))
    existing = dict(found.results())
    if result is not None and result not in existing:
        raise UserError(f"{result}: no such result of {config}; there are {', '.join(map(str, existing)) or 'none yet'}")
    chosen = existing if result is None else {result: existing[result]}
    grouped: dict[tuple[str, ...], list[Path]] = {}
    for path, names in chosen.items():
        grouped.setdefault(tuple(found.reasons(path, names)), []).append(path)
    unchanged = grouped.pop((), [])
    for reasons, paths in grouped.items():
        for line in (*paths, *(f"  {reason}" for reason in reasons)):
            typer.echo(str(line))
    for note in dict.fromkeys(found.upgrade_note(path) for paths in grouped.values() for path in paths):
        if note:
            typer.echo(f"note: {note}")
    typer.echo(f"{len(unchanged)} of {len(chosen)} results are what {config} and the code would make")
