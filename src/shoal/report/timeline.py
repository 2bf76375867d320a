"""When and where attempts ran: a bar each, or, for very many, how many ran at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shoal.report.trials import Trials
from shoal.results import StudyData
from shoal.results.data import Attempt

__all__ = ["Timeline", "make_timeline"]

#: More bars or lanes than these cannot be told apart.
BARS, LANES = 1200, 48
_MOMENTS = 240


@dataclass
class Timeline:
    """Attempts in time.

    Attributes:
        origin: when the first was handed over.
        unit: ``h``, ``min`` or ``s``; all times are in it, from the origin; ``length`` is the last.
        bars: one an attempt, with its lane; empty when there are too many.
        busy: how many attempts of a step were queued or running at a moment, when there are no bars.
    """

    origin: str = ""
    unit: str = "h"
    length: float = 0.0
    lanes: list[str] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    busy: list[dict[str, Any]] = field(default_factory=list)


def make_timeline(data: StudyData, trials: Trials) -> Timeline:
    """Lay out all attempts that started."""
    attempts = [a for a in data.attempts() if a.started is not None and a.finish is not None]
    if not attempts:
        return Timeline()
    attempts.sort(key=_start)
    origin = _start(attempts[0])
    length = max(a.finish or 0.0 for a in attempts) - origin
    unit, size = ("h", 3600.0) if length > 2 * 3600 else ("min", 60.0) if length > 120 else ("s", 1.0)
    made = Timeline(datetime.fromtimestamp(origin, UTC).strftime("%Y-%m-%d %H:%M UTC"), unit, length / size)
    lanes = _lanes(attempts)
    made.lanes = sorted(set(lanes.values()), key=_natural)
    if len(attempts) > BARS or len(made.lanes) > LANES:
        made.lanes = []
        made.busy = _busy(attempts, list(data.steps), origin, length, size)
        return made
    owner = {related.id: i for i, task in reversed(list(enumerate(trials.tasks))) for related in data.one_to_one(task)}
    for attempt in attempts:
        made.bars.append(_bar(data, trials, attempt, lanes[id(attempt)], owner.get(attempt.task, -1), origin, size))
    return made


def _bar(
    data: StudyData, trials: Trials, attempt: Attempt, lane: str, trial: int, origin: float, size: float
) -> dict[str, Any]:
    finish = attempt.finish or 0.0
    begin = attempt.started or 0.0
    failure = str((attempt.failure or {}).get("class") or "failed")
    what = "running" if attempt.state == "running" else attempt.outcome or "ended"
    lost = attempt.wasted_seconds if what != "running" else 0.0
    return {
        "lane": lane,
        "q": round((_start(attempt) - origin) / size, 4),
        "a": round((begin - origin) / size, 4),
        "b": round((finish - origin) / size, 4),
        "w": round((finish - lost - origin) / size, 4),
        "what": {"succeeded": "succeeded", "running": "running"}.get(what, "lost"),
        "why": "" if what in ("succeeded", "running") else failure,
        "t": trial,
        "n": f"{attempt.step} · {trials.names[trial]}" if trial >= 0 else attempt.step,
        "d": attempt.device,
    }


def _lanes(attempts: list[Attempt]) -> dict[int, str]:
    """Give each attempt a lane: host and GPUs; where that is not enough to keep bars apart, numbered slots."""
    free: dict[str, list[float]] = {}
    places: dict[int, tuple[str, int]] = {}
    for attempt in attempts:
        host = attempt.host or attempt.executor or "?"
        indices = sorted(str(d.get("index", "?")) for d in attempt.devices)
        name = f"{host} · GPU {'+'.join(indices)}" if indices else host
        slots = free.setdefault(name, [])
        begin = attempt.started or 0.0
        slot = next((i for i, until in enumerate(slots) if until <= begin + 1e-3), len(slots))
        slots[slot : slot + 1] = [attempt.finish or begin]
        places[id(attempt)] = name, slot
    return {k: f"{name} · {slot + 1}" if len(free[name]) > 1 else name for k, (name, slot) in places.items()}


def _busy(attempts: list[Attempt], steps: list[str], origin: float, length: float, size: float) -> list[dict[str, Any]]:
    width = (length or 1.0) / _MOMENTS
    rows = []
    for what in [*steps, "queued"]:
        if what == "queued":
            spans = [(_start(a), a.started or 0.0) for a in attempts]
        else:
            spans = [(a.started or 0.0, a.finish or 0.0) for a in attempts if a.step == what]
        shares = [0.0] * _MOMENTS
        for begin, end in spans:
            _spread(shares, (begin - origin) / width, (end - origin) / width)
        if any(shares):
            rows += [{"x": round(i * width / size, 4), "y": round(y, 2), "s": what} for i, y in enumerate(shares)]
    return rows


def _spread(shares: list[float], begin: float, end: float) -> None:
    for i in range(max(0, int(begin)), min(len(shares), int(end) + 1)):
        shares[i] += max(0.0, min(end, i + 1) - max(begin, i))


def _start(attempt: Attempt) -> float:
    return attempt.queued if attempt.queued is not None else attempt.started or 0.0


def _natural(text: str) -> list[tuple[int, int, str]]:
    words = (word for word in re.split(r"(\d+)", text) if word)
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]
