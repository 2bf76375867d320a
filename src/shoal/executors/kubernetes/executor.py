"""Runs attempts as Jobs in a namespace: submits in the background, watches, and reports each end once.

Everything that happens, told by the threads of streams and submitters, goes through one queue that ``wait`` works off, so
what is known is changed by one thread only. Decisions are level-triggered: after each change an attempt is looked at as a whole.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from shoal.clusters.free import FreeGpus
from shoal.clusters.gpus import with_defaults
from shoal.clusters.schema import Cluster
from shoal.errors import ShoalError
from shoal.executors.contract import (
    AttemptKey,
    AttemptSpec,
    Ended,
    Note,
    Resources,
    Site,
    Started,
    StopReason,
)
from shoal.executors.kubernetes import bundle, names
from shoal.executors.kubernetes.attempts import Attempts
from shoal.executors.kubernetes.choose import Chooser, NodeSeen
from shoal.executors.kubernetes.client import JOBS, PODS, Client
from shoal.executors.kubernetes.manifests import Shared
from shoal.executors.kubernetes.mirror import Mirror
from shoal.executors.kubernetes.patience import Patience
from shoal.executors.kubernetes.seen import JobSeen, PodSeen, key_of
from shoal.executors.kubernetes.spec import layout_of, working_directory
from shoal.executors.kubernetes.stream import Changed, Faltered, Listed, Stream
from shoal.executors.kubernetes.submit import Created, Dropped, Refused, Submitter
from shoal.executors.records import write_spec

__all__ = ["KubernetesExecutor"]


class KubernetesExecutor:
    """Runs attempts as Jobs.

    Args:
        client: talks to the API server; closed together with the executor.
        cluster: the cluster file.
        study: name of the study.
        images: step to image; the cluster's default where it is None.
        code: step to its packed code.
        pods: how many pods may run at once; decides on limits.
        here: whether the store on the claim is at hand here, in the folders of the specifications.
        nodes: the cluster's nodes, where they may be read.
        free: which GPUs are free, where a task has a choice among types; asked for again now and then.
        patience: how long to put up with what keeps a pod from starting.
        begins: whether adopted attempts that have no Job are submitted; else they count as cancelled.
    """

    name = "kubernetes"

    def __init__(
        self,
        client: Client,
        cluster: Cluster,
        study: str,
        *,
        images: Mapping[str, str | None] | None = None,
        code: Mapping[str, bundle.Code | None] | None = None,
        pods: int = 1,
        here: bool = False,
        nodes: list[NodeSeen] | None = None,
        free: FreeGpus | None = None,
        patience: Patience | None = None,
        begins: bool = True,
    ) -> None:
        self._client = client
        self._cluster = cluster
        packed = dict(code or {})
        shared = Shared(study, cluster, pods, packed)
        self.scope = shared.scope
        self.site: Site | None = Site(
            PurePosixPath(layout_of(cluster, study).root),
            {step: working_directory(one is not None) for step, one in packed.items()},
            lambda asked: with_defaults(cluster, asked),
        )
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._submitter = Submitter(client, shared, dict(images or {}), self._inbox.put)
        self._chooser = Chooser(cluster, nodes, free)
        mirror = Mirror(here=here)
        self._attempts = Attempts(
            cluster, self._submitter, self._chooser, mirror, patience or Patience(), begins=begins
        )
        selector = names.selector(self.scope)
        self._streams = [
            Stream(client, JOBS, selector, self._keep_job, self._inbox.put),
            Stream(client, PODS, selector, self._keep_pod, self._inbox.put),
        ]
        self._watching = False
        self._faltering: dict[str, ShoalError] = {}

    # -- the contract

    def fits(self, resources: Resources) -> bool:
        """Return whether one more may wait for room; the platform decides when it runs.

        What is not even submitted yet is kept short, so that the runner's order holds and memory stays small.
        """
        return self._attempts.fits(resources)

    def impossible(self, resources: Resources) -> str | None:
        """Return why no node of the cluster can ever hold it, as far as that can be known."""
        return self._chooser.impossible(with_defaults(self._cluster, resources))

    def start(self, spec: AttemptSpec) -> None:
        """Hand an attempt over; it is submitted in the background.

        Raises:
            StoreError: when the attempt's folder cannot be written.
        """
        if spec.key in self._attempts.all:
            return
        write_spec(spec)
        self._watch()
        self._attempts.begin(spec)

    def adopt(self, keys: Iterable[tuple[Path, AttemptKey]]) -> set[AttemptKey]:
        """Take over attempts of an earlier runner (see the contract).

        What has a Job is watched, or reported from what its objects say. What has none is submitted under its own name: where
        it ran before, its claim in the store keeps it from running twice, and its pod tells how it ended.
        """
        adopted = {key for folder, key in keys if self._attempts.adopt(folder, key)}
        if adopted:
            for stream in self._streams if self._watching else ():
                stream.relist()
            self._watch()
        return adopted

    def wait(self, timeout: float) -> list[Started | Ended | Note]:
        """Return what happened, as soon as something did; or nothing, after ``timeout`` seconds or when `fits` may say more."""
        known = self._attempts
        known.room = False
        until = time.monotonic() + timeout
        while True:
            known.tend()
            left = until - time.monotonic()
            wait = 0.0 if known.events or known.room else max(0.0, min(left, known.next_tend - time.monotonic()))
            try:
                self._hear(self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait())
                while True:
                    self._hear(self._inbox.get_nowait())
            except queue.Empty:
                pass
            if known.events or known.room or time.monotonic() >= until:
                events, known.events = known.events, []
                return events

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason, now: bool = False) -> None:
        """Ask attempts to end within their grace, or now: their Jobs are removed.

        Raises:
            StoreError: when the request cannot be written.
        """
        self._attempts.stop(keys, reason, now)

    def close(self) -> None:
        """Let go of everything but the running attempts, which go on."""
        for stream in self._streams:
            stream.close()
        self._submitter.close()
        self._client.close()

    def gpus_in_use(self) -> Mapping[str, int]:
        """Return how many GPUs running attempts hold, by the cluster file's name of the type that their node has."""
        return self._attempts.gpus_in_use()

    # -- what is heard

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            for stream in self._streams:
                stream.start()

    def _keep_job(self, job: dict[str, Any], _gone: bool) -> tuple[AttemptKey, JobSeen] | None:
        key = key_of(job)
        return (key, JobSeen.of(job)) if key in self._attempts.all and key is not None else None

    def _keep_pod(self, pod: dict[str, Any], gone: bool) -> tuple[AttemptKey, PodSeen] | None:
        key = key_of(pod)
        return (key, PodSeen.of(pod, gone=gone)) if key in self._attempts.all and key is not None else None

    def _hear(self, told: Any) -> None:
        if isinstance(told, Listed):
            self._hear_all(told)
            return
        if isinstance(told, Faltered):
            self._hear_trouble(told)
            return
        if isinstance(told, FreeGpus):
            self._chooser.see(told)
            return
        key = told.item[0] if isinstance(told, Changed) else told.key
        if isinstance(told, Created | Dropped | Refused):
            self._attempts.sent(key)
        attempt = self._attempts.all.get(key)
        if attempt is None:
            return
        if not isinstance(told, Changed):
            self._attempts.hear(attempt, told)
            return
        if told.resource is JOBS:
            attempt.see_job(told.item[1], told.gone)
        else:
            attempt.see_pod(told.item[1])
        self._attempts.decide(attempt)

    def _hear_all(self, told: Listed) -> None:
        self._attempts.listed.add(told.resource.plural)
        found: dict[AttemptKey, list[Any]] = {}
        for key, item in told.items:
            found.setdefault(key, []).append(item)
        for key, attempt in list(self._attempts.all.items()):
            if told.resource is JOBS:
                if key in found:
                    attempt.see_job(found[key][-1], False)
                elif attempt.view.job is not None and attempt.made_at < told.asked:
                    attempt.see_job(attempt.view.job, True)
            else:
                there = {one.name: one for one in found.get(key, ())}
                for name, pod in attempt.view.pods.items():
                    if name not in there:
                        pod.gone = True
                for pod in there.values():
                    attempt.see_pod(pod)
            self._attempts.decide(attempt)

    def _hear_trouble(self, told: Faltered) -> None:
        if told.error is not None:
            if not self._faltering:
                self._attempts.events.append(Note(f"{told.error.message}; trying again, what runs goes on"))
            self._faltering[told.resource.plural] = told.error
        elif self._faltering.pop(told.resource.plural, None) is not None and not self._faltering:
            self._attempts.events.append(Note("the API server answers again"))
