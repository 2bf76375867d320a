"""Charts of what happened in time: training curves, and when attempts ran."""

from __future__ import annotations

from shoal.report.curves import Curves
from shoal.report.timeline import Timeline
from shoal.report.vega import (
    ACCENT,
    BAD,
    CATEGORIES,
    CHOSEN,
    DASHES,
    FADED,
    INK,
    LINE,
    PICKED,
    SOFT,
    WARN,
    Spec,
    axis,
    named,
    spec,
)

__all__ = ["curve_chart", "timeline_chart"]


def curve_chart(curves: Curves, metric: str, labels: list[str], span: list[float]) -> Spec:
    """Curves of one metric; the page fills in the points, which it holds once, from its own data.

    Args:
        curves: what to draw.
        metric: which.
        labels: categories for colour and dash (values of an axis); none for one colour.
        span: range of the y axis, shared with the charts beside it.
    """
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"nice": False, "zero": False},
        "axis": axis("step", tickCount=5),
    }
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": span, "zero": False, "nice": True, "clamp": True},
        "axis": axis(None, tickCount=5, grid=True),
    }
    layers: list[Spec] = []
    band = [{"x": a, "lo": b, "m": c, "hi": d, "k": n} for a, b, c, d, n in curves.bands.get(metric, ())]
    if band:
        layers.append(
            {
                "data": {"values": band},
                "mark": {"type": "area", "color": SOFT, "opacity": 0.18},
                "encoding": {"x": x, "y": y | {"field": "lo"}, "y2": {"field": "hi"}},
            }
        )
    many = len(curves.lines[metric])
    strong = 0.85 if many <= 12 else 0.6 if many <= 60 else 0.35
    colour: Spec = {"value": ACCENT}
    dash: Spec = {"value": [1, 0]}
    if labels:
        shown = labels[: len(CATEGORIES)]
        colour = {
            "field": "c",
            "type": "nominal",
            "sort": shown,
            "scale": {"domain": shown, "range": CATEGORIES[: len(shown)]},
            "legend": None,
        }
        dash = {
            "field": "c",
            "type": "nominal",
            "scale": {"domain": shown, "range": DASHES[: len(shown)]},
            "legend": None,
        }
    layers.append(
        {
            "data": {"name": "lines", "values": []},
            "mark": {"type": "line", "clip": True},
            "encoding": {
                "x": x,
                "y": y,
                "detail": {"field": "t"},
                "tooltip": [{"field": "n", "title": "trial"}],
                "color": colour,
                "strokeDash": dash,
                "opacity": {
                    "condition": [{"test": CHOSEN, "value": 1}, {"test": FADED, "value": 0.06}],
                    "value": strong,
                },
                # For lines, Vega-Lite calls their width size.
                "size": {"condition": {"test": CHOSEN, "value": 2.6}, "value": 1.4},
            },
        }
    )
    if band:
        layers.append(
            {
                "data": {"values": band},
                "mark": {"type": "line", "color": INK, "strokeWidth": 2, "strokeDash": [5, 3]},
                "encoding": {"x": x, "y": y | {"field": "m"}},
            }
        )
    return spec(height=230, params=PICKED, title={"text": named(metric)}, layer=layers)


def timeline_chart(timeline: Timeline) -> Spec | None:
    """A bar for each attempt by device, or how many ran at a time."""
    x_title = f"{timeline.unit} since {timeline.origin}"
    if timeline.busy:
        steps = list(dict.fromkeys(r["s"] for r in timeline.busy))
        return spec(
            data={"values": timeline.busy},
            height=220,
            transform=[{"calculate": "indexof(order, datum.s)", "as": "o"}],
            params=[{"name": "order", "value": steps}],
            mark={"type": "area", "interpolate": "step-after", "opacity": 0.75},
            encoding={
                "x": {
                    "field": "x",
                    "type": "quantitative",
                    "axis": axis(x_title, tickCount=8),
                    "scale": {"domain": [0, timeline.length], "nice": False},
                },
                "y": {"field": "y", "type": "quantitative", "axis": axis("attempts at once", tickCount=5, grid=True)},
                "order": {"field": "o", "type": "quantitative"},
                "color": {
                    "field": "s",
                    "type": "nominal",
                    "sort": steps,
                    "scale": {"domain": steps, "range": [*CATEGORIES[: len(steps) - 1], LINE][: len(steps)]}
                    if steps[-1] == "queued"
                    else {"domain": steps, "range": CATEGORIES[: len(steps)]},
                    "legend": {"title": None, "orient": "top"},
                },
            },
        )
    if not timeline.bars:
        return None
    whats = ["succeeded", "running", "lost"]
    y = {
        "field": "lane",
        "type": "nominal",
        "sort": timeline.lanes,
        "axis": axis(None, labelLimit=190, labelFontSize=10.5),
    }
    x = {
        "field": "a",
        "type": "quantitative",
        "axis": axis(x_title, grid=True, tickCount=8),
        "scale": {"nice": False, "zero": True},
    }
    tips = [
        {"field": "n", "title": "attempt"},
        {"field": "d", "title": "on"},
        {"field": "a", "title": f"from ({timeline.unit})", "format": ".2f"},
        {"field": "b", "title": f"to ({timeline.unit})", "format": ".2f"},
        {"field": "what", "title": "outcome"},
        {"field": "why", "title": "reason"},
    ]
    return spec(
        data={"values": timeline.bars},
        height=len(timeline.lanes) * (15 if len(timeline.lanes) > 12 else 20),
        params=PICKED,
        encoding={"y": y},
        layer=[
            {
                "mark": {"type": "rule", "color": SOFT, "strokeWidth": 1, "opacity": 0.6},
                "encoding": {"x": x | {"field": "q"}, "x2": {"field": "a"}},
            },
            {
                "mark": {"type": "bar", "height": {"band": 0.72}, "stroke": "var(--panel)", "strokeWidth": 0.6},
                "encoding": {
                    "x": x,
                    "x2": {"field": "b"},
                    "color": {
                        "field": "what",
                        "type": "nominal",
                        "scale": {"domain": whats, "range": [ACCENT, "var(--c2)", WARN]},
                        "legend": None,
                    },
                    "opacity": {"condition": {"test": FADED, "value": 0.15}, "value": 0.85},
                    "tooltip": tips,
                },
            },
            {
                "transform": [{"filter": "datum.b > datum.w"}],
                "mark": {"type": "bar", "height": {"band": 0.72}, "color": BAD, "opacity": 0.85},
                "encoding": {"x": x | {"field": "w"}, "x2": {"field": "b"}, "tooltip": tips},
            },
            {
                "transform": [{"filter": "datum.what === 'lost'"}],
                "mark": {"type": "text", "text": "×", "fontSize": 13, "fontWeight": "bold", "color": INK, "dx": 5},
                "encoding": {"x": x | {"field": "b"}, "tooltip": tips},
            },
        ],
    )
