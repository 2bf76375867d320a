"""What mattered: how much of the spread between trials each axis explains, and the two strongest together."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from shoal.report.trials import Axis, Trials

__all__ = ["Box", "Effect", "Interaction", "effects", "interaction", "quantile"]

MANY_VALUES = 24


@dataclass(slots=True)
class Box:
    """The distribution of the objective at one value of an axis."""

    label: str
    n: int
    low: float
    q1: float
    median: float
    q3: float
    high: float
    mean: float


@dataclass(slots=True)
class Effect:
    """An axis and what it does to the objective.

    Attributes:
        share: part of the variance between trials that lies between the axis's values, 0 to 1. Axes that are not crossed
            with each other share what they explain, so the parts need not add up to 1.
        order: value indices of the axis in the order in which they are shown.
        hidden: how many values are not shown, because there are too many.
    """

    axis: Axis
    share: float
    boxes: list[Box]
    order: list[int]
    hidden: int
    sentence: str


@dataclass(slots=True)
class Interaction:
    """Means of the objective for each pair of values of two axes."""

    rows: Axis
    columns: Axis
    means: dict[tuple[int, int], tuple[float, int]]
    extra: float


def quantile(values: list[float], q: float) -> float:
    """Return the q-quantile of sorted values, interpolated linearly."""
    place = (len(values) - 1) * q
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def effects(trials: Trials, digits: int = 3) -> list[Effect]:
    """Return the effect of every axis that varies, strongest first; none for fewer than three values."""
    known = [(i, v) for i, v in enumerate(trials.values) if v is not None]
    if len(known) < 3:
        return []
    total = _spread([v for _, v in known])
    found = []
    for axis in trials.axes:
        groups: dict[int, list[float]] = {}
        for i, value in known:
            if axis.of[i] >= 0:
                groups.setdefault(axis.of[i], []).append(value)
        if len(groups) < 2:
            continue
        within = sum(_spread(values) for values in groups.values())
        # An axis with a value of its own for each trial explains everything and nothing.
        share = 0.0 if total <= 0 or len(groups) == len(known) else max(0.0, 1 - within / total)
        order = _order(axis, groups)
        boxes = [_box(axis.labels[k], groups[k]) for k in order]
        sentence = _sentence(trials, axis, boxes, digits)
        found.append(Effect(axis, share, boxes, order, len(groups) - len(order), sentence))
    return sorted(found, key=lambda e: (e.axis.name == "seed", -e.share))


def interaction(trials: Trials, found: list[Effect]) -> Interaction | None:
    """Return the two strongest axes (but ``seed``) together; None unless they are crossed.

    ``extra`` is the part of the variance that the pair explains beyond the two axes one by one.
    """
    strong = [e for e in found if e.axis.name != "seed" and len(e.boxes) <= MANY_VALUES]
    if len(strong) < 2:
        return None
    first, second = sorted(strong[:2], key=lambda e: -len(e.boxes))
    groups: dict[tuple[int, int], list[float]] = {}
    values = []
    for i, value in enumerate(trials.values):
        place = first.axis.of[i], second.axis.of[i]
        if value is not None and min(place) >= 0:
            groups.setdefault(place, []).append(value)
            values.append(value)
    if len(groups) <= max(len(first.boxes), len(second.boxes)):
        return None
    total = _spread(values)
    within = sum(_spread(g) for g in groups.values())
    extra = max(0.0, 1 - within / total - first.share - second.share) if total > 0 else 0.0
    means = {place: (statistics.fmean(g), len(g)) for place, g in groups.items()}
    return Interaction(first.axis, second.axis, means, extra)


def _order(axis: Axis, groups: dict[int, list[float]]) -> list[int]:
    order = sorted(groups)
    if axis.numeric:
        order.sort(key=lambda k: float(axis.raw[k]))  # type: ignore[arg-type]
    if len(order) > MANY_VALUES:
        kept = set(sorted(order, key=lambda k: -len(groups[k]))[:MANY_VALUES])
        order = [k for k in order if k in kept]
    return order


def _box(label: str, values: list[float]) -> Box:
    ordered = sorted(values)
    low, q1, median, q3, high = (quantile(ordered, q) for q in (0, 0.25, 0.5, 0.75, 1))
    return Box(label, len(ordered), low, q1, median, q3, high, statistics.fmean(ordered))


def _sentence(trials: Trials, axis: Axis, boxes: list[Box], digits: int) -> str:
    ordered = sorted(boxes, key=lambda b: b.median, reverse=trials.goal == "max")
    top, last = ordered[0], ordered[-1]
    if abs(top.median - last.median) < 0.5 * 10**-digits:
        return "No difference in the median."
    numbers = f"{top.median:.{digits}f} against {last.median:.{digits}f}"
    return f"{axis.part(top.label)} leads in the median: {numbers} for {axis.part(last.label)}."


def _spread(values: list[float]) -> float:
    mean = statistics.fmean(values)
    return sum((v - mean) ** 2 for v in values)
