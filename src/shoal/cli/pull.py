"""``shoal pull``: what tasks made on a cluster, brought to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli import complete
from shoal.cli.common import OnOption, ProfileOption, SetOption, StoreOption, StudyArgument, open_study
from shoal.cli.opened import Opened
from shoal.cli.words import count_tasks
from shoal.errors import UsageError
from shoal.units import format_size

if TYPE_CHECKING:
    from shoal.clusters import Cluster
    from shoal.executors.kubernetes.pull import Wanted

_MUCH = 100 << 20
_OURS = frozenset({"spec.json", "attempt.json", "result.json", "task.json", "heartbeat", "waiting.json", "stop"})


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("pull")(pull)


def pull(
    study: StudyArgument,
    which: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STEP|TASK",
            help="Only of these; of all by default.",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where to: DIR/STEP/TASK/out. By default into the study's store here, where the report finds it.",
            show_default=False,
        ),
    ] = None,
    records: Annotated[
        bool,
        typer.Option(
            "--records", help="Small files in place of outputs: logs, metrics over time, pictures of the report."
        ),
    ] = False,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Bring outputs of finished tasks from a cluster. Through a pod that lives as long as that takes, or from a bucket.

    Each task arrives whole, compared with its digest, or not at all; what is here already is not brought again, so a pull that
    was cut short is simply repeated. Exits with 1 when something could not be brought.
    """
    opened = open_study(study, profile=profile, overrides=set_, store=store, as_last_run=True, on=on)
    if opened.on is None:
        raise UsageError(
            f"{opened.plan.study.study} was run on this machine: its outputs are in {opened.store.root}",
            hint="Of a cluster: shoal pull STUDY --on CLUSTER.",
        )
    ids = opened.plan.find(which) if which else set(opened.plan.tasks)
    raise typer.Exit(_records(opened, ids, output) if records else _outputs(opened, ids, output))


def _outputs(opened: Opened, ids: set[str], output: Path | None) -> int:
    from shoal.cli.on_cluster import cluster_of, open_files
    from shoal.executors.kubernetes.pull import pull_outputs

    cluster = cluster_of(opened)
    wanted, missing = _wanted(opened, ids)
    if missing:
        typer.echo(f"{missing} of {count_tasks(len(ids))} not done: no outputs yet", err=True)
    if not wanted:
        return 1 if missing else 0
    target = output.absolute() if output is not None else opened.store.root
    _warn_of_size(cluster, sum(one.size for one in wanted))
    with open_files(opened, cluster) as files:
        count = 0

        def say(one: Wanted, text: str) -> None:
            nonlocal count
            count += 1
            size = format_size(one.size) if one.size >= 1 << 10 else f"{one.size} B"
            typer.echo(f"[{count}/{len(wanted)}] {one.step} {one.task} ({size}) {text}", err=True)

        found = pull_outputs(files, wanted, target, say=say)
    here = f", {len(found.here)} were here" if found.here else ""
    failed = f", {len(found.failed)} failed" if found.failed else ""
    typer.echo(f"{opened.plan.study.study}: outputs of {count_tasks(len(found.new))} brought to {target}{here}{failed}")
    return 1 if found.failed else 0


def _wanted(opened: Opened, ids: set[str]) -> tuple[list[Wanted], int]:
    """What has outputs, and how many tasks have none."""
    from shoal.executors.kubernetes.pull import Wanted
    from shoal.store import Snapshot

    known = Snapshot.read(opened.store, opened.plan.order).tasks
    found, missing = [], 0
    for task in opened.plan.tasks.values():
        if task.id not in ids or task.command is None:
            continue
        record = known.get(task.id)
        outputs = (record.result or {}).get("outputs") if record is not None else None
        if not outputs or not outputs.get("digest"):
            missing += 1
        else:
            found.append(Wanted(task.step, task.id, str(outputs["digest"]), int(outputs.get("bytes") or 0)))
    return found, missing


def _records(opened: Opened, ids: set[str], output: Path | None) -> int:
    from shoal.cli.on_cluster import cluster_of, open_files
    from shoal.executors.kubernetes.bucket import BucketFiles

    target = output.absolute() if output is not None else opened.store.root
    tasks = [f"{task.step}/{task.id}" for task in opened.plan.tasks.values() if task.id in ids and task.command]

    def told_already(path: str) -> bool:
        # What this machine has written of an attempt says more: when it was submitted, and where it ran.
        return path.rpartition("/")[2] in _OURS and (target / path).exists()

    with open_files(opened, cluster_of(opened)) as files:
        if isinstance(files, BucketFiles):
            count = files.records(target, tasks, pictures=True, skip=told_already)
        else:
            _, count = files.records(target, tasks=tasks, pictures=True, skip=told_already)
    typer.echo(f"{opened.plan.study.study}: {count} small files of {count_tasks(len(tasks))} brought to {target}")
    return 0


def _warn_of_size(cluster: Cluster, total: int) -> None:
    policy = cluster.policies.get("copying")
    store = cluster.store
    if policy is None or store is None or store.claim is None or total < _MUCH:
        return
    typer.echo(
        f"note: {format_size(total)} go through the API server. {cluster.title or cluster.name}: {policy.text}"
        + (f" ({policy.reason})" if policy.reason else "")
        + ". For more, keep the store in a bucket (store: {s3: ...}), or name fewer tasks.",
        err=True,
    )
