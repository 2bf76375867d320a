"""A platform's rules on what is used of what was asked for, checked on what the agents measured.

The rules of the cluster that a study runs on lie in the study's folder (``policies.json``), so that status and report need no
cluster file.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shoal.results.data import Attempt, StudyData, finite
from shoal.results.read import read_usage_samples
from shoal.store.index import read_json
from shoal.units import UnitError, format_size, parse_size

__all__ = ["UseFinding", "Used", "check_use", "read_rules", "use_findings", "used_by"]

_ENOUGH_SECONDS = 60.0
_SAMPLES = 720  # an hour's, at one in five seconds
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Used:
    """What one attempt used of what it asked for; None where it is not known.

    Attributes:
        step: name of its step.
        task: id of its task.
        running: whether it runs now.
        gpus: how many GPUs it holds.
        gpu: use of them, from 0 to 1.
        cores: cores asked for.
        cpu: cores used, in the mean.
        asked: bytes of memory asked for.
        memory: bytes used: the mean while it runs, else the most.
    """

    step: str
    task: str
    running: bool
    gpus: int = 0
    gpu: float | None = None
    cores: float = 0.0
    cpu: float | None = None
    asked: int | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class UseFinding:
    """What a rule says of a step.

    Attributes:
        rule: id of the rule.
        level: ``warn`` where more of its pods run now than the platform allows to be outside of the rule, else ``note``.
        step: name of the step.
        tasks: how many tasks it is about.
        running: how many of them run now.
        text: one sentence, with what to do.
        reason: why the platform has the rule.
        link: where it says so.
    """

    rule: str
    level: str
    step: str
    tasks: int
    running: int
    text: str
    reason: str | None = None
    link: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``shoal status --json`` prints it."""
        return asdict(self)


def read_rules(folder: Path) -> dict[str, dict[str, Any]]:
    """The rules that hold while a study runs: id to ``text``, ``reason``, ``link``, ``parameters``; none on a laptop."""
    found = (read_json(folder / "policies.json") or {}).get("running")
    return (
        {str(name): rule for name, rule in found.items() if isinstance(rule, dict)} if isinstance(found, dict) else {}
    )


def use_findings(data: StudyData) -> list[UseFinding]:
    """Check what a study's attempts used against the rules of its platform."""
    rules = read_rules(data.folder)
    return check_use(list(used_by(data)), rules) if rules else []


def used_by(data: StudyData) -> Iterator[Used]:
    """What each task's last attempt used, if that ran long enough to tell: those that run, and those that have succeeded."""
    for task in data.tasks.values():
        attempt = task.attempts[-1] if task.attempts else None
        if attempt is None or attempt.run_seconds < _ENOUGH_SECONDS:
            continue
        if attempt.state == "running" and task.state == "running":
            yield _used(attempt, _of_samples(attempt), running=True)
        elif attempt.outcome == "succeeded":
            yield _used(attempt, attempt.usage, running=False)


def _used(attempt: Attempt, usage: Mapping[str, Any], *, running: bool) -> Used:
    try:
        asked: int | None = parse_size(attempt.resources.get("memory"))
    except UnitError:
        asked = None
    nodes = attempt.resources.get("nodes")
    each = nodes if isinstance(nodes, int) and nodes > 1 else 1
    return Used(
        attempt.step,
        attempt.task,
        running,
        gpus=attempt.gpus // each,
        gpu=finite(usage.get("gpu_mean")),
        cores=attempt.cpus / each if attempt.resources.get("cpu") else 0.0,
        cpu=finite(usage.get("cpu_mean")),
        asked=asked,
        memory=finite(usage.get("memory_peak")),
    )


def _of_samples(attempt: Attempt) -> dict[str, float | None]:
    samples = list(read_usage_samples(attempt.folder))[-_SAMPLES:]

    def mean(values: list[Any]) -> float | None:
        known = [number for value in values if (number := finite(value)) is not None]
        return statistics.fmean(known) if known else None

    gpus = [gpu.get("use") for sample in samples for gpu in sample.get("gpus") or () if isinstance(gpu, dict)]
    return {
        "gpu_mean": mean(gpus),
        "cpu_mean": mean([sample.get("cpu") for sample in samples]),
        "memory_peak": mean([sample.get("memory") for sample in samples]),
    }


