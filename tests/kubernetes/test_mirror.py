"""What is written down of an attempt, at whatever moment the runner is killed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executors.suite import Bench
from shoal.agent import agent
from shoal.executors import AttemptSpec, Ended
from shoal.executors.debug import DebugExecutor
from shoal.executors.kubernetes import pod as inside
from shoal.executors.kubernetes.mirror import Mirror
from shoal.executors.kubernetes.seen import PodSeen, View
from shoal.failures import FailureClass


def ended_well(**said: Any) -> PodSeen:
    """A pod whose task has ended well."""
    message = inside.encode({"v": 1, "code": 0, "outputs": {"digest": "d"}, "seconds": 2.0, **said}).decode()
    at = "2026-01-01T00:00:00Z"
    ended = {"exitCode": 0, "startedAt": at, "finishedAt": at, "message": message}
    return PodSeen("p", "u", 0, at, None, False, "node-1", {
        "phase": "Succeeded", "containerStatuses": [{"name": "task", "state": {"terminated": ended}}],
    })  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path) -> AttemptSpec:
    made = Bench(tmp_path, DebugExecutor()).spec("true")
    made.attempt_dir.mkdir(parents=True)
    return made


@pytest.mark.parametrize("writes", range(3))
def test_a_runner_killed_while_it_writes_an_end_leaves_what_the_next_one_takes_up(
    spec: AttemptSpec, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, write = 0, agent.write_json_atomic

    def killed(path: str, value: Any, durable: bool = False) -> None:
        nonlocal count
        count += 1
        if count > writes:
            raise KeyboardInterrupt
        write(path, value, durable)

    monkeypatch.setattr(agent, "write_json_atomic", killed)
    if writes < 2:
        with pytest.raises(KeyboardInterrupt):
            Mirror(here=False).end(spec, View(), ended_well(), None)
    else:
        assert Mirror(here=False).end(spec, View(), ended_well(), None) == Ended(spec.key, "succeeded")
    record = agent.read_json(str(spec.attempt_dir / "attempt.json"))
    assert record is None or (record["state"] == "ended" and (spec.task_dir / "result.json").exists())


def test_a_result_counts_only_if_it_was_made_of_what_was_asked_for(spec: AttemptSpec) -> None:
    asked = replace(spec, code="c1", input_digests={"bbbbbbbbbbbb": "i1"})
    for said, why in (
        ({"source": "c0"}, "made with other code"),
        ({"source": "c1", "inputs": {"bbbbbbbbbbbb": "i0"}}, "made from other inputs"),
    ):
        ended = Mirror(here=False).end(asked, View(), ended_well(**said), None)
        assert ended.failure is not None
        assert (ended.failure.kind, why in ended.failure.message) == (FailureClass.STORE, True)
        assert not (spec.task_dir / "result.json").exists()
    for said in ({}, {"source": "c1", "inputs": {"bbbbbbbbbbbb": "i1"}}):  # an older agent says less
        assert Mirror(here=False).end(asked, View(), ended_well(**said), None).outcome == "succeeded"
        assert json.loads((spec.task_dir / "result.json").read_text())["code"] == "c1"
