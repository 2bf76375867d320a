"""What is kept of one attempt while it waits and runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from shoal.clusters.gpus import GpuRequest
from shoal.executors.contract import AttemptKey, AttemptSpec, Failure, Resources, StopReason
from shoal.executors.kubernetes.seen import JobSeen, PodSeen, Said, View
from shoal.executors.records import read_spec
from shoal.failures import FailureClass

__all__ = ["Attempt", "asked_to_end", "overruled"]


@dataclass(slots=True)
class Attempt:
    """What is kept of an attempt: little, because there may be ten thousand. Its specification is in its folder."""

    key: AttemptKey
    folder: Path
    resources: Resources
    queued: str | None
    way: GpuRequest | None = None
    view: View = field(default_factory=View)
    submitted: bool = False  # its Job was made, or found
    made_at: float = 0.0  # monotonic: from then on a list has to have its Job
    adopting: bool = False  # whether its Job is there is not known yet
    whole: bool = True  # whether, with its Job, all that belongs to it is there
    perhaps: bool = False  # a submission failed in a way that may have left its Job
    started: bool = False
    ending: Said | None = None  # its log is read before the end is told
    stop: StopReason | None = None
    now: bool = False
    removing: bool = False  # it was asked for already
    tries: int = 0
    asked_again: int = 0
    looks: int = 0  # questions after the state of its objects that are not answered yet
    checked: bool = False  # its pods were asked for after its Job was over
    given_up: Failure | None = None
    leaving: float | None = None  # monotonic: when its pod should have ended that was asked to
    past: set[str] = field(default_factory=set)  # Jobs of its name that do not count any more
    held: str | None = None  # what it counts as: waiting or held
    resource: str = ""  # of which resource

    def spec(self) -> AttemptSpec:
        """Its specification; a pod that has the folder mounted has written it again, without the time.

        Raises:
            StoreError: it cannot be read.
        """
        return replace(read_spec(self.folder), queued=self.queued)

    @property
    def placed(self) -> bool:
        """Whether each of its pods has a node, and nothing keeps it from starting there."""
        pods = [pod for pod in self.view.mine() if pod.node is not None and not pod.over and pod.waiting is None]
        return len(pods) >= self.resources.nodes

    def see_pod(self, pod: PodSeen) -> None:
        """Take note of a pod, unless it is one of a Job that does not count any more."""
        if pod.job in self.past:
            return
        self.view.pods[pod.name] = pod
        graces = [one.deleting for one in self.view.pods.values() if one.deleting is not None and not one.over]
        self.leaving = (self.leaving or time.monotonic() + max(graces)) if graces else None

    def see_job(self, job: JobSeen, gone: bool) -> None:
        """Take note of its Job, or that this has gone."""
        view = self.view
        if job.uid in self.past:
            return
        self.adopting = False
        if not gone:
            view.job, view.lost = job, None
            self.submitted = True
        elif view.job is None or view.job.uid == job.uid:
            view.job, view.lost = None, job.uid


def overruled(failure: Failure) -> bool:
    """Whether a failure may be the mere consequence of a stop."""
    return failure.kind.platform or failure.kind is FailureClass.CANCELLED


def asked_to_end(reason: StopReason, lines: tuple[str, ...] = ()) -> Failure:
    """The failure of an attempt that was asked to end."""
    if reason == "preempted":
        return Failure(FailureClass.PREEMPTED, "Preempted: a stop was asked for.", lines)
    return Failure(FailureClass.CANCELLED, "Cancelled: a stop was asked for.", lines)
