"""Which GPUs are free now, by type, from what may be seen of a cluster: nodes, pods, quotas. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal.clusters.schema import Cluster, Toleration

__all__ = ["FreeGpus", "GpuPods", "GpuType", "QuotaLeft", "free_gpus", "gpu_pods", "quotas_left"]

_MIB = 1 << 20
_HOLDS_BACK = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class GpuPods:
    """What one pod holds of GPUs, and where.

    Attributes:
        node: name of its node.
        held: resource to how many.
    """

    node: str
    held: Mapping[str, int]


@dataclass(slots=True)
class GpuType:
    """GPUs of one type.

    Attributes:
        name: as studies call it, or the product label where the cluster file has no name for it.
        resource: what pods ask for.
        product: the product label, empty where nodes have none.
        memory: of one, in MiB by the memory label; None where nodes do not say.
        nodes: how many nodes have it.
        total: how many there are on nodes that take pods of this namespace.
        held: how many of them pods hold, as far as these can be seen.
        largest: the most that are free on one node.
        closed: how many more there are on nodes that take none, by reason.
    """

    name: str
    resource: str
    product: str = ""
    memory: int | None = None
    nodes: int = 0
    total: int = 0
    held: int = 0
    largest: int = 0
    closed: Counter[str] = field(default_factory=Counter)

    @property
    def free(self) -> int:
        """How many are free."""
        return self.total - self.held


@dataclass(frozen=True, slots=True)
class QuotaLeft:
    """What a ResourceQuota leaves of a resource."""

    quota: str
    resource: str
    used: int
    hard: int

    @property
    def left(self) -> int:
        """How many more may be asked for."""
        return max(0, self.hard - self.used)


@dataclass(slots=True)
class FreeGpus:
    """An answer.

    Attributes:
        types: by how many are free.
        quotas: of the namespace, as far as they speak of GPUs.
        exact: whether all pods could be seen; else others may hold what looks free.
        unseen: sentences on what could not be seen.
    """

    types: list[GpuType] = field(default_factory=list)
    quotas: list[QuotaLeft] = field(default_factory=list)
    exact: bool = True
    unseen: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As ``shoal clusters show --json`` prints it."""
        return {
            "exact": self.exact,
            "types": [{**asdict(one), "free": one.free, "closed": dict(one.closed)} for one in self.types],
            "quotas": [{**asdict(one), "left": one.left} for one in self.quotas],
            "unseen": self.unseen,
        }


def free_gpus(
    cluster: Cluster,
    nodes: Iterable[Mapping[str, Any]] | None,
    pods: Iterable[GpuPods] | None,
    quotas: Iterable[QuotaLeft] | None = None,
    *,
    everywhere: bool = True,
) -> FreeGpus:
    """Count GPUs.

    Args:
        cluster: the cluster file: names of types, and what pods tolerate.
        nodes: objects of the API; None where they may not be read.
        pods: what pods hold; None where not even those of the namespace may be read.
        quotas: of the namespace; None where they may not be read.
        everywhere: whether ``pods`` are those of all namespaces.
    """
    found = FreeGpus(quotas=list(quotas or ()), exact=everywhere and pods is not None and nodes is not None)
    if nodes is None:
        found.unseen.append("the nodes: this login may not list them, so neither their GPUs nor their use is known")
        return found
    if pods is None:
        found.unseen.append("pods: this login may not list them, so what is held is not known")
    elif not everywhere:
        found.unseen.append("pods of other namespaces: what they hold looks free here, so the figures are upper bounds")
    if quotas is None:
        found.unseen.append("quotas of the namespace")
    held: dict[str, Counter[str]] = {}
    for pod in pods or ():
        held.setdefault(pod.node, Counter()).update(pod.held)
    kinds: dict[tuple[str, str], GpuType] = {}
    for node in nodes:
        _count(cluster, node, held.get(str(node["metadata"]["name"]), Counter()), kinds)
    found.types = sorted(kinds.values(), key=lambda one: (-one.free, -one.total, one.name))
    return found


