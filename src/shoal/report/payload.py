"""What the page's script works with, as JSON: trials in columns, members of cells, curves, pictures, charts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shoal.report.charts import effect_chart, interaction_chart, parallel_chart
from shoal.report.charts_time import curve_chart, timeline_chart
from shoal.report.curves import Curves
from shoal.report.effects import Effect, Interaction, quantile
from shoal.report.pictures import INPUTS, Pictures
from shoal.report.summary import value_digits
from shoal.report.timeline import Timeline
from shoal.report.trials import Trials
from shoal.report.vega import Spec
from shoal.results import StudyData, Table
from shoal.results.data import Task, finite
from shoal.results.metrics import metric_names, number
from shoal.results.tables import Key, digits_for

__all__ = ["chart_specs", "curves_json", "pictures_json", "table_cells", "to_script", "trials_json"]

_METRICS = 12


def to_script(value: Any) -> str:
    """Return JSON that is safe inside a ``<script>`` element: no ``<``, ``>`` or ``&`` is left in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def trials_json(data: StudyData, trials: Trials) -> dict[str, Any]:
    """Return the trials in columns, and how their numbers are written."""
    names = metric_names(data).get(trials.step, [])
    shown = [n for n in names if trials.ref is None or n != trials.ref.name or trials.ref.step != trials.step]
    metrics = []
    for name in shown[:_METRICS]:
        values = [finite(number(t.metrics.get(name))) for t in trials.tasks]
        digits = digits_for(v for v in values if v is not None)
        metrics.append({"name": name, "values": [_round(v) for v in values], "digits": digits})
    costs = [_cost(data, trial) for trial in trials.tasks]
    return {
        "step": trials.step,
        "label": trials.label,
        "goal": trials.goal,
        "digits": value_digits(trials),
        "ids": [t.id for t in trials.tasks],
        "names": trials.names,
        "states": trials.states,
        "leaders": _leaders(trials),
        "values": [_round(v) for v in trials.values],
        "axes": [{"name": a.name, "labels": a.labels, "of": a.of, "numeric": a.numeric} for a in trials.axes],
        "metrics": metrics,
        "moreMetrics": max(0, len(shown) - _METRICS),
        "seconds": [_round(cost.run_hours * 3600) for cost in costs],
        "gpuHours": [_round(cost.gpu_hours) for cost in costs] if any(cost.gpu_hours for cost in costs) else [],
        "attempts": [cost.attempts for cost in costs],
    }


def _leaders(trials: Trials) -> list[int]:
    """Return for each trial the first one of its configuration; the trial itself while it has no value."""
    leaders = list(range(len(trials.tasks)))
    for members, _ in trials.configurations():
        for i in members:
            leaders[i] = members[0]
    return leaders


@dataclass(frozen=True, slots=True)
class _Cost:
    gpu_hours: float
    run_hours: float
    attempts: int


def _cost(data: StudyData, trial: Task) -> _Cost:
    """What a trial cost together with the tasks that ``for_each`` ties to it."""
    family = data.one_to_one(trial)
    return _Cost(
        sum(task.gpu_hours for task in family),
        sum(task.run_hours for task in family),
        sum(len(task.attempts) for task in family),
    )


def table_cells(trials: Trials, table: Table) -> list[list[list[int]]]:
    """Return the positions of the trials behind each cell, row by row."""

    def members(row: Key, column: Key) -> list[int]:
        cell = table.cells.get((row, column))
        return [trials.index[k] for k in cell.tasks if k in trials.index] if cell else []

    return [[members(row, column) for column in table.column_keys] for row in table.row_keys]


def curves_json(curves: Curves, trials: Trials) -> dict[str, Any]:
    """Return the curves: sources with their trials, and points by metric."""
    return {
        "sources": curves.sources,
        "groups": [{"name": name, "metrics": metrics} for name, metrics in curves.groups.items()],
        "lines": {m: [[line.source, line.x, line.y] for line in lines] for m, lines in curves.lines.items()},
        "labels": curve_labels(trials),
        "axis": colour_axis(trials),
    }


def pictures_json(pictures: Pictures) -> dict[str, Any]:
    """Return the pictures and which trial shows which."""
    return {
        "images": pictures.images,
        "samples": pictures.samples,
        "panels": pictures.panels,
        "inputs": list(INPUTS),
        "metric": pictures.metric,
        "legend": pictures.legend,
        "shared": pictures.shared,
        "trials": {str(k): v for k, v in pictures.trials.items()},
        "scores": {str(k): v for k, v in pictures.scores.items()},
        "roles": pictures.roles,
    }


def colour_axis(trials: Trials) -> int:
    """Return which axis colours the curves: the first that is not ``seed`` and has at most eight values; -1 for none."""
    for i, axis in enumerate(trials.axes):
        if axis.name != "seed" and 1 < len(axis.labels) <= 8:
            return i
    return -1


def curve_labels(trials: Trials) -> list[str]:
    """Return the values of the axis that colours the curves."""
    which = colour_axis(trials)
    return trials.axes[which].labels if which >= 0 else []


def chart_specs(
    trials: Trials,
    found: list[Effect],
    pair: Interaction | None,
    curves: Curves,
    timeline: Timeline,
) -> tuple[dict[str, Spec], int]:
    """Return all charts by the name of their place on the page, and how many configurations the parallel one stands for."""
    digits = value_digits(trials)
    specs: dict[str, Spec] = {}
    configurations = 0
    if trials.ref is not None:
        for i, effect in enumerate(found):
            specs[f"effect-{i}"] = effect_chart(trials, effect, digits)
        if pair:
            specs["interaction"] = interaction_chart(trials, pair, digits)
        parallel = parallel_chart(trials, found, digits) if found else None
        if parallel:
            specs["parallel"], configurations = parallel
    for group in curves.groups.values():
        span = _span([v for m in group for line in curves.lines[m] for v in line.y])
        for metric in group:
            specs[f"curve:{metric}"] = curve_chart(curves, metric, curve_labels(trials), span)
    line = timeline_chart(timeline)
    if line:
        specs["timeline"] = line
    return specs, configurations


def _span(values: list[float]) -> list[float]:
    """Return the range to draw: all of it, unless a few wild values would flatten the rest."""
    values = sorted(values)
    low, high = quantile(values, 0.005), quantile(values, 0.995)
    room = (high - low) * 0.15 or abs(high) * 0.05 or 1.0
    return [max(values[0], low - room), min(values[-1], high + room)] if values[0] < values[-1] else [low - 1, high + 1]


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
