"""What a study left behind, in memory: its plan's tasks with their results and attempts.

These classes hold no logic about files; :func:`shoal.results.read.read_store` fills them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from shoal.units import UnitError, parse_cpu

__all__ = [
    "Attempt",
    "Objective",
    "StepInfo",
    "StudyData",
    "Task",
    "amount",
    "finite",
    "json_key",
    "show_hours",
    "show_value",
]

#: What a task can be, in the order in which the states are shown.
STATES = ("done", "running", "failed", "cancelled", "waiting")


def finite(value: object) -> float | None:
    """Return a number as a float; None for anything else, and for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def json_key(value: object) -> str:
    """Return text that is the same for equal parameter values (lists and numbers included); it is JSON."""
    if isinstance(value, str | int | float | None):
        return _scalar_key(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_key, value))}]"
    return json.dumps(value, sort_keys=True, default=str)


@lru_cache(maxsize=65536, typed=True)
def _scalar_key(value: str | float | None) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return json.dumps(value)


def show_value(value: object) -> str:
    """Return a parameter value as a person would write it: ``0.01``, ``1e-3``, ``true``, ``none``, ``a, b``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = f"{value:.6g}" if abs(value) >= 1e-2 or value == 0 else f"{value:.5e}"
        if "e" in text:
            mantissa, exponent = text.split("e")
            mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
            text = f"{mantissa}e{int(exponent)}"
        return text
    if isinstance(value, list | tuple):
        return ", ".join(show_value(item) for item in value)
    return str(value)


def show_hours(hours: float) -> str:
    """Return hours for people: ``3.6 h``, ``12 min``, ``8 s``."""
    if hours >= 100:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h"
    minutes = hours * 60
    if minutes >= 10:
        return f"{minutes:.0f} min"
    if minutes >= 1:
        return f"{minutes:.1f} min"
    return f"{hours * 3600:.0f} s" if hours * 3600 >= 10 or hours == 0 else f"{hours * 3600:.1f} s"


def amount(hours: float) -> str:
    """Return a sum of GPU- or CPU-hours for people, with two digits or more: ``1,240``, ``3.6``, ``0.021``."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


@dataclass(slots=True)
class Attempt:
    """One try at a task; times are seconds since 1970, or None where not reached."""

    task: str
    step: str
    number: int
    folder: Path
    executor: str = ""
    state: str = "ended"
    outcome: str | None = None
    queued: float | None = None
    started: float | None = None
    ended: float | None = None
    alive: float | None = None
    scheduled: float | None = None
    pulled: float | None = None
    host: str = ""
    devices: list[dict[str, Any]] = field(default_factory=list)
    failure: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    lost_seconds: float | None = None
    resources: dict[str, Any] = field(default_factory=dict)

    @property
    def finish(self) -> float | None:
        """When it ended; for one that runs, when its agent last lived."""
        if self.ended is not None:
            return self.ended
        return self.alive if self.state == "running" else None

    @property
    def wait_seconds(self) -> float:
        """Seconds between being handed over and its start (or its end, when it never started)."""
        if self.queued is None:
            return 0.0
        end = self.started if self.started is not None else self.ended
        return max(0.0, end - self.queued) if end is not None else 0.0

    @property
    def queue_seconds(self) -> float:
        """Seconds of the wait in which it had no place to run yet: all of it, but on a cluster until a node took it."""
        if self.queued is None or self.scheduled is None:
            return self.wait_seconds
        return min(max(0.0, self.scheduled - self.queued), self.wait_seconds)

    @property
    def pull_seconds(self) -> float:
        """Seconds of the wait in which a cluster's node brought the image and started the container."""
        if self.scheduled is None:
            return 0.0
        end = next((at for at in (self.pulled, self.started, self.ended) if at is not None), self.scheduled)
        return min(max(0.0, end - self.scheduled), self.wait_seconds - self.queue_seconds)

    @property
    def prepare_seconds(self) -> float:
        """Seconds of the wait in which its container ran and its command did not yet: inputs were brought from a bucket."""
        return self.wait_seconds - self.queue_seconds - self.pull_seconds

    @property
    def run_seconds(self) -> float:
        """Seconds that it ran, so far."""
        if self.started is None or self.finish is None:
            return 0.0
        return max(0.0, self.finish - self.started)

    @property
    def wasted_seconds(self) -> float:
        """Run time that had, or has, to be done again."""
        if self.lost_seconds is not None:
            return min(max(0.0, self.lost_seconds), self.run_seconds)
        return self.run_seconds if self.outcome == "failed" else 0.0

    @property
    def gpus(self) -> int:
        """How many GPUs it held."""
        asked = _number(self.resources.get("gpu")) * max(1.0, _number(self.resources.get("nodes")))
        return max(int(asked), len(self.devices))

    @property
    def cpus(self) -> float:
        """How many CPU cores it held: those asked for, else the mean of those it used."""
        asked = _cores(self.resources.get("cpu")) * max(1.0, _number(self.resources.get("nodes")))
        return asked or _number(self.usage.get("cpu_mean"))

    @property
    def device(self) -> str:
        """What it ran on: the names of its GPUs, or ``CPU``."""
        names = list(dict.fromkeys(str(d.get("name") or "GPU") for d in self.devices))
        return " + ".join(names) if names else ("GPU" if self.gpus else "CPU")


