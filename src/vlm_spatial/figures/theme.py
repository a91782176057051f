"""Colours, fonts and axes of every figure, on paper and on screen.

Colours are those of Okabe and Ito (2008), told apart in the common forms of colour blindness; every series has a
shape or a dash of its own too, so that no figure needs colour to be read.
"""

from collections.abc import Sequence
from typing import Any

# Okabe-Ito without its black and yellow, which vanish on a dark and on a white page; grey stands for controls.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
VIRIDIS = ("#3b528b", "#5ec962", "#21918c", "#440154", "#addc30", "#2c728e")
PALETTES = {"okabe-ito": OKABE_ITO, "viridis": VIRIDIS}
DARK = {"#0072B2": "#56B4E9", "#56B4E9": "#a6d8f5", "#009E73": "#2fc49a", "#D55E00": "#f0833a", "#440154": "#c07fd0", "#3b528b": "#7f9be0"}
"""Lighter twins of the colours that are too dark for the dark page."""
CONTROL = "#8a8a8a"
SLOT_COLOURS = ("#0072B2", "#E69F00", "#CC79A7")
"""Slots 0, 1, 2 in strip maps."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3], [10, 3])

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"

TOKEN_SETS = ("object", "strip", "rim", "background", "all", "random")
OUTCOMES = ("ordering", "content", "stay", "other")


def colours(palette: str, count: int) -> list[str]:
    """The first ``count`` colours of a palette, in a fixed order."""
    chosen = PALETTES[palette]
    return [chosen[index % len(chosen)] for index in range(count)]


def series(names: Sequence[str], palette: str) -> dict[str, Any]:
    """Altair scales ``color``, ``shape`` and ``dash`` of named series; controls are grey."""
    found = dict(zip(names, colours(palette, len(names)), strict=True))
    found |= {name: CONTROL for name in names if name in ("other", "stay") or name.startswith("random") or name.startswith("control: ")}
    return {
        "domain": list(names),
        "color": [found[name] for name in names],
        "shape": [SHAPES[index % len(SHAPES)] for index in range(len(names))],
        "dash": [DASHES[index % len(DASHES)] for index in range(len(names))],
    }


def config(*, dark: bool = False, paper: bool = False) -> dict[str, Any]:
    """A Vega-Lite ``config``: light or dark on screen, or for paper (smaller type, white background)."""
    ink, faint, grid = ("#e8e6e3", "#a8a6a1", "#3a3b3e") if dark else ("#1b1c1e", "#5c5e62", "#e3e2de")
    size = 9 if paper else 12
    return {
        "background": "white" if paper else "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": faint,
            "titleColor": ink,
            "gridColor": grid,
            "domainColor": faint,
            "tickColor": faint,
            "labelFontSize": size,
            "titleFontSize": size,
            "titleFontWeight": "normal",
            "labelLimit": 200,
            "titlePadding": 8,
        },
        "axisY": {"domain": False, "ticks": False},
        "axisX": {"grid": False, "labelOverlap": "parity"},
        "legend": {
            "labelColor": ink,
            "titleColor": faint,
            "labelFontSize": size,
            "titleFontSize": size,
            "titleFontWeight": "normal",
            "orient": "top",
            "direction": "horizontal",
            "symbolStrokeWidth": 2,
            "symbolOpacity": 1,
            "symbolSize": 70,
            "labelLimit": 220,
            "columns": 3,
        },
        "header": {"labelColor": ink, "titleColor": faint, "labelFontSize": size, "titleFontSize": size, "labelFontWeight": "normal"},
        "title": {"color": ink, "fontSize": size + 1, "fontWeight": "normal", "anchor": "start"},
        "text": {"color": ink, "fontSize": size},
        "rule": {"color": faint},
        "line": {"strokeWidth": 1.5 if paper else 2},
        "point": {"size": 30 if paper else 55, "filled": True, "opacity": 1},
    }
