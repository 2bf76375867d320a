"""A runner inside of the cluster, seen from this machine: start it, keep the mirror up to date, hand requests on."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import typer

from shoal.errors import HeldError, ShoalError, UsageError

if TYPE_CHECKING:
    from shoal.cli.opened import Opened
    from shoal.clusters import Cluster
    from shoal.executors.kubernetes.client import Client
    from shoal.executors.kubernetes.packs import Packs
    from shoal.executors.kubernetes.reading import ClaimFiles
    from shoal.runner import Request
    from shoal.store import StudyStore

__all__ = ["call_off", "hand_on", "live", "refresh", "runner_files", "runner_lease", "start", "wait_for_end"]

_FILE = "detached.json"
_MOMENT = 2.0
_ACCOUNT = ("ServiceAccount", "Role", "RoleBinding")


# -- starting


def start(opened: Opened, arguments: list[str], *, asked: set[str] | None, max_parallel: int | None) -> str:
    """Start a runner in the cluster, after everything was checked that can be; return the name of its Job.

    Raises:
        UsageError: it cannot work there; nothing was created.
        HeldError: another runner holds the study.
    """
    from shoal.agent.agent import now, write_json_atomic
    from shoal.cli.on_cluster import cluster_of, connect_to, open_cluster
    from shoal.executors.kubernetes import detach
    from shoal.executors.kubernetes.client import JOBS, NotFound
    from shoal.runner.record import write_plan

    assert opened.on is not None
    study = opened.plan.study
    cluster = cluster_of(opened)
    open_cluster(opened, max_parallel=max_parallel, asked=asked).close()
    with contextlib.closing(connect_to(cluster)) as client:
        inside = cluster.model_copy(update={"namespace": client.namespace, "context": None})
        assert cluster.store is not None
        name = Path(opened.on).stem
        file = study.path.name if study.path is not None else "study.yaml"
        words = ["run", file, "--on", name, "--store", detach.runner_store(cluster), *arguments]
        objects = detach.runner_objects(study.study, inside, _travels(opened, inside, file, name), words)
        *maps, job = objects
        job_name = job["metadata"]["name"]
        with runner_lease(client, opened, cluster):
            with contextlib.suppress(NotFound):
                if _outcome(client.get(JOBS, job_name)) is None:
                    raise HeldError(
                        f"study {study.study!r} is being run in the cluster, by the Job {job_name}",
                        hint=f"Watch it with: shoal status {opened.look} · end it with: shoal stop {opened.look}",
                    )
                client.delete(JOBS, job_name)
                _gone(client, job_name)
            last = _bring_records(opened, cluster)
            _make(client, [*detach.account_objects(inside), *maps, job])
        opened.root.prepare()
        write_plan(opened.plan, opened.store, profile=opened.profile, overrides=list(opened.overrides))
        body = {
            "format": 1,
            "on": opened.on,
            "job": job_name,
            "started": now(),
            "since": 0.0,
            "packs": last,
            "pod": None,
            "ended": None,
        }
        write_json_atomic(str(opened.store.root / _FILE), body)
        return str(job_name)


def _bring_records(opened: Opened, cluster: Cluster) -> int:
    """Where the store is a bucket: let the runner know what was done from here; return the number of the last pack there."""
    assert cluster.store is not None
    if cluster.store.s3 is None or not any(opened.store.root.glob("*/*/result.json")):
        return 0
    packs = _packs(opened.store, cluster)
    last = packs.take(int((_read(opened.store) or {}).get("packs") or 0), skip=_ours(opened.store))
    packs.send(whole=True)
    return last + 1


def _packs(store: StudyStore, cluster: Cluster) -> Packs:
    from shoal.executors.kubernetes.bucket import find_keys, outside_address
    from shoal.executors.kubernetes.packs import Packs
    from shoal.executors.kubernetes.s3 import Bucket

    assert cluster.store is not None
    keys = find_keys()
    where = (outside_address(cluster), cluster.store.bucket, cluster.store.region)
    bucket = Bucket(*where, keys["access_key_id"], keys["secret_access_key"], keys.get("session_token"))
    return Packs(bucket, cluster.store.prefix, store.root)


def _travels(opened: Opened, cluster: Cluster, file: str, name: str) -> dict[str, tuple[bytes, bool]]:
    """What the runner needs of this machine: the study as it was resolved, its code, the cluster file, passed gates."""
    from shoal.cli.inpod import APPROVED
    from shoal.cli.on_cluster import code_of
    from shoal.clusters import parse_cluster
    from shoal.plan import build
    from shoal.study import dump_yaml, parse_study

    plan = opened.plan
    text = dump_yaml(plan.study.resolved())
    if list(build(parse_study(text, file)).tasks) != list(plan.tasks):
        raise UsageError("the study does not come out the same when it is written down: run it without --detach")
    known = cluster.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"extends", "context"})
    at = json.dumps(known, ensure_ascii=False, indent=1)
    if parse_cluster(at, f"{name}.yaml").model_dump(exclude={"extends"}) != cluster.model_dump(exclude={"extends"}):
        raise UsageError(f"the cluster {name} does not come out the same when it is written down: run without --detach")
    files: dict[str, tuple[bytes, bool]] = {}
    for step, code in code_of(plan).items():
        if plan.study.steps[step].gate is None:
            files.update(code)
    files |= {file: (text.encode(), False), f"clusters/{name}.yaml": (at.encode(), False)}
    for step in plan.order:
        if plan.study.steps[step].gate is None:
            continue
        for task in plan.of_step(step):
            folder = opened.store.task(step, task.id).root
            if (folder / "result.json").is_file():
                for path in folder.rglob("*"):
                    if path.is_file():
                        below = path.relative_to(folder).as_posix()
                        files[f"{APPROVED}/{step}/{task.id}/{below}"] = (path.read_bytes(), False)
    return files


def _make(client: Client, objects: list[dict[str, Any]]) -> None:
    """Make all of them, or none: what is there already stays."""
    from shoal.executors.kubernetes.client import AlreadyExists, Forbidden, QuotaExceeded
    from shoal.executors.kubernetes.client.resources import of_kind

    made: list[dict[str, Any]] = []
    try:
        for one in objects:
            try:
                client.create(one)
                made.append(one)
            except AlreadyExists:
                if one["kind"] == "Job":
                    raise
    except BaseException as error:
        for done in reversed(made):
            with contextlib.suppress(ShoalError):
                client.delete(of_kind(done["apiVersion"], done["kind"]), done["metadata"]["name"])
        if isinstance(error, Forbidden) and not isinstance(error, QuotaExceeded) and one["kind"] in _ACCOUNT:
            raise UsageError(
                f"this login may not make the {one['kind']} {one['metadata']['name']}, with which the runner works: {error.said}",
                hint="Have an admin of the namespace apply what `shoal run STUDY --on CLUSTER --print-role` prints, or name an "
                "account that has these rights: runner: {service_account: NAME} in the cluster file.",
            ) from error
        raise


def _gone(client: Client, name: str) -> None:
    from shoal.executors.kubernetes.client import JOBS, NotFound

    until = time.monotonic() + 60
    with contextlib.suppress(NotFound):
        while time.monotonic() < until:
            client.get(JOBS, name)
            time.sleep(0.5)
        raise UsageError(f"the Job {name} of an earlier run does not go away", hint=f"kubectl get job {name}")


@contextlib.contextmanager
def runner_lease(
    client: Client, opened: Opened, cluster: Cluster, lost: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the study's Lease in the namespace, so that one runner is at work, wherever it is; ``lost`` is called if it is lost.

    Raises:
        HeldError: another runner holds it.
    """
    import os

    from shoal.cli.on_cluster import scope_of
    from shoal.executors.kubernetes import detach, names
    from shoal.executors.kubernetes.lease import SECONDS, Lease
    from shoal.store import user_name

    scope = scope_of(opened.plan.study.study, cluster)
    pod = os.environ.get("SHOAL_POD")
    who = f"the pod {pod}" if pod else f"{user_name()} on {socket.gethostname()}"
    labels = names.labels(opened.plan.study.study, scope)
    patience = SECONDS + 30.0 if pod else 0.0
    lease = Lease(client, detach.runner_name(scope), labels, holder=who, pod=pod, patience=patience, lost=lost)
    with lease:
        yield