def _count(
    cluster: Cluster, node: Mapping[str, Any], held: Mapping[str, int], kinds: dict[tuple[str, str], GpuType]
) -> None:
    labels = node["metadata"].get("labels") or {}
    product = str(labels.get(cluster.labels.product) or "")
    for resource, amount in _gpus((node.get("status") or {}).get("allocatable") or {}, cluster).items():
        name, tolerations = _named(cluster, resource, product)
        kind = kinds.setdefault((resource, product), GpuType(name, resource, product))
        memory = str(labels.get(cluster.labels.memory) or "")
        if memory.isdecimal():
            kind.memory = min(kind.memory or int(memory), int(memory))
        kind.nodes += 1
        why = _closed(node, [*cluster.defaults.tolerations, *tolerations], cluster)
        if why is not None:
            kind.closed[why] += amount
            continue
        used = min(amount, held.get(resource, 0))
        kind.total += amount
        kind.held += used
        kind.largest = max(kind.largest, amount - used)


def _gpus(amounts: Mapping[str, Any], cluster: Cluster) -> dict[str, int]:
    """The GPUs among resources, of which there are any."""
    whole = {name: int(str(amount)) for name, amount in amounts.items() if str(amount).isdecimal()}
    return {name: amount for name, amount in whole.items() if amount and _is_gpu(name, cluster)}


def _is_gpu(resource: str, cluster: Cluster) -> bool:
    """Whether a resource is one that the cluster file names, or any other of NVIDIA's and AMD's GPUs."""
    named = (cluster.gpu_resource, *(gpu.resource for gpu in cluster.gpus.values()))
    return resource in named or resource.startswith(("nvidia.com/", "amd.com/gpu"))


def _named(cluster: Cluster, resource: str, product: str) -> tuple[str, tuple[Toleration, ...]]:
    for name, gpu in cluster.gpus.items():
        if (gpu.resource or cluster.gpu_resource) == resource and (
            product in gpu.products if gpu.products else gpu.resource is not None
        ):
            return name, gpu.tolerations
    return product or resource, ()


def _closed(node: Mapping[str, Any], tolerations: Iterable[Toleration], cluster: Cluster) -> str | None:
    """Why a node takes no pod of ours; None if it does."""
    conditions = (node.get("status") or {}).get("conditions") or []
    if not any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions):
        return "not ready"
    spec = node.get("spec") or {}
    if spec.get("unschedulable"):
        return "closed for maintenance"
    for taint in spec.get("taints") or []:
        if taint.get("effect") in _HOLDS_BACK and not any(_tolerates(one, taint) for one in tolerations):
            return f"tainted {taint.get('key')}"
    labels = node["metadata"].get("labels") or {}
    wanted, name = cluster.defaults, str(node["metadata"]["name"])
    host = str(labels.get(cluster.labels.host) or name)
    if wanted.regions and labels.get(cluster.labels.region) not in wanted.regions:
        return f"not in {', '.join(wanted.regions)}"
    if wanted.zones and labels.get(cluster.labels.zone) not in wanted.zones:
        return f"not in {', '.join(wanted.zones)}"
    if (wanted.hosts and host not in wanted.hosts) or host in wanted.avoid_hosts:
        return "left out by the cluster file (hosts)"
    return None


def _tolerates(toleration: Toleration, taint: Mapping[str, Any]) -> bool:
    if toleration.effect not in (None, taint.get("effect")):
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != taint.get("key"):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or "")


def gpu_pods(pod: Mapping[str, Any], cluster: Cluster) -> GpuPods | None:
    """What a pod holds of GPUs; None for one that holds none, has no node, or has ended."""
    spec = pod.get("spec") or {}
    node = spec.get("nodeName")
    if not node or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return None
    held: Counter[str] = Counter()
    for container in spec.get("containers") or []:
        held.update(_gpus(_asked(container), cluster))
    for container in spec.get("initContainers") or []:
        for name, amount in _gpus(_asked(container), cluster).items():
            held[name] = max(held[name], amount)
    return GpuPods(str(node), dict(held)) if held else None


def _asked(container: Mapping[str, Any]) -> Mapping[str, Any]:
    # Of extended resources request and limit are the same, and the request may be left out.
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def quotas_left(quota: Mapping[str, Any], cluster: Cluster) -> list[QuotaLeft]:
    """What a ResourceQuota says of GPUs."""
    status = quota.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    found = []
    for name, amount in hard.items():
        resource = str(name).removeprefix("requests.").removeprefix("limits.")
        if _is_gpu(resource, cluster) and str(amount).isdecimal() and str(used.get(name, 0)).isdecimal():
            found.append(QuotaLeft(quota["metadata"]["name"], resource, int(used.get(name, 0)), int(amount)))
    return found
