"""Fake nodes: hundreds of machines with GPUs, named and tainted as NRP Nautilus has them, and pods that pretend to run there.

They are kwok's, of which ``kwok.yaml`` tells what their pods do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from testbed.access import Api

__all__ = ["FAKE", "KINDS", "Kind", "add_nodes", "fail_node", "manifests", "set_up"]

FAKE = "kwok.x-k8s.io/node"
_GPU = "nvidia.com/gpu"
_PLACES = (("us-west", "ucsd"), ("us-west", "sdsc"), ("us-central", "unl"), ("us-east", "umassmghpc"))
# What NRP admits: a pod with any other is rejected.
_PRIORITIES = {"opportunistic": -2000, "opportunistic2": -1000, "owner-no-preempt": 1000, "armada-default": -3000}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of machine.

    Attributes:
        product: the GPU, as its label says.
        memory: of a GPU, in MiB.
        resource: what pods ask for.
        share: how many of a hundred nodes are such.
        taint: key and value of a taint that keeps pods off, if it has one.
        arch: of its processors.
    """

    product: str
    memory: int
    resource: str = _GPU
    share: int = 0
    taint: tuple[str, str] | None = None
    arch: str = "amd64"


#: Roughly how the platform's machines are spread.
KINDS = (
    Kind("NVIDIA-GeForce-RTX-3090", 24576, share=30),
    Kind("NVIDIA-A10", 23028, share=20),
    Kind("NVIDIA-L4", 23034, share=8),
    Kind("NVIDIA-L40", 46068, share=8),
    Kind("NVIDIA-GeForce-RTX-2080-Ti", 11264, share=8),
    Kind("NVIDIA-GeForce-GTX-1080-Ti", 11264, share=8),
    Kind("NVIDIA-A40", 46068, "nvidia.com/a40", share=4),
    Kind("NVIDIA-RTX-A6000", 49140, "nvidia.com/rtxa6000", share=4),
    Kind("NVIDIA-A100-SXM4-80GB", 81920, "nvidia.com/a100", share=4),
    Kind("NVIDIA-H100-80GB-HBM3", 81559, "nvidia.com/h100", share=1),
    Kind(
        "NVIDIA-GH200-480GB", 97871, "nvidia.com/gh200", share=1, taint=("nautilus.io/hardware", "arm64"), arch="arm64"
    ),
    Kind("NVIDIA-L40S", 46068, share=1, taint=("nautilus.io/hardware", "large-gpu")),
    Kind("NVIDIA-A10", 23028, share=1, taint=("nautilus.io/reservation", "haosu")),
    Kind("NVIDIA-GeForce-RTX-3090", 24576, share=1, taint=("nautilus.io/issue", "gpu")),
    Kind("NVIDIA-GeForce-RTX-3090", 24576, share=1, taint=("nautilus.io/science-dmz", "true")),
)


def set_up(api: Api) -> None:
    """Make what the platform has beside its nodes: priority classes."""
    for name, value in _PRIORITIES.items():
        body = {"metadata": {"name": name}, "value": value}
        api.create("/apis/scheduling.k8s.io/v1/priorityclasses", body)


def add_nodes(
    api: Api, count: int, *, gpus: int, kinds: Sequence[Kind], address: str, port: int, first: int = 0
) -> list[str]:
    """Register nodes and return their names.

    Args:
        api: as an administrator.
        count: how many.
        gpus: of each.
        kinds: spread over the nodes by their shares.
        address, port: where their kubelets, that is kwok, answer.
        first: number of the first.
    """
    made = list(manifests(count, gpus=gpus, kinds=kinds, address=address, port=port, first=first))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: api.create("/api/v1/nodes", one), made))
    return [one["metadata"]["name"] for one in made]


def manifests(
    count: int, *, gpus: int, kinds: Sequence[Kind], address: str = "127.0.0.1", port: int = 10250, first: int = 0
) -> Iterator[dict[str, Any]]:
    """The nodes as objects; see `add_nodes`."""
    for number, kind in enumerate(_spread(count, kinds)):
        region, zone = _PLACES[number % len(_PLACES)]
        name = f"gpu-{first + number:04}"
        # They are there from the start, so that no request is needed to make them ready.
        conditions = [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kwok says so"},
            *({"type": f"{what}Pressure", "status": "False", "reason": "Fine"} for what in ("Memory", "Disk", "PID")),
        ]
        has = _capacity(kind, gpus)
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {FAKE: "fake"},
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": kind.arch,
                    "nvidia.com/gpu.product": kind.product,
                    "nvidia.com/gpu.memory": str(kind.memory),
                    "nvidia.com/gpu.count": str(gpus),
                    "nvidia.com/cuda.driver.major": "580",
                    "topology.kubernetes.io/region": region,
                    "topology.kubernetes.io/zone": zone,
                },
            },
            "spec": {"taints": [_taint(*kind.taint)] if kind.taint else []},
            "status": {
                "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "capacity": has,
                "allocatable": has,
                "conditions": conditions,
                "nodeInfo": _information(kind),
            },
        }


def fail_node(api: Api, name: str) -> None:
    """Take a node away for good, as when its machine fails: its pods are ended by the taint, then the node goes."""
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    found = api.get(f"/api/v1/nodes/{name}")
    taints = [*(found["spec"].get("taints") or []), taint]
    api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": taints, "unschedulable": True}})


def _spread(count: int, kinds: Sequence[Kind]) -> list[Kind]:
    """As many nodes of each kind as its share asks for, mixed evenly, the same each time."""
    total = sum(kind.share for kind in kinds) or len(kinds)
    placed = [0] * len(kinds)
    found = []
    for number in range(count):
        behind = [(number + 1) * (kind.share or 1) / total - placed[index] for index, kind in enumerate(kinds)]
        index = behind.index(max(behind))
        placed[index] += 1
        found.append(kinds[index])
    return found


def _capacity(kind: Kind, gpus: int) -> dict[str, str]:
    return {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110", kind.resource: str(gpus)}


def _information(kind: Kind) -> Mapping[str, str]:
    names = (
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeProxyVersion",
    )
    said = {"kubeletVersion": "fake", "operatingSystem": "linux", "architecture": kind.arch}
    return {**dict.fromkeys(names, ""), **said}


def _taint(key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": value, "effect": "NoSchedule"}
