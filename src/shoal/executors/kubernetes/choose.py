"""Which of several ways to ask for GPUs a task takes, and whether the cluster could ever hold it. Pure but for its counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.clusters.free import FreeGpus, GpuType
from shoal.clusters.gpus import GpuRequest, find_gpu, gpu_requests
from shoal.clusters.schema import Cluster
from shoal.errors import StudyError, UsageError
from shoal.plan.resources import Resources
from shoal.units import format_size, parse_cpu, parse_size

__all__ = ["Chooser", "NodeSeen"]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What is kept of a node: what it can give out, and its labels."""

    name: str
    labels: Mapping[str, str]
    room: Mapping[str, float]

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> NodeSeen:
        """Keep what is needed."""
        room: dict[str, float] = {}
        for key, text in ((node.get("status") or {}).get("allocatable") or {}).items():
            try:
                room[key] = parse_cpu(text) if key == "cpu" else float(parse_size(text))
            except (ValueError, TypeError, UsageError, StudyError):
                continue
        return cls(node["metadata"]["name"], node["metadata"].get("labels") or {}, room)


class Chooser:
    """Spreads tasks over the ways in which they can ask for GPUs.

    Where all pods of the cluster may be seen, a task takes the way that has most GPUs free that none of ours is about to take.
    Most namespaces' users see what nodes could give, and their own tasks, but not what others hold; then, and where nothing is
    free, a task takes the way in which the fewest of ours wait, and of these the one with the most left of what its nodes have.

    Args:
        cluster: where tasks run.
        nodes: its nodes, where they may be read.
        free: which GPUs are free, where that was asked.

    Attributes:
        waiting: resource to how many of our pods wait.
        held: resource to how many GPUs ours hold.
    """

    def __init__(self, cluster: Cluster, nodes: Sequence[NodeSeen] | None = None, free: FreeGpus | None = None) -> None:
        self._cluster = cluster
        self.nodes = nodes
        self.waiting: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        label = cluster.labels.product
        self._products = {node.name: found for node in nodes or () if (found := node.labels.get(label)) is not None}
        self._wanted: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._free: list[GpuType] | None = None
        self.spreads = False
        """Whether any task has had a choice."""
        if free is not None:
            self.see(free)

    def see(self, free: FreeGpus) -> None:
        """Take note of which GPUs are free now."""
        self._free = free.types if free.exact else None
        self._taken.clear()

    def move(self, resource: str, asked: Resources, before: str | None, after: str | None) -> None:
        """Count a task's pods as waiting and its GPUs as held.

        Args:
            resource: by which it asks for its GPUs; empty where it wants none.
            asked: what it asks for.
            before, after: what it counted as, and counts as from now on: ``waiting``, ``held``, or None for neither.
        """
        gpus = asked.nodes * asked.gpu
        for what, sign in ((before, -1), (after, 1)):
            if what == "waiting":
                self.waiting[resource] += sign * asked.nodes
                self._wanted[resource] += sign * gpus
            elif what == "held":
                self.held[resource] += sign * gpus
        if after == "held":
            self._taken[resource] += gpus

    def choose(self, asked: Resources) -> GpuRequest | None:
        """How a task asks for its GPUs; None when it wants none, or when there is no way."""
        ways = gpu_requests(self._cluster, asked)
        if len(ways) < 2:
            return ways[0] if ways else None
        self.spreads = True
        possible = [way for way in ways if self.nodes is None or self._hosts(asked, way)] or ways
        return min(possible, key=lambda way: self._rank(asked, way))

    def _rank(self, asked: Resources, way: GpuRequest) -> tuple[float, float, float]:
        free = self._free_by(way)
        if free is not None and free >= way.count * asked.nodes:
            return 0.0, -free, 0.0
        return 1.0, self.waiting[way.resource], -self._left(asked, way)

    def _free_by(self, way: GpuRequest) -> float | None:
        """How many GPUs are free that this way would get, less what ours have taken since that was seen, or wait for."""
        if self._free is None:
            return None
        fitting = [
            one
            for one in self._free
            if one.resource == way.resource
            and one.largest >= way.count
            and (not way.products or one.product in way.products)
            and (way.memory_above is None or (one.memory or 0) > way.memory_above)
        ]
        return sum(one.free for one in fitting) - self._taken[way.resource] - self._wanted[way.resource]

    def impossible(self, asked: Resources) -> str | None:
        """Why this can never run on the cluster, or None."""
        ways = gpu_requests(self._cluster, asked)
        if asked.gpu and not ways:
            wanted = ", ".join(asked.gpu_type)
            name = self._cluster.name
            return f"{name} has no GPU of the types {wanted} as asked for (see: shoal clusters show {name})."
        if not self.nodes:
            return None
        if any(self._hosts(asked, way) for way in ways) or (not ways and self._hosts(asked, None)):
            return None
        return self._largest(asked, ways)

    def type_at(self, node: str | None, way: GpuRequest | None) -> str:
        """What a node's GPUs are called: by the cluster file's name of their type, else by their label, else as they were asked
        for."""
        product = self._products.get(node or "")
        if product is not None:
            known = find_gpu(self._cluster, product)
            return known[0] if known is not None else product
        if way is not None and len(way.types) == 1:
            return way.types[0]
        return "GPU" if way is None else way.resource.rpartition("/")[2]

    def _left(self, asked: Resources, way: GpuRequest) -> float:
        if self.nodes is None:
            return 0.0
        there = sum(node.room.get(way.resource, 0.0) for node in self._hosts(asked, way))
        return there - self.held[way.resource]

    def _hosts(self, asked: Resources, way: GpuRequest | None) -> list[NodeSeen]:
        """The nodes that could hold one pod of it if nothing else ran there."""
        labels, defaults = self._cluster.labels, self._cluster.defaults
        found = []
        for node in self.nodes or ():
            room, label = node.room, node.labels
            if room.get("cpu", 0.0) < asked.cpu or room.get("memory", 0.0) < (asked.memory or 0):
                continue
            if defaults.regions and label.get(labels.region) not in defaults.regions:
                continue
            if way is not None:
                if room.get(way.resource, 0.0) < way.count:
                    continue
                if way.products and label.get(labels.product) not in way.products:
                    continue
                if way.memory_above is not None and not _above(label.get(labels.memory), way.memory_above):
                    continue
            found.append(node)
        return found

    def _largest(self, asked: Resources, ways: Sequence[GpuRequest]) -> str:
        nodes = self.nodes or ()
        label, regions = self._cluster.labels.region, self._cluster.defaults.regions
        known = sorted({node.labels[label] for node in nodes if label in node.labels})
        if regions and not set(regions) & set(known):
            there = f"there are {', '.join(known)}" if known else "none says where it is"
            return f"no node is in {', '.join(regions)} ({label}): {there}."
        cpu = max(node.room.get("cpu", 0.0) for node in nodes)
        memory = max(node.room.get("memory", 0.0) for node in nodes)
        if asked.cpu > cpu or (asked.memory or 0) > memory:
            return f"no node is that large: the largest have {cpu:g} cores, and {format_size(int(memory))} of memory."
        for way in ways:
            most = max(node.room.get(way.resource, 0.0) for node in nodes)
            if most < way.count:
                return f"no node has {way.count} {way.resource}: the most there is on one is {most:g}."
        what = "the GPUs that it asks for together with so many cores and so much memory" if ways else "room for it"
        return f"no node has {what}, where it may run."


def _above(text: str | None, least: int) -> bool:
    return text is not None and text.isdecimal() and int(text) > least
