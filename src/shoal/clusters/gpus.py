"""How a task's GPUs are asked for on a cluster: by which resource, on nodes with which labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from shoal.clusters.schema import Cluster, Gpu
from shoal.plan.resources import Resources

__all__ = ["GpuRequest", "find_gpu", "gpu_requests", "least_label", "with_defaults"]

_MIB = 1 << 20
_PRODUCT = re.compile(r"(NVIDIA|Tesla|Quadro|GeForce|AMD)[-_ ]")


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """One way to ask for a task's GPUs: types that share a resource.

    Attributes:
        resource: what containers ask for.
        count: how many.
        types: names of the types in the cluster file; empty for any type.
        products: values of the product label, any of which will do; empty for any.
        memory_above: the memory label has to be greater than this whole number of MiB, or None.
        gpus: the types' entries in the cluster file.
    """

    resource: str
    count: int
    types: tuple[str, ...]
    products: tuple[str, ...]
    memory_above: int | None
    gpus: tuple[Gpu, ...]


def with_defaults(cluster: Cluster, resources: Resources) -> Resources:
    """The resources with the cluster's defaults for what the study leaves open."""
    defaults = cluster.defaults
    changes: dict[str, object] = {}
    if resources.memory is None and defaults.memory is not None:
        changes["memory"] = defaults.memory
    if resources.disk is None and defaults.disk is not None:
        changes["disk"] = defaults.disk
    if resources.gpu and resources.shm is None and defaults.shm is not None:
        changes["shm"] = defaults.shm
    if resources.gpu and not resources.gpu_type and resources.gpu_memory is None and defaults.gpu_type:
        changes["gpu_type"] = defaults.gpu_type
    return replace(resources, **changes) if changes else resources  # type: ignore[arg-type]


def find_gpu(cluster: Cluster, name: str) -> tuple[str, Gpu] | None:
    """The type that a study calls ``name``: by the cluster file's name, or by the value of the product label.

    A value that looks like a product label, and that the file does not know, stands for itself.
    """
    if name in cluster.gpus:
        return name, cluster.gpus[name]
    folded = _folded(name)
    for known, gpu in cluster.gpus.items():
        if folded == _folded(known) or any(folded == _folded(product) for product in gpu.products):
            # The label's own value asks for that product only.
            exact = next((product for product in gpu.products if folded == _folded(product)), None)
            return known, gpu if exact is None else gpu.model_copy(update={"products": (exact,)})
    if _PRODUCT.match(name):
        return name, Gpu(products=(name,))
    return None


def _folded(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).casefold()


def least_label(cluster: Cluster, memory: int) -> int:
    """The least value of the memory label, in MiB, that counts as this many bytes."""
    return max(1, -(-int(memory * (1 - cluster.memory_slack)) // _MIB))


def gpu_requests(cluster: Cluster, resources: Resources) -> list[GpuRequest]:
    """Every way to ask for the GPUs of a task, in the order in which the study names the types.

    A pod can ask for one resource only, so types with resources of their own are ways of their own; those that share one
    are one way. Unknown types, and types whose memory is too small, are left out: the policies say so.
    """
    if not resources.gpu:
        return []
    above = None if resources.gpu_memory is None else least_label(cluster, resources.gpu_memory) - 1
    if not resources.gpu_type:
        return [GpuRequest(cluster.gpu_resource, resources.gpu, (), (), above, ())]
    groups: dict[str, list[tuple[str, Gpu]]] = {}
    for wanted in resources.gpu_type:
        found = find_gpu(cluster, wanted)
        if found is None or too_small(found[1], above):
            continue
        resource = found[1].resource or cluster.gpu_resource
        if found not in groups.setdefault(resource, []):
            groups[resource].append(found)
    ways = []
    for resource, members in groups.items():
        products = tuple(dict.fromkeys(product for _, gpu in members for product in gpu.products))
        # Where one of the types has no label to go by, its resource alone has to do.
        if not all(gpu.products for _, gpu in members):
            products = ()
        sure = all(gpu.memory is not None and gpu.memory // _MIB > (above or 0) for _, gpu in members)
        types = tuple(name for name, _ in members)
        ways.append(
            GpuRequest(resource, resources.gpu, types, products, None if sure else above, tuple(g for _, g in members))
        )
    return ways


def too_small(gpu: Gpu, above: int | None) -> bool:
    """Whether a type is known to have less memory than asked."""
    if above is None or gpu.memory is None:
        return False
    # A type with several products has the memory of its smallest: larger ones may still do.
    return gpu.memory // _MIB <= above and len(gpu.products) < 2
