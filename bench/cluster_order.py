"""What the order of the mix alone costs, if neither control plane nor runner took any time. Computed, not measured."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Task", "makespan"]


class Task(Protocol):
    """What is known of a task."""

    @property
    def gpus(self) -> int: ...

    @property
    def mean(self) -> float: ...

    def attempts(self) -> tuple[float, ...]: ...


def makespan(work: Sequence[Task], gpus: int, waiting: int, *, node: int = 8, reaction: float = 0.0) -> float:
    """The hours from the first start to the last end.

    Tasks are handed over as Shoal does it: those that are said to take longest first, of equals those with most GPUs, and one
    more whenever fewer than ``waiting`` wait. The scheduler goes through what waits from the oldest on and gives a place to
    whatever fits, on the node with most room. What is preempted is handed over again.

    Args:
        work: the tasks.
        gpus: how many there are, in nodes of ``node``.
        waiting: how many may wait at the scheduler.
        node: GPUs of a node.
        reaction: hours until a place that has become free is taken.
    """
    free = [node] * (gpus // node) + ([gpus % node] if gpus % node else [])
    ready = [(-one.mean, -one.gpus, number, 0) for number, one in enumerate(work)]
    heapq.heapify(ready)
    queue: list[tuple[int, int]] = []
    running: list[tuple[float, int, int, int, int]] = []
    order = itertools.count()
    now = 0.0
    while True:
        placed: tuple[int, int] | None = None
        while ready and len(queue) < waiting:
            _, _, number, attempt = heapq.heappop(ready)
            queue.append((number, attempt))
        for number, attempt in queue:
            roomy = max(range(len(free)), key=free.__getitem__)
            if free[roomy] >= work[number].gpus:
                free[roomy] -= work[number].gpus
                end = now + reaction + work[number].attempts()[attempt]
                heapq.heappush(running, (end, next(order), number, attempt, roomy))
                placed = number, attempt
                break
        if placed is not None:
            queue.remove(placed)
            continue
        if not running:
            return now
        now, _, number, attempt, at = heapq.heappop(running)
        free[at] += work[number].gpus
        if attempt + 1 < len(work[number].attempts()):
            heapq.heappush(ready, (-work[number].mean, -work[number].gpus, number, attempt + 1))
