"""``vlm-spatial check``: what would go wrong, and what the answers become in each model's vocabulary, before any job."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    config: Annotated[Path, typer.Option(help="the configuration file")] = Path("workflow_config.yaml"),
    forms: Annotated[bool, typer.Option("--forms", help="show every form of every answer")] = False,
) -> None:
    """Check a configuration and the files that it names.

    Shows, too, what each dataset's answers become in each model's vocabulary.

    \b
    Examples:
      vlm-spatial check
      vlm-spatial check --config presets/paper.yaml --forms
    """
    from vlm_spatial.config.reading import load_config
    from vlm_spatial.config.yaml_files import Source
    from vlm_spatial.models.load import without_weights
    from vlm_spatial.workflow.answer_check import answer_reports
    from vlm_spatial.workflow.preflight import check_outside

    found = load_config(config)
    check_outside(found, Source(config), quiet=True)
    for model in found.models.values():
        if model.checkpoint is not None and not model.is_hub_id and Path(model.checkpoint).is_dir():
            without_weights(Path(model.checkpoint), model.min_pixels, model.max_pixels)
    seen = set()
    for report in answer_reports(found):
        seen.add(report.model)
        typer.echo(f"{report.model} on {report.dataset}: {report.summary}")
        if forms:
            for word, pieces in report.forms.items():
                typer.echo(f"  {word}: {', '.join(repr(piece) for piece in pieces)}")
    for name in found.models:
        if name not in seen:
            typer.echo(f"{name}: answers are looked at when its folder is there (a hub checkpoint that is not downloaded, or an organism)")
    typer.echo("the configuration and the files that it names can be used")
