"""What a person watching a run can be told, kept by the runner and read by whoever draws it."""

from __future__ import annotations

import enum
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.failures import signature

__all__ = ["FINAL", "Phase", "Problem", "Progress", "StepProgress"]


class Phase(enum.StrEnum):
    """Where a task stands in a run: queued is handed over to the executor, and not begun."""

    WAITING = "waiting"
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    HALTED = "halted"
    GATE = "gate"


FINAL = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED, Phase.BLOCKED, Phase.HALTED})


@dataclass(slots=True)
class StepProgress:
    """Counts of one step's tasks that were asked for.

    Attributes:
        counts: by phase.
        reused: how many of the done ones were done before this run.
        seconds: run times of the tasks that ended well in this run or before.
    """

    name: str
    counts: Counter[Phase] = field(default_factory=Counter)
    reused: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All tasks asked for."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """Tasks that have not come to an end."""
        return sum(count for phase, count in self.counts.items() if phase not in FINAL)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that went wrong for good: a task that failed (or, without a task, a whole step), and one sentence."""

    step: str
    message: str
    task: str | None = None


@dataclass(slots=True)
class Progress:
    """A run so far.

    Attributes:
        widest: the most tasks that have run at once.
        gpus: how many GPUs tasks hold now, by type.
    """

    study: str
    run: int = 0
    executor: str = "local"
    steps: dict[str, StepProgress] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    problems: list[Problem] = field(default_factory=list)
    gates: dict[str, str] = field(default_factory=dict)
    best: tuple[str, float, str] | None = None
    mode: str = "running"
    note: str | None = None
    widest: int = 1
    gpus: Mapping[str, int] = field(default_factory=dict)

    def count(self, phase: Phase) -> int:
        """Tasks in a phase, over all steps."""
        return sum(step.counts[phase] for step in self.steps.values())

    def grouped_problems(self) -> list[str]:
        """The problems, a line each, those that failed alike in one; the line is of the first of them."""
        groups: dict[tuple[str, str], list[Problem]] = {}
        for problem in self.problems:
            groups.setdefault((problem.step, signature(problem.message)), []).append(problem)
        lines = []
        for (step, _), alike in groups.items():
            first = alike[0]
            one = f"{step} {first.task or ''}".rstrip()
            who = one if len(alike) == 1 else f"{len(alike):,} tasks of {step} ({first.task}, …)"
            lines.append(f"{who}: {first.message}")
        return lines

    def note_best(
        self, metric: str, goal: str, step: str, params: Mapping[str, object], metrics: Mapping[str, object]
    ) -> None:
        """Keep the best value of the objective so far; ``STEP/NAME`` is also found as ``NAME`` in that step."""
        home, _, short = metric.partition("/")
        value = metrics.get(metric, metrics.get(short) if home == step else None)
        if not isinstance(value, int | float):
            return
        if self.best is None or (value > self.best[1] if goal == "max" else value < self.best[1]):
            self.best = (metric, float(value), "·".join(str(part) for part in params.values()))

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def remaining(self) -> float | None:
        """Seconds until everything asked for has run, as the tasks so far suggest; None while nothing is known.

        The work left in each step is its median time for each task left; it is shared out over as many tasks as have been
        seen to run at once.
        """
        work = 0.0
        for step in self.steps.values():
            if not step.left:
                continue
            if not step.seconds:
                return None
            work += statistics.median(step.seconds) * (step.left - 0.5 * step.counts[Phase.RUNNING])
        return work / max(1, self.widest)