# -- looking


@dataclass(frozen=True, slots=True)
class Runner:
    """A runner in the cluster, as last seen."""

    pod: str
    since: str

    def to_json(self) -> dict[str, Any]:
        """As ``shoal status --json`` has a runner."""
        return {"pid": 1, "host": self.pod, "user": "shoal-runner", "since": self.since, "executor": "kubernetes"}


def live(store: StudyStore) -> Runner | None:
    """The runner in the cluster, as far as the last look tells."""
    known = _read(store)
    if known is None or known.get("ended") is not None:
        return None
    return Runner(str(known.get("pod") or known.get("job")), str(known.get("started")))


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


def refresh(store: StudyStore, beside: Path, *, note: Callable[[str], None] = _note) -> None:
    """Bring the mirror of a detached run up to date; says so where that is impossible, and leaves it as it was."""
    known = _read(store)
    if known is None or known.get("ended") is not None:
        return
    try:
        _refresh(store, known, beside, note)
    except ShoalError as error:
        why = " ".join(". ".join(filter(None, (error.message, error.hint))).split())
        note(f"as of the last look; the runner in the cluster cannot be asked: {why}")


def _refresh(store: StudyStore, known: dict[str, Any], beside: Path, note: Callable[[str], None]) -> None:
    from shoal.agent.agent import write_json_atomic
    from shoal.executors.kubernetes.client import JOBS, CommandFailed, NotFound
    from shoal.executors.kubernetes.reading import find_image, reader_pod

    with _connected(known, beside) as (client, cluster):
        pod = _pod(client, cluster, store)
        since = float(known.get("since") or 0.0)
        if pod is not None:
            try:
                since = _take(_files(client, cluster, store, pod), store, since)
            except CommandFailed as error:
                if error.started:
                    raise
                # Its container has just ended, and the pod says so in a moment.
                time.sleep(_MOMENT)
                pod = _pod(client, cluster, store)
                if pod is not None:
                    raise
        if pod is not None:
            known = {**known, "pod": pod, "since": since}
        else:
            try:
                job = client.get(JOBS, str(known["job"]))
                outcome = _outcome(job)
            except NotFound:
                outcome = "its Job is gone"
            if outcome is None:
                if (why := _why_no_pod(_pods(client, cluster, store))) is not None:
                    note(f"the runner in the cluster does not run at the moment: {why}")
                return  # it waits for its pod, or for another one
            pods = _pods(client, cluster, store)
            assert cluster.store is not None
            if cluster.store.s3 is not None:
                last = _packs(store, cluster).take(int(known.get("packs") or 0), skip=_ours(store))
                known = {**known, "packs": last}
            else:
                with reader_pod(client, cluster, store.name, find_image(cluster, [cluster.runner.image])) as files:
                    _take(files, store, since)
            if (said := _last_words(pods, store)) is not None:
                note(said)
            known = {**known, "ended": outcome}
    write_json_atomic(str(store.root / _FILE), known)


