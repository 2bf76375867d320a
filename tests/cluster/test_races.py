"""Moments in which something is half done: a runner killed between two steps, an answer lost, a login that has expired."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from executors.suite import Bench
from shoal.clusters import parse_cluster
from shoal.executors import AttemptKey, Ended, Note
from shoal.executors.kubernetes import attempts
from shoal.executors.kubernetes.client import JOBS, PODS, SERVICES, Client, Resource, Unauthorized, Unreachable
from shoal.executors.kubernetes.client.errors import ApiError, Asked
from shoal.executors.kubernetes.executor import KubernetesExecutor
from shoal.executors.kubernetes.login import read_login
from shoal.failures import FailureClass

from .conftest import Lab, until

TOGETHER = """
study: pond
steps:
  train:
    run: train {fake_end}
    matrix: {fake_end: [never]}
    resources: {nodes: 2, gpu: 1, shm: 64Mi}
"""
STOPPED = """
study: pond
steps:
  train:
    run: train {fake_seconds} {n}
    matrix: {fake_seconds: ["600,0"], n: [1, 2, 3]}
"""
CODE = """
study: pond
steps:
  prep: {run: python3 prep.py, code: [prep.py]}
  train: {needs: prep, run: "train {inputs.prep}"}
"""
TASK = "aaaaaaaaaaaa"


class Faulty(Client):
    """A client whose ``fault`` is told what is about to be done, or was made, and may raise something instead."""

    fault: Callable[[str, str], ApiError | None] = staticmethod(lambda verb, kind: None)

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        self._happen("create", str(manifest["kind"]))
        made = super().create(manifest, dry_run=dry_run)
        self._happen("answer", str(manifest["kind"]))
        return made

    def delete(self, resource: Resource, name: str, *, grace: int | None = None, uid: str | None = None) -> None:
        self._happen("delete", resource.kind)
        super().delete(resource, name, grace=grace, uid=uid)

    def delete_all(self, resource: Resource, selector: str, *, grace: int | None = None) -> None:
        self._happen("delete", resource.kind)
        super().delete_all(resource, selector, grace=grace)

    def _happen(self, verb: str, kind: str) -> None:
        if (error := self.fault(verb, kind)) is not None:
            raise error


def bench(lab: Lab, fault: Callable[[str, str], ApiError | None] | None = None) -> Bench:
    """An executor on the lab's namespace, and folders for its attempts."""
    client = Faulty(read_login([lab.kubeconfig]))
    if fault is not None:
        client.fault = fault
    cluster = parse_cluster((lab.root / "clusters" / "lab.yaml").read_text(), "lab.yaml")
    root = lab.root / "tasks"
    root.mkdir(exist_ok=True)
    return Bench(root, KubernetesExecutor(client, cluster, "pond"))


def once(verb: str, kind: str, error: type[ApiError], times: int = 1) -> Callable[[str, str], ApiError | None]:
    """Fail the first times that something of a kind is made or removed."""
    left = [times]

    def fault(done: str, what: str) -> ApiError | None:
        if (done, what) != (verb, kind) or not left[0]:
            return None
        left[0] -= 1
        return error("it was lost", Asked(verb, kind))

    return fault


