"""Charts of what mattered: the effect of each axis, two axes together, all of them side by side."""

from __future__ import annotations

import random

from shoal.report.effects import Effect, Interaction
from shoal.report.trials import Trials
from shoal.report.vega import ACCENT, CHOSEN, FADED, INK, LINE, PICKED, SOFT, Spec, axis, domain, named, spec

__all__ = ["effect_chart", "interaction_chart", "parallel_chart"]

#: Above so many trials an effect shows how many lie where, instead of a point for each.
_POINTS = 400
_BINS = 44


def effect_chart(trials: Trials, effect: Effect, digits: int) -> Spec:
    """Distribution of the objective at each value of one axis: quartile box, median, and every trial or a histogram."""
    known = [(i, v) for i, v in enumerate(trials.values) if v is not None]
    span = domain([v for _, v in known])
    place = {k: effect.axis.labels[k] for k in effect.order}
    order = [place[k] for k in effect.order]
    y = {"field": "v", "type": "nominal", "sort": order, "axis": axis(None, labelLimit=150)}
    x = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": span, "zero": False, "nice": False},
        "axis": axis(named(trials.label), tickCount=5, grid=True),
    }
    number = f".{digits}f"
    boxes = [
        {"v": b.label, "lo": b.low, "q1": b.q1, "m": b.median, "q3": b.q3, "hi": b.high, "mean": b.mean, "k": b.n}
        for b in effect.boxes
    ]
    tips = [
        {"field": "v", "title": "value"},
        *({"field": f, "title": t, "format": number} for f, t in (("m", "median"), ("mean", "mean"))),
        *({"field": f, "title": t, "format": number} for f, t in (("q1", "lower quarter"), ("q3", "upper quarter"))),
        {"field": "k", "title": "trials"},
    ]
    layers: list[Spec] = [
        {
            "data": {"values": boxes},
            "mark": {"type": "bar", "size": 15, "cornerRadius": 2, "color": ACCENT, "opacity": 0.22},
            "encoding": {"y": y, "x": x | {"field": "q1"}, "x2": {"field": "q3"}, "tooltip": tips},
        }
    ]
    mine = [(i, v) for i, v in known if effect.axis.of[i] in place]
    if len(mine) <= _POINTS:
        jitter = random.Random(1)
        points = [{"v": place[effect.axis.of[i]], "y": v, "t": i, "j": jitter.uniform(-1, 1)} for i, v in mine]
        layers.append(
            {
                "data": {"values": points},
                "mark": {"type": "circle", "color": ACCENT},
                "encoding": {
                    "y": y,
                    "yOffset": {"field": "j", "type": "quantitative", "scale": {"domain": [-2.2, 2.2]}},
                    "x": x,
                    "opacity": {
                        "condition": [{"test": CHOSEN, "value": 1}, {"test": FADED, "value": 0.12}],
                        "value": 0.62,
                    },
                    "size": {"condition": {"test": CHOSEN, "value": 70}, "value": 26},
                    "tooltip": [
                        {"field": "n", "title": "trial"},
                        {"field": "y", "title": named(trials.label), "format": number},
                    ],
                },
            }
        )
    else:
        layers.append(_histogram(mine, effect, place, y, x, span, number))
    layers.append(
        {
            "data": {"values": boxes},
            "mark": {"type": "tick", "thickness": 2.5, "size": 18, "color": INK},
            "encoding": {"y": y, "x": x | {"field": "m"}, "tooltip": tips},
        }
    )
    return spec(height=24 * len(order), params=PICKED, layer=layers)


