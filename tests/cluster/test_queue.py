"""Jobs in a queue, by what Kueue does: it lets a suspended Job go, and suspends it again to take its place away."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.executors.kubernetes.client import JOBS

from .conftest import RealLab, until

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
