"""What is kept of a Job and of a pod, and what both together say of an attempt. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shoal.executors.contract import AttemptKey, Failure
from shoal.executors.kubernetes import names
from shoal.executors.kubernetes.podspec import CONTAINER
from shoal.executors.kubernetes.status import decode_message, failure_of_job, failure_of_pod, waiting_for
from shoal.failures import FailureClass

__all__ = ["JobSeen", "PodSeen", "Said", "View", "key_of", "look", "seconds"]

_INDEX = "batch.kubernetes.io/job-completion-index"
_STATUS = ("phase", "reason", "message")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")


def key_of(made: Mapping[str, Any]) -> AttemptKey | None:
    """The attempt that an object belongs to, by its labels; None for an object that is no attempt's."""
    labels = (made.get("metadata") or {}).get("labels") or {}
    try:
        return AttemptKey(labels[names.TASK], int(labels[names.ATTEMPT]))
    except (KeyError, ValueError):
        return None


@dataclass(slots=True)
class JobSeen:
    """What is kept of a Job."""

    name: str
    uid: str
    created: str
    deleting: bool
    suspended: bool
    status: dict[str, Any]

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> JobSeen:
        """Keep what is needed."""
        meta, spec, status = job["metadata"], job.get("spec") or {}, job.get("status") or {}
        conditions = [{key: one.get(key) for key in _CONDITION} for one in status.get("conditions") or ()]
        return cls(
            meta["name"],
            meta["uid"],
            meta.get("creationTimestamp") or "",
            "deletionTimestamp" in meta,
            bool(spec.get("suspend")),
            {"conditions": conditions} if conditions else {},
        )

    @property
    def complete(self) -> bool:
        """Whether it has succeeded as a whole."""
        return any(one["type"] == "Complete" and one["status"] == "True" for one in self.status.get("conditions") or ())

    @property
    def failure(self) -> Failure | None:
        """Why it failed as a whole, or None."""
        return failure_of_job({"status": self.status})


@dataclass(slots=True)
class PodSeen:
    """What is kept of a pod; ``deleting``: the seconds of grace it was given to end, None where it was not asked to."""

    name: str
    job: str
    index: int
    created: str
    deleting: float | None
    gone: bool
    node: str | None
    status: dict[str, Any]

    @classmethod
    def of(cls, pod: Mapping[str, Any], *, gone: bool = False) -> PodSeen:
        """Keep what is needed; ``gone``: the object has been removed."""
        meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        kept = {key: status[key] for key in _STATUS if status.get(key)}
        conditions = [{key: one.get(key) for key in _CONDITION} for one in status.get("conditions") or ()]
        if conditions:
            kept["conditions"] = conditions
        containers = [one for one in status.get("containerStatuses") or () if one.get("name") == CONTAINER]
        if containers:
            kept["containerStatuses"] = [{key: containers[0].get(key) for key in ("name", "image", "state")}]
        deleting = float(meta.get("deletionGracePeriodSeconds") or 0) if "deletionTimestamp" in meta else None
        # One that no node has is deleted at once; only the Job's bookkeeping still holds it.
        gone = gone or deleting == 0
        owner = next((one["uid"] for one in meta.get("ownerReferences") or () if one.get("kind") == "Job"), "")
        notes = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
        index = notes.get(_INDEX) or "0"
        return cls(
            meta["name"],
            owner,
            int(index) if index.isdecimal() else 0,
            meta.get("creationTimestamp") or "",
            deleting,
            gone,
            spec.get("nodeName"),
            kept,
        )

    @property
    def _state(self) -> Mapping[str, Any]:
        for one in self.status.get("containerStatuses") or ():
            return one.get("state") or {}
        return {}

    @property
    def terminated(self) -> Mapping[str, Any] | None:
        """How its container ended."""
        return self._state.get("terminated")

    @property
    def running_since(self) -> str | None:
        """When its container started."""
        for word in ("running", "terminated"):
            if (found := self._state.get(word)) is not None:
                return _time(found.get("startedAt"))
        return None

    @property
    def message(self) -> dict[str, Any]:
        """What it left as its termination message."""
        return decode_message((self.terminated or {}).get("message"))

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        ended = self.terminated
        return self.status.get("phase") == "Succeeded" or (ended is not None and ended.get("exitCode") == 0)

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.gone or self._said

    @property
    def _said(self) -> bool:
        return self.terminated is not None or self.status.get("phase") in ("Succeeded", "Failed")

    @property
    def forced(self) -> bool:
        """Whether somebody has removed it without waiting for its node, which has not said how it ended."""
        return self.deleting == 0 and self.node is not None and not self._said

    @property
    def failure(self) -> Failure | None:
        """Why it failed, or None."""
        if self.forced:
            return Failure(FailureClass.NODE_LOST, "It was removed by force, without a word from its node.")
        return failure_of_pod({"status": self.status})

    @property
    def decisive(self) -> bool:
        """Whether its failure is its attempt's: its container has run, or the platform disrupted it. A pod that a node refused
        is replaced by the Job."""
        disrupted = any(
            one["type"] == "DisruptionTarget" and one["status"] == "True" for one in self.status.get("conditions") or ()
        )
        return self.terminated is not None or disrupted or self.forced

    @property
    def waiting(self) -> Failure | None:
        """What keeps it from starting."""
        return waiting_for({"status": self.status})

    @property
    def scheduled(self) -> str | None:
        """When it was given a node."""
        for one in self.status.get("conditions") or ():
            if one["type"] == "PodScheduled" and one["status"] == "True":
                return _time(one["lastTransitionTime"])
        return None


