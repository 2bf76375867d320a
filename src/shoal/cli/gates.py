"""What a person approved here, brought to where pods read it: onto the claim, or into the bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.cli.opened import Opened
    from shoal.executors.kubernetes.bucket import BucketFiles
    from shoal.executors.kubernetes.reading import ClaimFiles

__all__ = ["bring_gate"]


def bring_gate(opened: Opened, step: str, task: str, result: bytes) -> None:
    """Bring a gate's files and its result, the result last; nothing where pods work in the folder that is here.

    Raises:
        UsageError, ApiError, LoginError, StoreError: they cannot be brought; then it is not approved.
    """
    from shoal.cli.detached import live, runner_files
    from shoal.cli.on_cluster import cluster_of, open_files, store_is_here

    if opened.on is None:
        return
    cluster = cluster_of(opened)
    if cluster.store is None or store_is_here(opened, cluster):
        return
    inside = live(opened.store) is not None
    if cluster.store.s3 is not None or not inside:
        with open_files(opened, cluster, read_only=False) as files:
            _put(files, opened, step, task, result)
    if inside:
        with runner_files(opened) as files:
            _put(files, opened, step, task, result)


def _put(files: ClaimFiles | BucketFiles, opened: Opened, step: str, task: str, result: bytes) -> None:
    folder = opened.store.task(step, task)
    for path in (folder.root / "task.json", *sorted(folder.out.rglob("*"))):
        if path.is_file():
            files.put(f"{step}/{task}/{path.relative_to(folder.root).as_posix()}", path.read_bytes())
    files.put(f"{step}/{task}/result.json", result)
