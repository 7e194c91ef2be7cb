"""Figures, intervals and tables as the pages write them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

DASH: Final = "-"


def spoken(name: str) -> str:
    """A label or attribute as people write it."""
    return name.replace("_", " ").replace("covid 19", "COVID-19").replace("ards", "ARDS")


def grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by what is said of them."""
    found: dict[str, list[str]] = {}
    for name, why in reasons.items():
        found.setdefault(why, []).append(name)
    return found


def interval(row: Mapping[str, Any], digits: int) -> str:
    """`0.812 [0.701, 0.890]` of a `value` with `low` and `high`; a dash where there is none."""
    if pd.isna(row["value"]):
        return DASH
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return f"{row['value']:.{digits}f} (no interval)"
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def bounds(entry: Mapping[str, Any], value: str) -> str:
    """The same of a JSON entry whose value has a name of its own."""
    row = {"value": entry.get(value), "low": entry.get("low"), "high": entry.get("high")}
    return interval(row, 2) if row["value"] is not None else DASH


def number(value: float, digits: int) -> str:
    """A number, or a dash."""
    return DASH if pd.isna(value) else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    """A p-value, never 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plain(words: str) -> str:
    """Words without the joiners that keep an interval on one line of HTML."""
    return words.replace("\u2060", "")  # joiners are for HTML


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; nothing where it has no lines."""
    if not lines:
        return ""
    rows = [[one.replace("|", "/").replace("\n", " ") for one in cells] for cells in (header, *lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], ["-"] * len(header), *rows[1:]))