@dataclass(slots=True)
class Task:
    """One step at one point of its matrix, with what is known of it."""

    id: str
    step: str
    params: dict[str, Any]
    needs: list[str]
    folder: Path
    state: str = "waiting"
    result: dict[str, Any] | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, Any]:
        """Name to number, from ``result.json``; empty while the task is not done."""
        found = (self.result or {}).get("metrics")
        return found if isinstance(found, dict) else {}

    @property
    def seconds(self) -> float | None:
        """Run time of the attempt that succeeded."""
        return finite((self.result or {}).get("seconds"))

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all attempts."""
        return sum(a.run_seconds * a.gpus for a in self.attempts) / 3600

    @property
    def run_hours(self) -> float:
        """Hours that all attempts ran."""
        return sum(a.run_seconds for a in self.attempts) / 3600


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step as the plan has it."""

    name: str
    needs: tuple[str, ...] = ()
    for_each: str | None = None
    gate: bool = False
    axes: tuple[str, ...] = ()
    resources: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Objective:
    """What the study wants: a metric, and whether more (``max``) or less (``min``) of it is better.

    ``by`` is the metric that chooses a trial, where the study names one beside the objective.
    """

    metric: str
    goal: str = "max"
    by: str | None = None
    by_goal: str = "max"


@dataclass
class StudyData:
    """A study's plan with everything its tasks left behind.

    Attributes:
        file: name of the study file; ``profile``, ``overrides``: what it was last run with.
        problems: one sentence for each task whose result is there and cannot be read.
        runs: the contents of ``runs/<n>.json``, oldest first.
    """

    folder: Path
    study: str
    title: str
    report: dict[str, Any]
    steps: dict[str, StepInfo]
    tasks: dict[str, Task]
    description: str = ""
    file: str = ""
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    runs: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    read_at: float = field(default_factory=time.time)
    _above: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def objective(self) -> Objective | None:
        """The study's objective, if it names one."""
        found = self.report.get("objective")
        if not isinstance(found, dict) or not found.get("metric"):
            return None
        goal = "min" if found.get("goal") == "min" else "max"
        by = str(found["by"]) if found.get("by") else None
        return Objective(str(found["metric"]), goal, by, found.get("by_goal") or goal)

    def of_step(self, step: str) -> list[Task]:
        """Return the tasks of a step, in plan order."""
        return self._by_step.get(step, [])

    def attempts(self) -> Iterator[Attempt]:
        """Go through all attempts of all tasks, in plan order."""
        for task in self.tasks.values():
            yield from task.attempts

    def ancestors(self, task: Task) -> dict[str, Task]:
        """Return all tasks that ``task`` needs, directly or not, by id."""
        return {key: self.tasks[key] for key in self._ancestors(task.id)}

    def fate(self, task: Task) -> str:
        """Return the task's state; for one that waits, the state of what holds it up."""
        if task.state != "waiting":
            return task.state
        above = {self.tasks[key].state for key in self._ancestors(task.id)}
        return next((s for s in ("failed", "cancelled", "running") if s in above), "waiting")

    def family(self, task: Task, step: str) -> list[Task]:
        """Return the tasks of ``step`` that ``task`` needs or that need it (itself, for its own step)."""
        if task.step == step:
            return [task]
        above = [t for t in self.ancestors(task).values() if t.step == step]
        if above:
            return above
        return self._below.get(task.id, {}).get(step, [])

    def one_to_one(self, task: Task) -> list[Task]:
        """Return the task and the tasks that ``for_each`` ties to it, nearest first: parents, then children."""
        found = [task]
        current: Task | None = task
        while current is not None:
            parent = self.steps[current.step].for_each if current.step in self.steps else None
            current = next((self.tasks[n] for n in current.needs if self._is(n, parent)), None)
            if current is not None:
                found.append(current)
        waiting = [task]
        while waiting:
            children = self._children.get(waiting.pop(0).id, [])
            found += children
            waiting += children
        return found

    def _is(self, key: str, step: str | None) -> bool:
        return step is not None and key in self.tasks and self.tasks[key].step == step

    @cached_property
    def _by_step(self) -> dict[str, list[Task]]:
        found: dict[str, list[Task]] = {name: [] for name in self.steps}
        for task in self.tasks.values():
            found.setdefault(task.step, []).append(task)
        return found

    @cached_property
    def _children(self) -> dict[str, list[Task]]:
        found: dict[str, list[Task]] = {}
        for task in self.tasks.values():
            parent = self.steps[task.step].for_each if task.step in self.steps else None
            for need in task.needs:
                if self._is(need, parent):
                    found.setdefault(need, []).append(task)
        return found

    def _ancestors(self, key: str) -> tuple[str, ...]:
        known = self._above.get(key)
        if known is None:
            found: dict[str, None] = {}
            waiting = [n for n in self.tasks[key].needs if n in self.tasks]
            while waiting:
                need = waiting.pop()
                if need not in found:
                    found[need] = None
                    waiting += [n for n in self.tasks[need].needs if n in self.tasks]
            known = self._above[key] = tuple(found)
        return known

    @cached_property
    def _below(self) -> dict[str, dict[str, list[Task]]]:
        found: dict[str, dict[str, list[Task]]] = {}
        for task in self.tasks.values():
            for need in self._ancestors(task.id):
                found.setdefault(need, {}).setdefault(task.step, []).append(task)
        return found


def _number(value: object) -> float:
    if isinstance(value, bool):
        return 0.0
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def _cores(value: object) -> float:
    try:
        return parse_cpu(value)
    except UnitError:
        return 0.0
