"""What all charts share: Vega-Lite specifications as plain dicts with their data.

Texts of the study only ever stand in data values and titles, never in field names or expressions. Colours
are the page's CSS variables, so that a chart follows the theme without being drawn again. ``picked`` is the
set of chosen trials (or lines), which the page changes.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ACCENT",
    "BAD",
    "CATEGORIES",
    "CHOSEN",
    "DASHES",
    "FADED",
    "INK",
    "LINE",
    "PICKED",
    "SOFT",
    "WARN",
    "Spec",
    "axis",
    "domain",
    "named",
    "spec",
]

Spec = dict[str, Any]

INK, SOFT, LINE = "var(--ink)", "var(--ink-2)", "var(--line)"
ACCENT, BAD, WARN = "var(--accent)", "var(--bad)", "var(--warn)"
CATEGORIES = [f"var(--c{i})" for i in range(8)]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [12, 3], [1, 3], [6, 2, 1, 2]]
PICKED = [{"name": "picked", "value": {}}, {"name": "any", "value": False}]
CHOSEN = "any && picked[datum.t] === 1"
FADED = "any && picked[datum.t] !== 1"


_TAKEN = {"__proto__", "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString"}
_TAKEN |= {"toString", "valueOf", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__"}


def spec(**parts: Any) -> Spec:
    """Return a specification as wide as its place on the page."""
    base: Spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": None,
    }
    return base | parts


def axis(title: str | None, **more: Any) -> Spec:
    """Return the definition of an axis with this title."""
    return {"title": title, **more}


def named(title: str) -> str:
    """Return a title for a tooltip: Vega takes titles for keys of an object, where a few names are taken."""
    return f"{title}\u200b" if title in _TAKEN else title


def domain(values: list[float]) -> list[float]:
    """Return the range of values with a little room."""
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    return [low - room, high + room]
