"""``shoal run --on CLUSTER`` on a real control plane: what is submitted, what is recorded, how it goes on and ends."""

from __future__ import annotations

import signal

import yaml

from shoal.executors.kubernetes.client import CONFIG_MAPS, JOBS, PODS

from .conftest import Lab, until

ENDS = """
study: pond
steps:
  prep: {run: prepare}
  train:
    needs: prep
    matrix:
      fake_end: [ok, error, oom, oom-gpu, "evicted,ok", timeout, "killed,ok", "error,ok"]
    run: train {inputs.prep} {fake_end}
    retries: 1
    canary: 0
    resources: {gpu: 1, shm: 64Mi}
report: {objective: {metric: train/score, goal: max}}
"""
LONG = """
study: pond
steps:
  train:
    matrix: {fake_end: [never], n: [1, 2, 3, 4, 5, 6]}
    run: train {fake_end} {n}
"""


def test_every_end_is_recorded_and_what_may_be_is_tried_again(lab: Lab) -> None:
    lab.study(ENDS)
    lab.shoal("plan", "s.yaml", "--on", "lab", "--manifests", "m")
    done = lab.shoal("run", "s.yaml", "--on", "lab", code=1)
    assert "5 of 9 tasks done, 4 failed" in done.stderr
    # What ran is what the plan had shown.
    shown = [yaml.safe_load(path.read_text()) for path in (lab.root / "m" / "train").glob("*-1.yaml")]
    for job in shown:
        there = lab.client.get(JOBS, job["metadata"]["name"])
        notes = there["spec"]["template"]["metadata"]["annotations"]
        assert job["spec"]["template"]["metadata"]["annotations"] == notes
        assert job["metadata"]["labels"].items() <= there["metadata"]["labels"].items()
    attempts = [(one["task"], one["attempt"], one) for one in lab.records("attempt.json").values()]
    ends = {one["task"]: one["params"].get("fake_end", "prep") for one in lab.records("spec.json").values()}
    seen: dict[str, list[str]] = {}
    for task, _, record in sorted(attempts, key=lambda one: one[:2]):
        failure = record["failure"]
        seen.setdefault(ends[task], []).append("ok" if failure is None else failure["class"])
    assert seen == {
        "prep": ["ok"],
        "ok": ["ok"],
        "error": ["user", "user"],
        "oom": ["oom-host", "oom-host"],
        "oom-gpu": ["oom-gpu", "oom-gpu"],
        "evicted,ok": ["preempted", "ok"],
        "timeout": ["timeout", "timeout"],
        "killed,ok": ["node-lost", "ok"],
        "error,ok": ["user", "ok"],
    }
    for _, _, record in attempts:
        cluster = record["cluster"]
        assert record["executor"] == "kubernetes"
        assert record["queued"]
        assert record["started"] <= record["ended"]
        assert cluster["submitted"] <= cluster["scheduled"] <= cluster["pulled"]
        assert record["host"] == cluster["node"]
    results = lab.records("result.json")
    assert len(results) == 5
    assert all(one["metrics"]["score"] > 0 and one["outputs"]["files"] == 1 for one in results.values())
    # Everything that reads a store works on the mirror, without being told where it is.
    failed = [task for task in lab.status()["tasks"] if task["state"] == "failed"]
    assert len(failed) == 4
    assert "no log" in lab.shoal("logs", "s.yaml", failed[0]["id"]).stdout
    assert "score" in lab.shoal("results", "s.yaml").stdout
    assert "prep" in lab.shoal("usage", "s.yaml").stdout
    # What is done is not run again.
    made = len(lab.client.list(JOBS).items)
    lab.shoal("run", "s.yaml", "--on", "lab", "--only", "prep")
    assert len(lab.client.list(JOBS).items) == made
    # And all of it is removed, but not what others have.
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {}}
    lab.client.create(other)
    assert "jobs" in (said := lab.shoal("gc", "s.yaml").stdout)
    assert "to remove with --yes" in said
    assert len(lab.client.list(JOBS).items) == made
    lab.shoal("gc", "s.yaml", "--yes")
    assert lab.client.list(JOBS).items == []
    until(lambda: not lab.client.list(PODS).items)
    left = {one["metadata"]["name"] for one in lab.client.list(CONFIG_MAPS).items}
    assert left == {"mine", "kube-root-ca.crt"}