def _take(files: ClaimFiles, store: StudyStore, since: float) -> float:
    """Take what has changed; return where the next look goes on from."""
    from shoal.executors.kubernetes.packs import SLACK, settle

    state, _ = files.records(store.root, since=max(0.0, since - SLACK), skip=_ours(store))
    settle(store.root, state)
    return state.now


def _ours(store: StudyStore) -> Callable[[str], bool]:
    """Which files are of this machine, and stay as they are."""
    from shoal.executors.kubernetes.packs import OWN
    from shoal.store import read_json

    def ours(path: str) -> bool:
        if path in OWN:
            return True  # with the profile, and the place
        if path.startswith("runs/"):
            before = read_json(store.root / path)
            return before is not None and not str(before.get("host")).startswith("shoal-run-")
        return False

    return ours


def _outcome(job: dict[str, Any]) -> str | None:
    """How a Job has ended; None while it has not."""
    for one in (job.get("status") or {}).get("conditions") or []:
        if one.get("type") in ("Complete", "Failed") and one.get("status") == "True":
            return str(one.get("message") or one["type"])
    return None


def _pod(client: Client, cluster: Cluster, store: StudyStore) -> str | None:
    """The runner's pod, if one runs."""
    running = [one for one in _pods(client, cluster, store) if (one.get("status") or {}).get("phase") == "Running"]
    return str(running[-1]["metadata"]["name"]) if running else None


def _pods(client: Client, cluster: Cluster, store: StudyStore) -> list[dict[str, Any]]:
    """The runner's pods, the newest last."""
    from shoal.cli.on_cluster import scope_of
    from shoal.executors.kubernetes import names
    from shoal.executors.kubernetes.client import PODS

    pods = client.list(PODS, selector=names.selector(scope_of(store.name, cluster), role="runner")).items
    return sorted(pods, key=lambda one: str(one["metadata"]["creationTimestamp"]))


