"""Time and memory of whole processes, and numbers as they are reported: medians, extremes, paired ratios."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PYTHON = sys.executable
SHOAL = Path(PYTHON).parent / "shoal"
# Set by some shells and editors; they make every start compile all modules anew, or change what is measured.
PYTHON_SWITCHES = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPROFILEIMPORTTIME"})
# macOS counts ru_maxrss in bytes, Linux in KiB.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class BenchError(Exception):
    """Something that was to be measured did not do its work; the text says what."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def shown(self, digits: int = 2) -> str:
        """``1.23 (1.20..1.31)``."""
        text = f"{self.median:.{digits}f}"
        if len(self.values) > 1:
            text += f" ({min(self.values):.{digits}f}..{max(self.values):.{digits}f})"
        return text


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: who or what, and its numbers by the heads of their columns."""

    part: str
    what: str
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Aim:
    """What the project wants, beside what was reached."""

    part: str
    text: str
    reached: str
    met: bool


@dataclass(slots=True)
class Part:
    """All that one part of the bench has to say."""

    title: str
    rows: list[Row] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)


def ratios(ours: Spread, floor: Spread) -> Spread:
    """Ratio of each round: what disturbs the machine for a while disturbs both."""
    return Spread(tuple(a / b for a, b in zip(ours.values, floor.values, strict=True)))


@dataclass(frozen=True, slots=True)
class Took:
    """Wall-clock seconds of a command, and CPU seconds of all its processes, also those that outlive their parents."""

    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Timed:
    """All runs of a command."""

    wall: Spread
    cpu: Spread


def command(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 900
) -> Took:
    """Run a command from its start to its exit, with byte code kept as Python does by itself.

    Raises:
        BenchError: it failed or took longer than ``timeout`` seconds.
    """
    words = [str(word) for word in argv]
    environment = environ() | dict(env or {})
    _adopt_orphans()
    others = _children()
    before = _children_cpu()
    begin = time.perf_counter()
    try:
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{Path(words[0]).name} took more than {timeout:g} s") from None
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-15:]
        raise BenchError(f"{Path(words[0]).name} exited with {done.returncode}:\n" + "\n".join(tail))
    while left := _children() - others:
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return Took(seconds, _children_cpu() - before)


def environ() -> dict[str, str]:
    """This process's environment, less what changes how Python starts."""
    return {name: value for name, value in os.environ.items() if name not in PYTHON_SWITCHES}


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _children() -> set[int]:
    # Linux tells; elsewhere nothing that a command leaves behind becomes ours.
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found


def _adopt_orphans() -> None:
    # Linux: what a command leaves behind becomes a child of this process, so that its CPU time is counted.
    if sys.platform == "linux":
        import ctypes

        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def interleave(cases: Mapping[str, Callable[[], Took]], rounds: int) -> dict[str, Timed]:
    """Measure every case once a round, round after round, each round beginning with another case."""
    found: dict[str, list[Took]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(cases[name]())
    return {
        name: Timed(Spread(tuple(took.seconds for took in runs)), Spread(tuple(took.cpu for took in runs)))
        for name, runs in found.items()
    }
