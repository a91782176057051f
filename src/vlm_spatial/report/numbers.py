"""How numbers are written for people."""

from typing import Any

from vlm_spatial.measures.claims import BY_NAME


def shown(value: float | None, unit: str) -> str:
    """One number: percent for shares, signed for changes and indices, one decimal for layers."""
    if value is None:
        return "–"
    match unit:
        case "share":
            return f"{100 * value:.0f}%" if round(100 * value, 1) == round(100 * value) else f"{100 * value:.1f}%"
        case "change":
            return f"{_signed(100 * value, 1)} pts"
        case "index":
            return _signed(value, 2)
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _signed(value: float, digits: int) -> str:
    # What rounds to nothing has no sign.
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if round(value, digits) else text[1:]


def interval(record: dict[str, Any], unit: str | None = None) -> str:
    """``low to high`` of a finding or of its control; an en dash where there is none."""
    unit = unit or BY_NAME[record["claim"]].unit
    if record["low"] is None or record["high"] is None:
        return "–"
    return f"{shown(record['low'], unit)} to {shown(record['high'], unit)}"


def with_interval(record: dict[str, Any]) -> str:
    """``96% [89%, 98%] (n = 92)``."""
    unit = BY_NAME[record["claim"]].unit
    if record["low"] is None or record["high"] is None:
        return f"{shown(record['estimate'], unit)} (n = {record['n']})"
    limits = f"{shown(record['low'], unit).removesuffix(' pts')}, {shown(record['high'], unit).removesuffix(' pts')}"
    return f"{shown(record['estimate'], unit)} [{limits}] (n = {record['n']})"