def test_what_a_killed_runner_left_half_made_is_made_whole(lab: Lab) -> None:
    lab.study(TOGETHER)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    until(lambda: lab.counts().get("running") == 1)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    (job,), (service,) = lab.client.list(JOBS).items, lab.client.list(SERVICES).items
    # As if it had been killed before it came to this.
    lab.client.delete(SERVICES, service["metadata"]["name"])
    second = lab.begin("run", "s.yaml", "--on", "lab")
    (again,) = until(lambda: lab.client.list(SERVICES).items)
    assert again["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert [one["metadata"]["uid"] for one in lab.client.list(JOBS).items] == [job["metadata"]["uid"]]
    lab.shoal("stop", "s.yaml")
    assert second.wait(30) == 130
    assert lab.client.list(JOBS).items == []


def test_a_run_goes_on_with_what_was_being_stopped_when_the_runner_was_killed(lab: Lab) -> None:
    lab.study(STOPPED)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    until(lambda: lab.counts().get("running") == 3)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    for folder in (lab.root / "runs-lab" / "pond" / "train").glob("*/attempts/1"):
        (folder / "stop").write_text('{"reason": "cancelled", "now": false}')
    lab.client.delete_all(JOBS, "app.kubernetes.io/managed-by=shoal")
    assert "3 of 3 tasks done" in lab.shoal("run", "s.yaml", "--on", "lab").stderr
    ends = {(one["task"], one["attempt"]): one["outcome"] for one in lab.records("attempt.json").values()}
    assert sorted(ends.values()) == ["failed"] * 3 + ["succeeded"] * 3


@pytest.mark.parametrize("lost", ["create", "answer"])
def test_a_stop_leaves_no_job_whose_making_had_no_answer(lab: Lab, lost: str) -> None:
    made = bench(lab, once(lost, "Job", Unreachable))
    spec = made.spec("true", params={"fake_end": "never"})
    made.executor.start(spec)
    for _ in range(4):  # it would be tried again after two seconds
        made.executor.wait(0.3)
    assert len(lab.client.list(JOBS).items) == (lost == "answer")
    made.executor.stop([spec.key], "cancelled")
    ended = made.wait(spec.key)[spec.key]
    assert ended.failure is not None
    assert ended.failure.kind is FailureClass.CANCELLED
    assert lab.client.list(JOBS).items == []
    made.executor.close()


def test_a_stop_is_carried_out_when_the_login_is_valid_again(lab: Lab) -> None:
    made = bench(lab, once("delete", "Job", Unauthorized, times=2))
    spec = made.spec("true", params={"fake_end": "never"})
    made.executor.start(spec)
    until(lambda: made.executor.wait(0.5))
    made.executor.stop([spec.key], "cancelled")
    assert made.wait(spec.key)[spec.key].outcome == "failed"
    assert lab.client.list(JOBS).items == []
    made.executor.close()


def test_what_ended_while_no_runner_was_there_is_not_made_once_more(lab: Lab) -> None:
    first = bench(lab)
    specs = [first.spec("true", task=f"{number:012x}") for number in range(12)]
    for spec in specs:
        first.executor.start(spec)
    first.wait(*(spec.key for spec in specs))
    first.executor.close()
    jobs = {one["metadata"]["uid"] for one in lab.client.list(JOBS).items}
    until(lambda: all(one["status"].get("succeeded") for one in lab.client.list(JOBS).items))
    for spec in specs:
        (spec.attempt_dir / "attempt.json").unlink()
    second = bench(lab)
    second.executor.adopt((spec.attempt_dir, spec.key) for spec in specs)
    assert {one.outcome for one in second.wait(*(spec.key for spec in specs)).values()} == {"succeeded"}
    assert {one["metadata"]["uid"] for one in lab.client.list(JOBS).items} == jobs
    second.executor.close()


@pytest.mark.parametrize("fault", [None, once("delete", "Job", Unreachable)], ids=["undisturbed", "server-away"])
def test_a_job_without_its_pods_word_is_asked_again(
    lab: Lab, fault: Callable[[str, str], ApiError | None] | None
) -> None:
    first = bench(lab)
    spec = first.spec("true")
    first.executor.start(spec)
    first.wait(spec.key)
    first.executor.close()
    (job,) = lab.client.list(JOBS).items
    until(lambda: lab.client.get(JOBS, job["metadata"]["name"])["status"].get("succeeded"))
    lab.client.delete_all(PODS, "app.kubernetes.io/managed-by=shoal")
    until(lambda: not lab.client.list(PODS).items)
    (first.attempt(spec.key) / "attempt.json").unlink()
    second = bench(lab, fault)
    assert second.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
    assert second.wait(spec.key, seconds=60)[spec.key] == Ended(AttemptKey(TASK, 1), "succeeded")
    (again,) = lab.client.list(JOBS).items
    assert again["metadata"]["uid"] != job["metadata"]["uid"]
    second.executor.close()


def test_a_pod_whose_node_is_silent_is_told_of_and_given_up_when_a_person_has_removed_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_SILENT", 0.0)
    made = bench(lab)
    spec = made.spec("true", params={"fake_end": "never"})
    made.executor.start(spec)
    until(lambda: made.executor.wait(0.5))
    (pod,) = (one["metadata"]["name"] for one in lab.client.list(PODS).items)
    lab.bed.processes.stop("kwok", how=signal.SIGKILL)
    try:
        lab.client.delete(PODS, pod, grace=1)
        (note,) = until(lambda: made.executor.wait(0.5))
        assert isinstance(note, Note)
        assert f"kubectl delete pod {pod} -n {lab.namespace} --force" in note.text
        assert made.executor.wait(3.0) == [], "it may still run"
        lab.client.delete(PODS, pod, grace=0)
        ended = made.wait(spec.key)[spec.key]
        assert ended.failure is not None
        assert ended.failure.kind is FailureClass.NODE_LOST
        until(lambda: not lab.client.list(JOBS).items)
    finally:
        made.executor.close()
        lab.bed._start_kwok()


def test_who_has_lost_the_mirror_does_not_take_results_of_other_code_for_new_ones(lab: Lab) -> None:
    lab.study(CODE)
    (lab.root / "prep.py").write_text("print(1)\n")
    lab.shoal("run", "s.yaml", "--on", "lab")
    before = {one["step"]: one for one in lab.records("result.json").values()}
    jobs = {one["metadata"]["uid"] for one in lab.client.list(JOBS).items}
    shutil.rmtree(lab.root / "runs-lab")
    lab.shoal("run", "s.yaml", "--on", "lab")
    assert {one["attempt"] for one in lab.records("result.json").values()} == {1}, "what was made of the same counts"
    assert {one["metadata"]["uid"] for one in lab.client.list(JOBS).items} == jobs
    shutil.rmtree(lab.root / "runs-lab")
    (lab.root / "prep.py").write_text("print(2)\n")
    lab.shoal("run", "s.yaml", "--on", "lab")
    result = next(one for one in lab.records("result.json").values() if one["step"] == "prep")
    assert (result["attempt"], result["code"] != before["prep"]["code"]) == (2, True)
    assert lab.counts() == {"done": 2}
