"""What ``--on CLUSTER`` adds: the cluster's rules, the manifests, and the executor that submits there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.cli.opened import Opened
    from shoal.clusters import Cluster, Finding
    from shoal.clusters.free import FreeGpus
    from shoal.executors.kubernetes.bucket import BucketFiles
    from shoal.executors.kubernetes.client import Client
    from shoal.executors.kubernetes.executor import KubernetesExecutor
    from shoal.executors.kubernetes.reading import ClaimFiles
    from shoal.plan import Plan
    from shoal.store import Snapshot, TaskRecord
    from shoal.store.state import Sources, TaskState

_COLOURS = {"ok": "green", "note": "cyan", "warn": "yellow", "error": "bold red"}
_SCRIPT_BYTES = 64 * 1024
_CODE_BYTES = 64 << 20


def cluster_of(opened: Opened) -> Cluster:
    """The cluster that a study is run on; for verbs that have made sure that it is one.

    Raises:
        UsageError: there is no such cluster.
        StudyError: its file has mistakes.
    """
    from shoal.clusters import load_cluster

    assert opened.on is not None
    return load_cluster(opened.on, beside=opened.plan.study.folder)


def check_plan(plan: Plan, cluster: Cluster, states: dict[str, TaskState]) -> list[Finding]:
    """What the cluster's rules say of the tasks that are still to run."""
    from shoal.clusters import check
    from shoal.store.sources import code_files

    scripts: dict[str, dict[str, str]] = {}
    for name, step in plan.study.steps.items():
        for path, file in code_files(plan.study, step).items():
            if path.endswith((".sh", ".bash")) and file.stat().st_size <= _SCRIPT_BYTES:
                scripts.setdefault(name, {})[path] = file.read_text(errors="replace")
    return check(plan, cluster, todo=_todo(plan, states), scripts=scripts)


