"""The specification of an attempt as its pod sees it: the same command as anywhere, with the places of the pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from shoal.clusters.gpus import with_defaults
from shoal.clusters.schema import Cluster
from shoal.errors import UsageError
from shoal.plan import Plan, Task, resources_of
from shoal.study.template import Template, TemplateError, Value

__all__ = ["AGENT", "CODE", "STAGE", "WORK", "Layout", "layout_of", "pod_spec"]

AGENT = "/shoal-agent"
"""Where the agent, the specification and the code in pieces are mounted."""
WORK = "/shoal-work"
"""Scratch on the node's disk."""
STAGE = f"{WORK}/store"
"""Where files of a store in a bucket are in the pod."""
CODE = f"{WORK}/code"
"""Where code is laid out, and commands start; without code they start in the image's own working directory."""
# The same few texts are rendered for every task of a step.
_template = lru_cache(maxsize=1024)(Template.parse)
_GRACE = 30.0
_SAMPLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a study's tasks are in the store, as pods see it: docs/reference/files.md as paths."""

    root: PurePosixPath

    def task(self, step: str, task: str) -> PurePosixPath:
        """The folder of a task."""
        return self.root / step / task

    def attempt(self, step: str, task: str, number: int) -> PurePosixPath:
        """The folder of an attempt."""
        return self.task(step, task) / "attempts" / str(number)


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
    study, step = plan.study, plan.step(task)
    layout = layout_of(cluster, study.study)
    folder = layout.task(task.step, task.id)
    inputs = {need: [str(layout.task(need, one) / "out") for one in ids] for need, ids in task.inputs.items()}
    data = _data(plan, task)
    places: dict[str, Value] = {
        **study.vars,
        **task.params,
        "out": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "task": task.id,
        "study": study.study,
        "step": task.step,
        **{f"inputs.{need}": list(folders) for need, folders in inputs.items()},
        **{name if name == "data" else f"data.{name}": place for name, place in data.items()},
    }
    return {
        "format": 1,
        "study": study.study,
        "step": task.step,
        "task": task.id,
        "attempt": number,
        "params": dict(task.params),
        "argv": _argv(plan, task, places),
        "env": _env(plan, task, places),
        "secrets": list(step.secrets),
        "cwd": CODE if has_code else ".",
        "task_dir": str(folder),
        "attempt_dir": str(layout.attempt(task.step, task.id, number)),
        "out": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "inputs": inputs,
        "input_digests": {},
        "data": {name: {"path": place, "digest": None} for name, place in data.items()},
        "code": code,
        "resources": with_defaults(cluster, resources_of(plan, task, overrides)).to_json(),
        "gpus": [],
        "timeout": step.timeout,
        "stall": step.stall,
        "grace": _GRACE if step.grace is None else step.grace,
        "sample_every": _SAMPLE_SECONDS,
        "executor": "kubernetes",
        "queued": None,
        **_bucket(cluster),
    }


def _bucket(cluster: Cluster) -> dict[str, Any]:
    """Which bucket holds the store, for the pod; never the keys to it."""
    store = cluster.store
    if store is None or store.s3 is None:
        return {}
    place = {"endpoint": store.address, "region": store.region, "name": store.bucket}
    return {"bucket": {**place, "prefix": store.prefix, "root": STAGE}}


def _data(plan: Plan, task: Task) -> dict[str, str]:
    """The data that a step reads, as pods find it."""
    study, step = plan.study, plan.step(task)
    places = {"data": study.data} if isinstance(study.data, str) else dict(study.data)
    if step.params == "task":
        return places
    texts = [step.run] if isinstance(step.run, str) else list(step.run or ())
    used = {reference.name for text in (*texts, *step.env.values()) for reference in _template(text).names}
    return {name: place for name, place in places.items() if name in used or f"data.{name}" in used}


def _argv(plan: Plan, task: Task, places: Mapping[str, Value]) -> list[str]:
    run = plan.step(task).run
    try:
        if isinstance(run, str):
            return ["/bin/sh", "-e", "-c", _template(run).render(places, shell=True)]
        return [word for text in run or () for word in _template(text).words(places)]
    except TemplateError as error:
        raise plan.study.error(("steps", task.step, "run"), error.message) from error


def _env(plan: Plan, task: Task, places: Mapping[str, Value]) -> dict[str, str]:
    env = {}
    for name, text in plan.step(task).env.items():
        try:
            env[name] = _template(text).render(places, shell=False)
        except TemplateError as error:
            raise plan.study.error(("steps", task.step, "env", name), error.message) from error
    return env
