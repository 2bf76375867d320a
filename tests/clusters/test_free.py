"""Which GPUs are free: from snapshots of nodes, pods and quotas."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal.clusters import parse_cluster
from shoal.clusters.free import GpuPods, free_gpus, gpu_pods, quotas_left

NAUTILUS = parse_cluster("extends: nautilus\nnamespace: lab\n", "mine.yaml")


def node(
    name: str,
    product: str = "NVIDIA-A10",
    count: int = 8,
    *,
    resource: str = "nvidia.com/gpu",
    ready: bool = True,
    taints: tuple[dict[str, str], ...] = (),
    **more: Any,
) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "23028"}
    return {
        "metadata": {"name": name, "labels": {**labels, **more.pop("labels", {})}},
        "spec": {"taints": list(taints), **more},
        "status": {
            "allocatable": {"cpu": "32", resource: str(count)},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def pod(where: str | None, count: int, *, phase: str = "Running", resource: str = "nvidia.com/gpu") -> dict[str, Any]:
    gpus = {"resources": {"limits": {resource: str(count), "memory": "4Gi"}, "requests": {resource: str(count)}}}
    return {"spec": {"nodeName": where, "containers": [gpus, {}]}, "status": {"phase": phase}}


def test_what_pods_hold_is_not_free_and_types_have_the_studies_names() -> None:
    nodes = [node("a"), node("b"), node("c", "NVIDIA-A40", 4, resource="nvidia.com/a40"), node("d", "NVIDIA-New", 2)]
    pods = [
        pod("a", 3), pod("a", 2), pod("b", 1, phase="Pending"), pod(None, 8, phase="Pending"), pod("b", 4, phase="Failed"),
        pod("c", 4, resource="nvidia.com/a40"),
    ]  # fmt: skip
    held = [found for one in pods if (found := gpu_pods(one, NAUTILUS)) is not None]
    assert len(held) == 4
    found = free_gpus(NAUTILUS, nodes, held, [])
    assert [(one.name, one.free, one.total, one.largest) for one in found.types] == [
        ("a10", 10, 16, 7),
        ("NVIDIA-New", 2, 2, 2),
        ("a40", 0, 4, 0),
    ]
    assert found.types[0].memory == 23028
    assert (found.exact, found.unseen) == (True, [])


def test_nodes_that_take_nothing_do_not_count_and_say_why() -> None:
    reserved = {"key": "nautilus.io/reservation", "value": "x", "effect": "NoSchedule"}
    soft = {"key": "soft", "effect": "PreferNoSchedule"}
    arm = {"key": "nautilus.io/hardware", "value": "arm64", "effect": "NoSchedule"}
    nodes = [
        node("a", taints=(reserved,)),
        node("b", ready=False),
        node("c", unschedulable=True),
        node("d", taints=(soft,), count=1),
        node("e", "NVIDIA-GH200-480GB", 1, resource="nvidia.com/gh200", taints=(arm,)),
        node("f", taints=(arm,)),
    ]
    a10, gh200 = free_gpus(NAUTILUS, nodes, [], []).types
    assert (a10.total, a10.free) == (1, 1)
    assert dict(a10.closed) == {
        "tainted nautilus.io/reservation": 8,
        "not ready": 8,
        "closed for maintenance": 8,
        "tainted nautilus.io/hardware": 8,
    }
    assert (gh200.name, gh200.free) == ("gh200", 1), "its own toleration lets it in"


def test_regions_and_hosts_of_the_cluster_file_count() -> None:
    mine = parse_cluster(
        "extends: nautilus\nnamespace: lab\ndefaults: {regions: [us-west], avoid_hosts: [b]}\n", "mine.yaml"
    )
    west = {"labels": {"topology.kubernetes.io/region": "us-west"}}
    (a10,) = free_gpus(mine, [node("a", **west), node("b", **west), node("c")], [], []).types
    assert (a10.total, sum(a10.closed.values())) == (8, 16)


def test_what_cannot_be_seen_is_said() -> None:
    nothing = free_gpus(NAUTILUS, None, None)
    assert not nothing.exact
    assert "nodes" in nothing.unseen[0]
    own = free_gpus(NAUTILUS, [node("a")], [GpuPods("a", {"nvidia.com/gpu": 2})], None, everywhere=False)
    assert not own.exact
    assert own.types[0].free == 6
    assert any("upper bound" in one for one in own.unseen)
    assert own.to_json()["types"][0]["free"] == 6


def test_quotas_are_read() -> None:
    quota = {
        "metadata": {"name": "gpus"},
        "status": {
            "hard": {"requests.nvidia.com/gpu": "8", "requests.cpu": "100", "requests.nvidia.com/a100": "0"},
            "used": {"requests.nvidia.com/gpu": "6"},
        },
    }
    found = {one.resource: one for one in quotas_left(quota, NAUTILUS)}
    assert {name: (one.left, one.hard) for name, one in found.items()} == {
        "nvidia.com/gpu": (2, 8),
        "nvidia.com/a100": (0, 0),
    }


@given(
    counts=st.lists(st.integers(0, 8), max_size=6),
    held=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=12),
)
def test_free_is_never_negative_and_never_more_than_there_is(counts: list[int], held: list[tuple[int, int]]) -> None:
    nodes = [node(f"n{number}", count=count) for number, count in enumerate(counts)]
    pods = [GpuPods(f"n{where}", {"nvidia.com/gpu": count}) for where, count in held]
    found = free_gpus(NAUTILUS, nodes, pods, [])
    for one in found.types:
        assert 0 <= one.largest <= one.free <= one.total == sum(counts)
