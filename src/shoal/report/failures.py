"""What failed, grouped: one sentence for each kind, what its trials have in common, and the decisive lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shoal.failures import FailureClass, signature
from shoal.report.trials import Trials
from shoal.results import StudyData
from shoal.results.data import Attempt, json_key, show_value

__all__ = ["FailureGroup", "group_failures"]

_LINES, _LINE = 14, 400
_MOST = 40


@dataclass
class FailureGroup:
    """Attempts that failed for the same reason.

    Attributes:
        title: what the class of failure means, ``advice``: what to do about it.
        final: whether these tasks are still failed; else they went on and only time was lost.
        tasks: how many tasks, ``attempts``: how many attempts.
        common: parameter values that all these tasks have and not all tasks of the step.
        trials: positions of the trials that stand behind the tasks.
        lost: hours that ran for nothing; ``gpu_lost``: in GPU-hours.
    """

    step: str
    kind: str
    title: str
    advice: str
    message: str
    final: bool
    tasks: list[str] = field(default_factory=list)
    attempts: int = 0
    lines: list[str] = field(default_factory=list)
    common: list[str] = field(default_factory=list)
    trials: list[int] = field(default_factory=list)
    lost: float = 0.0
    gpu_lost: float = 0.0


def group_failures(data: StudyData, trials: Trials) -> list[FailureGroup]:
    """Return the groups: final failures first, the largest first; at most forty."""
    groups: dict[tuple[str, str, str, bool], FailureGroup] = {}
    for task in data.tasks.values():
        for attempt in task.attempts:
            if attempt.outcome != "failed":
                continue
            failure = attempt.failure or {}
            kind = str(failure.get("class") or "user")
            message = str(failure.get("message") or "")
            final = task.state in ("failed", "cancelled") and attempt is task.attempts[-1]
            key = (task.step, kind, signature(message), final)
            group = groups.get(key)
            if group is None:
                group = groups[key] = FailureGroup(task.step, kind, *_told(kind), message, final)
            _count(group, attempt)
            if not group.lines:
                group.lines = _lines(failure.get("lines"))
    owners: dict[str, list[int]] = {}
    for i, trial in enumerate(trials.tasks):
        for related in data.one_to_one(trial):
            owners.setdefault(related.id, []).append(i)
    for group in groups.values():
        group.common = _common(data, group)
        group.trials = sorted({i for key in group.tasks for i in owners.get(key, ())})
    return sorted(groups.values(), key=lambda g: (not g.final, -len(g.tasks), -g.lost))[:_MOST]


def _told(kind: str) -> tuple[str, str]:
    try:
        known = FailureClass(kind)
    except ValueError:
        return kind, ""
    return known.sentence, known.advice


def _count(group: FailureGroup, attempt: Attempt) -> None:
    if not group.tasks or group.tasks[-1] != attempt.task:  # a task's attempts come one after another
        group.tasks.append(attempt.task)
    group.attempts += 1
    group.lost += attempt.wasted_seconds / 3600
    group.gpu_lost += attempt.wasted_seconds / 3600 * attempt.gpus


def _lines(found: object) -> list[str]:
    lines = [str(line) for line in found] if isinstance(found, list) else []
    return [line if len(line) <= _LINE else line[:_LINE] + " …" for line in lines[-_LINES:]]


def _common(data: StudyData, group: FailureGroup) -> list[str]:
    """Name what sets these tasks apart: ``batch_size 16``, when all of them have it and many others do not."""
    if len(group.tasks) < 2 or group.kind in ("preempted", "node-lost", "cancelled"):
        return []
    everyone = data.of_step(group.step)
    mine = [data.tasks[key] for key in group.tasks]
    found = []
    for name, value in mine[0].params.items():
        key = json_key(value)
        counts = Counter(json_key(t.params.get(name)) for t in everyone)
        # Said only when it would be a coincidence if the value had nothing to do with it.
        chance = (counts[key] / len(everyone)) ** len(mine)
        if chance < 0.02 and all(json_key(t.params.get(name)) == key for t in mine):
            found.append(f"{name} {show_value(value)}")
    return found
