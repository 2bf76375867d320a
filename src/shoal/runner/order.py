"""In what order ready tasks are handed over: results early, and nothing long left for the end. Pure.

Steps that come later in a chain go first, so that results, and mistakes, of the first trials come early. Among the others it
is list scheduling by the longest chain (R. L. Graham, 1969: within 4/3 of the best makespan for tasks of one machine each): first
what is expected to take longest together with what waits for it, and of equals what needs most GPUs, since one hole of four
GPUs is harder to find than four holes of one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from shoal.plan import Task
from shoal.study.values import value_key

__all__ = ["Key", "Lengths", "Ready", "chains", "depths"]

Key = tuple[float, ...]
_SAME = math.log(1.1)
"""Lengths that differ by less than a tenth count as equal, so that noise does not shuffle the plan's order."""


@dataclass(slots=True)
class Lengths:
    """How long the tasks of one step are expected to take, as its finished tasks suggest.

    The model is that of main effects: the geometric mean of what has finished, times, for each parameter, how much longer or
    shorter tasks with this value took. A value that nothing has finished with changes nothing.
    """

    count: int = 0
    _sum: float = 0.0
    _by_value: dict[tuple[str, object], list[float]] = field(default_factory=dict)

    def note(self, task: Task, seconds: float) -> None:
        """Take a finished task into account."""
        length = math.log(max(seconds, 1e-3))
        self.count += 1
        self._sum += length
        for name, value in task.params.items():
            entry = self._by_value.setdefault((name, value_key(value)), [0.0, 0.0])
            entry[0] += 1
            entry[1] += length

    def of(self, task: Task) -> float | None:
        """Seconds that a task is expected to take; None while nothing has finished."""
        if not self.count:
            return None
        mean = self._sum / self.count
        expected = mean
        for name, value in task.params.items():
            known = self._by_value.get((name, value_key(value)))
            if known is not None:
                expected += known[1] / known[0] - mean
        return math.exp(min(expected, 700.0))

    @property
    def typical(self) -> float | None:
        """Seconds of a typical task; None while nothing has finished."""
        return math.exp(self._sum / self.count) if self.count else None


def depths(needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many steps in a row come before each.

    Args:
        needs: step to the steps that it waits for, in an order in which they can run.
    """
    found: dict[str, int] = {}
    for step, above in needs.items():
        found[step] = max((found[one] + 1 for one in above if one in found), default=0)
    return found


def chains(needs: Mapping[str, Iterable[str]], typical: Mapping[str, float | None]) -> dict[str, float]:
    """Seconds of the longest chain of steps that waits for each, without the step itself; what is not known counts nothing."""
    found = dict.fromkeys(needs, 0.0)
    for step, above in reversed(list(needs.items())):
        for one in above:
            if one in found:
                found[one] = max(found[one], found[step] + (typical.get(step) or 0.0))
    return found


class Ready:
    """The tasks that may start, each step's in the order in which to hand them over.

    Args:
        needs: step to the steps that it waits for, in an order in which they can run.
        asks: what a task is said to take, in seconds or None, and how many GPUs it asks for.
    """

    def __init__(self, needs: Mapping[str, Iterable[str]], asks: Callable[[Task], tuple[float | None, int]]) -> None:
        self._needs = {step: tuple(above) for step, above in needs.items()}
        self._asks = asks
        self._depth = depths(self._needs)
        self._place = {step: number for number, step in enumerate(self._needs)}
        self._lengths = {step: Lengths() for step in self._needs}
        self._heaps: dict[str, list[tuple[Key, int, Task]]] = {step: [] for step in self._needs}
        self._number = 0
        self._known = self._known_then = 0
        self._below = chains(self._needs, {})

    def __bool__(self) -> bool:
        return any(self._heaps.values())

    def push(self, task: Task) -> None:
        """A task may start."""
        self._number += 1
        heapq.heappush(self._heaps[task.step], (self.key(task), self._number, task))

    def first(self, passed: Collection[str] = ()) -> Task | None:
        """The task to hand over next, but for those of some steps; None when there is none."""
        heads = [heap[0] for step, heap in self._heaps.items() if heap and step not in passed]
        return min(heads)[2] if heads else None

    def pop(self, step: str) -> None:
        """Take away the first task of a step."""
        heapq.heappop(self._heaps[step])

    def note(self, task: Task, seconds: float) -> None:
        """A task has taken so long. When much has been learned since, all that wait are put in order anew."""
        self._lengths[task.step].note(task, seconds)
        self._known += 1
        if self._known >= 1.25 * self._known_then:
            self._known_then = self._known
            self._below = chains(self._needs, {step: one.typical for step, one in self._lengths.items()})
            for heap in self._heaps.values():
                heap[:] = [(self.key(task), number, task) for _, number, task in heap]
                heapq.heapify(heap)

    def key(self, task: Task) -> Key:
        """What comes first has the smallest: by depth, chain, GPUs, and the step's place. What nothing is known of may be the
        longest, and the first of it that ends tells of the others: it comes before what is known."""
        said, gpus = self._asks(task)
        learned = self._lengths[task.step].of(task)
        expected = said if said is not None else learned
        chain = math.inf
        if expected is not None:
            chain = round(math.log(max(1e-3, expected + self._below[task.step])) / _SAME)
        return -self._depth[task.step], -chain, -gpus, -self._place[task.step]
