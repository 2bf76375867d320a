"""What an attempt's folder says of it, and how to set down the end of one whose agent cannot any more."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from shoal.agent import agent
from shoal.errors import StoreError
from shoal.executors.contract import AttemptKey, AttemptSpec, Ended, Failure, StopReason
from shoal.failures import FailureClass

__all__ = ["ask_to_stop", "declare_lost", "outcome", "read_spec", "write_spec"]


def ask_to_stop(attempt_dir: Path, reason: StopReason, now: bool) -> None:
    """Leave the request to stop where the agent and the task look for it. A request for now stays one.

    Raises:
        StoreError: it cannot be written.
    """
    path = attempt_dir / "stop"
    before = agent.read_json(str(path))
    if isinstance(before, dict):
        now = now or bool(before.get("now"))
    try:
        agent.write_json_atomic(str(path), {"reason": reason, "now": now, "at": agent.now()})
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", path=attempt_dir) from error


def write_spec(spec: AttemptSpec) -> None:
    """Write ``spec.json``, which the agent runs, into the attempt's folder, which is made where it is not there.

    Raises:
        StoreError: it cannot be written.
    """
    body = spec.to_json()
    try:
        try:
            agent.write_json_atomic(str(spec.path), body)
        except FileNotFoundError:
            spec.folder.mkdir(parents=True, exist_ok=True)
            agent.write_json_atomic(str(spec.path), body)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", path=spec.path) from error


def read_spec(folder: Path) -> AttemptSpec:
    """Read ``spec.json`` back from the attempt's folder as this process sees it.

    Raises:
        StoreError: it is not there, or not whole.
    """
    try:
        spec = AttemptSpec.from_json(agent.read_json(str(folder / "spec.json")))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError("cannot be read, or is not whole", path=folder / "spec.json") from error
    return spec if str(spec.attempt_dir) == str(folder) else replace(spec, records=folder)


def outcome(attempt_dir: Path, key: AttemptKey) -> Ended | None:
    """Return how an attempt ended by its own account, or None when that does not say so in full.

    To be asked only when its agent is gone: between the two files of a success there is a moment.
    """
    record = agent.read_json(str(attempt_dir / "attempt.json"))
    if not isinstance(record, dict) or record.get("state") != "ended":
        return None
    if record.get("outcome") == "succeeded":
        result = agent.read_json(str(_task_dir(attempt_dir) / "result.json"))
        published = isinstance(result, dict) and result.get("attempt") == key.number
        return Ended(key, "succeeded") if published else None
    try:
        return Ended(key, "failed", Failure.from_json(record["failure"]))
    except (KeyError, TypeError, ValueError):
        return None


def declare_lost(attempt_dir: Path, key: AttemptKey, *, witnessed: float | None = None) -> Ended:
    """End what a dead agent left running, and write down that the attempt is over.

    Args:
        attempt_dir: the attempt's folder.
        key: which attempt.
        witnessed: when the agent died, if somebody saw it; else the last sign of life counts.
    """
    record = agent.read_json(str(attempt_dir / "attempt.json"))
    spec_path = attempt_dir / "spec.json"
    spec = agent.read_json(str(spec_path))
    spec = spec if isinstance(spec, dict) else {}
    begun = isinstance(record, dict)
    if not isinstance(record, dict):
        record = _blank(spec, key)
    group, start = record.get("group"), record.get("group_start")
    gone = True
    if begun and record.get("host") == os.uname().nodename:
        gone = agent.kill_left_over(group, start, str(spec_path))
    failure = _why(attempt_dir, begun, gone)
    started = _seconds(record.get("started"))
    ended = max(witnessed or _last_sign(attempt_dir), started or 0.0)
    newest = agent.newest_change(str(spec["checkpoints"])) if begun and "checkpoints" in spec else 0.0
    checkpointed = newest if started is not None and newest >= started else None
    lost = max(0.0, ended - (checkpointed or started)) if started is not None else 0.0
    record.update(
        state="ended",
        ended=agent.now(ended) if started is not None else None,
        outcome="failed",
        failure=failure.to_json(),
        checkpointed=None if checkpointed is None else agent.now(checkpointed),
        lost_seconds=round(lost, 3),
    )
    agent.write_json_atomic(str(attempt_dir / "attempt.json"), record)
    return Ended(key, "failed", failure)


def _why(attempt_dir: Path, begun: bool, gone: bool) -> Failure:
    asked = agent.read_json(str(attempt_dir / "stop"))
    if isinstance(asked, dict):
        preempted = asked.get("reason") == "preempted"
        kind = FailureClass.PREEMPTED if preempted else FailureClass.CANCELLED
        return Failure(kind, f"{'Preempted' if preempted else 'Cancelled'}: a stop was asked for.")
    if not begun:
        return Failure(FailureClass.NODE_LOST, "The runner ended before the command was started.")
    message = "The agent was killed, or its machine went down, before the attempt was over."
    if not gone:
        message += " A process of it cannot be killed."
    return Failure(FailureClass.NODE_LOST, message)


def _task_dir(attempt_dir: Path) -> Path:
    return attempt_dir.parent.parent


def _blank(spec: dict[str, Any], key: AttemptKey) -> dict[str, Any]:
    known = {name: spec.get(name) for name in ("study", "step", "executor", "queued")}
    nothing = dict.fromkeys(
        ("started", "pid", "pid_start", "group", "group_start", "exit_code", "signal", "usage"), None
    )
    return {
        "format": 1,
        **known,
        "task": key.task,
        "attempt": key.number,
        **nothing,
        "host": os.uname().nodename,
        "devices": [],
    }


def _seconds(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _last_sign(attempt_dir: Path) -> float:
    times = [0.0]
    for name in ("heartbeat", "log.txt", "metrics.jsonl", "usage.jsonl", "attempt.json"):
        try:
            times.append((attempt_dir / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)
