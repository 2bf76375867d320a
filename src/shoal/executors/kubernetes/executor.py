"""Runs attempts as Jobs in a namespace: submits in the background, watches, and reports each end once.

Everything that happens, told by the threads of streams and submitters, goes through one queue that ``wait`` works off, so
what is known is changed by one thread only. Decisions are level-triggered: after each change an attempt is looked at as a whole.
"""

from __future__ import annotations

import contextlib
import queue
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from shoal.agent import agent
from shoal.clusters.gpus import GpuRequest, with_defaults
from shoal.clusters.schema import Cluster
from shoal.errors import ShoalError, StoreError
from shoal.executors.contract import (
    AttemptKey,
    AttemptSpec,
    Ended,
    Failure,
    Note,
    Resources,
    Site,
    Started,
    StopReason,
)
from shoal.executors.kubernetes import bundle, names
from shoal.executors.kubernetes.choose import Chooser, NodeSeen
from shoal.executors.kubernetes.client import JOBS, PODS, Client
from shoal.executors.kubernetes.manifests import Shared
from shoal.executors.kubernetes.mirror import Mirror
from shoal.executors.kubernetes.patience import Patience, refusal
from shoal.executors.kubernetes.podspec import CONTAINER
from shoal.executors.kubernetes.seen import JobSeen, PodSeen, Said, View, key_of, look
from shoal.executors.kubernetes.spec import bucket_of, layout_of, working_directory
from shoal.executors.kubernetes.stream import Changed, Faltered, Listed, Stream
from shoal.executors.kubernetes.submit import Created, Dropped, Fetched, Refused, Submitter
from shoal.executors.kubernetes.use import DENIED, Looks, read_use
from shoal.executors.records import ask_to_stop
from shoal.failures import FailureClass

__all__ = ["KubernetesExecutor"]

_TEND_SECONDS = 2.0
_BEAT_SECONDS = 20.0
_ASK_AGAIN = 2


