"""How much of a plan can run at once: a bound that needs no clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

from shoal.plan import Plan, Task

__all__ = ["peak"]


def peak(plan: Plan, todo: Collection[str], weigh: Callable[[Task], int], parallel: int | None = None) -> int:
    """The most that can run at once, never too low.

    Tasks that wait for one another never run together. Each task is counted under one of those it waits for, which makes
    trees of the graph; in a tree the heaviest set of independent tasks is the heavier of the root and of its branches.

    Args:
        plan: the plan.
        todo: ids of the tasks that are still to run.
        weigh: what one task weighs, for example its GPUs.
        parallel: at most so many tasks at once, besides the study's own bounds.
    """
    branches: dict[str, int] = {}
    free = 0
    by_step: dict[str, list[int]] = {}
    for name in reversed(plan.order):
        for task in reversed(plan.of_step(name)):
            if task.id not in todo:
                continue
            own = weigh(task)
            by_step.setdefault(name, []).append(own)
            heavier = max(own, branches.pop(task.id, 0))
            above = next((need for need in task.needs if need in todo), None)
            if above is None:
                free += heavier
            else:
                branches[above] = branches.get(above, 0) + heavier
    bounds = [bound for bound in (parallel, plan.study.max_parallel) if bound is not None]
    most: list[int] = []
    for name, weights in by_step.items():
        cap = plan.study.steps[name].max_parallel
        most += weights if cap is None else heapq.nlargest(cap, weights)
    return min(free, sum(heapq.nlargest(min(bounds), most) if bounds else most))
