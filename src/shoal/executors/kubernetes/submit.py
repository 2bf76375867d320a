"""What is asked of the API in the background: objects made, objects removed, logs read; bounded, and told when done."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shoal.clusters.free import FreeGpus
from shoal.clusters.gpus import GpuRequest
from shoal.errors import ShoalError
from shoal.executors.contract import AttemptKey
from shoal.executors.kubernetes import names
from shoal.executors.kubernetes.client import (
    JOBS,
    PODS,
    AlreadyExists,
    Asked,
    Busy,
    Client,
    Conflict,
    Forbidden,
    NotFound,
    ServerFault,
    Unauthorized,
    Unreachable,
)
from shoal.executors.kubernetes.login import LoginError
from shoal.executors.kubernetes.manifests import Manifest, Shared, shared_objects, task_objects
from shoal.executors.kubernetes.podspec import CONTAINER
from shoal.executors.kubernetes.spec import bucket_of
from shoal.executors.kubernetes.survey import survey_gpus
from shoal.executors.records import read_spec

__all__ = ["Created", "Dropped", "Fetched", "Refused", "Submitter", "selectors"]

_WORKERS = 16
# The server removes the objects of one request one after the other: several requests at once.
_REMOVERS = 8
# Tasks named in one request: each looks at all objects; their ids are part of its address, and proxies take some 8 KB.
_FEWEST, _MOST = 50, 450
_LOG_BYTES = 4 << 20
_PAUSE = 2.0
_FORBIDDEN_TRIES = 20
_UNCERTAIN = (Unreachable, ServerFault, AlreadyExists, Conflict)
"""Errors after which an object may have been made all the same: its answer was lost, or nobody could tell."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Created:
    """An attempt's objects are there; ``before``: they were so already."""

    key: AttemptKey
    job: dict[str, Any]
    before: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """An attempt was not submitted, because it was to be stopped; ``cleared``: what there may have been of it is removed."""

    key: AttemptKey
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """An attempt could not be submitted; ``perhaps``: its Job may be there all the same."""

    key: AttemptKey
    error: ShoalError
    perhaps: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was asked about an attempt, under the name of the question."""

    key: AttemptKey
    about: str
    answer: Any


class Submitter:
    """Workers that talk to the API server.

    Args:
        client: the client.
        shared: what the study's tasks have in common; applied before the first Job.
        images: step to image.
        tell: called in a worker's thread with everything that comes of it.
    """

    def __init__(
        self,
        client: Client,
        shared: Shared,
        images: Mapping[str, str | None],
        tell: Callable[[Created | Dropped | Refused | Fetched | FreeGpus], None],
        *,
        workers: int = _WORKERS,
    ) -> None:
        self._client = client
        self._shared = shared
        self._images = images
        self._tell = tell
        self._makers = ThreadPoolExecutor(workers, thread_name_prefix="shoal-submit")
        self._others = ThreadPoolExecutor(4, thread_name_prefix="shoal-ask")
        self._removers = ThreadPoolExecutor(_REMOVERS, thread_name_prefix="shoal-remove")
        self._ready = threading.Lock()
        self._prepared = False
        self._dropped: set[AttemptKey] = set()
        self._closed = threading.Event()

    def submit(self, key: AttemptKey, folder: Path, way: GpuRequest | None, *, past: Collection[str] = ()) -> None:
        """Make an attempt's objects.

        Args:
            key: which attempt.
            folder: where its specification is.
            way: how to ask for its GPUs.
            past: uids of Jobs of the same name that do not count any more; they are removed first.
        """
        self._dropped.discard(key)
        self._makers.submit(self._guarded, key, self._submit, key, folder, way, frozenset(past))

    def drop(self, key: AttemptKey) -> None:
        """Do not submit it, if that has not been done yet."""
        self._dropped.add(key)

    def remove(self, keys: Iterable[AttemptKey], *, now: bool = False) -> None:
        """Remove the Jobs of attempts and end their pods, within their grace or at once."""
        for selector in selectors(self._shared.scope, keys):
            self._removers.submit(self._remove, selector, now)

    def clear(self, key: AttemptKey) -> None:
        """Remove what there may be of an attempt whose submission had no clear answer; told as `Dropped`."""

        def work() -> None:
            for selector in selectors(self._shared.scope, [key]):
                self._remove(selector, False)
            self._tell(Dropped(key, cleared=True))

        self._removers.submit(work)

    def read_log(self, key: AttemptKey, pod: str) -> None:
        """Read what a pod printed; told as ``log``, None where it cannot be read any more."""

        client = self._client.with_patience(5.0)
        self._ask(key, "log", lambda: b"".join(client.logs(pod, container=CONTAINER, most=_LOG_BYTES)))

    def look(self, key: AttemptKey, name: str) -> None:
        """Read the present state of an attempt's objects; told as ``objects``: the Job or None, and the pods."""

        def read() -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
            selector = f"{names.selector(self._shared.scope, task=key.task)},{names.ATTEMPT}={key.number}"
            pods = self._persist(lambda: self._client.list(PODS, selector=selector).items)
            try:
                return self._persist(lambda: self._client.get(JOBS, name)), pods
            except NotFound:
                return None, pods

        self._ask(key, "objects", read)

    def ask(self, key: AttemptKey, about: str, read: Callable[[Client], T]) -> None:
        """Ask anything else; told under ``about``, None where there was no answer."""

        self._ask(key, about, lambda: read(self._client.with_patience(5.0)))

    def survey(self) -> None:
        """Look which GPUs are free; told as `FreeGpus`, or not at all."""

        def work() -> None:
            with contextlib.suppress(ShoalError, ValueError, KeyError):
                self._tell(survey_gpus(self._client.with_patience(5.0), self._shared.cluster))

        self._others.submit(work)

    def close(self) -> None:
        """Do nothing more."""
        self._closed.set()
        self._makers.shutdown(wait=False, cancel_futures=True)
        self._others.shutdown(wait=False, cancel_futures=True)
        self._removers.shutdown(wait=False, cancel_futures=True)

    def _ask(self, key: AttemptKey, about: str, read: Callable[[], Any]) -> None:
        def work() -> None:
            answer = None
            # Whatever happens here: somebody waits for an answer.
            with contextlib.suppress(Exception):
                answer = read()
            self._tell(Fetched(key, about, answer))

        self._others.submit(work)

    def _guarded(self, key: AttemptKey, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except ShoalError as error:
            self._tell(Refused(key, error))
        except Exception as error:
            if not self._closed.is_set():
                self._tell(Refused(key, ShoalError(f"{type(error).__name__}: {error}")))

    def _submit(self, key: AttemptKey, folder: Path, way: GpuRequest | None, past: frozenset[str]) -> None:
        if key in self._dropped:
            self._tell(Dropped(key))
            return
        self._prepare()
        # Times and digests of inputs are left to the pod: so `shoal plan --manifests` shows the very object that is made.
        spec = {**read_spec(folder).to_json(), "queued": None, "input_digests": {}, **bucket_of(self._shared.cluster)}
        objects = task_objects(spec, self._shared, image=self._images.get(str(spec["step"])), gpus=way)
        job = next(one for one in objects if one["kind"] == "Job")
        there = False
        try:
            if past:
                self._make_room(job["metadata"]["name"], past)
            made, before = self._create(job)
            there = True
            if made["metadata"]["uid"] in past:
                asked = Asked("create", JOBS.said, name=job["metadata"]["name"])
                raise Conflict(f"the earlier Job {job['metadata']['name']} does not go away", asked)
            for one in objects:
                if one is not job:
                    # They go when the Job goes.
                    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": made["metadata"]["name"]}
                    owned = {**one["metadata"], "ownerReferences": [{**owner, "uid": made["metadata"]["uid"]}]}
                    self._create({**one, "metadata": owned})
        except ShoalError as error:
            self._tell(Refused(key, error, there or isinstance(error, _UNCERTAIN)))
        else:
            self._tell(Created(key, made, before))

    def _create(self, manifest: Manifest) -> tuple[dict[str, Any], bool]:
        for _ in range(10):
            try:
                return self._client.create(manifest), False
            except AlreadyExists as error:
                if manifest["kind"] != "Job":
                    return {}, True
                try:
                    return self._client.get(JOBS, manifest["metadata"]["name"]), True
                except NotFound:
                    problem = error  # it went between the two
        raise problem

    def _make_room(self, name: str, past: frozenset[str]) -> None:
        """Remove a Job that does not count any more, and wait until it has gone."""
        until = time.monotonic() + 60
        with contextlib.suppress(NotFound):
            while time.monotonic() < until and not self._closed.is_set():
                uid = self._client.get(JOBS, name)["metadata"]["uid"]
                if uid not in past:
                    return
                self._client.delete(JOBS, name, uid=uid)
                self._closed.wait(0.1)

    def _prepare(self) -> None:
        with self._ready:
            if self._prepared:
                return
            for one in shared_objects(self._shared):
                with contextlib.suppress(AlreadyExists):
                    self._client.create(one)
            self._prepared = True

    def _remove(self, selector: str, now: bool) -> None:
        def remove() -> None:
            self._client.delete_all(JOBS, selector)
            # Otherwise the cluster's garbage collector gets to them one by one.
            self._client.delete_all(PODS, selector, grace=1 if now else None)

        with contextlib.suppress(ShoalError):
            self._persist(remove)

    def _persist(self, work: Callable[[], T]) -> T:
        """Do it, however long the server is away or the login has expired; a server that has just started may not know all
        rights yet."""
        forbidden = 0
        while True:
            try:
                return work()
            except (Unreachable, Busy, ServerFault, Conflict, Unauthorized, LoginError, Forbidden) as error:
                forbidden += isinstance(error, Forbidden)
                if forbidden > _FORBIDDEN_TRIES or self._closed.wait(random.uniform(0.5, 1.5) * _PAUSE):
                    raise


def selectors(scope: str, keys: Iterable[AttemptKey]) -> list[str]:
    """Label selectors that together match the objects of these attempts and nothing else.

    There are as many as requests are sent at once, fewer for few attempts, and more where an address would become too long.
    """
    by_number: dict[int, list[str]] = {}
    for key in keys:
        by_number.setdefault(key.number, []).append(key.task)
    found = []
    for number, tasks in by_number.items():
        size = min(_MOST, max(_FEWEST, -(-len(tasks) // _REMOVERS)))
        for start in range(0, len(tasks), size):
            chosen = ",".join(sorted(tasks[start : start + size]))
            found.append(f"{names.selector(scope)},{names.ATTEMPT}={number},{names.TASK} in ({chosen})")
    return found
