"""Sentences on what a study could have had for less: idle GPUs, memory asked for and not used, time lost or waited."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from shoal.failures import FailureClass
from shoal.results.data import Attempt, StudyData, finite
from shoal.results.platform import use_findings
from shoal.results.read import read_usage_samples
from shoal.units import UnitError, format_size, parse_size

if TYPE_CHECKING:
    from shoal.results.usage import Usage

__all__ = ["advice"]

_TAKEN = "was lost when machines were taken away: write checkpoints (to {checkpoints}) more often."
_BROKEN = "went to attempts that failed by themselves: try one of each kind first (shoal run --only), then the rest."

#: Below these, saying something would be noise: attempts to judge from, and hours that a hint must be about.
_ENOUGH = 3
_HOURS = 0.05
_LOOK_AT = 20
_PLATFORM = {str(kind) for kind in FailureClass if kind.platform}


def advice(data: StudyData, usage: Usage) -> list[str]:
    """Return advice for a study's usage, what weighs most first.

    Only attempts that succeeded are judged, and only where there are at least three of them. What breaks a rule of the platform
    comes first, however few they are.
    """
    rules = use_findings(data)
    found: list[tuple[float, str]] = []
    told = {(one.step, word) for one in rules for word in ("GPU", "CPU", "memory") if f" {word}" in one.text}
    for hours in usage.by["step"]:
        good = [a for t in data.of_step(hours.name) for a in t.attempts if a.outcome == "succeeded"]
        if len(good) < _ENOUGH or hours.run < _HOURS:
            continue
        gpu = None if (hours.name, "GPU") in told else _gpus(hours.name, good, hours.gpu)
        if gpu:
            found.append((hours.gpu, gpu))
        memory = None if (hours.name, "memory") in told else _memory(hours.name, good)
        if memory:
            found.append((hours.run * 0.1, memory))
        cores = None if (hours.name, "CPU") in told else _cores(hours.name, good)
        if cores:
            found.append((hours.run * 0.1, cores))
    total = usage.total
    lost = _lost(data)
    for platform, hours_lost in lost.items():
        if total.run > _HOURS and hours_lost > 0.1 * total.run:
            share = f"{hours_lost / total.run:.0%} of the run time"
            found.append((hours_lost, f"{share} {_TAKEN if platform else _BROKEN}"))
    if total.queue > 2 * total.run > 2 * _HOURS:
        text = (
            f"Tasks waited {total.queue / total.run:.0f} times as long as they ran: more kinds of GPU (gpu_type) or smaller "
            "requests would start sooner."
        )
        found.append((total.run, text))
    if total.pull > _HOURS and total.pull > 0.1 * total.run:
        share = f"{total.pull / total.run:.0%} of the run time" if total.run else f"{total.pull:.1f} h"
        found.append(
            (total.pull, f"Tasks waited {share} for their image: a smaller one starts sooner (fewer layers to bring).")
        )
    broken = [f"{one.text}{f' The platform: {one.reason}.' if one.reason else ''}" for one in rules]
    return broken + [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def _lost(data: StudyData) -> dict[bool, float]:
    """Return hours lost to the platform (True) and to failures of the tasks themselves (False)."""
    lost = {True: 0.0, False: 0.0}
    for attempt in data.attempts():
        if attempt.outcome == "failed":
            kind = str((attempt.failure or {}).get("class") or "user")
            if kind != "cancelled":
                lost[kind in _PLATFORM] += attempt.wasted_seconds / 3600
    return lost


def _gpus(step: str, good: list[Attempt], hours: float) -> str | None:
    held = [a for a in good if a.gpus]
    uses = _used("gpu_mean", held)
    if hours < _HOURS or len(uses) < _ENOUGH:
        return None
    idle = _idle_gpus(held)
    if idle:
        return idle.format(step=step)
    median = statistics.median(uses)
    if median < 0.02:
        return f"{step} holds a GPU and does not use it: ask for none, and {hours:.1f} GPU-hours go to others."
    if median < 0.4:
        return (
            f"{step} used its GPUs at {median:.0%} in the median: more data-loading workers (cpu), a larger batch, or a "
            "smaller GPU would do the same work for less."
        )
    return None


def _used(name: str, attempts: list[Attempt]) -> list[float]:
    return [value for attempt in attempts if (value := finite(attempt.usage.get(name))) is not None]


def _idle_gpus(held: list[Attempt]) -> str | None:
    """Tell of attempts that hold several GPUs and keep only some of them busy."""
    several = [a for a in held if a.gpus > 1][-_LOOK_AT:]
    busy: list[int] = []
    for attempt in several:
        uses: dict[Any, list[float]] = {}
        for sample in read_usage_samples(attempt.folder):
            for gpu in sample.get("gpus") or ():
                if isinstance(gpu, dict) and (use := finite(gpu.get("use"))) is not None:
                    uses.setdefault(gpu.get("index"), []).append(use)
        means = [statistics.fmean(found) for found in uses.values()]
        if len(means) > 1 and max(means) > 0.05:
            busy.append(sum(m > 0.05 for m in means))
    if len(busy) < _ENOUGH or max(busy) >= min(a.gpus for a in several):
        return None
    gpus = several[0].gpus
    return f"{{step}} holds {gpus} GPUs and uses {max(busy)}: ask for {max(busy)}, or start it with torchrun."


def _memory(step: str, good: list[Attempt]) -> str | None:
    try:
        asked = parse_size(good[-1].resources.get("memory"))
    except UnitError:
        return None
    peaks = _used("memory_peak", good)
    if len(peaks) < _ENOUGH or max(peaks) > 0.5 * asked or asked < 2 * 1024**3:
        return None
    enough = max(1, math.ceil(max(peaks) * 1.3 / 1024**3))
    return f"{step} asks for {format_size(asked)} of memory and used at most {format_size(max(peaks))}: {enough}Gi would do."


def _cores(step: str, good: list[Attempt]) -> str | None:
    used = _used("cpu_mean", good)
    cores = good[-1].cpus
    if cores < 4 or len(used) < _ENOUGH or max(used) > 0.4 * cores:
        return None
    enough = max(1, math.ceil(max(used) * 1.25))
    return f"{step} asks for {cores:g} cores and used {max(used):.1f} at most: {enough} would do."
