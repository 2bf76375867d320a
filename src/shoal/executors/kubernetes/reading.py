"""A pod that lives for a moment to look into the store on a claim, for whoever has not mounted it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from shoal.clusters.schema import Cluster
from shoal.errors import UsageError
from shoal.executors.kubernetes import names
from shoal.executors.kubernetes.arriving import State, lay_out, take_records
from shoal.executors.kubernetes.client import PODS, Client, NotFound
from shoal.executors.kubernetes.podspec import Manifest, other_claims, pod_place, pod_security
from shoal.executors.kubernetes.status import failure_of_pod, waiting_for

__all__ = ["VARIABLE", "ClaimFiles", "find_image", "reader_manifest", "reader_pod", "reader_source"]

_LIFE = 3600
_PATIENCE = 300.0
VARIABLE = "SHOAL_READER"
_ONCE = 100
"""Tasks named in one request: they are part of its address, and proxies take some 8 KB."""


@cache
def reader_source() -> str:
    """The text of ``reader.py``, which pods run from their environment."""
    return (Path(__file__).parent / "reader.py").read_text(encoding="utf-8")


def reader_manifest(cluster: Cluster, study: str, image: str, *, read_only: bool = True) -> Manifest:
    """The pod: small, without rights, and over after an hour whatever happens.

    Args:
        cluster: where; its store is a claim.
        study: name of the study, for labels.
        image: any image with Python 3.
        read_only: whether the claim can only be read.
    """
    store = cluster.store
    assert store is not None
    assert store.claim is not None
    scope = names.scope_of(study, store.claim, store.root)
    defaults = cluster.defaults
    labels = {**defaults.labels, **names.labels(study, scope), names.ROLE: "reader"}
    meta: Manifest = {"name": f"shoal-reader-{scope}-{secrets.token_hex(3)}", "labels": dict(sorted(labels.items()))}
    if cluster.namespace is not None:
        meta["namespace"] = cluster.namespace
    if defaults.annotations:
        meta["annotations"] = dict(defaults.annotations)
    volumes, mounts = other_claims(cluster)
    small = {"cpu": "500m", "memory": "512Mi"}
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": _LIFE,
        "securityContext": pod_security(cluster),
        "containers": [
            {
                "name": "reader",
                "image": image,
                "command": [defaults.python, "-I", "-c", reader_source(), "wait"],
                "env": [{"name": VARIABLE, "value": reader_source()}],
                "resources": {"requests": small, "limits": small},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [
                    {"name": "store", "mountPath": store.path, **({"readOnly": True} if read_only else {})},
                    *mounts,
                ],
            }
        ],
        "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": store.claim}}, *volumes],
    }
    if defaults.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": one} for one in defaults.image_pull_secrets]
    pod |= pod_place(cluster)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}


@contextlib.contextmanager
def reader_pod(
    client: Client, cluster: Cluster, study: str, image: str, *, read_only: bool = True
) -> Iterator[ClaimFiles]:
    """Start the pod, wait until it runs, and remove it again whatever happens.

    Raises:
        UsageError: it does not start.
        ApiError: it may not be made, or the server fails.
    """
    manifest = reader_manifest(cluster, study, image, read_only=read_only)
    name = manifest["metadata"]["name"]
    try:
        client.create(manifest)
        _wait(client, name)
        assert cluster.store is not None
        yield ClaimFiles(client, name, PurePosixPath(cluster.store.root) / study, python=cluster.defaults.python)
    finally:
        with contextlib.suppress(NotFound):
            client.delete(PODS, name, grace=0)


def _wait(client: Client, name: str) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        pod = client.get(PODS, name)
        phase = (pod.get("status") or {}).get("phase")
        if phase == "Running":
            return
        why = waiting_for(pod)
        if phase in ("Succeeded", "Failed") or (why is not None and why.kind.value == "image-pull"):
            why = why or failure_of_pod(pod)
            raise UsageError(
                f"the pod {name} that reads the store does not start: {why.message if why else f'it has {phase}'}",
                hint="It needs an image with Python 3: defaults: {image: ...} in the cluster file.",
            )
        if time.monotonic() > until:
            said = why.message if why else "it has been waiting for five minutes"
            raise UsageError(
                f"the pod {name} that reads the store does not start: {said}",
                hint="Try again later, or read the claim from a pod of your own.",
            )
        time.sleep(0.5)


class ClaimFiles:
    """A study's files on a claim, read by commands in a pod that has it mounted.

    Args:
        client: talks to the API server.
        pod: the pod's name.
        root: the study's folder there.
        python: Python 3.8 or newer there.
        container: needed where there are several.
    """

    def __init__(
        self, client: Client, pod: str, root: PurePosixPath, *, python: str = "python3", container: str | None = None
    ) -> None:
        self._client, self._pod, self._root = client, pod, root
        self._container = container
        self._start = [python, "-I", "-c", f"import os; exec(os.environ[{VARIABLE!r}])"]

    def records(
        self,
        folder: Path,
        *,
        since: float = 0.0,
        tasks: Sequence[str] | None = None,
        pictures: bool = False,
        **more: Any,
    ) -> tuple[State, int]:
        """Take the small files that have changed since (by the pod's clock) into a study's folder here.

        Args:
            folder: the study's folder here.
            since: seconds since 1970, as an earlier look's `State.now`.
            tasks: ``STEP/TASK``, or None for all.
            pictures: whether those for the report come too.
            more: see `take_records`.

        Returns:
            What the pod said of the first part, and how many files came.
        """
        parts = [None] if tasks is None else [list(tasks[i : i + _ONCE]) for i in range(0, len(tasks), _ONCE)]
        said: State | None = None
        count = 0
        for part in parts:
            asked = {"root": str(self._root), "since": since, "tasks": part, "pictures": pictures}
            with self._run("records", json.dumps(asked, separators=(",", ":"))) as running:
                state, came = take_records(running.output(), folder, live=True, **more)
            said = said or state
            count += came
        return said or State(since, frozenset(), frozenset(), False), count

    def outputs(self, step: str, task: str, folder: Path) -> None:
        """Bring what a task made into an empty folder here.

        Raises:
            StoreError: it came cut short.
            ApiError: it is not there, or the connection broke.
        """
        with self._run("outputs", str(self._root / step / task / "out")) as running:
            lay_out(running.output(), folder)

    def put(self, path: str, data: bytes) -> None:
        """Write a file below the study's folder there, whole or not at all."""
        with self._run("put", str(self._root / path), str(len(data)), stdin=True) as running:
            running.send(data)
            running.read()

    def _run(self, *words: str, stdin: bool = False) -> Any:
        return self._client.execute(self._pod, [*self._start, *words], container=self._container, stdin=stdin)


def find_image(cluster: Cluster, images: Sequence[str | None]) -> str:
    """An image for a pod that only reads: the cluster's, else one of the study's.

    Raises:
        UsageError: there is none.
    """
    found = cluster.defaults.image or next((image for image in images if image), None)
    if found is None:
        raise UsageError(
            "no container image is known for the pod that reads the store",
            hint="defaults: {image: ...} in the cluster file; any with Python 3 will do.",
        )
    return found
