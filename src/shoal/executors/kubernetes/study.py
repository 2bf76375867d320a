"""All objects of a study on a cluster, in the order in which to apply them, each with its file of `--manifests`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from shoal.clusters.schema import Cluster
from shoal.executors.kubernetes import bundle, names
from shoal.executors.kubernetes.manifests import Manifest, Shared, shared_objects, task_objects
from shoal.executors.kubernetes.spec import layout_of, pod_spec
from shoal.plan import Plan

__all__ = ["first_jobs", "study_objects"]

Files = Mapping[str, tuple[bytes, bool]]


def study_objects(
    plan: Plan,
    cluster: Cluster,
    *,
    todo: Collection[str],
    pods: int,
    code: Mapping[str, Files] | None = None,
    code_digests: Mapping[str, str | None] | None = None,
    attempts: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, list[Manifest]]]:
    """Yield a file's name and its objects: first what tasks share, then a file for each task, in plan order.

    Args:
        plan: the plan.
        cluster: where it runs.
        todo: ids of the tasks to run; gates among them are left out, a person passes those.
        pods: how many pods may run at once.
        code: step to its code files: path to content and whether it is executable.
        code_digests: step to the digest of its code, as results record it.
        attempts: task to the number of its next attempt; default 1.

    Raises:
        UsageError: the cluster has no store or no image for a step, or something is too large.
        StudyError: a command cannot be rendered.
    """
    layout_of(cluster, plan.study.study)
    steps = [name for name in plan.order if any(task.id in todo for task in plan.of_step(name))]
    packed = {name: bundle.pack((code or {}).get(name, {}), name) for name in steps}
    shared = Shared(plan.study.study, cluster, pods, packed)
    for one in shared_objects(shared):
        yield f"shared/{one['metadata']['name']}.yaml", [one]
    for name in steps:
        step = plan.study.steps[name]
        if step.gate is not None:
            continue
        for task in plan.of_step(name):
            if task.id not in todo:
                continue
            number = (attempts or {}).get(task.id, 1)
            spec = pod_spec(
                plan,
                task,
                cluster,
                number=number,
                code=(code_digests or {}).get(name),
                has_code=packed[name] is not None,
            )
            objects = task_objects(spec, shared, image=step.image)
            yield f"{name}/{names.job_name(plan.study.study, name, task.id, number, shared.scope)}.yaml", objects


def first_jobs(
    plan: Plan, cluster: Cluster, *, todo: Collection[str], pods: int, code: Mapping[str, bundle.Code | None]
) -> dict[str, Manifest]:
    """Step to the Job of the first of its tasks that is to run: enough to find out whether the cluster would take it.

    Args:
        plan: the plan.
        cluster: where it runs.
        todo: ids of the tasks to run.
        pods: how many pods may run at once.
        code: step to its packed code.

    Raises:
        UsageError, StudyError: as for `study_objects`.
    """
    layout_of(cluster, plan.study.study)
    shared = Shared(plan.study.study, cluster, pods, code)
    found = {}
    for name in plan.order:
        step = plan.study.steps[name]
        task = next((one for one in plan.of_step(name) if one.id in todo), None)
        if task is None or step.gate is not None:
            continue
        spec = pod_spec(plan, task, cluster, has_code=code.get(name) is not None)
        found[name] = next(one for one in task_objects(spec, shared, image=step.image) if one["kind"] == "Job")
    return found
