"""What rules look at, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from shoal.clusters.gpus import with_defaults
from shoal.clusters.peak import peak
from shoal.clusters.schema import Cluster, Policy
from shoal.plan import Plan, Resources, Task, resources_of

__all__ = ["LEVELS", "Finding", "Level", "Made", "Rule", "Situation", "limit_ratios"]

Level = Literal["ok", "note", "warn", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warn", "error")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says of a plan.

    Attributes:
        level: ``ok``, ``note`` (good to know), ``warn`` (will likely go wrong or annoy) or ``error`` (will be refused).
        rule: id of the rule.
        text: one line.
        reason: why the platform has the rule.
        link: where it says so.
        hint: what to do.
    """

    level: Level
    rule: str
    text: str
    reason: str | None = None
    link: str | None = None
    hint: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """As ``shoal plan --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Situation:
    """What rules look at.

    Attributes:
        plan: the plan.
        cluster: where it is to run.
        todo: ids of the tasks that are still to run.
        parallel: at most so many tasks at once, from the command line.
        scripts: step to name to text of the shell scripts that its command names.
    """

    plan: Plan
    cluster: Cluster
    todo: frozenset[str]
    parallel: int | None = None
    scripts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def asks(self) -> dict[str, dict[Resources, int]]:
        """Step to what its tasks ask for, the cluster's defaults filled in, each with how many of them do."""
        found: dict[str, dict[Resources, int]] = {}
        for name in self.steps:
            counts: dict[Resources, int] = {}
            for task in self.plan.of_step(name):
                if task.id in self.todo:
                    asked = self.of(task)
                    counts[asked] = counts.get(asked, 0) + 1
            if counts:
                found[name] = counts
        return found

    @cached_property
    def _fixed(self) -> dict[str, Resources]:
        # Where nothing is filled in from the matrix, all tasks of a step ask for the same.
        return {
            name: with_defaults(self.cluster, resources_of(self.plan, self.plan.of_step(name)[0]))
            for name in self.steps
            if self.plan.of_step(name) and not any(self.plan.study.steps[name].resources.templates())
        }

    def of(self, task: Task) -> Resources:
        """What a task asks for, the cluster's defaults filled in."""
        fixed = self._fixed.get(task.step)
        return fixed if fixed is not None else with_defaults(self.cluster, resources_of(self.plan, task))

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """The steps that run something, in order."""
        return tuple(name for name in self.plan.order if self.plan.study.steps[name].gate is None)

    @property
    def mounts(self) -> list[str]:
        """The folders of pods that are claims: the store's and those of the cluster file's volumes."""
        store = self.cluster.store
        return [*([store.path] if store and store.claim else []), *(volume.path for volume in self.cluster.volumes)]

    @cached_property
    def gpus(self) -> int:
        """The most GPUs at once."""
        return self._peak(lambda asked: asked.gpu * asked.nodes)

    @cached_property
    def pods(self) -> int:
        """The most pods at once."""
        return self._peak(lambda asked: asked.nodes)

    def _peak(self, weigh: Callable[[Resources], int]) -> int:
        gates = {name for name in self.plan.order if name not in self.steps}
        return peak(
            self.plan,
            self.todo,
            lambda task: 0 if task.step in gates else weigh(self.of(task)),
            self.parallel,
        )


Made: TypeAlias = tuple[Level, str] | tuple[Level, str, str | None]
Rule: TypeAlias = Callable[[Situation, Policy], Iterable[Made]]


def limit_ratios(cluster: Cluster, pods: int) -> tuple[float, float]:
    """Limits as multiples of requests, of CPU and memory, when so many pods run at once."""
    limits = cluster.limits
    if limits.equal_above is not None and pods > limits.equal_above:
        return 1.0, 1.0
    return limits.cpu, limits.memory
