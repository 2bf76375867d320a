"""Tasks of several nodes on pods that truly run: they find each other by name, and stand and fall together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.executors.kubernetes.client import JOBS, PODS, SERVICES

from .conftest import RealLab, until

TRAIN = """
import json, sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
found = torch.full((3,), float(rank + 1))
dist.all_reduce(found)
print(f"node {rank} of {size} has {found.tolist()}", flush=True)
if rank == 0:
    json.dump({"sum": found.sum().item(), "size": size}, open(sys.argv[1] + "/metrics.json", "w"))
dist.destroy_process_group()
"""
MEET = """
import json, os, socket, sys, time

rank, address = int(os.environ["NODE_RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
attempt = json.load(open(os.environ["SHOAL_SPEC"]))["attempt"]
if rank == 0:
    with socket.create_server(("", address[1])) as server:
        other, _ = server.accept()
else:
    while True:
        try:
            other = socket.create_connection(address)
            break
        except OSError:
            time.sleep(0.2)
other.sendall(b"%d" % rank)
met = int(other.recv(1))
print("met", met, flush=True)
if attempt == 1:
    if sys.argv[2] == "crash" and rank == 1:
        sys.exit("node 1 is broken")
    time.sleep(600)
if rank == 0:
    json.dump({"met": met, "attempt": attempt}, open(sys.argv[1] + "/metrics.json", "w"))
"""
TORCHRUN = """
study: pond
steps:
  train:
    run: torchrun train.py {out}
    code: [train.py]
    resources: {nodes: 2, cpu: 0.2, memory: 1Gi}
"""
TOGETHER = """
study: pond
steps:
  meet:
    run: python3 meet.py {out} {end}
    code: [meet.py]
    matrix: {end: [crash, evict]}
    resources: {nodes: 2, cpu: 0.1, memory: 128Mi}
    retries: 1
    canary: 0
"""


def outcomes(lab: RealLab) -> dict[tuple[str, int], tuple[str, str | None]]:
    """Value of the matrix and attempt to outcome and class of failure."""
    ends = {one["task"]: one["params"]["end"] for one in lab.records("result.json").values()}
    return {
        (ends[one["task"]], one["attempt"]): (one["outcome"], (one["failure"] or {}).get("class"))
        for path, one in lab.records("attempt.json").items()
        if "/nodes/" not in path
    }


@pytest.mark.timeout(400)
def test_two_pods_train_as_one_by_torchruns_environment(real_lab: RealLab) -> None:
    lab = real_lab
    (lab.root / "train.py").write_text(TRAIN)
    lab.study(TORCHRUN)
    lab.shoal("run", "s.yaml", "--on", "lab", seconds=360)
    (result,) = lab.records("result.json").values()
    assert result["metrics"] == {"sum": 9.0, "size": 2}
    said = [path.read_text() for path in sorted(lab.store.glob("**/log.txt"))]
    assert len(said) == 2
    assert all(any(f"node {rank} of 2 has [3.0, 3.0, 3.0]" in text for text in said) for rank in (0, 1))
    assert len(list(lab.store.glob("pond/train/*/result.json"))) == 1


@pytest.mark.timeout(400)
def test_one_of_two_pods_lost_is_the_attempt_lost_and_both_begin_anew(real_lab: RealLab) -> None:
    lab = real_lab
    (lab.root / "meet.py").write_text(MEET)
    lab.study(TOGETHER)
    runner = lab.begin("run", "s.yaml", "--on", "lab")

    def to_evict() -> Any:
        pods = {one["metadata"]["name"]: one for one in lab.client.list(PODS).items}
        met = [name for name, pod in pods.items() if running(pod) and b"met" in b"".join(lab.client.logs(name))]
        return next((name for name in met if point(pods[name]) == "evict" and index(pods[name]) == "1"), None)

    def running(pod: dict[str, Any]) -> bool:
        return pod["status"].get("phase") == "Running"

    def point(pod: dict[str, Any]) -> str:
        spec = json.loads(pod["metadata"]["annotations"]["shoal-ml.github.io/spec"])
        return str(spec["params"]["end"])

    def index(pod: dict[str, Any]) -> str:
        return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])

    name = until(to_evict, 120)
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{name}/eviction"
    lab.admin.request("POST", path, body).raise_for_status()
    assert runner.wait(240) == 0
    assert {one["params"]["end"]: one["metrics"] for one in lab.records("result.json").values()} == {
        "crash": {"met": 1, "attempt": 2},
        "evict": {"met": 1, "attempt": 2},
    }
    assert outcomes(lab) == {
        ("crash", 1): ("failed", "user"),
        ("crash", 2): ("succeeded", None),
        ("evict", 1): ("failed", "preempted"),
        ("evict", 2): ("succeeded", None),
    }
    lab.shoal("gc", "s.yaml", "--on", "lab", "--yes")
    until(lambda: not lab.client.list(JOBS).items and not lab.client.list(SERVICES).items)
