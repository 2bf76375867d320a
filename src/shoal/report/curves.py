"""Training curves, thinned so that ten thousand trials still make a page that opens.

Curves of a trial are its own and those of the tasks that ``for_each`` ties to it; trials that share a training run share
the curve. When there are too many, the best are drawn, a sample of the others, and for all of them the band in which they
lie.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field

from shoal.report.effects import quantile
from shoal.report.trials import Trials
from shoal.results import StudyData
from shoal.results.data import Task
from shoal.results.read import read_curves

__all__ = ["Curves", "collect_curves"]

#: A page holds at most this many points of curves, lines, and points a line.
POINTS, LINES, LINE_POINTS = 90_000, 240, 120
_BAND_POINTS = 40
#: Curves are read for at most this many tasks; beyond, a sample (always with the best) stands for all.
_READ = 1500


@dataclass(slots=True)
class Line:
    """One curve: the position of its source among the lines, and its points."""

    source: int
    x: list[float]
    y: list[float]


@dataclass
class Curves:
    """Curves by metric.

    Attributes:
        sources: for each drawn task the positions of the trials it belongs to.
        lines: metric to its curves; ``bands``: metric to rows ``(x, p10, median, p90, n)``.
        groups: heading to metrics that belong side by side (``train/loss`` and ``val/loss``).
        read, total: how many tasks' curves were read, and how many have some or may.
    """

    sources: list[list[int]] = field(default_factory=list)
    lines: dict[str, list[Line]] = field(default_factory=dict)
    bands: dict[str, list[tuple[float, float, float, float, int]]] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    read: int = 0
    total: int = 0


def collect_curves(data: StudyData, trials: Trials) -> Curves:
    """Read the trials' curves and choose what to draw."""
    owners: dict[str, list[int]] = {}
    for i, task in enumerate(trials.tasks):
        for related in data.one_to_one(task):
            if related.attempts:
                owners.setdefault(related.id, []).append(i)
    rank = {t: place for place, t in enumerate(trials.ranked())}
    worst = len(trials.tasks)
    by_rank = sorted(owners, key=lambda key: min(rank.get(i, worst) for i in owners[key]))
    chosen = _sample(by_rank, _READ, top=_READ // 3)
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for key in chosen:
        series = read_series(data.tasks[key])
        if series:
            found[key] = series
    curves = Curves(read=len(found), total=len(by_rank) if len(by_rank) > len(chosen) else len(found))
    metrics = list(dict.fromkeys(name for series in found.values() for name in series))
    if not metrics:
        return curves
    keys = list(found)
    drawn = _sample(keys, max(20, min(LINES, POINTS // (LINE_POINTS * len(metrics)))), top=40)
    place = {key: i for i, key in enumerate(drawn)}
    curves.sources = [owners[key] for key in drawn]
    for metric in metrics:
        curves.lines[metric] = [
            Line(place[key], *_thin(*found[key][metric], LINE_POINTS)) for key in drawn if metric in found[key]
        ]
        if len(found) > len(drawn):
            curves.bands[metric] = _band([s[metric] for s in found.values() if metric in s])
    curves.groups = _groups(metrics)
    return curves


def read_series(task: Task) -> dict[str, tuple[list[float], list[float]]]:
    """Return each metric's points of a task, in order; where a later attempt repeats a step, its value counts."""
    points: dict[str, dict[float, float]] = {}
    for _, _, at, values in read_curves(task.folder):
        for name, value in values.items():
            series = points.setdefault(name, {})
            series[at if at is not None else len(series)] = value
    found = {}
    for name, series in points.items():
        if len(series) > 1:
            steps = sorted(series)
            found[name] = (steps, [series[s] for s in steps])
    return found


def _sample(keys: list[str], most: int, top: int) -> list[str]:
    if len(keys) <= most:
        return keys
    # The same page for the same data: a fixed seed.
    rest = random.Random(0).sample(range(top, len(keys)), most - top)
    return keys[:top] + [keys[i] for i in sorted(rest)]


def _thin(x: list[float], y: list[float], most: int) -> tuple[list[float], list[float]]:
    if len(x) > most:
        # Means of equal stretches: every point counts, and noise does not turn into spikes.
        size = len(x) / most
        cuts = [round(k * size) for k in range(most + 1)]
        spans = [(a, b) for a, b in itertools.pairwise(cuts) if b > a]
        y = [sum(y[a:b]) / (b - a) for a, b in spans]
        x = [x[b - 1] for _, b in spans]
    return [_short(v) for v in x], [_short(v) for v in y]


def _band(series: list[tuple[list[float], list[float]]]) -> list[tuple[float, float, float, float, int]]:
    low = min(x[0] for x, _ in series)
    high = max(x[-1] for x, _ in series)
    columns: list[list[float]] = [[] for _ in range(_BAND_POINTS)]
    width = (high - low) / _BAND_POINTS or 1.0
    for x, y in series:
        last: dict[int, float] = {}
        for at, value in zip(x, y, strict=True):
            last[min(_BAND_POINTS - 1, int((at - low) / width))] = value
        for column, value in last.items():
            columns[column].append(value)
    band = []
    for i, values in enumerate(columns):
        if values:
            values.sort()
            p10, p50, p90 = (_short(quantile(values, q)) for q in (0.1, 0.5, 0.9))
            band.append((_short(low + (i + 0.5) * width), p10, p50, p90, len(values)))
    return band


def _groups(metrics: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(metric.rpartition("/")[2], []).append(metric)
    first = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
    for names in groups.values():
        names.sort(key=lambda m: first.get(m.partition("/")[0], 3))
    return groups


def _short(value: float) -> float:
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.5g}")