def _histogram(
    mine: list[tuple[int, float]],
    effect: Effect,
    place: dict[int, str],
    y: Spec,
    x: Spec,
    span: list[float],
    number: str,
) -> Spec:
    width = (span[1] - span[0]) / _BINS
    counts: dict[tuple[int, int], int] = {}
    for i, value in mine:
        bin_ = min(_BINS - 1, int((value - span[0]) / width))
        key = effect.axis.of[i], bin_
        counts[key] = counts.get(key, 0) + 1
    top: dict[int, int] = {}
    for (k, _), count in counts.items():
        top[k] = max(top.get(k, 0), count)
    rows = [
        {"v": place[k], "a": span[0] + b * width, "b": span[0] + (b + 1) * width, "k": c, "o": 0.08 + 0.72 * c / top[k]}
        for (k, b), c in counts.items()
    ]
    return {
        "data": {"values": rows},
        "mark": {"type": "bar", "size": 8, "color": ACCENT},
        "encoding": {
            "y": y,
            "x": x | {"field": "a"},
            "x2": {"field": "b"},
            "opacity": {"field": "o", "type": "quantitative", "scale": None, "legend": None},
            "tooltip": [
                {"field": "k", "title": "trials"},
                {"field": "a", "title": "from", "format": number},
                {"field": "b", "title": "to", "format": number},
            ],
        },
    }


def interaction_chart(trials: Trials, found: Interaction, digits: int) -> Spec:
    """Mean of the objective for each pair of values of two axes."""
    means = [m for m, _ in found.means.values()]
    low, high = min(means), max(means)
    rows = []
    for (r, c), (mean, count) in found.means.items():
        share = (mean - low) / (high - low) if high > low else 0.5
        share = share if trials.goal == "max" else 1 - share
        label = f"{mean:.{digits}f}"
        rows.append(
            {
                "r": found.rows.labels[r],
                "c": found.columns.labels[c],
                "m": mean,
                "k": count,
                "o": 0.04 + 0.5 * share,
                "label": label,
            }
        )
    y = {
        "field": "r",
        "type": "nominal",
        "sort": found.rows.labels,
        "axis": axis(named(found.rows.name), labelLimit=150),
    }
    x = {
        "field": "c",
        "type": "nominal",
        "sort": found.columns.labels,
        "axis": axis(named(found.columns.name), orient="top", labelAngle=0, labelLimit=120),
    }
    tips = [
        {"field": "r", "title": named(found.rows.name)},
        {"field": "c", "title": named(found.columns.name)},
        {"field": "m", "title": f"mean {trials.label}", "format": f".{digits}f"},
        {"field": "k", "title": "trials"},
    ]
    return spec(
        data={"values": rows},
        height=30 * len({r for r, _ in found.means}),
        encoding={"x": x, "y": y},
        layer=[
            {
                "mark": {
                    "type": "rect",
                    "color": ACCENT,
                    "cornerRadius": 2,
                    "stroke": "var(--panel)",
                    "strokeWidth": 2,
                },
                "encoding": {
                    "opacity": {"field": "o", "type": "quantitative", "scale": None, "legend": None},
                    "tooltip": tips,
                },
            },
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {
                    "text": {"field": "label"},
                    "color": {"value": INK},
                },
            },
        ],
    )