@dataclass(slots=True)
class View:
    """What is known of an attempt's objects.

    Attributes:
        job: its Job, or None where there is none (yet, or any more).
        lost: uid of the Job that was there, and is gone.
        pods: by name, those that are gone included.
    """

    job: JobSeen | None = None
    lost: str | None = None
    pods: dict[str, PodSeen] = field(default_factory=dict)

    def mine(self) -> list[PodSeen]:
        """The pods of the Job, oldest first; those of an earlier Job of the same name do not count."""
        job = self.job
        found = [one for one in self.pods.values() if job is None or not one.job or one.job == job.uid]
        return sorted(found, key=lambda one: (one.created, one.name))


@dataclass(frozen=True, slots=True)
class Said:
    """What the objects say of an attempt.

    Attributes:
        state: ``waiting``, ``running``, ``succeeded``, ``failed``; ``mute`` when it ended well, but nothing is left that says
            with what result; ``removed`` when its Job was removed and nothing of it runs.
        pod: the pod that says so.
        failure: why it failed.
        unsure: its Job is over by its own word, and no pod that was seen says how: what the pod says may be on its way yet.
    """

    state: str
    pod: PodSeen | None = None
    failure: Failure | None = None
    unsure: bool = False


def look(view: View, nodes: int = 1) -> Said:
    """What an attempt's objects say of it.

    Args:
        view: the objects.
        nodes: how many pods it has.
    """
    pods, job = view.mine(), view.job
    if nodes == 1:
        for pod in pods:
            if pod.succeeded:
                return Said("succeeded" if pod.message else "mute", pod)
        ended = [pod for pod in pods if pod.over]
        failed = next((pod for pod in ended if pod.decisive and pod.failure is not None), None)
        if failed is not None:
            return Said("failed", failed, failed.failure)
    if job is not None and job.complete:
        first = next((pod for pod in pods if pod.index == 0 and pod.message), None)
        if first is not None:
            return Said("succeeded", first)
        return Said("mute", pods[0] if pods else None, unsure=not any(pod.over for pod in pods if pod.index == 0))
    if job is not None and (why := job.failure) is not None:
        # The pod that failed first says it better than those that were ended because of it.
        own = sorted((pod for pod in pods if pod.failure is not None), key=_ended)
        return Said("failed", own[0] if own else None, (own[0].failure if own else None) or why, unsure=not own)
    living = [pod for pod in pods if not pod.over]
    if job is None and view.lost is not None and not living:
        return Said("removed", pods[-1] if pods else None)
    running = [pod for pod in pods if pod.running_since is not None]
    if running:
        return Said("running", min(running, key=lambda one: one.index))
    return Said("waiting", living[-1] if living else None)


def _ended(pod: PodSeen) -> tuple[bool, str, int]:
    finished = (pod.terminated or {}).get("finishedAt")
    return finished is None, finished or "", pod.index


def _time(given: object) -> str | None:
    return str(given) if given else None


def seconds(text: str | None) -> float | None:
    """Seconds since 1970 of one of Kubernetes' times."""
    with contextlib.suppress(TypeError, ValueError):
        return datetime.fromisoformat(text or "").timestamp()
    return None
