"""Jobs in a queue, by what Kueue does: it lets a suspended Job go, and suspends it again to take its place away; and by Kueue."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.executors.kubernetes.client import JOBS
from testbed import Testbed, queueing

from .conftest import Lab, RealLab, until

STUDY = """
study: pond
steps:
  train:
    run: "if test -e {checkpoints}/half; then echo rest > {out}/made; else touch {checkpoints}/half; echo half; sleep 600; fi"
    resources: {cpu: 0.1, memory: 64Mi}
"""


@pytest.mark.timeout(300)
def test_a_task_waits_in_the_queue_is_let_go_taken_away_and_goes_on_from_its_checkpoint(real_lab: RealLab) -> None:
    lab = real_lab
    lab.cluster("queue: gpu-queue\nqueue_priority: low")
    lab.study(STUDY)
    runner = lab.begin("run", "s.yaml", "--on", "lab")

    def waits() -> dict[str, Any] | None:
        (task,) = lab.status()["tasks"]
        jobs = [one for one in lab.client.list(JOBS).items if one["spec"].get("suspend")]
        return jobs[-1] if jobs and "in the queue gpu-queue" in (task["waiting"] or "") else None

    def let_go(job: dict[str, Any], suspend: bool = False) -> None:
        path = f"/apis/batch/v1/namespaces/{lab.namespace}/jobs/{job['metadata']['name']}"
        lab.admin.patch(path, {"spec": {"suspend": suspend}})

    first = until(waits, 90)
    assert first["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
    assert first["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    let_go(first)
    until(lambda: lab.counts() == {"running": 1} and list(lab.store.glob("**/checkpoints/half")), 90)
    let_go(first, suspend=True)
    second = until(lambda: (found := waits()) and found["metadata"]["name"] != first["metadata"]["name"] and found, 90)
    let_go(second)
    assert runner.wait(90) == 0
    attempts = lab.records("attempt.json").values()
    ends = {one["attempt"]: (one["outcome"], (one["failure"] or {}).get("class")) for one in attempts}
    assert ends == {1: ("failed", "preempted"), 2: ("succeeded", None)}
    # A queue would start what is left in it once more.
    until(lambda: [one["metadata"]["name"] for one in lab.client.list(JOBS).items] == [second["metadata"]["name"]])


LOW = """
study: pond
steps:
  train:
    run: train {n} {fake_seconds}
    matrix: {n: [1, 2, 3], fake_seconds: ["20,1"]}
    resources: {gpu: 1, shm: 64Mi}
"""
URGENT = """
study: urgent
steps: {train: {run: "train {fake_seconds}", matrix: {fake_seconds: [1]}, resources: {gpu: 1, shm: 64Mi}}}
"""
LARGE = "study: pond\nsteps: {train: {run: train, resources: {gpu: 4, shm: 64Mi}}}\n"


@pytest.fixture
def queue_lab(queue_bed: Testbed, tmp_path: Path) -> Iterator[Lab]:
    """A namespace with a queue that lets two GPUs go at once."""
    made = Lab(queue_bed, tmp_path)
    priorities = {"low": 1, "high": 100}
    queueing.make_queue(queue_bed, made.namespace, "gpu-queue", {"nvidia.com/gpu": "2"}, priorities)
    made.cluster("queue: gpu-queue\nqueue_priority: low")
    text = (tmp_path / "clusters" / "lab.yaml").read_text()
    (tmp_path / "clusters" / "fast.yaml").write_text(text.replace("queue_priority: low", "queue_priority: high"))
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kueue_lets_go_up_to_the_quota_and_who_is_pre_empted_runs_again_without_a_retry(queue_lab: Lab) -> None:
    lab = queue_lab
    lab.study(LOW)
    first = lab.begin("run", "s.yaml", "--on", "lab")

    def waiting() -> str | None:
        return next((one["waiting"] for one in lab.status()["tasks"] if one["waiting"]), None)

    until(lambda: lab.counts().get("running") == 2)
    in_use = "the queue's quota of nvidia.com/gpu is in use, and 1 more would have to become free"
    until(lambda: waiting() == f"It waits in the queue gpu-queue: {in_use}.", 30)
    assert lab.counts() == {"running": 2, "waiting": 1}
    # Who follows a killed runner suspends nothing that was let go.
    first.send_signal(signal.SIGKILL)
    first.wait()
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    (lab.root / "u.yaml").write_text(URGENT)
    lab.shoal("run", "u.yaml", "--on", "fast")
    assert runner.wait(120) == 0, (lab.root / "said.txt").read_text()
    ends: dict[str, list[str]] = {}
    for one in sorted(lab.records("attempt.json").values(), key=lambda one: one["attempt"]):
        ends.setdefault(one["task"], []).append((one["failure"] or {}).get("class", one["outcome"]))
    assert sorted(ends.values()) == [["preempted", "succeeded"], ["succeeded"], ["succeeded"]]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_kueue_will_never_let_go_is_said(queue_lab: Lab) -> None:
    lab = queue_lab
    lab.study(LARGE)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    never = "it asks for 4 nvidia.com/gpu, and the queue's quota is 2: it will never be let go"
    until(lambda: never in str(lab.status()["tasks"][0]["waiting"]), 30)
    lab.shoal("stop", "s.yaml")
    assert runner.wait(30) == 130
    assert lab.client.list(JOBS).items == []
