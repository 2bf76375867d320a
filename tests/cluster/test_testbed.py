"""The testbed itself: what later tests rely on is so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from beds import FAKE_NODES
from shoal.executors.kubernetes.client import JOBS, PODS, Client, Forbidden
from shoal.executors.kubernetes.login import read_login
from testbed import Testbed

from .conftest import Lab, until

ROOT = Path(__file__).parents[2]


def job(name: str, image: str = "example.org/task:1", command: tuple[str, ...] = (), **notes: str) -> dict[str, Any]:
    container = {"name": "task", "image": image, "command": list(command)}
    container["resources"] = {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "100m", "memory": "64Mi"},
    }
    annotations = {f"fake.testbed/{key}": value for key, value in notes.items()}
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    template = {"metadata": {"annotations": annotations}, "spec": pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"test": "testbed"}},
        "spec": {"backoffLimit": 0, "template": template},
    }


def conditions(thing: dict[str, Any]) -> set[str]:
    return {one["type"] for one in thing.get("status", {}).get("conditions", []) if one["status"] == "True"}


def test_a_job_completes_wherever_the_cluster_is(cluster: Any) -> None:
    image = os.environ.get("SHOAL_TEST_IMAGE", "docker.io/library/busybox:1")
    with_login = read_login([cluster.namespace_user(f"any-{os.getpid()}")])
    client = Client(with_login)
    client.create(job("shoal-testbed-probe", image, ("true",)))
    try:
        done = until(lambda: {"Complete", "Failed"} & conditions(client.get(JOBS, "shoal-testbed-probe")), 120)
        assert done == {"Complete"}
    finally:
        client.delete(JOBS, "shoal-testbed-probe")
        client.close()


def test_fake_nodes_are_labelled_and_tainted_as_the_platforms(bed: Testbed) -> None:
    api = bed.api()
    nodes = [one for one in api.get("/api/v1/nodes")["items"] if one["metadata"]["name"].startswith("gpu-")]
    assert len(nodes) >= FAKE_NODES
    for node in nodes:
        labels, capacity = node["metadata"]["labels"], node["status"]["allocatable"]
        assert int(labels["nvidia.com/gpu.memory"]) > 10_000
        assert labels["topology.kubernetes.io/region"] in {"us-west", "us-central", "us-east"}
        assert [amount for name, amount in capacity.items() if name.startswith("nvidia.com/")] == ["8"]
    assert any("nvidia.com/a100" in one["status"]["allocatable"] for one in nodes)
    api.close()


def test_pods_end_as_they_were_asked_to(lab: Lab) -> None:
    expected = {
        "ok": ("Succeeded", 0, "Completed"),
        "error": ("Failed", 1, "Error"),
        "oom": ("Failed", 137, "OOMKilled"),
        "oom-gpu": ("Failed", 13, "Error"),
        "evicted": ("Failed", 137, "Error"),
        "killed": ("Failed", 137, "Error"),
    }
    for end in expected:
        lab.client.create(job(end, end=end, seconds="0.1"))
    lab.client.create(job("never", end="never"))

    def ended() -> dict[str, Any] | None:
        pods = {one["metadata"]["labels"]["job-name"]: one for one in lab.client.list(PODS).items}
        phases = {name: pod["status"].get("phase") for name, pod in pods.items()}
        return pods if phases == {**{end: one[0] for end, one in expected.items()}, "never": "Running"} else None

    pods = until(ended)
    for end, (_, code, reason) in expected.items():
        state = pods[end]["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"]) == (code, reason), end
        said = json.loads(state.get("message") or "{}")
        assert said.get("code") == (None if end in ("oom", "evicted", "killed") else code), end
    assert pods["evicted"]["status"]["reason"] == "Evicted"
    assert "DisruptionTarget" in conditions(pods["evicted"])
    # One that is deleted while it runs is gone soon, and its Job has failed.
    lab.client.delete(PODS, pods["never"]["metadata"]["name"])
    until(lambda: "Failed" in conditions(lab.client.get(JOBS, "never")))
    assert b"a fake node" in b"".join(lab.client.logs(pods["ok"]["metadata"]["name"]))


def test_a_namespaces_admin_sees_no_other_namespace(lab: Lab) -> None:
    for path in (
        "/api/v1/namespaces",
        "/api/v1/namespaces/kube-system/pods",
        "/api/v1/pods",
        "/api/v1/persistentvolumes",
    ):
        done = subprocess.run(
            [lab.bed.programs / "kubectl", "--kubeconfig", lab.kubeconfig, "get", "--raw", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0, path
        assert "forbidden" in done.stderr.lower(), path
    stranger = Client(read_login([lab.bed.user("stranger", namespace=lab.namespace)]))
    with pytest.raises(Forbidden):
        stranger.list(JOBS)
    stranger.close()


def test_a_lost_node_takes_its_pods_along(lab: Lab) -> None:
    lab.client.create(job("stays", end="never"))
    pod = until(lambda: [one for one in lab.client.list(PODS).items if one["status"].get("phase") == "Running"])[0]
    lab.bed.fail_node(pod["spec"]["nodeName"])
    until(lambda: "Failed" in conditions(lab.client.get(JOBS, "stays")))
    lab.bed.add_nodes(1)


def test_what_a_killed_starter_leaves_is_ended_at_the_next_start(bed: Testbed, tmp_path: Path) -> None:
    env = {**os.environ, "SHOAL_TESTBED_STATE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    text = "import time; from testbed import Testbed; print(Testbed.start('left').name, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", text], env=env, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "left\n"
        pids = [json.loads(path.read_text())["pid"] for path in (tmp_path / "left" / "processes").iterdir()]
        assert len(pids) == 4
        data = Path(json.loads((tmp_path / "left" / "instance.json").read_text())["data"])
        starter.send_signal(signal.SIGKILL)
    said = subprocess.run(
        [sys.executable, "-m", "testbed", "status"], env=env, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("left\tremoved")
    time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]
    assert not data.exists()
    assert not (tmp_path / "left").exists()
