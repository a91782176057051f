"""``vlm-spatial inspect``: what is in an activation store, is it whole, and what does it look like."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vlm_spatial.activations.store import Store


def inspect(
    path: Annotated[Path, typer.Argument(help="an activations.zarr")],
    manifest: Annotated[Path | None, typer.Option(help="its manifest; by default the .json file of the same name beside it")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="compare every byte with the checksums of its provenance record")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw a site's first principal components to this png, svg or html file")] = None,
    site: Annotated[str, typer.Option(help="the site to draw")] = "connector",
    scene: Annotated[list[str] | None, typer.Option(help="a scene to draw (repeatable); by default the first of each axis")] = None,
) -> None:
    """Print what an activation store holds.

    \b
    Examples:
      vlm-spatial inspect results/gemma3-natural/squares/activations.zarr
      vlm-spatial inspect results/gemma3-natural/squares/activations.zarr --verify
      vlm-spatial inspect results/gemma3-natural/squares/activations.zarr --plot connector.png --site connector
    """
    from rich.console import Console

    from vlm_spatial.activations.store import Store
    from vlm_spatial.progress import progress

    store = Store.open(path, manifest)
    # A pipe or a log file has no width of its own.
    console = Console() if Console().is_terminal else Console(width=120)
    for table in (_identity(store), _scenes(store), _sites(store)):
        console.print(table)
    if verify:
        files = len(list(progress(store.verify(), "verify", total=len(store.files))))
        console.print(f"verified: all {files} files are as they were written")
    if plot is not None:
        from vlm_spatial.activations.picture import draw

        draw(store, site, plot, scene)
        console.print(f"drawn: {site} to {plot}")


def _identity(store: "Store") -> "Table":
    from rich.table import Table

    described = store.manifest
    table = Table(title=str(store.path), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "model": described.model["checkpoint"],
        "revision": described.model["revision"] or "–",
        "architecture": described.model["architecture"],
        "weights": described.model["weights"],
        "computed in": f"{described.model['dtype']}, stored as {described.dtype}",
        "processor": " ".join(str(value) for value in described.processor.values()) or "–",
        "prompt": described.config.get("prompt", "–"),
        "token grid": f"{store.grid.rows} × {store.grid.cols}{', holds those of its scenes' if store.own_grids else ''}",
        "pooling": f"{described.pooling} ({described.patches} vision patches a token)",
        "identity": described.identity,
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _scenes(store: "Store") -> "Table":
    import polars as pl
    from rich.table import Table

    counts = (
        store.scenes.group_by("variant", "axis", "split", maintain_order=True).len().pivot("split", index=["variant", "axis"], values="len")
    )
    table = Table(title=f"{store.scenes.height} scenes", title_justify="left")
    for name in counts.columns:
        table.add_column(name, justify="left" if name in ("variant", "axis") else "right")
    for row in counts.with_columns(pl.all().cast(pl.String).fill_null("–")).iter_rows():
        table.add_row(*row)
    return table


def _sites(store: "Store") -> "Table":
    from rich.table import Table

    from vlm_spatial.activations.writer import readable_bytes

    described = store.manifest
    itemsize = 4 if described.model["dtype"] == "float32" else 2
    table = Table(title=f"{len(store.sites)} sites", title_justify="left")
    for name in ("site", "rows are", "shape", "on disk", f"of {described.model['dtype']} bytes", "files"):
        table.add_column(name, justify="left" if name in ("site", "rows are") else "right")
    total = raw_total = files_total = 0
    # Where only some tokens are kept, an array more holds every token of the first scenes.
    for site in described.shape:
        shards = [record.size for name, record in store.files.items() if name.startswith(f"{site}/c/")]
        scenes, rows, features = described.shape[site]
        raw = scenes * rows * features * itemsize
        total, raw_total, files_total = total + sum(shards), raw_total + raw, files_total + len(shards)
        shape = f"{scenes} × {rows} × {features}"
        table.add_row(site, described.rows[site], shape, readable_bytes(sum(shards)), f"{sum(shards) / raw:.1%}", str(len(shards)))
    table.add_section()
    table.add_row("all", "", "", readable_bytes(total), f"{total / raw_total:.1%}", str(files_total))
    return table
