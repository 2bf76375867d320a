"""``shoal stop``: end what runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli import complete
from shoal.cli.common import OnOption, ProfileOption, SetOption, StoreOption, StudyArgument, open_executor, open_study
from shoal.cli.opened import Opened
from shoal.errors import StudyError

if TYPE_CHECKING:
    from shoal.store import StudyStore


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("stop")(stop)


def stop(
    study: StudyArgument,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK",
            help="Only these tasks or steps; the whole run by default.",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Kill instead of asking; checkpoints may be lost.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Stop a run, or some of its tasks. Tasks are asked to end and may save a checkpoint first; the next run resumes them."""
    from shoal.cli.detached import call_off, hand_on, live, wait_for_end
    from shoal.runner import Request
    from shoal.store import holder

    try:
        opened = open_study(study, profile=profile, overrides=set_, store=store, as_last_run=True, on=on)
    except StudyError:
        # Half-way through an edit the file cannot be read; what was started from it must be possible to stop all the same.
        running = [] if tasks else _runs_of(study, store)
        if len(running) != 1:
            raise
        _ask_to_stop(running[0], set(), now=now, wait=wait)
        return
    ids = opened.plan.find(tasks) if tasks else set()
    called_off = live(opened.store) is not None and not ids and call_off(opened)
    if not called_off and live(opened.store) is not None:
        hand_on(opened, Request("stop", tuple(sorted(ids)), now=now))
        if wait and not ids:
            wait_for_end(opened)
            typer.echo(f"{opened.plan.study.study}: stopped")
        else:
            typer.echo(f"{opened.plan.study.study}: asked its runner in the cluster to stop {len(ids) or 'everything'}")
        return
    if holder(opened.store.lock) is not None:
        _ask_to_stop(opened.store, ids, now=now, wait=wait)
        return
    stopped = _stop_orphans(opened, ids, now=now, wait=wait) if opened.store.root.is_dir() else 0
    runner = "its runner, which was not at work, was called off" if called_off else "no runner"
    typer.echo(f"{opened.plan.study.study}: {runner}; {stopped} running task{'s' if stopped != 1 else ''} stopped")


def _runs_of(file: Path, store: str | None) -> list[StudyStore]:
    """Studies that were last run from a file and that a runner on this machine holds, by what the store says alone."""
    from shoal.store import holder, open_store, read_json

    root = open_store(store, beside=file.parent)
    mine = [root.study(path.parent.name) for path in root.root.glob("*/plan.json")]
    return [
        one for one in mine if (read_json(one.plan) or {}).get("file") == file.name and holder(one.lock) is not None
    ]


def _ask_to_stop(store: StudyStore, ids: set[str], *, now: bool, wait: bool) -> None:
    """Ask the runner of a study on this machine to stop tasks, or everything, and wait for its end in that case."""
    from shoal.runner import Request, ask
    from shoal.store import holder

    ask(store, Request("stop", tuple(sorted(ids)), now=now))
    if wait and not ids:
        while holder(store.lock) is not None:
            time.sleep(0.1)
        typer.echo(f"{store.name}: stopped")
    else:
        typer.echo(f"{store.name}: asked its runner to stop {len(ids) or 'everything'}")


def _stop_orphans(opened: Opened, ids: set[str], *, now: bool, wait: bool) -> int:
    """Stop tasks that outlived their runner."""
    from shoal.executors import AttemptKey, Ended, Executor, Note
    from shoal.store import RunnerLock, Snapshot

    with RunnerLock(opened.store.lock, look=opened.look):
        snapshot = Snapshot.read(opened.store)
        open_ = {
            AttemptKey(record.id, record.last.number): opened.store.task(record.step, record.id).attempt(
                record.last.number
            )
            for record in snapshot.tasks.values()
            if record.last is not None
            # What waits on a cluster has no record yet, and would start by itself.
            and (record.last.state == "running" or (opened.on is not None and record.last.state == "unstarted"))
            and (not ids or record.id in ids)
        }
        executor: Executor
        if opened.on is None:
            executor = open_executor("local")
        else:
            from shoal.cli.on_cluster import open_to_stop

            executor = open_to_stop(opened)
        try:
            alive = executor.adopt((folder, key) for key, folder in open_.items())
            executor.stop(alive, "cancelled", now=now)
            left = set(alive)
            while wait and left:
                for report in executor.wait(0.5):
                    if isinstance(report, Ended):
                        left.discard(report.key)
                    elif isinstance(report, Note):
                        typer.echo(report.text, err=True)
            return len(alive)
        finally:
            executor.close()