def parallel_chart(trials: Trials, found: list[Effect], digits: int, most: int = 260) -> tuple[Spec, int] | None:
    """One line a configuration through its value on every axis, to the objective; and how many lines there are."""
    axes = [e.axis for e in found if e.axis.name != "seed"][:9]
    if len(axes) < 2:
        return None
    configurations = trials.configurations()
    total = len(configurations)
    if total > most:
        top = most // 2
        rest = random.Random(0).sample(range(top, total), most - top)
        configurations = configurations[:top] + [configurations[i] for i in sorted(rest)]
    means = [m for _, m in configurations]
    low, high = min(means), max(means)
    axes = list(reversed(axes))
    names = [*(a.name for a in axes), trials.label]
    places = [_places(a.raw, a.numeric) for a in axes]
    lines = []
    jitter = random.Random(2)
    for members, mean in configurations:
        height = (mean - low) / (high - low) if high > low else 0.5
        good = height if trials.goal == "max" else 1 - height
        shift = jitter.uniform(-0.022, 0.022)
        name = trials.configuration_name(members[0])
        for position, (one, place) in enumerate(zip(axes, places, strict=True)):
            k = one.of[members[0]]
            if k >= 0:
                y = place[k] + shift
                lines.append({"x": position, "y": y, "t": members[0], "g": good, "n": name, "m": mean})
        lines.append({"x": len(axes), "y": height, "t": members[0], "g": good, "n": name, "m": mean})
    labels = []
    for position, (one, place) in enumerate(zip(axes, places, strict=True)):
        few = len(one.labels) <= 10
        shown = range(len(one.labels)) if few else (place.index(min(place)), place.index(max(place)))
        labels += [{"x": position, "y": place[k], "label": one.labels[k]} for k in shown]
    labels += [{"x": len(axes), "y": float(v > low), "label": f"{v:.{digits}f}"} for v in dict.fromkeys((low, high))]
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domain": [0, len(axes)], "nice": False, "padding": 34},
        "axis": None,
    }
    y_axis = {"field": "y", "type": "quantitative", "scale": {"domain": [-0.1, 1.2]}, "axis": None}
    made = spec(
        height=300,
        params=PICKED,
        encoding={"x": x, "y": y_axis},
        layer=[
            {
                "data": {"values": [{"x": i, "y": -0.05, "y2": 1.05} for i in range(len(names))]},
                "mark": {"type": "rule", "color": LINE, "strokeWidth": 1},
                "encoding": {"y2": {"field": "y2"}},
            },
            {
                "data": {"values": lines},
                "mark": {"type": "line", "strokeCap": "round"},
                "encoding": {
                    "detail": {"field": "t"},
                    # The best are strong and thick, the others faint and thin: no colour is needed to tell them.
                    "opacity": {
                        "condition": {"test": FADED, "value": 0.025},
                        "field": "g",
                        "type": "quantitative",
                        "scale": {"type": "pow", "exponent": 3, "domain": [0, 1], "range": [0.1, 0.95]},
                        "legend": None,
                    },
                    "size": {
                        "condition": {"test": CHOSEN, "value": 3},
                        "field": "g",
                        "type": "quantitative",
                        "scale": {"type": "pow", "exponent": 4, "domain": [0, 1], "range": [0.8, 2.6]},
                        "legend": None,
                    },
                    "color": {"value": ACCENT},
                    "tooltip": [
                        {"field": "n", "title": "trial"},
                        {"field": "m", "title": named(trials.label), "format": f".{digits}f"},
                    ],
                },
            },
            # Names stand below the places that they name, or lines would go through them.
            {
                "data": {"values": labels},
                "mark": {"type": "text", "fontSize": 11, "color": INK, "stroke": "var(--panel)", "strokeWidth": 4}
                | {"strokeJoin": "round", "strokeOpacity": 0.9, "limit": 96, "dy": 12},
                "encoding": {"text": {"field": "label"}},
            },
            {
                "data": {"values": labels},
                "mark": {"type": "text", "fontSize": 11, "color": INK, "limit": 96, "dy": 12},
                "encoding": {"text": {"field": "label"}},
            },
            {
                "data": {"values": [{"x": i, "y": 1.16, "label": n} for i, n in enumerate(names)]},
                "mark": {"type": "text", "fontSize": 11, "fontWeight": "bold", "color": SOFT, "limit": 110},
                "encoding": {"text": {"field": "label"}},
            },
        ],
    )
    return made, total


def _places(raw: list[object], numeric: bool) -> list[float]:
    if len(raw) < 2:
        return [0.5] * len(raw)
    order = sorted(range(len(raw)), key=lambda k: float(raw[k])) if numeric else range(len(raw))  # type: ignore[arg-type]
    places = [0.0] * len(raw)
    for place, k in enumerate(order):
        places[k] = place / (len(raw) - 1)
    return places
