"""Which number a metric's name means, and its value for a task.

A reference is ``STEP/METRIC`` when ``STEP`` is a step of the study and ``METRIC`` one of its metrics; else it is the name of a
metric as it was logged, which must then exist in one step only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shoal.results.data import StudyData, Task
from shoal.results.errors import ResultError, did_you_mean

__all__ = ["MetricRef", "find_metric", "metric_names", "metric_value", "number"]


@dataclass(frozen=True, slots=True)
class MetricRef:
    """A metric of a step; ``label`` is how it was asked for."""

    step: str
    name: str
    label: str


def metric_names(data: StudyData) -> dict[str, list[str]]:
    """Return the metrics that finished tasks reported: step to names, in order of first appearance."""
    found: dict[str, dict[str, None]] = {}
    for task in data.tasks.values():
        if task.metrics:
            found.setdefault(task.step, {}).update(dict.fromkeys(task.metrics))
    return {step: list(names) for step, names in found.items()}


def find_metric(data: StudyData, reference: str, names: dict[str, list[str]] | None = None) -> MetricRef:
    """Resolve a reference.

    Args:
        data: the study.
        reference: ``STEP/METRIC``, or the name of a metric that one step alone reports.
        names: :func:`metric_names` of ``data``, when the caller has them.

    Raises:
        ResultError: unknown, or reported by several steps.
    """
    names = metric_names(data) if names is None else names
    step, _, rest = reference.partition("/")
    if rest and rest in names.get(step, ()):
        return MetricRef(step, rest, reference)
    literal = [name for name, metrics in names.items() if reference in metrics]
    if len(literal) == 1:
        return MetricRef(literal[0], reference, reference)
    if literal:
        raise ResultError(
            f"metric {reference!r} is reported by {len(literal)} steps: {', '.join(literal)}",
            hint="Say which: " + " or ".join(f"{name}/{reference}" for name in literal) + ".",
        )
    if rest and step in data.steps and step not in names:
        # Nothing of this step is done yet: the name cannot be checked, and the answer is "all are missing".
        return MetricRef(step, rest, reference)
    known = [f"{name}/{metric}" for name, metrics in names.items() for metric in metrics]
    if not known:
        raise ResultError(
            f"metric {reference!r}: no task has reported a metric yet",
            hint="A task reports metrics with shoal.task().log(...) or by writing metrics.json to {out}.",
        )
    raise ResultError(f"no task reports a metric {reference!r}", hint=did_you_mean(reference, known, "metrics"))


def metric_value(data: StudyData, task: Task, ref: MetricRef) -> float | None:
    """Return the metric for a task: its own, or that of the one related task of the metric's step.

    Args:
        data: the study.
        task: any task; related are the tasks that it needs and those that need it.
        ref: from :func:`find_metric`.

    Returns:
        The number (it may be NaN or infinite, when that was reported), or None while there is none.

    Raises:
        ResultError: several tasks of that step are related, so that the number would be one of many.
    """
    related = data.family(task, ref.step)
    if len(related) > 1:
        varying = [k for k in related[0].params if len({str(t.params.get(k)) for t in related}) > 1]
        by = f", which differ in {', '.join(varying)}" if varying else ""
        raise ResultError(
            f"metric {ref.label!r} is not one number for a task of {task.step}: "
            f"{len(related)} tasks of {ref.step} belong to it{by}",
            hint=f"Ask for the tasks of {ref.step} instead, where each has its own.",
        )
    return number(related[0].metrics.get(ref.name)) if related else None


def number(value: Any) -> float | None:
    """Return a reported value as a float, or None when it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(str(value))
    return float(value)
