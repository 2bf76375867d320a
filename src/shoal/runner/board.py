"""The tasks of a run on a board: the phase of each, what waits for what, and the counts that people see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.failures import FailureClass
from shoal.plan import Task
from shoal.runner.progress import FINAL, Phase, Progress, StepProgress

__all__ = ["Board", "Entry", "Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes:
        counts: tasks by phase.
        gates: ids of the gates that wait for a person, with their messages.
        left: attempts that were left running.
        exit_code: of the command line.
    """

    counts: Mapping[str, int]
    gates: Mapping[str, str]
    left: int
    exit_code: int


@dataclass(slots=True)
class Entry:
    """One task in a run.

    Attributes:
        task: the task.
        phase: where it stands.
        open_needs: how many tasks it needs are not done.
        failures: classes of its failures in this run, oldest first.
        overrides: raw resources that replace those of the study.
        ready_since: monotonic time at which it could first have started.
    """

    task: Task
    phase: Phase = Phase.WAITING
    open_needs: int = 0
    failures: list[FailureClass] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    ready_since: float = 0.0


class Board:
    """Entries by task id, in plan order. Every change of a phase goes through here, so the counts are always right."""

    def __init__(self, steps: Iterable[str], progress: Progress) -> None:
        self.entries: dict[str, Entry] = {}
        self._progress = progress
        self._below: dict[str, list[Entry]] = {}
        for name in steps:
            progress.steps[name] = StepProgress(name)

    def add(self, task: Task) -> Entry:
        """Put a task on the board, waiting for those of its needs that are on the board and not done."""
        entry = self.entries[task.id] = Entry(task)
        self._progress.steps[task.step].counts[Phase.WAITING] += 1
        for need in task.needs:
            above = self.entries.get(need)
            if above is not None and above.phase is not Phase.DONE:
                entry.open_needs += 1
                self._below.setdefault(need, []).append(entry)
        return entry

    def move(self, entry: Entry, phase: Phase) -> None:
        """Give a task another phase."""
        counts = self._progress.steps[entry.task.step].counts
        counts[entry.phase] -= 1
        entry.phase = phase
        counts[phase] += 1

    def done(self, entry: Entry) -> list[Entry]:
        """Move a task to done. Returns the tasks that have waited for it alone and may be considered now."""
        self.move(entry, Phase.DONE)
        opened = []
        for child in self._below.get(entry.task.id, ()):
            child.open_needs -= 1
            if child.open_needs == 0 and child.phase in (Phase.WAITING, Phase.BLOCKED):
                opened.append(child)
        return opened

    def block_below(self, entry: Entry) -> None:
        """Mark what can no longer run because this task ended otherwise than well."""
        self._spread(entry, Phase.WAITING, Phase.BLOCKED)

    def unblock_below(self, entry: Entry) -> None:
        """Let what this task blocked wait again."""
        self._spread(entry, Phase.BLOCKED, Phase.WAITING)

    def of(self, ids: Iterable[str], *phases: Phase) -> Iterator[Entry]:
        """The entries of some tasks that are in one of some phases."""
        return (entry for id_ in ids if (entry := self.entries.get(id_)) is not None and entry.phase in phases)

    @property
    def unfinished(self) -> bool:
        """Whether any task has not come to an end."""
        return any(step.left for step in self._progress.steps.values())

    def counts(self) -> dict[str, int]:
        """Tasks by phase."""
        return dict(Counter(str(entry.phase) for entry in self.entries.values()))

    def summary(self, *, interrupted: bool, left: int) -> Summary:
        """How a run that ends now has ended."""
        counts = self.counts()
        if counts.get(Phase.DONE, 0) == len(self.entries):
            code = 0
        elif interrupted:
            code = 130
        elif any(counts.get(phase, 0) for phase in FINAL - {Phase.DONE}):
            code = 1
        else:
            code = 3
        return Summary(counts, dict(self._progress.gates), left, code)

    def _spread(self, entry: Entry, before: Phase, after: Phase) -> None:
        todo = [entry]
        while todo:
            for child in self._below.get(todo.pop().task.id, ()):
                if child.phase is before:
                    self.move(child, after)
                    todo.append(child)
