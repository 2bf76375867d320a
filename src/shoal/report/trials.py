"""The trials of a study: the tasks that carry its objective, with names a person can tell apart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from shoal.results import ResultError, StudyData
from shoal.results.data import Objective, Task, finite, json_key, show_value
from shoal.results.frame import varying_axes
from shoal.results.metrics import MetricRef, find_metric, metric_names, metric_value

__all__ = ["Axis", "Trials", "find_trials", "finite_values"]


@dataclass(slots=True)
class Axis:
    """An axis that varies: its values in plan order, and for each trial the index of its value (-1 for none).

    Attributes:
        numeric: whether all values are numbers.
    """

    name: str
    labels: list[str]
    raw: list[object]
    of: list[int]
    numeric: bool = field(init=False)

    def __post_init__(self) -> None:
        self.numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.raw)

    def part(self, label: str) -> str:
        """Return a value so that it can stand alone: ``true`` or ``0.1`` says nothing, ``unet`` does."""
        return f"{self.name} {label}" if self.numeric or label in ("true", "false", "none") else label


@dataclass
class Trials:
    """Trials in plan order; lists run parallel.

    Attributes:
        step: the step whose tasks they are.
        ref: the objective, None when the study names none or it cannot be found (``trouble`` says why).
        values: the objective of each, None while missing, never NaN.
        axes: those that vary; ``fixed``: the values of those that do not; ``followers``: axes that change with another alone, to
            that one's name.
        index: task id to position.
        by, by_goal, by_values: the metric that chooses among them, where the study names one beside the objective.
    """

    step: str
    tasks: list[Task]
    ref: MetricRef | None
    goal: str
    states: list[str]
    values: list[float | None]
    names: list[str]
    axes: list[Axis]
    fixed: dict[str, str]
    followers: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    index: dict[str, int] = field(default_factory=dict)
    by: MetricRef | None = None
    by_goal: str = "max"
    by_values: list[float | None] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The objective's name as the study writes it."""
        return self.ref.label if self.ref else ""

    def ranked(self) -> list[int]:
        """Return the positions of trials with a value, best first."""
        sign = -1.0 if self.goal == "max" else 1.0
        known = [(sign * v, i) for i, v in enumerate(self.values) if v is not None]
        return [i for _, i in sorted(known)]

    def configurations(self) -> list[tuple[list[int], float]]:
        """Return groups of trials that differ in nothing but ``seed``, with their means, best first."""
        return self._ordered(self.values, self.goal)

    def planned(self, trial: int) -> int:
        """Return how many trials differ from one in nothing but ``seed``, itself and those without a value included."""
        axes = [a for a in self.axes if a.name != "seed"]
        return sum(all(a.of[i] == a.of[trial] for a in axes) for i in range(len(self.values)))

    def chosen(self) -> tuple[list[int], float] | None:
        """Return the group of trials that the metric ``by`` chooses, with its mean; None without one."""
        return next(iter(self._ordered(self.by_values, self.by_goal)), None)

    def _ordered(self, values: list[float | None], goal: str) -> list[tuple[list[int], float]]:
        groups: dict[tuple[int, ...], list[int]] = {}
        axes = [a for a in self.axes if a.name != "seed"]
        for i, value in enumerate(values):
            if value is not None:
                groups.setdefault(tuple(a.of[i] for a in axes), []).append(i)
        means = [(g, statistics.fmean(v for i in g if (v := values[i]) is not None)) for g in groups.values()]
        return sorted(means, key=lambda pair: -pair[1] if goal == "max" else pair[1])

    def configuration_name(self, trial: int) -> str:
        """Return a trial's name without its seed."""
        return self._name([a for a in self.axes if a.name != "seed"], trial)

    def _name(self, axes: list[Axis], trial: int) -> str:
        parts = [a.part(a.labels[a.of[trial]]) for a in axes if a.of[trial] >= 0]
        return " · ".join(parts) or self.step

    def name_all(self) -> None:
        """Give every trial its name: the values of the axes that vary."""
        self.names = [self._name(self.axes, i) for i in range(len(self.tasks))]


def find_trials(data: StudyData) -> Trials:
    """Find the trials: tasks of the step that reports the objective, else of the last step that is no gate."""
    objective: Objective | None = data.objective
    ref: MetricRef | None = None
    trouble = ""
    known = metric_names(data)
    if objective is None:
        named = [f"{s}/{m}" for s, ms in known.items() for m in ms]
        example = named[-1] if named else "test/iou"
        trouble = (
            "The study names no objective, so nothing is ranked. "
            f"Add to the study file: report: {{objective: {{metric: {example}, goal: max}}}}"
        )
    else:
        try:
            ref = find_metric(data, objective.metric, known)
        except ResultError as error:
            # Before anything has finished there is nothing to look for; that is no mistake.
            trouble = str(error) if known else ""
    by: MetricRef | None = None
    if ref is not None and objective is not None and objective.by is not None:
        try:
            by = find_metric(data, objective.by, known)
        except ResultError as error:
            trouble = str(error)
    step = ref.step if ref else _last_step(data)
    tasks = data.of_step(step)
    values = finite_values(data, tasks, ref)
    varying = varying_axes(data, step)
    axes, followers = _leaders([_axis(name, tasks) for name in varying])
    fixed = {k: show_value(v) for t in tasks[:1] for k, v in t.params.items() if k not in varying}
    trials = Trials(
        step=step,
        tasks=tasks,
        ref=ref,
        goal=objective.goal if objective else "max",
        states=[data.fate(t) for t in tasks],
        values=values,
        names=[],
        axes=axes,
        fixed=fixed,
        followers=followers,
        trouble=trouble,
        by=by,
        by_goal=objective.by_goal if objective else "max",
        by_values=finite_values(data, tasks, by),
        index={t.id: i for i, t in enumerate(tasks)},
    )
    trials.name_all()
    return trials


def finite_values(data: StudyData, tasks: list[Task], ref: MetricRef | None) -> list[float | None]:
    """Return the metric of each task, None where it is missing or no finite number.

    Raises:
        ResultError: it is not one number for each of them.
    """
    return [finite(metric_value(data, task, ref)) if ref else None for task in tasks]


def _last_step(data: StudyData) -> str:
    names = [s.name for s in data.steps.values() if not s.gate and data.of_step(s.name)]
    return names[-1] if names else ""


def _leaders(axes: list[Axis]) -> tuple[list[Axis], dict[str, str]]:
    """Leave out axes that say nothing new, such as GPUs that go with a size: each with the one whose values tell its own."""
    kept: dict[tuple[int, ...], Axis] = {}
    followers = {}
    for axis in axes:
        # Values are numbered as they appear, so axes that change together have the same numbers.
        leader = kept.setdefault(tuple(axis.of), axis)
        if leader is not axis:
            followers[axis.name] = leader.name
    return list(kept.values()), followers


def _axis(name: str, tasks: list[Task]) -> Axis:
    places: dict[str, int] = {}
    raw: list[object] = []
    of: list[int] = []
    for task in tasks:
        if name not in task.params:
            of.append(-1)
            continue
        key = json_key(task.params[name])
        if key not in places:
            places[key] = len(raw)
            raw.append(task.params[name])
        of.append(places[key])
    return Axis(name, [show_value(v) for v in raw], raw, of)