@dataclass(slots=True)
class _Attempt:
    spec: AttemptSpec
    way: GpuRequest | None = None
    view: View = field(default_factory=View)
    submitted: bool = False  # its Job was made, or found
    made_at: float = 0.0  # monotonic: from then on a list has to have its Job
    adopting: bool = False  # whether its Job is there is not known yet
    started: bool = False
    ending: Said | None = None  # its log is read before the end is told
    stop: StopReason | None = None
    now: bool = False
    removing: bool = False  # it was asked for already
    tries: int = 0
    asked_again: int = 0
    given_up: Failure | None = None
    since: float = field(default_factory=time.monotonic)
    past: set[str] = field(default_factory=set)  # Jobs of its name that do not count any more
    held: tuple[str, str] | None = None  # what it counts as: waiting or held, of which resource


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
        self._mirror = Mirror(here=here)
        self._chooser = Chooser(cluster, nodes)
        self._patience = patience or Patience()
        self._begins = begins
        self._attempts: dict[AttemptKey, _Attempt] = {}
        self._events: list[Started | Ended | Note] = []
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._submitter = Submitter(client, shared, dict(images or {}), self._inbox.put)
        selector = names.selector(self.scope)
        self._streams = [
            Stream(client, JOBS, selector, self._keep_job, self._inbox.put),
            Stream(client, PODS, selector, self._keep_pod, self._inbox.put),
        ]
        self._looks = Looks()
        self._watching = False
        self._later: dict[AttemptKey, float] = {}
        self._listed: dict[str, float] = {}
        self._next_tend = self._next_beat = 0.0
        self._faltering: dict[str, ShoalError] = {}

    # -- the contract

    def fits(self, resources: Resources) -> bool:
        """Return whether one more may wait for room; the platform decides when it runs."""
        waiting = sum(self._chooser.waiting.values())
        return waiting + resources.nodes <= max(self._cluster.waiting, resources.nodes)

    def impossible(self, resources: Resources) -> str | None:
        """Return why no node of the cluster can ever hold it, as far as that can be known."""
        return self._chooser.impossible(with_defaults(self._cluster, resources))

    def start(self, spec: AttemptSpec) -> None:
        """Hand an attempt over; it is submitted in the background.

        Raises:
            StoreError: when the attempt's folder cannot be written.
        """
        if spec.key in self._attempts:
            return
        try:
            spec.folder.mkdir(parents=True, exist_ok=True)
            agent.write_json_atomic(str(spec.path), spec.to_json())
        except OSError as error:
            raise StoreError(f"cannot be written: {error.strerror}", path=spec.path) from error
        self._watch()
        attempt = self._attempts[spec.key] = _Attempt(spec)
        self._submit(attempt)

    def adopt(self, keys: Iterable[tuple[Path, AttemptKey]]) -> set[AttemptKey]:
        """Take over attempts of an earlier runner (see the contract).

        What has a Job is watched, or reported from what its objects say. What has none is submitted under its own name: where
        it ran before, its claim in the store keeps it from running twice, and its pod tells how it ended.
        """
        adopted = set()
        for folder, key in keys:
            if key not in self._attempts:
                written = agent.read_json(str(folder / "spec.json"))
                try:
                    spec = AttemptSpec.from_json(written)
                except (KeyError, TypeError, ValueError):
                    continue
                if str(spec.attempt_dir) != str(folder):
                    spec = _recorded(spec, folder)
                attempt = self._attempts[key] = _Attempt(spec, adopting=True)
                attempt.started = agent.read_json(str(folder / "attempt.json")) is not None
                self._count(attempt, "held" if attempt.started else "waiting")
                if (known := self._mirror.known(spec)) is not None:
                    self._report(attempt, known)
            adopted.add(key)
        if adopted:
            for stream in self._streams if self._watching else ():
                stream.relist()
            self._watch()
        return adopted

    def wait(self, timeout: float) -> list[Started | Ended | Note]:
        """Return what happened, as soon as something did, or nothing after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while True:
            self._tend()
            left = until - time.monotonic()
            wait = 0.0 if self._events else max(0.0, min(left, self._next_tend - time.monotonic()))
            try:
                self._hear(self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait())
                while True:
                    self._hear(self._inbox.get_nowait())
            except queue.Empty:
                pass
            if self._events or time.monotonic() >= until:
                events, self._events = self._events, []
                return events

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason, now: bool = False) -> None:
        """Ask attempts to end within their grace, or now: their Jobs are removed.

        Raises:
            StoreError: when the request cannot be written.
        """
        remove = []
        for key in keys:
            attempt = self._attempts.get(key)
            if attempt is None or attempt.ending is not None or (attempt.stop is not None and not now):
                continue
            attempt.stop, attempt.now = reason, now
            try:
                ask_to_stop(attempt.spec.folder, reason, now)
            except OSError as error:
                raise StoreError(f"cannot be written: {error.strerror}", path=attempt.spec.folder) from error
            if key in self._later:
                del self._later[key]
                self._end(attempt, None, _asked(reason))
            elif attempt.submitted:
                attempt.removing = True
                remove.append(key)
            elif not attempt.adopting:
                self._submitter.drop(key)
        self._submitter.remove(remove, now=now)

    def close(self) -> None:
        """Let go of everything but the running attempts, which go on."""
        for stream in self._streams:
            stream.close()
        self._submitter.close()
        self._client.close()

    def gpus_in_use(self) -> Mapping[str, int]:
        """Return how many GPUs running attempts hold, by the cluster file's name of the type that their node has."""
        found = Counter[str]()
        for attempt in self._attempts.values():
            asked = attempt.spec.resources
            if attempt.started and asked.gpu:
                nodes = [pod.node for pod in attempt.view.mine() if pod.node is not None]
                found[self._chooser.type_at(nodes[-1] if nodes else None, attempt.way)] += asked.gpu * asked.nodes
        return found

    # -- what is heard

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            for stream in self._streams:
                stream.start()

    def _keep_job(self, job: dict[str, Any], _gone: bool) -> tuple[AttemptKey, JobSeen] | None:
        key = key_of(job)
        return (key, JobSeen.of(job)) if key in self._attempts and key is not None else None

    def _keep_pod(self, pod: dict[str, Any], gone: bool) -> tuple[AttemptKey, PodSeen] | None:
        key = key_of(pod)
        return (key, PodSeen.of(pod, gone=gone)) if key in self._attempts and key is not None else None

    def _hear(self, told: Any) -> None:
        if isinstance(told, Listed):
            self._hear_all(told)
            return
        if isinstance(told, Faltered):
            self._hear_trouble(told)
            return
        key = told.item[0] if isinstance(told, Changed) else told.key
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        if isinstance(told, Changed):
            if told.resource is JOBS:
                self._see_job(attempt, told.item[1], told.gone)
            else:
                self._see_pod(attempt, told.item[1])
            self._decide(attempt)
        elif isinstance(told, Created):
            self._made(attempt, told)
        elif isinstance(told, Dropped):
            self._end(attempt, None, _asked(attempt.stop or "cancelled"))
        elif isinstance(told, Refused):
            self._refused(attempt, told.error)
        elif isinstance(told, Fetched):
            self._fetched(attempt, told)

    def _hear_all(self, told: Listed) -> None:
        self._listed[told.resource.plural] = told.asked
        found: dict[AttemptKey, list[Any]] = {}
        for key, item in told.items:
            found.setdefault(key, []).append(item)
        for key, attempt in list(self._attempts.items()):
            if told.resource is JOBS:
                if key in found:
                    self._see_job(attempt, found[key][-1], False)
                elif attempt.view.job is not None and attempt.made_at < told.asked:
                    self._see_job(attempt, attempt.view.job, True)
            else:
                there = {one.name: one for one in found.get(key, ())}
                for name, pod in attempt.view.pods.items():
                    if name not in there:
                        pod.gone = True
                for pod in there.values():
                    self._see_pod(attempt, pod)
            self._decide(attempt)

    def _hear_trouble(self, told: Faltered) -> None:
        if told.error is not None:
            if not self._faltering:
                self._events.append(Note(f"{told.error.message}; trying again, what runs goes on"))
            self._faltering[told.resource.plural] = told.error
        elif self._faltering.pop(told.resource.plural, None) is not None and not self._faltering:
            self._events.append(Note("the API server answers again"))

    def _see_pod(self, attempt: _Attempt, pod: PodSeen) -> None:
        if pod.job not in attempt.past:
            attempt.view.pods[pod.name] = pod

    def _see_job(self, attempt: _Attempt, job: JobSeen, gone: bool) -> None:
        view = attempt.view
        if job.uid in attempt.past:
            return
        attempt.adopting = False
        if not gone:
            view.job, view.lost = job, False
            attempt.submitted = True
        elif view.job is None or view.job.uid == job.uid:
            view.job, view.lost = None, True

    # -- submission

    def _submit(self, attempt: _Attempt, *, anew: bool = False) -> None:
        if attempt.way is None:
            attempt.way = self._chooser.choose(attempt.spec.resources)
        if not attempt.started:
            self._count(attempt, "waiting")
        attempt.submitted = False
        # Times and digests of inputs are left to the pod: so `shoal plan --manifests` shows the very object that is made.
        spec = {**attempt.spec.to_json(), "queued": None, "input_digests": {}, **bucket_of(self._cluster)}
        self._submitter.submit(attempt.spec.key, spec, attempt.way, anew=anew)

    def _made(self, attempt: _Attempt, told: Created) -> None:
        attempt.submitted, attempt.adopting = True, False
        attempt.tries = 0
        attempt.made_at = time.monotonic()
        known = attempt.view.job is not None and attempt.view.job.uid == told.job["metadata"]["uid"]
        if not known and (told.before or not attempt.view.lost):
            attempt.view.job = JobSeen.of(told.job)
        if attempt.stop is not None:
            self._remove(attempt)
        elif told.before:
            # Its pods may have been seen before anybody here was interested in them.
            self._submitter.look(attempt.spec.key, told.job["metadata"]["name"])

    def _refused(self, attempt: _Attempt, error: ShoalError) -> None:
        attempt.adopting = False
        if attempt.stop is not None and not attempt.submitted:
            self._end(attempt, None, _asked(attempt.stop))
            return
        failure, pause = refusal(error, attempt.tries)
        attempt.tries += 1
        if failure is not None:
            self._end(attempt, None, failure)
        else:
            self._later[attempt.spec.key] = time.monotonic() + pause * random.uniform(0.8, 1.2)
            self._patience.say(
                attempt.spec.key, Failure(FailureClass.UNSCHEDULABLE, f"Not submitted yet: {error.message}")
            )

    # -- decisions

    def _decide(self, attempt: _Attempt) -> None:
        if attempt.ending is not None or attempt.spec.key not in self._attempts:
            return
        if attempt.adopting:
            if {"jobs", "pods"} <= self._listed.keys():
                self._find_out(attempt)
            return
        if attempt.stop is not None and attempt.submitted and not attempt.removing:
            self._remove(attempt)  # it was found after that
        said = look(attempt.view, attempt.spec.resources.nodes)
        if said.state == "running" or (said.state in ("succeeded", "failed") and said.pod is not None):
            self._starts(attempt, said.pod)
        if said.state == "succeeded" or said.state == "failed":
            self._conclude(attempt, said)
        elif said.state == "mute":
            self._ask_again(attempt, said)
        elif said.state == "removed":
            self._conclude(attempt, said)

    def _remove(self, attempt: _Attempt) -> None:
        attempt.removing = True
        self._submitter.remove([attempt.spec.key], now=attempt.now)

    def _find_out(self, attempt: _Attempt) -> None:
        """No Job of it is there, and no list knows better: submit it under its own name, unless it was to be stopped."""
        attempt.adopting = False
        if (
            not self._begins
            or attempt.stop is not None
            or agent.read_json(str(attempt.spec.folder / "stop")) is not None
        ):
            self._conclude(attempt, Said("removed"))
        else:
            self._submit(attempt)

    def _starts(self, attempt: _Attempt, pod: PodSeen | None) -> None:
        if attempt.started or pod is None or pod.running_since is None:
            return
        attempt.started = True
        self._count(attempt, "held")
        self._patience.forget(attempt.spec.key)
        try:
            gpu = self._chooser.type_at(pod.node, attempt.way)
            at = self._mirror.begin(attempt.spec, attempt.view, pod, gpu)
        except OSError:
            at = agent.now()
        self._events.append(Started(attempt.spec.key, at))

    def _ask_again(self, attempt: _Attempt, said: Said) -> None:
        """It ended well, but its pod's word is lost. Its claim is in the store, so its Job made anew runs nothing, but tells."""
        if (known := self._mirror.known(attempt.spec)) is not None and known.failure is None:
            self._conclude(attempt, said)
        elif attempt.asked_again < _ASK_AGAIN and attempt.submitted:
            attempt.asked_again += 1
            attempt.past |= {pod.job for pod in attempt.view.pods.values()}
            attempt.past |= {attempt.view.job.uid} if attempt.view.job is not None else set()
            attempt.view = View()
            self._submit(attempt, anew=True)
        elif attempt.submitted:
            message = (
                "It ended well, but its result cannot be read: its pod left no word, and a second one none either."
            )
            self._conclude(attempt, Said("failed", said.pod, Failure(FailureClass.STORE, message)))

    def _conclude(self, attempt: _Attempt, said: Said) -> None:
        failure = said.failure
        if said.state == "removed":
            failure = attempt.given_up or self._why_removed(attempt, said.pod)
        elif failure is not None and attempt.given_up is not None:
            failure = attempt.given_up
        elif failure is not None and attempt.stop is not None and _overruled(failure):
            failure = _asked(attempt.stop, failure.lines)
        cut = bool(said.pod is not None and {"metrics", "failure"} & set(said.pod.message.get("left_out") or ()))
        if said.pod is not None and not self._mirror.here and (cut or (failure is not None and said.pod.terminated)):
            attempt.ending = Said(said.state, said.pod, failure)
            self._submitter.read_log(attempt.spec.key, said.pod.name)
        else:
            self._end(attempt, said.pod, failure)

    def _why_removed(self, attempt: _Attempt, pod: PodSeen | None) -> Failure:
        own = pod.failure if pod is not None else None
        if own is not None and not _overruled(own):
            return own
        asked = agent.read_json(str(attempt.spec.folder / "stop"))
        reason = attempt.stop or (asked.get("reason") if isinstance(asked, dict) else None)
        if reason in ("cancelled", "preempted"):
            return _asked(reason, own.lines if own else ())
        return Failure(FailureClass.CANCELLED, "Its Job was removed, and not by this run.")

    def _fetched(self, attempt: _Attempt, told: Fetched) -> None:
        if told.about == "log" and attempt.ending is not None:
            said = attempt.ending
            if told.answer is not None:
                with contextlib.suppress(OSError):
                    self._mirror.log(attempt.spec.folder, told.answer)
            self._end(attempt, said.pod, said.failure, told.answer)
        elif told.about == "objects" and told.answer is not None:
            job, pods = told.answer
            for pod in pods:
                self._see_pod(attempt, PodSeen.of(pod))
            if job is not None:
                self._see_job(attempt, JobSeen.of(job), False)
            self._decide(attempt)
        elif told.about == "use" and told.answer == DENIED:
            self._looks.give_up()
        elif told.about == "use" and told.answer is not None:
            with contextlib.suppress(OSError):
                self._mirror.use(attempt.spec.folder, told.answer)
        elif told.about == "events" and told.answer:
            self._patience.say(attempt.spec.key, Failure(FailureClass.UNSCHEDULABLE, str(told.answer)))

    def _end(self, attempt: _Attempt, pod: PodSeen | None, failure: Failure | None, log: bytes | None = None) -> None:
        try:
            ended = self._mirror.end(attempt.spec, attempt.view, pod, failure, log)
        except OSError as error:
            message = f"The store cannot be written: {error.strerror}."
            ended = Ended(attempt.spec.key, "failed", Failure(FailureClass.STORE, message))
        self._report(attempt, ended)
        job = attempt.view.job
        if job is not None and job.suspended and not attempt.removing:
            # A queue has taken its place away, and would start what is left of it once more.
            self._submitter.remove([attempt.spec.key])

    def _report(self, attempt: _Attempt, ended: Ended) -> None:
        key = attempt.spec.key
        self._count(attempt, None)
        self._patience.forget(key)
        self._later.pop(key, None)
        del self._attempts[key]
        self._events.append(ended)

    def _count(self, attempt: _Attempt, what: str | None) -> None:
        """Count an attempt's pods as waiting, and its GPUs as held."""
        if attempt.held is not None:
            counter = self._chooser.waiting if attempt.held[0] == "waiting" else self._chooser.held
            counter[attempt.held[1]] -= self._weight(attempt, attempt.held[0])
        attempt.held = None
        if what is not None:
            resource = attempt.way.resource if attempt.way is not None else ""
            attempt.held = (what, resource)
            counter = self._chooser.waiting if what == "waiting" else self._chooser.held
            counter[resource] += self._weight(attempt, what)

    def _weight(self, attempt: _Attempt, what: str) -> int:
        asked = attempt.spec.resources
        return asked.nodes if what == "waiting" else asked.nodes * asked.gpu

    # -- what time brings

    def _tend(self) -> None:
        now = time.monotonic()
        if now < self._next_tend:
            return
        self._next_tend = now + _TEND_SECONDS
        for key, due in list(self._later.items()):
            if due <= now:
                del self._later[key]
                self._submit(self._attempts[key])
        beat = now >= self._next_beat
        if beat:
            self._next_beat = now + _BEAT_SECONDS
        for key, attempt in list(self._attempts.items()):
            if attempt.started:
                if beat:
                    self._mirror.lives(attempt.spec.folder)
            elif attempt.submitted and attempt.ending is None:
                self._tend_waiting(key, attempt, now)
        self._look_at_use(now)
        for key, why in self._patience.changed():
            if key in self._attempts:
                self._mirror.waits(self._attempts[key].spec.folder, why)
        note = self._patience.note(now)
        if note is not None:
            self._events.append(Note(note))

    def _look_at_use(self, now: float) -> None:
        """Find out what some of the running attempts use: until they end, nobody here would know."""
        if self._mirror.here:
            return
        for key in self._looks.due(now, (key for key, one in self._attempts.items() if one.started)):
            attempt = self._attempts[key]
            pods = [pod for pod in attempt.view.mine() if pod.index == 0 and not pod.over]
            if pods:
                path = str(attempt.spec.attempt_dir / "usage.jsonl")
                ask = partial(
                    read_use, pod=pods[-1].name, container=CONTAINER, python=self._cluster.defaults.python, path=path
                )
                self._submitter.ask(key, "use", ask)

    def _tend_waiting(self, key: AttemptKey, attempt: _Attempt, now: float) -> None:
        given_up = self._patience.look(key, attempt.view, now, now - attempt.made_at, self._cluster.queue)
        if given_up is not None and attempt.given_up is None:
            attempt.given_up = given_up
            self._submitter.remove([key], now=True)
        elif self._patience.curious(now) and attempt.view.job is not None and not attempt.view.pods:
            self._submitter.ask(key, "events", self._patience.why_no_pod(attempt.view.job.name))


def _recorded(spec: AttemptSpec, folder: Path) -> AttemptSpec:
    from dataclasses import replace

    return replace(spec, records=folder)


def _overruled(failure: Failure) -> bool:
    """Whether a failure may be the mere consequence of a stop."""
    return failure.kind.platform or failure.kind is FailureClass.CANCELLED


def _asked(reason: StopReason, lines: tuple[str, ...] = ()) -> Failure:
    if reason == "preempted":
        return Failure(FailureClass.PREEMPTED, "Preempted: a stop was asked for.", lines)
    return Failure(FailureClass.CANCELLED, "Cancelled: a stop was asked for.", lines)