def _why_no_pod(pods: list[dict[str, Any]]) -> str | None:
    """What keeps the runner's pod from running; None where the last one has just ended for good."""
    from shoal.executors.kubernetes.detach import CONTAINER, FINAL
    from shoal.executors.kubernetes.status import waiting_for

    for pod in pods[-1:]:
        ended = _ended(pod)
        if ended.get("exitCode") in FINAL:
            return None  # its Job says so in a moment
        if ended:
            last = str(ended.get("message") or ended.get("reason") or "").strip().rpartition("\n")[2]
            return f"its pod ended with exit code {ended.get('exitCode')}, and another one follows: {last}"
        if (why := waiting_for(pod, CONTAINER)) is not None:
            return why.message
    return "it waits for its pod"


def _last_words(pods: list[dict[str, Any]], store: StudyStore) -> str | None:
    """Why the runner ended, if it could not run at all."""
    from shoal.store import read_json

    ended = _ended(pods[-1]) if pods else {}
    code = ended.get("exitCode")
    if code in (None, 0):
        return None
    # One whose image has no Shoal ends with 1, as does one whose tasks have failed; only the latter has left a record.
    name = pods[-1]["metadata"]["name"]
    if code in (1, 3, 130) and any(
        (read_json(one) or {}).get("host") == name for one in store.root.glob("runs/*.json")
    ):
        return None
    lines = str(ended.get("message") or ended.get("reason") or "").strip().splitlines()
    said = "\n  ".join(lines[-4:])
    why = "; its image has no Shoal (runner: in the cluster file)" if "No module named 'shoal" in said else ""
    return f"the runner in the cluster ended with exit code {code}{why}:\n  {said}"


def _ended(pod: dict[str, Any]) -> dict[str, Any]:
    """How a pod's container ended; empty while it has not."""
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        return (one.get("state") or {}).get("terminated") or {}
    return {}


def _files(client: Client, cluster: Cluster, store: StudyStore, pod: str) -> ClaimFiles:
    from shoal.executors.kubernetes.detach import CONTAINER, runner_store
    from shoal.executors.kubernetes.reading import ClaimFiles

    root = PurePosixPath(runner_store(cluster)) / store.name
    return ClaimFiles(client, pod, root, python=cluster.runner.python, container=CONTAINER)


@contextlib.contextmanager
def _connected(known: dict[str, Any], beside: Path) -> Iterator[tuple[Client, Cluster]]:
    from shoal.cli.on_cluster import connect_to
    from shoal.clusters import load_cluster

    cluster = load_cluster(str(known["on"]), beside=beside)
    with contextlib.closing(connect_to(cluster, patience=8.0)) as client:
        yield client, cluster


# -- asking


def hand_on(opened: Opened, request: Request) -> None:
    """Give a request to the runner in the cluster.

    Raises:
        UsageError: its pod does not run at the moment.
    """
    from shoal.runner import as_file

    name, body = as_file(request)
    with runner_files(opened) as files:
        files.put(f"control/{name}", body)


def call_off(opened: Opened) -> bool:
    """End a runner in the cluster that has no running pod to be asked; return whether that was so."""
    from shoal.agent.agent import write_json_atomic
    from shoal.executors.kubernetes.client import JOBS, NotFound

    known = _read(opened.store) or {}
    with _connected(known, opened.plan.study.folder) as (client, cluster):
        if _pod(client, cluster, opened.store) is not None:
            return False
        with contextlib.suppress(NotFound):
            client.delete(JOBS, str(known["job"]))
    write_json_atomic(str(opened.store.root / _FILE), {**known, "ended": "It was called off before its pod ran."})
    return True


@contextlib.contextmanager
def runner_files(opened: Opened) -> Iterator[ClaimFiles]:
    """The files of the runner in the cluster.

    Raises:
        UsageError: its pod does not run at the moment.
    """
    known = _read(opened.store) or {}
    with _connected(known, opened.plan.study.folder) as (client, cluster):
        pod = _pod(client, cluster, opened.store)
        if pod is None:
            raise UsageError(
                f"the runner in the cluster (Job {known.get('job')}) has no running pod at the moment",
                hint="Try again in a minute. kubectl get pods shows why it waits.",
            )
        yield _files(client, cluster, opened.store, pod)


def wait_for_end(opened: Opened) -> None:
    """Wait until the runner in the cluster has ended."""
    told: set[str] = set()

    def note(text: str) -> None:
        if text not in told:
            told.add(text)
            _note(text)

    while live(opened.store) is not None:
        time.sleep(2.0)
        refresh(opened.store, opened.plan.study.folder, note=note)


def _read(store: StudyStore) -> dict[str, Any] | None:
    from shoal.store import read_json

    return read_json(store.root / _FILE)
