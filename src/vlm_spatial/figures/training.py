"""Figure: an organism's training curve."""

import altair as alt
import polars as pl

from vlm_spatial.figures.theme import colours


def rows(table: pl.DataFrame) -> pl.DataFrame:
    """``training.parquet`` in long form: a row a step and measure (every numeric column but the step)."""
    measures = [name for name, kind in table.schema.items() if kind.is_numeric() and name != "step"]
    if "step" not in table.columns or not measures:
        return pl.DataFrame()
    return (
        table.select("step", *(pl.col(name).cast(pl.Float64) for name in measures))
        .unpivot(index="step", variable_name="series")
        .drop_nulls()
    )


def draw(palette: str, names: list[str]) -> alt.Chart:
    """Lines of the chosen measures over steps."""
    return (
        alt.Chart()
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="training step", axis=alt.Axis(grid=False)),
            y=alt.Y("value:Q", title=None),
            color=alt.Color("series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=colours(palette, len(names)))),
            tooltip=["series:N", "step:Q", alt.Tooltip("value:Q", format=".3f")],
        )
    )