def show_findings(out: Console, name: str, findings: list[Finding]) -> None:
    """Print findings, each in a line or two."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for finding in findings:
        line = Text(finding.text)
        if finding.hint:
            line.append(f"  ({finding.hint})" if len(finding.hint) < 60 else f"\n{finding.hint}", style="dim")
        if finding.level in ("warn", "error") and finding.reason:
            line.append(f"\n{finding.reason}" + (f": {finding.link}" if finding.link else ""), style="dim")
        table.add_row(Text(finding.level, style=_COLOURS[finding.level]), line)
    out.print(Text(f"policies of {name}", style="dim"))
    out.print(Padding(table, (0, 0, 1, 2)))


def write(
    folder: Path,
    plan: Plan,
    cluster: Cluster,
    states: dict[str, TaskState],
    snapshot: Snapshot,
    sources: Sources,
) -> str:
    """Write the manifests of what is to run; return what was done, in a sentence."""
    from shoal.clusters.situation import Situation
    from shoal.executors.kubernetes.study import study_objects
    from shoal.executors.kubernetes.write import write_manifests

    todo = _todo(plan, states)
    files = study_objects(
        plan,
        cluster,
        todo=todo,
        pods=Situation(plan, cluster, frozenset(todo)).pods,
        code=code_of(plan),
        code_digests=sources.code,
        attempts={
            task: max((attempt.number for attempt in record.attempts), default=0) + 1
            for task, record in snapshot.tasks.items()
        },
    )
    count = write_manifests(folder, files)
    first = next((name for name in plan.order if any(task.id in todo for task in plan.of_step(name))), "")
    return (
        f"{count} manifests in {folder}. To submit them by hand, step by step as each needs the one before: "
        f"kubectl apply --server-side -f {folder}/shared -f {folder}/{first}"
    )


def connect_to(cluster: Cluster, *, patience: float = 60.0) -> Client:
    """A client for the cluster's namespace.

    Raises:
        LoginError: there is no login, or it cannot be used.
    """
    from shoal.executors.kubernetes.client import connect

    return connect(cluster.context, cluster.namespace, patience=patience)


def open_cluster(
    opened: Opened, *, max_parallel: int | None = None, asked: set[str] | None = None
) -> KubernetesExecutor:
    """The executor that runs a study's tasks on the cluster of ``opened``, after everything was checked that can be.

    Args:
        opened: the study, and where it is to run.
        max_parallel: at most so many tasks at once.
        asked: ids of the tasks that are wanted; all by default.

    Raises:
        UsageError: the cluster's rules, or the server, would refuse it; nothing was created.
    """
    import typer

    from shoal.clusters.gpus import gpu_requests
    from shoal.clusters.situation import Situation
    from shoal.errors import UsageError
    from shoal.executors.kubernetes import bundle
    from shoal.executors.kubernetes.choose import Chooser, NodeSeen
    from shoal.executors.kubernetes.client import NODES
    from shoal.executors.kubernetes.executor import KubernetesExecutor
    from shoal.executors.kubernetes.preflight import preflight
    from shoal.executors.kubernetes.study import first_jobs
    from shoal.store import Snapshot
    from shoal.store.sources import read_sources
    from shoal.store.state import survey

    plan, study = opened.plan, opened.plan.study
    cluster = cluster_of(opened)
    states = survey(plan, Snapshot.read(opened.store, plan.order), read_sources(study, data_here=False))
    wanted = None if asked is None else plan.with_needs(asked)
    todo = {id_ for id_ in _todo(plan, states) if wanted is None or id_ in wanted}
    findings = [one for one in check_plan(plan, cluster, states) if one.level in ("warn", "error")]
    for one in findings:
        hint = f"  ({one.hint})" if one.hint else ""
        typer.echo(f"{one.level}: {one.text}{hint}" + (f"\n  {one.reason}" if one.reason else ""), err=True)
    if any(one.level == "error" for one in findings):
        raise UsageError(
            f"{cluster.name} would refuse this; nothing was created",
            hint=f"All of its rules: shoal plan STUDY --on {opened.on}",
        )
    code = {name: bundle.pack(files, name) for name, files in code_of(plan).items() if study.steps[name].gate is None}
    situation = Situation(plan, cluster, frozenset(todo), max_parallel)
    client = connect_to(cluster)
    try:
        jobs = first_jobs(plan, cluster, todo=todo, pods=situation.pods, code=code)
        secrets = {key for name in jobs for key in study.steps[name].secrets}
        for note in preflight(client, cluster, jobs, secrets=secrets):
            typer.echo(f"note: {note}", err=True)
        quick = client.with_patience(5.0)
        nodes = quick.list(NODES, keep=NodeSeen.of).items if quick.allowed("list", NODES) else None
        chooser = Chooser(cluster, nodes)
        choice = False
        for name in jobs:
            for asked_for in situation.asks.get(name, {}):
                choice = choice or len(gpu_requests(cluster, asked_for)) > 1
                if why := chooser.impossible(asked_for):
                    raise UsageError(f"step {name} can never run on {cluster.name}: {why}")
        return KubernetesExecutor(
            client,
            cluster,
            study.study,
            images={name: step.image for name, step in study.steps.items()},
            code=code,
            pods=situation.pods,
            here=store_is_here(opened, cluster),
            nodes=nodes,
            free=_free(quick, cluster) if choice else None,
        )
    except BaseException:
        client.close()
        raise


def _free(client: Client, cluster: Cluster) -> FreeGpus | None:
    """Which GPUs are free; it helps to choose among types, and nothing depends on it."""
    from shoal.executors.kubernetes.client import ApiError
    from shoal.executors.kubernetes.survey import survey_gpus

    try:
        return survey_gpus(client, cluster)
    except ApiError:
        return None


def print_log(opened: Opened, record: TaskRecord, number: int, *, follow: bool, tail: int | None) -> bool:
    """Print what an attempt prints, or printed, from its pod; return whether there was one.

    Raises:
        ApiError, LoginError: the cluster does not answer.
    """
    import sys
    import time

    from shoal.executors.kubernetes import names
    from shoal.executors.kubernetes.client import PODS, Invalid, NotFound
    from shoal.executors.kubernetes.podspec import CONTAINER

    cluster = cluster_of(opened)
    scope = scope_of(opened.plan.study.study, cluster)
    selector = names.selector(scope, task=record.id) + f",{names.ATTEMPT}={number}"
    with contextlib.closing(connect_to(cluster, patience=8.0)) as client:
        waited = False
        while True:
            pods = client.list(PODS, selector=selector).items
            if not pods:
                return False
            pod = min(pods, key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))
            name = pod["metadata"]["name"]
            print(f"==> {record.step} {record.id}, attempt {number}: pod {name}", file=sys.stderr)
            try:
                for block in client.logs(name, container=CONTAINER, follow=follow, tail=tail):
                    sys.stdout.buffer.write(block)
                    sys.stdout.buffer.flush()
                return True
            except NotFound:
                return False
            except Invalid as error:
                # Its container has not started.
                if not follow:
                    print(error.said, file=sys.stderr)
                    return True
                if not waited:
                    print(f"it has not started yet: {error.said}", file=sys.stderr)
                waited = True
                time.sleep(2.0)


def remove_all(
    opened: Opened, alone: Callable[[Client, Opened, Cluster], contextlib.AbstractContextManager[None]], *, yes: bool
) -> tuple[dict[str, int], int]:
    """Count, or remove, everything that a study has left in its namespace.

    Args:
        opened: the study, and where it ran.
        alone: holds the study meanwhile, as a runner does.
        yes: whether to remove it.

    Returns:
        How many objects of each kind there are, and how many Jobs still run; with any of those nothing is removed.

    Raises:
        HeldError: a runner is at work on it elsewhere.
    """
    from shoal.executors.kubernetes import names
    from shoal.executors.kubernetes.client import CONFIG_MAPS, JOBS, LEASES, PODS, SERVICES

    cluster = cluster_of(opened)
    selector = names.selector(scope_of(opened.plan.study.study, cluster))
    with contextlib.closing(connect_to(cluster, patience=8.0)) as client:
        jobs, pods = (client.list(one, selector=selector, keep=_state).items for one in (JOBS, PODS))
        running = running_jobs(jobs, pods)
        counts = {JOBS.plural: len(jobs), PODS.plural: len(pods)}
        kinds = (JOBS, PODS, SERVICES, CONFIG_MAPS, LEASES)
        for one in kinds[2:]:
            counts[one.plural] = len(client.list(one, selector=selector, keep=lambda _: 1).items)
        if yes and not running:
            # A runner elsewhere may have nothing that runs at this moment, and would miss what its next tasks mount.
            with alone(client, opened, cluster):
                for one in kinds:
                    client.delete_all(one, selector)
        return {plural: count for plural, count in counts.items() if count}, running


def _state(one: dict[str, Any]) -> dict[str, Any]:
    """What is needed of a Job or of a pod to know whether it runs."""
    meta, status = one["metadata"], one.get("status") or {}
    owner = next((of["name"] for of in meta.get("ownerReferences") or () if of.get("kind") == "Job"), None)
    return {"name": meta["name"], "job": owner, "active": status.get("active"), "phase": status.get("phase")}


def running_jobs(jobs: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> int:
    """How many Jobs run. For a moment a Job says so of itself whose pods have all ended."""
    found: dict[Any, bool] = {}
    for pod in pods:
        found[pod["job"]] = found.get(pod["job"], False) or pod["phase"] not in ("Succeeded", "Failed")
    return sum(bool(job["active"]) and found.get(job["name"], True) for job in jobs)


@contextlib.contextmanager
def open_files(opened: Opened, cluster: Cluster, *, read_only: bool = True) -> Iterator[ClaimFiles | BucketFiles]:
    """The study's files where pods find them: on the claim, by a pod that lives as long, or in the bucket.

    Raises:
        UsageError: the cluster has no store, or there is no way to read it.
        ApiError, LoginError: the cluster does not answer.
    """
    from shoal.executors.kubernetes.bucket import BucketFiles, open_bucket
    from shoal.executors.kubernetes.reading import find_image, reader_pod
    from shoal.executors.kubernetes.spec import layout_of

    study = opened.plan.study
    layout_of(cluster, study.study)
    assert cluster.store is not None
    if cluster.store.s3 is not None:
        bucket = BucketFiles(open_bucket(cluster), study.study)
        bucket.check()
        yield bucket
        return
    image = find_image(cluster, [step.image for step in study.steps.values()])
    with contextlib.closing(connect_to(cluster, patience=20.0)) as client:
        with reader_pod(client, cluster, study.study, image, read_only=read_only) as files:
            yield files


def scope_of(study: str, cluster: Cluster) -> str:
    """What tells a study's objects in the namespace from all others.

    Raises:
        UsageError: the cluster has no store.
    """
    from shoal.executors.kubernetes.manifests import Shared
    from shoal.executors.kubernetes.spec import layout_of

    layout_of(cluster, study)
    return Shared(study, cluster).scope


def open_to_stop(opened: Opened) -> KubernetesExecutor:
    """An executor that finds and ends what an earlier run left on the cluster, and starts nothing."""
    from shoal.executors.kubernetes.executor import KubernetesExecutor
    from shoal.executors.kubernetes.spec import layout_of

    cluster = cluster_of(opened)
    layout_of(cluster, opened.plan.study.study)
    return KubernetesExecutor(
        connect_to(cluster, patience=8.0),
        cluster,
        opened.plan.study.study,
        here=store_is_here(opened, cluster),
        begins=False,
    )


def store_is_here(opened: Opened, cluster: Cluster) -> bool:
    """Whether the store is the claim itself, mounted where pods have it: the runner is in a pod."""
    store = cluster.store
    return store is not None and store.claim is not None and str(opened.root.root) == store.root


def code_of(plan: Plan) -> dict[str, dict[str, tuple[bytes, bool]]]:
    """Step to its code: path to content and whether it is executable."""
    from shoal.store.sources import code_files

    return {name: _contents(name, code_files(plan.study, step)) for name, step in plan.study.steps.items()}


def _contents(step: str, files: dict[str, Path]) -> dict[str, tuple[bytes, bool]]:
    """The code of a step in memory; what cannot be code is not even read."""
    from shoal.errors import UsageError

    total = sum(file.stat().st_size for file in files.values())
    if total > _CODE_BYTES:
        raise UsageError(
            f"the code of step {step} has {total >> 20} MiB, which cannot travel to pods",
            hint="Name fewer files under code: of the step, put the code into the image, or large files onto a claim.",
        )
    return {path: (file.read_bytes(), bool(file.stat().st_mode & 0o100)) for path, file in files.items()}


def _todo(plan: Plan, states: dict[str, TaskState]) -> set[str]:
    from shoal.store.state import State

    return {task for task, state in states.items() if state.state not in (State.DONE, State.RUNNING)}
