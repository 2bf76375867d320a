"""Charts of two metrics against each other, and the chart of one trial's own curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shoal.report.trials import Axis, Trials, finite_values
from shoal.report.vega import ACCENT, CATEGORIES, CHOSEN, DASHES, FADED, INK, PICKED, Spec, axis, named, spec
from shoal.results import ResultError, StudyData
from shoal.results.metrics import find_metric

__all__ = ["Scatter", "collect_scatters", "detail_chart"]

_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
# Beyond, a name beside a point could not be told from the next one's.
_NAMED = 400


@dataclass(frozen=True)
class Scatter:
    """A chart of the study's report section: heading, what is seen, and the chart; or why there is none."""

    title: str
    caption: str
    spec: Spec | None
    trouble: str = ""


def collect_scatters(data: StudyData, trials: Trials) -> list[Scatter]:
    """Make the charts that the study asks for."""
    return [_scatter(data, trials, asked) for asked in data.report.get("scatter") or () if isinstance(asked, dict)]


def _scatter(data: StudyData, trials: Trials, asked: dict[str, Any]) -> Scatter:
    across = str(asked.get("x") or "")
    upwards = str(asked.get("y") or trials.label)
    title = str(asked.get("title") or f"{across} and {upwards}")
    try:
        values = [finite_values(data, trials.tasks, find_metric(data, name)) for name in (across, upwards)]
    except ResultError as error:
        return Scatter(title, "", None, str(error))
    known = [i for i, (x, y) in enumerate(zip(*values, strict=True)) if x is not None and y is not None]
    grows = asked.get("log") or ()
    factors = {key for key in ("x", "y") if key in grows}
    for key, own in zip(("x", "y"), values, strict=True):
        if key in factors:
            known = [i for i in known if (own[i] or 0.0) > 0]
    if not known:
        return Scatter(title, "", None, "No trial has both metrics yet.")
    by = {a.name: a for a in trials.axes}
    colour, label = by.get(str(asked.get("colour"))), by.get(str(asked.get("label")))
    rows = [
        {
            "x": values[0][i],
            "y": values[1][i],
            "t": i,
            "n": trials.names[i],
            "c": _label(colour, i),
            "s": _label(label, i),
        }
        for i in known
    ]
    named = label is not None and len(known) <= _NAMED
    down = upwards == trials.label and trials.goal == "min"
    for row, wanted in zip(rows, _wanted(rows, down), strict=True):
        row["p"] = wanted
    caption = f"{upwards} over {across}, a point a trial"
    caption += f", {colour.name} by colour and shape." if colour else "."
    caption += f" The {label.name} stands beside where there is room, the foremost first." if named and label else ""
    return Scatter(title, caption, _chart(rows, across, upwards, factors, colour, named))


def _wanted(rows: list[dict[str, Any]], down: bool) -> list[int]:
    """In which order points are named where there is no room for all, from 0.

    First those that no other beats (a lower ``x`` may be the better one, or a higher), then the best of each name, then by ``y``.
    """
    good = [-row["y"] if down else row["y"] for row in rows]
    places = sorted(range(len(rows)), key=lambda k: (-good[k], k))
    foremost: set[int] = set()
    for side in (1, -1):
        furthest = math.inf
        for k in places:
            if side * rows[k]["x"] < furthest:
                furthest = side * rows[k]["x"]
                foremost.add(k)
    best: dict[str, int] = {}
    for k in places:
        best.setdefault(rows[k]["s"], k)
    first = set(best.values())
    order = sorted(places, key=lambda k: (k not in foremost, k not in first))
    rank = {k: place for place, k in enumerate(order)}
    return [rank[k] for k in range(len(rows))]


def _label(one: Axis | None, trial: int) -> str:
    return one.labels[one.of[trial]] if one is not None and one.of[trial] >= 0 else ""


def _chart(
    rows: list[dict[str, Any]], across: str, upwards: str, factors: set[str], colour: Axis | None, names: bool
) -> Spec:
    def scale(key: str) -> Spec:
        return {"type": "log", "nice": False, "padding": 24} if key in factors else {"zero": False, "nice": True}

    x = {"field": "x", "type": "quantitative", "scale": scale("x"), "axis": axis(named(across), tickCount=6, grid=True)}
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": scale("y"),
        "axis": axis(named(upwards), tickCount=5, grid=True),
    }
    points: Spec = {
        "x": x,
        "y": y,
        "color": {"value": ACCENT},
        "opacity": {"condition": [{"test": CHOSEN, "value": 1}, {"test": FADED, "value": 0.12}], "value": 0.85},
        "size": {"condition": {"test": CHOSEN, "value": 150}, "value": 75},
        "tooltip": [
            {"field": "n", "title": "trial"},
            {"field": "x", "title": named(across), "format": ".4~g"},
            {"field": "y", "title": named(upwards), "format": ".4~g"},
        ],
    }
    if colour is not None:
        shown = colour.labels[: len(CATEGORIES)]
        place = {"field": "c", "type": "nominal", "sort": shown}
        legend = {"title": colour.name, "orient": "top", "symbolType": "circle", "symbolStrokeWidth": 0}
        points["color"] = place | {"scale": {"domain": shown, "range": CATEGORIES[: len(shown)]}, "legend": legend}
        points["shape"] = place | {"scale": {"domain": shown, "range": _SHAPES[: len(shown)]}, "legend": legend}
    layers: list[Spec] = [{"mark": {"type": "point", "filled": True}, "encoding": points}]
    if names:
        # The page has Vega place them (report.js, placeNames): Vega-Lite would write them over each other.
        text = {"type": "text", "fontSize": 10.5, "color": INK, "limit": 240}
        layers.append({"mark": text, "encoding": {"x": x, "y": y, "text": {"field": "s"}}})
    return spec(height=320, params=PICKED, data={"values": rows}, layer=layers)


def detail_chart() -> Spec:
    """Lines of one trial; the page fills in points, names and titles, and writes the legend, where long names have room."""
    # Twice the eight colours, the second time with other dashes.
    colours, dashes = CATEGORIES * 2, DASHES + DASHES[1:] + DASHES[:1]
    line = {"field": "c", "type": "nominal", "sort": None}
    x = {"field": "x", "type": "quantitative", "scale": {"nice": True}, "axis": axis("", tickCount=5)}
    y = {"field": "y", "type": "quantitative", "scale": {"nice": True}, "axis": axis("", tickCount=5, grid=True)}
    encoding = {
        "x": x,
        "y": y,
        "order": {"field": "k", "type": "quantitative"},
        "color": line | {"scale": {"range": colours}, "legend": None},
        "strokeDash": line | {"scale": {"range": dashes}, "legend": None},
        "tooltip": [{"field": "c", "title": "line"}, {"field": "x"}, {"field": "y"}],
    }
    return spec(
        height=260,
        data={"name": "lines", "values": []},
        mark={"type": "line", "clip": True, "strokeWidth": 1.8},
        encoding=encoding,
    )
