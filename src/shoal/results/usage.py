"""What a study cost: hours by step, axis and device, with queue, run and wasted time apart, and advice.

All of it comes from the attempts. Waiting is from hand-over to start: on a cluster until a node took it (queue), then until the
image was there (pull), then until inputs were (prepare). Running is from start to end; wasted is the part of it that has to be
done again. GPU-hours are run hours times the GPUs held, used or not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.results.data import Attempt, StudyData, finite, show_value
from shoal.results.errors import ResultError, did_you_mean
from shoal.results.tables import names_of

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Hours", "Usage", "usage_summary"]


@dataclass(slots=True)
class Hours:
    """Sums over some attempts; hours, except where the name says otherwise.

    Attributes:
        queue: waiting for a place to run.
        pull: having a place, and waiting for the image.
        prepare: having both, and waiting for inputs.
        gpu_use: median over attempts of their mean GPU use, 0 to 1, weighted by run time; None where unknown.
        cpu_use: cores used, relative to cores held, in the same way.
        memory_peak: highest memory of any attempt, in bytes.
    """

    name: str
    tasks: int = 0
    attempts: int = 0
    queue: float = 0.0
    pull: float = 0.0
    prepare: float = 0.0
    run: float = 0.0
    wasted: float = 0.0
    gpu: float = 0.0
    gpu_wasted: float = 0.0
    cpu: float = 0.0
    gpu_use: float | None = None
    cpu_use: float | None = None
    memory_peak: float | None = None


@dataclass(slots=True)
class Usage:
    """What a study cost.

    Attributes:
        total: over all attempts.
        by: a grouping ("step", "device", or an axis) to its groups, the most expensive first.
        wall: hours in which at least one attempt was queued or running.
        speedup: run hours one after another, divided by ``wall``; None when nothing ran.
        recovered: attempts that the platform took away and whose task then went on, by failure class.
        advice: sentences on what would be cheaper, most valuable first.
    """

    study: str
    total: Hours
    by: dict[str, list[Hours]] = field(default_factory=dict)
    wall: float = 0.0
    speedup: float | None = None
    recovered: dict[str, int] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; hours, and shares from 0 to 1."""
        return asdict(self)

    def rich(self) -> RenderableType:
        """Return tables for a rich console."""
        from shoal.results.usage_text import usage_rich

        return usage_rich(self)

    def render(self, *, width: int = 120) -> str:
        """Return the tables as plain text of at most ``width`` columns."""
        import io

        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=width, color_system=None, legacy_windows=False).print(self.rich())
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"


def usage_summary(data: StudyData, by: str | Sequence[str] | None = None) -> Usage:
    """Add up what the study's attempts cost.

    Args:
        data: the study.
        by: axes to group by, besides step and device; by default the rows of the report's first table, or ``model``.

    Raises:
        ResultError: no step has such an axis.
    """
    attempts = list(data.attempts())
    axes = names_of(by) if by is not None else _default_axes(data)
    known = list(dict.fromkeys(name for task in data.tasks.values() for name in task.params))
    for axis in axes if by is not None else ():
        if axis not in known:
            raise ResultError(f"no step has an axis {axis!r} to group by", hint=did_you_mean(axis, known, "axes"))
    usage = Usage(data.study, _sum("all", attempts))
    usage.by["step"] = [_sum(s, [a for t in data.of_step(s) for a in t.attempts]) for s in data.steps]
    usage.by["step"] = [h for h in usage.by["step"] if h.attempts]
    for axis in axes:
        of_axis = [a for a in attempts if axis in data.tasks[a.task].params]

        def value(attempt: Attempt, axis: str = axis) -> str:
            return show_value(data.tasks[attempt.task].params[axis])

        usage.by[axis] = _grouped(of_axis, value)
    usage.by["device"] = _grouped([a for a in attempts if a.started is not None], lambda a: a.device)
    usage.wall = busy_hours(attempts)
    usage.speedup = usage.total.run / usage.wall if usage.wall > 0 else None
    for task in data.tasks.values():
        for attempt in task.attempts[:-1]:
            kind = str((attempt.failure or {}).get("class") or "")
            if kind in ("preempted", "node-lost") and task.attempts[-1].outcome != "failed":
                usage.recovered[kind] = usage.recovered.get(kind, 0) + 1
    from shoal.results.advice import advice

    usage.advice = advice(data, usage)
    return usage


def busy_hours(attempts: Iterable[Attempt]) -> float:
    """Return hours in which at least one of the attempts was queued or running; pauses between runs do not count."""
    spans = []
    for attempt in attempts:
        start = attempt.queued if attempt.queued is not None else attempt.started
        if start is not None and attempt.finish is not None and attempt.finish >= start:
            spans.append((start, attempt.finish))
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 3600


def _default_axes(data: StudyData) -> tuple[str, ...]:
    tables = [t for t in data.report.get("tables") or () if isinstance(t, dict)]
    wanted = names_of(tables[0].get("rows")) if tables else ("model",)
    known = {name for task in data.tasks.values() for name in task.params}
    return tuple(a for a in wanted if a in known)[:2]


def _grouped(attempts: list[Attempt], name: Callable[[Attempt], str]) -> list[Hours]:
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(name(attempt), []).append(attempt)
    return sorted((_sum(n, found) for n, found in groups.items()), key=lambda h: (-h.gpu, -h.run))


def _sum(name: str, attempts: list[Attempt]) -> Hours:
    found = Hours(name, tasks=len({a.task for a in attempts}), attempts=len(attempts))
    gpu_use: list[tuple[float, float]] = []
    cpu_use: list[tuple[float, float]] = []
    for attempt in attempts:
        run = attempt.run_seconds / 3600
        lost = attempt.wasted_seconds / 3600
        found.queue += attempt.queue_seconds / 3600
        found.pull += attempt.pull_seconds / 3600
        found.prepare += attempt.prepare_seconds / 3600
        found.run += run
        found.wasted += lost
        found.gpu += run * attempt.gpus
        found.gpu_wasted += lost * attempt.gpus
        found.cpu += run * attempt.cpus
        gpu, cpu, memory = (finite(attempt.usage.get(name)) for name in ("gpu_mean", "cpu_mean", "memory_peak"))
        if attempt.gpus and gpu is not None:
            gpu_use.append((gpu, run))
        if attempt.cpus and cpu is not None:
            cpu_use.append((cpu / attempt.cpus, run))
        if memory is not None:
            found.memory_peak = max(found.memory_peak or 0.0, memory)
    found.gpu_use = weighted_median(gpu_use)
    found.cpu_use = weighted_median(cpu_use)
    return found


def weighted_median(pairs: list[tuple[float, float]]) -> float | None:
    """Return the value at which half of the weight lies on either side; None without pairs."""
    if not pairs:
        return None
    half = sum(w for _, w in pairs) / 2
    if half <= 0:
        return statistics.median(v for v, _ in pairs)
    below = 0.0
    for value, weight in sorted(pairs):
        below += weight
        if below >= half:
            return value
    return max(pairs)[0]
