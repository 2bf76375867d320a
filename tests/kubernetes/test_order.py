"""Jobs, pods and the answers to requests are heard of by ways of their own: in whichever order, an end is recorded alike."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.clusters import parse_cluster
from shoal.executors import AttemptSpec, Ended, Started
from shoal.executors.kubernetes.attempts import Attempts
from shoal.executors.kubernetes.choose import Chooser
from shoal.executors.kubernetes.mirror import Mirror
from shoal.executors.kubernetes.patience import Patience
from shoal.executors.kubernetes.seen import JobSeen, PodSeen
from shoal.executors.kubernetes.submit import Created, Fetched
from shoal.executors.records import write_spec

CLUSTER = parse_cluster("store: {claim: results}\ndefaults: {image: x}\n", "lab.yaml")
AT = "2026-01-02T03:04:0{}Z"


def job(*conditions: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": "pond-train-1", "uid": "u1", "creationTimestamp": AT.format(1)}
    return {"metadata": meta, "spec": {}, "status": {"conditions": list(conditions)}}


def pod(phase: str, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    owners = [{"kind": "Job", "uid": "u1"}]
    meta = {"name": "pond-train-1-x", "creationTimestamp": AT.format(1), "ownerReferences": owners}
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": AT.format(2)}]
    containers = [{"name": "task", "image": "x", "state": state}] if state else []
    return {
        "metadata": meta,
        "spec": {"nodeName": "n1"},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": containers, **status},
    }


def ended(code: int, message: dict[str, Any] | None = None, reason: str = "Error") -> dict[str, Any]:
    state = {"exitCode": code, "reason": reason, "startedAt": AT.format(3), "finishedAt": AT.format(4)}
    said = {"message": json.dumps({"v": 1, **message})} if message else {}
    return pod("Failed" if code else "Succeeded", {"terminated": {**state, **said}})


def condition(kind: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


FAILED = condition("Failed", "PodFailurePolicy", "Container task for pod lab/x failed with exit code 137")
WORD = {"class": "user", "message": "It was asked to.", "lines": []}
ENDS = {
    "well": (ended(0, {"metrics": {"score": 1}, "outputs": {}}), condition("Complete", "CompletionsReached"), None),
    "by its own fault": (ended(1, {"failure": WORD}), FAILED, "user"),
    "for its memory": (ended(137, reason="OOMKilled"), FAILED, "oom-host"),
    "without a word": (ended(137), FAILED, "node-lost"),
}


class Server:
    """What the submitter is asked for, and the answers that are on their way."""

    def __init__(self, last: dict[str, Any], job: dict[str, Any]) -> None:
        self.last, self.job, self.answers = last, job, list[Any]()

    def submit(self, key: Any, folder: Path, way: Any, *, past: Any = ()) -> None:
        assert not past, "nothing is made a second time"
        self.answers.append(Created(key, job(), False))

    def look(self, key: Any, name: str) -> None:
        self.answers.append(Fetched(key, "objects", (self.job, [self.last])))

    def read_log(self, key: Any, pod: str) -> None:
        self.answers.append(Fetched(key, "log", b"said\n"))


@pytest.mark.parametrize("end", ENDS)
@given(data=st.data())
def test_however_the_news_come_an_end_is_recorded_with_all_its_times(end: str, data: st.DataObject) -> None:
    last, over, kind = ENDS[end]
    before = [pod("Pending"), pod("Running", {"running": {"startedAt": AT.format(3)}})]
    missed = data.draw(st.integers(0, 2))
    news = {"jobs": [job(), job(over)], "pods": [*before[missed:], last]}
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder)
        spec = AttemptSpec(
            study="pond", step="train", task="t", attempt=1, params={}, argv=("x",), cwd=task, task_dir=task,
            attempt_dir=task / "attempts" / "1", out=task / "out", checkpoints=task / "checkpoints", executor="kubernetes",
        )  # fmt: skip
        write_spec(spec)
        server: Any = Server(last, job(over))
        known = Attempts(CLUSTER, server, Chooser(CLUSTER), Mirror(here=False), Patience(), begins=True)
        known.begin(spec)
        attempt = known.all[spec.key]
        while ways := sorted(way for way in news if news[way]) + ["answers"] * bool(server.answers):
            way = data.draw(st.sampled_from(ways))
            told = server.answers.pop(0) if way == "answers" else news[way].pop(0)
            if spec.key not in known.all:
                continue
            if way == "answers":
                known.hear(attempt, told)
            else:
                attempt.see_job(JobSeen.of(told), False) if way == "jobs" else attempt.see_pod(PodSeen.of(told))
                known.decide(attempt)
        record = json.loads((task / "attempts" / "1" / "attempt.json").read_bytes())
    assert [type(one) for one in known.events] == [Started, Ended]
    assert (record["failure"] or {}).get("class") == kind
    times = [record["cluster"][name] for name in ("submitted", "scheduled", "pulled")]
    assert times == [AT.format(1), AT.format(2), AT.format(3)]
    assert (record["cluster"]["job"], record["cluster"]["node"]) == ("pond-train-1", "n1")
    assert record["started"] is not None
