"""What a person approved here, brought to where pods read it: onto the claim, or into the bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shoal.cli.opened import Opened
    from shoal.clusters import Cluster

__all__ = ["bring_gate"]


class _Files(Protocol):
    def put(self, path: str, data: bytes) -> None: ...


def bring_gate(opened: Opened, step: str, task: str, result: bytes) -> None:
    """Bring a gate's files and its result, the result last; nothing where pods work in the folder that is here.

    Raises:
        UsageError, ApiError, LoginError, StoreError: they cannot be brought; then it is not approved.
    """
    from shoal.cli.detached import live, runner_files
    from shoal.clusters import load_cluster

    if opened.on is None:
        return
    cluster = load_cluster(opened.on, beside=opened.plan.study.folder)
    store = cluster.store
    if store is None or (store.claim is not None and str(opened.root.root) == store.root):
        return
    inside = live(opened.store) is not None
    if store.s3 is not None or not inside:
        with _where_pods_look(opened, cluster) as files:
            _put(files, opened, step, task, result)
    if inside:
        with runner_files(opened) as files:
            _put(files, opened, step, task, result)


def _put(files: _Files, opened: Opened, step: str, task: str, result: bytes) -> None:
    folder = opened.store.task(step, task)
    for path in (folder.root / "task.json", *sorted(folder.out.rglob("*"))):
        if path.is_file():
            files.put(f"{step}/{task}/{path.relative_to(folder.root).as_posix()}", path.read_bytes())
    files.put(f"{step}/{task}/result.json", result)


@contextlib.contextmanager
def _where_pods_look(opened: Opened, cluster: Cluster) -> Iterator[_Files]:
    from shoal.cli.on_cluster import connect_to
    from shoal.executors.kubernetes.bucket import BucketFiles, open_bucket
    from shoal.executors.kubernetes.reading import find_image, reader_pod

    study = opened.plan.study
    assert cluster.store is not None
    if cluster.store.s3 is not None:
        yield BucketFiles(open_bucket(cluster), study.study)
        return
    image = find_image(cluster, [step.image for step in study.steps.values()])
    client = connect_to(cluster, patience=20.0)
    try:
        with reader_pod(client, cluster, study.study, image, read_only=False) as files:
            yield files
    finally:
        client.close()
