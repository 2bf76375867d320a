"""What is written down of attempts that run in pods: into the folder on the claim, where that is at hand, or into a mirror of it.

In a mirror the files are made from what pods and Jobs say of themselves, so that everything that reads a store works as ever.
Where the claim itself is mounted, the agent has written them, and only what Kubernetes alone knows is added.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.agent import agent
from shoal.executors.contract import AttemptKey, AttemptSpec, Ended, Failure
from shoal.executors.kubernetes.seen import PodSeen, View, seconds
from shoal.executors.kubernetes.status import decode_message
from shoal.executors.records import outcome
from shoal.failures import FailureClass

__all__ = ["Mirror"]


class Mirror:
    """Writes records.

    Args:
        here: whether attempts' own folders are at hand, so that the agent's files are already there.
    """

    def __init__(self, *, here: bool) -> None:
        self.here = here

    def begin(self, spec: AttemptSpec, view: View, pod: PodSeen, gpu: str = "GPU") -> str:
        """Write that an attempt runs; return since when.

        Args:
            spec: its specification.
            view: its objects.
            pod: the one that runs.
            gpu: what the GPUs of its node are called.

        Raises:
            OSError: the folder cannot be written.
        """
        started = _precise(pod.running_since) or agent.now()
        if not self.here:
            record = _blank(spec, pod)
            # What its agent finds there is known at its end.
            held = [{"index": index, "name": gpu, "memory": None} for index in range(spec.resources.gpu)]
            record |= {"state": "running", "started": started, "cluster": _times(view, pod), "devices": held}
            agent.write_json_atomic(str(spec.folder / "attempt.json"), record)
            holder = {"host": pod.node or pod.name, "pid": 0, "pid_start": None}
            agent.write_json_atomic(str(spec.folder / "heartbeat"), holder)
        self.waits(spec.folder, None)
        return started

    def lives(self, folder: Path) -> None:
        """Write that an attempt still runs."""
        if not self.here:
            with contextlib.suppress(OSError):
                os.utime(folder / "heartbeat")

    def waits(self, folder: Path, why: Failure | None) -> None:
        """Write why an attempt has not started yet; None: it does not wait any more."""
        path = folder / "waiting.json"
        with contextlib.suppress(OSError):
            if why is None:
                path.unlink(missing_ok=True)
            else:
                said = {"class": why.kind.value, "message": why.message, "at": agent.now()}
                agent.write_json_atomic(str(path), said)

    def log(self, folder: Path, text: bytes) -> None:
        """Keep what an attempt printed, as far as it was fetched."""
        self._keep(folder / "log.txt", text)

    def use(self, folder: Path, samples: bytes) -> None:
        """Keep what an attempt used of late."""
        self._keep(folder / "usage.jsonl", samples)

    def _keep(self, path: Path, data: bytes) -> None:
        if not self.here:
            making = path.with_name(f".{path.name}.{os.getpid()}")
            making.write_bytes(data)
            making.replace(path)

    def known(self, folder: Path, key: AttemptKey) -> Ended | None:
        """How an attempt ended by the word of its own folder, where that is at hand."""
        return outcome(folder, key) if self.here else None

    def end(
        self, spec: AttemptSpec, view: View, pod: PodSeen | None, failure: Failure | None, log: bytes | None = None
    ) -> Ended:
        """Write how an attempt ended, a result last.

        Args:
            spec: its specification.
            view: its objects.
            pod: the pod that said so.
            failure: None when it ended well.
            log: what it printed, where that was read: it has the whole of a word that was too long for the pod's message.

        Raises:
            OSError: the folder cannot be written.
        """
        message = pod.message if pod is not None else {}
        message = {**message, **long_word(log)} if message.get("left_out") else message
        if failure is None and not self.here and (other := _made_otherwise(spec, message)) is not None:
            failure = Failure(FailureClass.STORE, other)
        path = str(spec.folder / "attempt.json")
        before = agent.read_json(path)
        record = _blank(spec, pod)
        if isinstance(before, dict):
            record |= before
        if not self.here or record.get("state") != "ended":
            record |= {key: message[key] for key in _OF_THE_AGENT if key in message}
        # The clock that counts is the pod's.
        finished = (pod.terminated or {}).get("finishedAt") if pod is not None else None
        begun = record.get("started") is not None
        if begun and (record.get("ended") is None or record.get("state") != "ended"):
            record["ended"] = message.get("ended") or _precise(finished) or agent.now()
        if self.here and record.get("state") == "running":
            # Its agent could not say it any more.
            newest = agent.newest_change(str(spec.checkpoints))
            if newest >= (seconds(record.get("started")) or newest + 1):
                record["checkpointed"] = agent.now(newest)
        record |= {
            "state": "ended",
            "queued": spec.queued or record.get("queued"),
            "outcome": "succeeded" if failure is None else "failed",
            "failure": None if failure is None else failure.to_json(),
            "cluster": _times(view, pod),
        }
        if record.get("lost_seconds") is None:
            record["lost_seconds"] = 0.0 if failure is None else _lost(record)
        if failure is None and not self.here:
            # The result comes first, should this runner be killed in between: the next one takes up an attempt that has not
            # ended; one that has ended well, without a result, would be run again.
            task = spec.folder.parent.parent
            (task / "out").mkdir(exist_ok=True)
            result = _result(spec, record, message)
            agent.write_json_atomic(str(task / "result.json"), result, durable=result["seconds"] >= 1)
        agent.write_json_atomic(path, record)
        self.waits(spec.folder, None)
        return Ended(spec.key, "succeeded" if failure is None else "failed", failure)


def _made_otherwise(spec: AttemptSpec, message: Mapping[str, Any]) -> str | None:
    """Why what an attempt tells of is not what was asked for; None where it is.

    Who has lost the mirror, or runs the study from another machine, gives an attempt that the store knows already the same
    number. Its result counts if it was made of the same.
    """
    inputs = message.get("inputs") or {}
    if "source" in message and message["source"] != spec.code:
        other = "with other code"
    elif any(inputs.get(task, digest) != digest for task, digest in spec.input_digests.items()):
        other = "from other inputs"
    else:
        return None
    return f"The store has an attempt of this number from an earlier run, made {other}."


def long_word(log: bytes | None) -> dict[str, Any]:
    """What a pod wrote at the end of its log because it was too long for its message."""
    lines = [line for line in (log or b"").splitlines()[-3:] if line.startswith(_LONG)]
    return decode_message(lines[-1][len(_LONG) :].decode("ascii", "replace")) if lines else {}


_LONG = b"shoal-summary: "
_OF_THE_AGENT = ("started", "ended", "exit_code", "signal", "usage", "checkpointed", "lost_seconds", "devices")


def _blank(spec: AttemptSpec, pod: PodSeen | None) -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("started", "ended", "pid", "pid_start", "group", "group_start", "outcome", "exit_code", "signal", "failure",
         "usage", "checkpointed", "lost_seconds")
    )  # fmt: skip
    return {
        "format": 1,
        "study": spec.study,
        "step": spec.step,
        "task": spec.task,
        "attempt": spec.attempt,
        "executor": spec.executor,
        "queued": spec.queued,
        **nothing,
        "host": (pod.node or pod.name) if pod is not None else None,
        "devices": [],
    }


def _times(view: View, pod: PodSeen | None) -> dict[str, Any]:
    return {
        "job": view.job.name if view.job is not None else None,
        "pod": pod.name if pod is not None else None,
        "node": pod.node if pod is not None else None,
        "submitted": view.job.created if view.job is not None else None,
        "scheduled": pod.scheduled if pod is not None else None,
        "pulled": pod.running_since if pod is not None else None,
    }


def _result(spec: AttemptSpec, record: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "study": spec.study,
        "step": spec.step,
        "task": spec.task,
        "params": dict(spec.params),
        "attempt": spec.attempt,
        "metrics": message.get("metrics") or {},
        "outputs": message.get("outputs") or {},
        "inputs": {**spec.input_digests, **(message.get("inputs") or {})},
        "data": {name: digest for name, (_, digest) in spec.data.items()},
        "code": spec.code,
        "started": record["started"],
        "ended": record["ended"],
        "seconds": float(message.get("seconds") or _span(record)),
    }


def _lost(record: Mapping[str, Any]) -> float:
    begin = max(seconds(record.get("started")) or 0.0, seconds(record.get("checkpointed")) or 0.0)
    return round(max(0.0, (seconds(record.get("ended")) or time.time()) - begin), 3) if begin else 0.0


def _span(record: Mapping[str, Any]) -> float:
    start, end = seconds(record.get("started")), seconds(record.get("ended"))
    return round(max(0.0, end - start), 3) if start is not None and end is not None else 0.0


def _precise(text: str | None) -> str | None:
    """A time of Kubernetes' as Shoal writes times."""
    at = seconds(text)
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