def check_use(used: list[Used], rules: Mapping[str, Mapping[str, Any]]) -> list[UseFinding]:
    """Check use against the rules that are known; one finding a step and kind, the most tasks first."""
    rule = rules.get("use-what-you-ask")
    if rule is None:
        return []
    numbers = rule.get("parameters") or {}
    outside: dict[tuple[str, str], list[Used]] = {}
    for one in used:
        if not _exempt(one, numbers):
            for kind in _outside(one, numbers):
                outside.setdefault((one.step, kind), []).append(one)
    most = int(numbers.get("pods", 0))
    running = {one.task for ones in outside.values() for one in ones if one.running}
    found = []
    for (step, kind), ones in outside.items():
        now = sum(one.running for one in ones)
        text = f"{_tasks(len(ones), step)} {_sentence(kind, ones, numbers)}"
        over = now > 0 and len(running) > most
        if over:
            text += f" {len(running)} tasks run outside of the platform's bounds now, and {most} may."
        level = "warn" if over else "note"
        found.append(
            UseFinding("use-what-you-ask", level, step, len(ones), now, text, rule.get("reason"), rule.get("link"))
        )
    return sorted(found, key=lambda one: (one.level != "warn", -one.tasks, one.step))


def _exempt(one: Used, numbers: Mapping[str, Any]) -> bool:
    try:
        least = parse_size(numbers.get("exempt_memory", "0"))
    except UnitError:
        least = 0
    return not one.gpus and one.cores <= float(numbers.get("exempt_cpu", 0)) and (one.asked or 0) <= least


def _outside(one: Used, numbers: Mapping[str, Any]) -> Iterator[str]:
    if one.gpus and one.gpu is not None and one.gpu <= float(numbers.get("gpu", 0.0)):
        yield "gpu low"
    for kind, value, of in (("cpu", one.cpu, one.cores), ("memory", one.memory, float(one.asked or 0))):
        low, high = _span(numbers.get(kind))
        if value is not None and of > 0:
            if value / of < low:
                yield f"{kind} low"
            elif value / of > high:
                yield f"{kind} high"


def _span(value: Any) -> tuple[float, float]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return float(value[0]), float(value[1])
    return 0.0, math.inf


def _sentence(kind: str, ones: list[Used], numbers: Mapping[str, Any]) -> str:
    """What is outside, and what to do; follows ``12 tasks of train``."""
    verb = "uses" if len(ones) == 1 else "use"
    their = "its" if len(ones) == 1 else "their"
    if kind == "gpu low":
        several = max(one.gpus for one in ones) > 1
        what = (
            "one GPU, or a larger batch"
            if several
            else "a smaller GPU, or give it a larger batch or more workers (cpu)"
        )
        gpus = "GPUs" if several or len(ones) > 1 else "GPU"
        return f"{verb} less than {float(numbers['gpu']):.0%} of {their} {gpus}: ask for {what}."
    name, side = kind.split()
    low, high = _span(numbers.get(name))
    bound = f"less than {low:.0%}" if side == "low" else f"more than {high:.0%}"
    if name == "cpu":
        enough = max(1, math.ceil(max(one.cpu or 0.0 for one in ones) * 1.25))
        return f"{verb} {bound} of the CPU {_they(ones)} for: ask for {enough}."
    most = max(one.memory or 0.0 for one in ones)
    size = format_size(max(1, math.ceil(most * 1.25 / _GIB)) * _GIB)
    return f"{verb} {bound} of the memory {_they(ones)} for: ask for {size}."


def _they(ones: list[Used]) -> str:
    return "it asks" if len(ones) == 1 else "they ask"


def _tasks(count: int, step: str) -> str:
    return f"{count} task{'s' if count != 1 else ''} of {step}"