def test_a_stop_ends_what_runs_and_a_killed_runner_is_followed(lab: Lab) -> None:
    lab.study(LONG)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    until(lambda: lab.counts().get("running") == 6)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    before = {one["metadata"]["uid"] for one in lab.client.list(JOBS).items}
    second = lab.begin("run", "s.yaml", "--on", "lab")
    until(lambda: lab.status()["runner"] is not None)
    some = lab.status()["tasks"][0]["id"]
    lab.shoal("stop", "s.yaml", some)
    until(lambda: not [one for one in lab.client.list(JOBS).items if some in one["metadata"]["name"]])
    assert {one["metadata"]["uid"] for one in lab.client.list(JOBS).items} < before, "nothing was submitted anew"
    until(lambda: lab.counts().get("running") == 5)
    second.send_signal(signal.SIGKILL)
    second.wait()
    # No runner is left; what runs is ended all the same.
    assert "5 running tasks stopped" in lab.shoal("stop", "s.yaml").stdout
    assert lab.client.list(JOBS).items == []
    records = lab.records("attempt.json")
    assert len(records) == 6
    assert {one["failure"]["class"] for one in records.values()} == {"cancelled"}


def test_an_attempt_that_was_recorded_but_never_submitted_runs_once(lab: Lab) -> None:
    lab.study(LONG.replace("[never]", "[ok]"))
    assert len(lab.shoal("run", "s.yaml", "--on", "lab").stderr.splitlines()) <= 9
    # As a runner leaves it that was killed between writing the specification and submitting.
    task = next((lab.root / "runs-lab" / "pond" / "train").iterdir())
    for name in ("result.json", "attempts/1/attempt.json", "attempts/1/heartbeat"):
        (task / name).unlink()
    (job,) = (one["metadata"]["name"] for one in lab.client.list(JOBS).items if task.name in one["metadata"]["name"])
    lab.client.delete(JOBS, job)
    until(lambda: not [one for one in lab.client.list(PODS).items if job in one["metadata"]["name"]])
    assert "6 of 6 tasks done" in lab.shoal("run", "s.yaml", "--on", "lab").stderr
    assert [path.name for path in (task / "attempts").iterdir()] == ["1"]


def test_why_a_task_waits_is_said(lab: Lab) -> None:
    lab.study("study: pond\nsteps: {train: {run: train, resources: {gpu: 1, shm: 64Mi}}}\n")
    lab.cluster("defaults: {image: x, memory: 1Gi, hosts: [no-such-node]}")
    text = (
        (lab.root / "clusters" / "lab.yaml")
        .read_text()
        .replace('defaults: {image: "example.org/task:1", memory: 1Gi}\n', "")
    )
    (lab.root / "clusters" / "lab.yaml").write_text(text)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    waits = until(lambda: lab.status()["tasks"][0]["waiting"])
    assert "No node has room" in waits
    assert lab.counts() == {"waiting": 1}
    assert "1 waits: No node has room" in lab.shoal("status", "s.yaml").stdout
    lab.shoal("stop", "s.yaml")
    assert runner.wait(30) == 130
    assert lab.client.list(JOBS).items == []
    (record,) = lab.records("attempt.json").values()
    assert record["failure"]["class"] == "cancelled"
    assert record["started"] is None


def test_a_quota_delays_and_does_not_fail(lab: Lab) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}}
    lab.admin.create(f"/api/v1/namespaces/{lab.namespace}/resourcequotas", quota)
    until(lambda: lab.admin.get(f"/api/v1/namespaces/{lab.namespace}/resourcequotas/few")["status"])
    container = {"name": "c", "image": "example.org/task:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    meta = {"name": "colleague", "annotations": {"fake.testbed/end": "never"}}
    spec = {"restartPolicy": "Never", "containers": [container]}
    lab.client.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    lab.study("study: pond\nsteps: {train: {run: 'train {n}', matrix: {n: [1, 2]}, resources: {gpu: 1, shm: 64Mi}}}\n")
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    said = until(lambda: next((one["waiting"] for one in lab.status()["tasks"] if one["waiting"]), None))
    assert "No quota is left" in said
    assert lab.counts() == {"waiting": 2}
    lab.client.delete(PODS, "colleague", grace=0)
    assert runner.wait(100) == 0
    assert all(one["outcome"] == "succeeded" for one in lab.records("attempt.json").values())
