"""The specification of an attempt as its pod sees it: the same command as anywhere, with the places of the pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from shoal.clusters.gpus import with_defaults
from shoal.clusters.schema import Cluster
from shoal.errors import UsageError
from shoal.executors.spec import Layout, attempt_spec
from shoal.plan import Plan, Task, resources_of
from shoal.plan.data import data_of

__all__ = ["AGENT", "CODE", "STAGE", "WORK", "Layout", "bucket_of", "layout_of", "pod_spec", "working_directory"]

AGENT = "/shoal-agent"
"""Where the agent, the specification and the code in pieces are mounted."""
WORK = "/shoal-work"
"""Scratch on the node's disk."""
STAGE = f"{WORK}/store"
"""Where files of a store in a bucket are in the pod."""
CODE = f"{WORK}/code"
"""Where code is laid out, and commands start; without code they start in the image's own working directory."""


def layout_of(cluster: Cluster, study: str) -> Layout:
    """The study's layout in the cluster's store.

    A store in a bucket is brought to and from the pod's own disk, so there its folder is the same for every cluster.

    Raises:
        UsageError: the cluster file names no store.
    """
    store = cluster.store
    if store is None:
        raise UsageError(
            f"the cluster {cluster.name} has no store",
            hint="Pods need a claim or a bucket for their results: extend the cluster in a file of your own with "
            f'"extends: {cluster.name}" and "store: {{claim: NAME}}". See: shoal clusters show {cluster.name}',
        )
    return Layout(PurePosixPath(store.root if store.s3 is None else STAGE) / study)


def working_directory(has_code: bool) -> str:
    """Where a step's commands start in pods, by whether code travels with them."""
    return CODE if has_code else "."


def pod_spec(
    plan: Plan,
    task: Task,
    cluster: Cluster,
    *,
    number: int = 1,
    code: str | None = None,
    has_code: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``spec.json`` for an attempt in a pod.

    Digests of inputs and times are left to the pod, so that the same plan gives the same text.

    Args:
        plan: the plan.
        task: one of its tasks; not a gate.
        cluster: where it runs.
        number: which attempt.
        code: digest of the step's code, as results record it.
        has_code: whether code travels with the task.
        overrides: resources that replace the study's, by name.

    Raises:
        StudyError: the command cannot be rendered.
        UsageError: the cluster has no store.
    """
    spec = attempt_spec(
        plan,
        task,
        layout_of(cluster, plan.study.study),
        number=number,
        cwd=working_directory(has_code),
        data={name: (place, None) for name, place in data_of(plan.study, plan.step(task)).items()},
        code=code,
        resources=with_defaults(cluster, resources_of(plan, task, overrides)),
        executor="kubernetes",
    )
    return {**spec, **bucket_of(cluster)}


def bucket_of(cluster: Cluster) -> dict[str, Any]:
    """Which bucket holds the store, as a part of the specification; never the keys to it. Empty for a claim."""
    store = cluster.store
    if store is None or store.s3 is None:
        return {}
    place = {"endpoint": store.address, "region": store.region, "name": store.bucket}
    return {"bucket": {**place, "prefix": store.prefix, "root": STAGE}}
