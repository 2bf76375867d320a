"""What each task of a plan has come to, by what the store holds: done, running, or to be run and why."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.store.index import Snapshot, TaskRecord

if TYPE_CHECKING:
    from shoal.plan import Plan, Task

__all__ = ["Reason", "Sources", "State", "TaskState", "alive", "survey", "task_state"]

# An agent writes its heartbeat several times in this span.
_ALIVE_SECONDS = 60.0


class State(enum.StrEnum):
    """Where a task stands."""

    DONE = "done"
    RUNNING = "running"
    TODO = "todo"
    GATE = "gate"


class Reason(enum.StrEnum):
    """Why a task is to be run."""

    NEW = "new"
    MISSING = "missing"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CODE = "stale code"
    INPUT = "input changed"
    APPROVAL = "waits for approval"


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task's state, and the reason if it has to run."""

    state: State
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """Digests of what tasks are made from beside each other: code by step, data by step and name. Null: not watched."""

    code: Mapping[str, str | None] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)


_DONE = TaskState(State.DONE)
_RUNNING = TaskState(State.RUNNING)


def survey(plan: Plan, snapshot: Snapshot, sources: Sources, *, keep_stale: bool = False) -> dict[str, TaskState]:
    """The state of every task of a plan.

    A finished task below one that will run again is counted as *input changed*; when its turn comes and the new input turns
    out to be the same, it is left as it is.

    Args:
        plan: the plan.
        snapshot: what the store holds.
        sources: digests of the present code and data.
        keep_stale: take results for good although code has changed since.
    """
    now = time.time()
    states: dict[str, TaskState] = {}
    outputs: dict[str, str | None] = {}
    for task in plan.tasks.values():
        record = snapshot.tasks.get(task.id)
        if any(states[need].state is not State.DONE for need in task.needs):
            inputs: Mapping[str, str | None] | None = None
        else:
            inputs = {need: outputs[need] for need in task.needs}
        state = task_state(task, record, sources, inputs, gate=task.command is None, keep_stale=keep_stale, now=now)
        states[task.id] = state
        outputs[task.id] = record.output_digest if record is not None else None
    return states


def task_state(
    task: Task,
    record: TaskRecord | None,
    sources: Sources,
    inputs: Mapping[str, str | None] | None,
    *,
    gate: bool = False,
    keep_stale: bool = False,
    now: float | None = None,
) -> TaskState:
    """The state of one task.

    Args:
        task: the task.
        record: what the store holds of it.
        sources: digests of the present code and data.
        inputs: digest of the outputs of each task it needs; None if not all of them are done.
        gate: it waits for a person instead of running.
        keep_stale: take a result for good although code has changed since.
        now: seconds since the epoch; the clock's time by default.
    """
    if record is None:
        return _waiting(gate, Reason.NEW)
    if alive(record, time.time() if now is None else now):
        return _RUNNING
    result = record.result
    if result is None:
        return _waiting(gate, _unfinished(record))
    if not record.has_out and result.get("outputs", {}).get("files"):
        return _waiting(gate, Reason.MISSING)
    made_with = result.get("code")
    if not keep_stale and not gate and made_with != sources.code.get(task.step) and sources.code.get(task.step):
        return TaskState(State.TODO, Reason.CODE)
    known = result.get("data", {})
    for name, digest in sources.data.get(task.step, {}).items():
        if digest is not None and known.get(name) != digest:
            return _waiting(gate, Reason.INPUT)
    made_from = result.get("inputs", {})
    if inputs is None or any(made_from.get(need) != digest for need, digest in inputs.items()):
        return _waiting(gate, Reason.INPUT)
    return _DONE


def _waiting(gate: bool, reason: Reason) -> TaskState:
    return TaskState(State.GATE, Reason.APPROVAL) if gate else TaskState(State.TODO, reason)


def alive(record: TaskRecord, now: float) -> bool:
    """Whether the newest attempt's agent has given a sign of life lately; ``now`` is in seconds since the epoch."""
    last = record.last
    if last is None or last.state == "ended" or last.heartbeat is None:
        return False
    return now - last.heartbeat < _ALIVE_SECONDS


def _unfinished(record: TaskRecord) -> Reason:
    last = record.last
    if last is None:
        return Reason.NEW
    if last.data.get("outcome") == "succeeded":
        return Reason.MISSING
    if last.failure is None or last.failure.get("class") in ("cancelled", "preempted", "node-lost"):
        return Reason.INTERRUPTED
    return Reason.FAILED
