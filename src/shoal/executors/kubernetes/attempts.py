"""What is decided of attempts, and done: submitted, started, asked again, ended, each told once.

Decisions are level-triggered: after each change an attempt is looked at as a whole. All of it happens in one thread.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from shoal.agent import agent
from shoal.clusters.schema import Cluster
from shoal.errors import StoreError
from shoal.executors.contract import AttemptKey, AttemptSpec, Ended, Failure, Note, Resources, Started, StopReason
from shoal.executors.kubernetes import queued
from shoal.executors.kubernetes.attempt import Attempt, asked_to_end, overruled
from shoal.executors.kubernetes.choose import Chooser
from shoal.executors.kubernetes.manifests import has_more
from shoal.executors.kubernetes.mirror import Mirror
from shoal.executors.kubernetes.patience import Patience, refusal
from shoal.executors.kubernetes.podspec import CONTAINER
from shoal.executors.kubernetes.seen import JobSeen, PodSeen, Said, View, look
from shoal.executors.kubernetes.submit import Created, Dropped, Fetched, Refused, Submitter
from shoal.executors.kubernetes.use import DENIED, Looks, read_use
from shoal.executors.records import ask_to_stop, read_spec
from shoal.failures import FailureClass

__all__ = ["Attempts"]

_TEND_SECONDS = 2.0
_BEAT_SECONDS = 20.0
_SURVEY_SECONDS = 300.0
_ASK_AGAIN = 2
_UNSENT = 64
_SILENT = 120.0
"""Seconds after its grace in which a pod has to be gone."""


class Attempts:
    """The attempts that were handed over and have not been told as ended.

    Args:
        cluster: where they run.
        submitter: asks the server, in the background.
        chooser: how they ask for GPUs, and how many wait.
        mirror: what is written down of them.
        patience: how long to put up with what keeps a pod from starting.
        begins: whether adopted ones that have no Job are submitted; else they count as cancelled.

    Attributes:
        all: by key.
        events: what the runner has not heard yet.
        listed: the resources of which the whole state is known.
        room: whether something that `fits` looks at has become less.
    """

    def __init__(
        self,
        cluster: Cluster,
        submitter: Submitter,
        chooser: Chooser,
        mirror: Mirror,
        patience: Patience,
        *,
        begins: bool,
    ) -> None:
        self._cluster = cluster
        self._submitter = submitter
        self._chooser = chooser
        self._mirror = mirror
        self._patience = patience
        self._begins = begins
        self.all: dict[AttemptKey, Attempt] = {}
        self.events: list[Started | Ended | Note] = []
        self.listed: set[str] = set()
        self.room = False
        self._looks = Looks()
        self._unsent: set[AttemptKey] = set()
        self._resources: dict[Resources, Resources] = {}
        self._later: dict[AttemptKey, float] = {}
        self.next_tend = self._next_beat = 0.0
        self._next_survey = time.monotonic() + _SURVEY_SECONDS

    def fits(self, resources: Resources) -> bool:
        """Return whether one more may wait for room; the platform decides when it runs.

        What is not even submitted yet is kept short, so that the runner's order holds and memory stays small.
        """
        waiting = sum(self._chooser.waiting.values())
        return len(self._unsent) < _UNSENT and waiting + resources.nodes <= max(self._cluster.waiting, resources.nodes)

    def begin(self, spec: AttemptSpec) -> None:
        """Submit a new one, whose specification is in its folder."""
        attempt = self.all[spec.key] = self._keep(spec)
        self._submit(attempt)

    def adopt(self, folder: Path, key: AttemptKey) -> bool:
        """Take over one of an earlier runner; return whether its specification could be read."""
        if key in self.all:
            return True
        try:
            spec = read_spec(folder)
        except StoreError:
            return False
        attempt = self.all[key] = self._keep(spec)
        attempt.adopting = True
        attempt.started = agent.read_json(str(folder / "attempt.json")) is not None
        attempt.whole = not has_more({**spec.to_json(), "input_digests": {}})
        self._count(attempt, "held" if attempt.started else "waiting")
        if (known := self._mirror.known(folder, key)) is not None:
            self._report(attempt, known)
        return True

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason, now: bool = False) -> None:
        """Ask some to end; see the executor's."""
        remove = []
        for key in keys:
            attempt = self.all.get(key)
            if attempt is None or attempt.ending is not None or (attempt.stop is not None and not now):
                continue
            attempt.stop, attempt.now = reason, now
            ask_to_stop(attempt.folder, reason, now)
            later = self._later.pop(key, None) is not None
            if attempt.submitted:
                attempt.removing = True
                remove.append(key)
            elif later:
                self._call_off(attempt)
            elif not attempt.adopting:
                self._submitter.drop(key)
        self._submitter.remove(remove, now=now)

    def gpus_in_use(self) -> Mapping[str, int]:
        """Return how many GPUs running attempts hold, by the cluster file's name of the type that their node has."""
        found = Counter[str]()
        for attempt in self.all.values():
            asked = attempt.resources
            if attempt.started and asked.gpu:
                nodes = [pod.node for pod in attempt.view.mine() if pod.node is not None]
                found[self._chooser.type_at(nodes[-1] if nodes else None, attempt.way)] += asked.gpu * asked.nodes
        return found

    def hear(self, attempt: Attempt, told: Created | Dropped | Refused | Fetched) -> None:
        """What came of something that the submitter was asked for."""
        if isinstance(told, Created):
            self._made(attempt, told)
        elif isinstance(told, Dropped):
            attempt.perhaps = attempt.perhaps and not told.cleared
            self._call_off(attempt)
        elif isinstance(told, Refused):
            self._refused(attempt, told)
        else:
            self._fetched(attempt, told)

    def sent(self, key: AttemptKey) -> None:
        """One has been submitted, or will not be."""
        self._unsent.discard(key)
        self.room = self.room or len(self._unsent) in (0, _UNSENT // 2)

    def decide(self, attempt: Attempt) -> None:
        """Look at one after something of it has changed."""
        if attempt.ending is not None or attempt.key not in self.all:
            return
        if attempt.adopting:
            if {"jobs", "pods"} <= self.listed:
                self._find_out(attempt)
            return
        if attempt.stop is not None and attempt.submitted and not attempt.removing:
            self._remove(attempt)  # it was found after that
        if not attempt.whole and self._begins and attempt.stop is None:
            job = attempt.view.job
            if job is not None and not job.complete and job.failure is None:
                self._submit(attempt)  # whoever made its Job may have been killed before it made the rest
        if attempt.view.job is None and not attempt.view.lost:
            return  # Pods are heard of by a way of their own, here faster than their Job.
        said = look(attempt.view, attempt.resources.nodes)
        if said.unsure and attempt.view.job is not None and not attempt.checked:
            attempt.checked = True
            self._look(attempt, attempt.view.job.name)
        if said.unsure and attempt.looks:
            return
        if not attempt.started and attempt.held is not None:
            # What has a node has its room.
            what = "held" if attempt.placed else "waiting"
            if what != attempt.held:
                self._count(attempt, what)
        if said.state == "running" or (said.state in ("succeeded", "failed") and said.pod is not None):
            self._starts(attempt, said.pod)
        if said.state == "succeeded" or said.state == "failed":
            self._conclude(attempt, said)
        elif said.state == "mute":
            self._ask_again(attempt, said)
        elif said.state == "removed":
            self._conclude(attempt, said)

    def tend(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now < self.next_tend:
            return
        self.next_tend = now + _TEND_SECONDS
        for key, due in list(self._later.items()):
            if due <= now:
                del self._later[key]
                self._submit(self.all[key])
        if self._chooser.spreads and now >= self._next_survey:
            self._next_survey = now + _SURVEY_SECONDS
            self._submitter.survey()
        beat = now >= self._next_beat
        if beat:
            self._next_beat = now + _BEAT_SECONDS
        for key, attempt in list(self.all.items()):
            if attempt.leaving is not None and now > attempt.leaving + _SILENT:
                self._say_silent(attempt)
            if attempt.started:
                if beat:
                    self._mirror.lives(attempt.folder)
            elif attempt.submitted and attempt.ending is None:
                self._tend_waiting(key, attempt, now)
        self._look_at_use(now)
        for key, why in self._patience.changed():
            if key in self.all:
                self._mirror.waits(self.all[key].folder, why)
        note = self._patience.note(now)
        if note is not None:
            self.events.append(Note(note))

    # -- submission

    def _keep(self, spec: AttemptSpec) -> Attempt:
        resources = self._resources.setdefault(spec.resources, spec.resources)
        return Attempt(spec.key, spec.folder, resources, spec.queued)

    def _submit(self, attempt: Attempt) -> None:
        if attempt.way is None:
            attempt.way = self._chooser.choose(attempt.resources)
        if not attempt.started:
            self._count(attempt, "waiting")
        attempt.submitted, attempt.whole = False, True
        self._unsent.add(attempt.key)
        self._submitter.submit(attempt.key, attempt.folder, attempt.way, past=attempt.past)

    def _made(self, attempt: Attempt, told: Created) -> None:
        attempt.submitted, attempt.adopting = True, False
        attempt.tries = 0
        attempt.made_at = time.monotonic()
        view, made = attempt.view, JobSeen.of(told.job)
        if made.uid not in (view.lost, view.job.uid if view.job is not None else None):
            view.job = made
        if attempt.stop is not None:
            self._remove(attempt)
        elif told.before:
            # Its pods may have been seen before anybody here was interested in them.
            self._look(attempt, made.name)
        self.decide(attempt)

    def _refused(self, attempt: Attempt, told: Refused) -> None:
        attempt.adopting = False
        attempt.perhaps = attempt.perhaps or told.perhaps
        if attempt.stop is not None:
            self._call_off(attempt)
            return
        failure, pause = refusal(told.error, attempt.tries)
        attempt.tries += 1
        if failure is not None:
            if attempt.perhaps:
                self._submitter.remove([attempt.key])
            self._end(attempt, None, failure)
        else:
            self._later[attempt.key] = time.monotonic() + pause * random.uniform(0.8, 1.2)
            said = Failure(FailureClass.UNSCHEDULABLE, f"Not submitted yet: {told.error.message}")
            self._patience.say(attempt.key, said)

    def _call_off(self, attempt: Attempt) -> None:
        """End one that was to be stopped and is not being submitted any more; where its Job may be there, that goes first."""
        if attempt.view.job is not None or attempt.view.lost:
            if not attempt.removing:
                self._remove(attempt)  # its end will be seen
        elif attempt.perhaps:
            self._submitter.clear(attempt.key)
        else:
            self._end(attempt, None, asked_to_end(attempt.stop or "cancelled"))

    def _remove(self, attempt: Attempt) -> None:
        attempt.removing = True
        self._submitter.remove([attempt.key], now=attempt.now)

    def _look(self, attempt: Attempt, name: str) -> None:
        """Ask for the present state of its objects."""
        attempt.looks += 1
        self._submitter.look(attempt.key, name)

    # -- what follows

    def _find_out(self, attempt: Attempt) -> None:
        """No Job of it is there, and no list knows better: submit it under its own name, unless it was to be stopped."""
        attempt.adopting = False
        if not self._begins or attempt.stop is not None or agent.read_json(str(attempt.folder / "stop")) is not None:
            self._conclude(attempt, Said("removed"))
        else:
            self._submit(attempt)

    def _starts(self, attempt: Attempt, pod: PodSeen | None) -> None:
        if attempt.started or pod is None or pod.running_since is None:
            return
        attempt.started = True
        self._count(attempt, "held")
        self._patience.forget(attempt.key)
        try:
            gpu = self._chooser.type_at(pod.node, attempt.way)
            at = self._mirror.begin(attempt.spec(), attempt.view, pod, gpu)
        except (OSError, StoreError):
            at = agent.now()
        self.events.append(Started(attempt.key, at))

    def _ask_again(self, attempt: Attempt, said: Said) -> None:
        """It ended well, but its pod's word is lost. Its claim is in the store, so its Job made anew runs nothing, but tells."""
        if (known := self._mirror.known(attempt.folder, attempt.key)) is not None and known.failure is None:
            self._conclude(attempt, said)
        elif attempt.asked_again < _ASK_AGAIN and attempt.submitted:
            attempt.asked_again += 1
            attempt.checked = False
            attempt.past |= {pod.job for pod in attempt.view.pods.values()}
            attempt.past |= {attempt.view.job.uid} if attempt.view.job is not None else set()
            attempt.view = View()
            self._submit(attempt)
        elif attempt.submitted:
            message = (
                "It ended well, but its result cannot be read: its pod left no word, and a second one none either."
            )
            self._conclude(attempt, Said("failed", said.pod, Failure(FailureClass.STORE, message)))

    def _conclude(self, attempt: Attempt, said: Said) -> None:
        failure = said.failure
        if said.state == "removed":
            failure = attempt.given_up or self._why_removed(attempt, said.pod)
        elif failure is not None and attempt.given_up is not None:
            failure = attempt.given_up
        elif failure is not None and attempt.stop is not None and overruled(failure):
            failure = asked_to_end(attempt.stop, failure.lines)
        cut = bool(said.pod is not None and {"metrics", "failure"} & set(said.pod.message.get("left_out") or ()))
        # What was stopped goes at once, its log with it; the claim has that.
        tells = failure is not None and said.pod is not None and said.pod.terminated and attempt.stop is None
        if said.pod is not None and not self._mirror.here and (cut or tells):
            attempt.ending = Said(said.state, said.pod, failure)
            self._submitter.read_log(attempt.key, said.pod.name)
        else:
            self._end(attempt, said.pod, failure)

    def _why_removed(self, attempt: Attempt, pod: PodSeen | None) -> Failure:
        own = pod.failure if pod is not None else None
        if own is not None and not overruled(own):
            return own
        asked = agent.read_json(str(attempt.folder / "stop"))
        reason = attempt.stop or (asked.get("reason") if isinstance(asked, dict) else None)
        if reason in ("cancelled", "preempted"):
            return asked_to_end(reason, own.lines if own else ())
        return Failure(FailureClass.CANCELLED, "Its Job was removed, and not by this run.")

    def _fetched(self, attempt: Attempt, told: Fetched) -> None:
        if told.about == "log" and attempt.ending is not None:
            said = attempt.ending
            if told.answer is not None:
                with contextlib.suppress(OSError):
                    self._mirror.log(attempt.folder, told.answer)
            self._end(attempt, said.pod, said.failure, told.answer)
        elif told.about == "objects":
            attempt.looks -= 1
            job, pods = told.answer or (None, [])
            for pod in pods:
                attempt.see_pod(PodSeen.of(pod))
            if job is not None:
                attempt.see_job(JobSeen.of(job), False)
            self.decide(attempt)
        elif told.about == "use" and told.answer == DENIED:
            self._looks.give_up()
        elif told.about == "use" and told.answer is not None:
            with contextlib.suppress(OSError):
                self._mirror.use(attempt.folder, told.answer)
        elif told.about == "events" and told.answer:
            self._patience.say(attempt.key, Failure(FailureClass.UNSCHEDULABLE, str(told.answer)))
        elif told.about == "queue" and told.answer:
            for key, why in queued.reasons(self.all.items(), told.answer, self._cluster.queue):
                self._patience.say(key, why)

    def _end(self, attempt: Attempt, pod: PodSeen | None, failure: Failure | None, log: bytes | None = None) -> None:
        try:
            ended = self._mirror.end(attempt.spec(), attempt.view, pod, failure, log)
        except (OSError, StoreError) as error:
            said = error.message if isinstance(error, StoreError) else f"The store cannot be written: {error.strerror}."
            ended = Ended(attempt.key, "failed", Failure(FailureClass.STORE, said))
        self._report(attempt, ended)
        job = attempt.view.job
        left = job is not None and job.suspended and not attempt.removing
        if left or (pod is not None and pod.forced):
            # A queue has taken its place away, and would start what is left of it once more; or a node may come back.
            self._submitter.remove([attempt.key])

    def _report(self, attempt: Attempt, ended: Ended) -> None:
        key = attempt.key
        self._count(attempt, None)
        self._patience.forget(key)
        self._later.pop(key, None)
        del self.all[key]
        self.events.append(ended)

    def _count(self, attempt: Attempt, what: str | None) -> None:
        """Count an attempt's pods as waiting, or its GPUs as held."""
        self.room = self.room or attempt.held == "waiting"
        self._chooser.move(attempt.resource, attempt.resources, attempt.held, None)
        # One that was adopted gets its way of asking only when it has to be submitted.
        attempt.resource = attempt.way.resource if attempt.way is not None else ""
        self._chooser.move(attempt.resource, attempt.resources, None, what)
        attempt.held = what

    def _look_at_use(self, now: float) -> None:
        """Find out what some of the running attempts use: until they end, nobody here would know."""
        if self._mirror.here:
            return
        for key in self._looks.due(now, (key for key, one in self.all.items() if one.started)):
            attempt = self.all[key]
            pods = [pod for pod in attempt.view.mine() if pod.index == 0 and not pod.over]
            spec = agent.read_json(str(attempt.folder / "spec.json"))
            if pods and isinstance(spec, dict):
                path = f"{spec['attempt_dir']}/usage.jsonl"
                python = self._cluster.defaults.python
                ask = partial(read_use, pod=pods[-1].name, container=CONTAINER, python=python, path=path)
                self._submitter.ask(key, "use", ask)

    def _say_silent(self, attempt: Attempt) -> None:
        """A node that is cut off may still run it: only a person can say that it does not."""
        attempt.leaving = math.inf  # once is enough
        for pod in attempt.view.mine():
            if pod.deleting is not None and not pod.over:
                text = f"node {pod.node} may be down: it does not end the pod {pod.name}, which was asked to. "
                where = f" -n {self._cluster.namespace}" if self._cluster.namespace is not None else ""
                text += f"Once it is sure that nothing of it runs there: kubectl delete pod {pod.name}{where} --force"
                self.events.append(Note(text))

    def _tend_waiting(self, key: AttemptKey, attempt: Attempt, now: float) -> None:
        given_up = self._patience.look(key, attempt.view, now, now - attempt.made_at, self._cluster.queue)
        if given_up is not None and attempt.given_up is None:
            attempt.given_up = given_up
            self._submitter.remove([key], now=True)
            return
        job = attempt.view.job
        if self._patience.curious(now) and job is not None and not attempt.view.pods:
            if job.suspended and self._cluster.queue is not None:
                self._submitter.ask(key, "queue", queued.read_pending)
            else:
                self._submitter.ask(key, "events", self._patience.why_no_pod(job.name))
