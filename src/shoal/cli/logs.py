"""``shoal logs``: what a task printed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli import complete
from shoal.cli.common import OnOption, ProfileOption, SetOption, StoreOption, StudyArgument, open_study
from shoal.cli.opened import Opened
from shoal.errors import UsageError

if TYPE_CHECKING:
    from shoal.store import TaskRecord


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("logs")(logs)


def logs(
    study: StudyArgument,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="A task's id or the beginning of it, or a step; the newest attempt by default.",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing until the task ends.")] = False,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", min=1, help="Number of the attempt; the last by default.", show_default=False),
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=1, help="Only the last so many lines.", show_default=False)
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Print what a task printed."""
    from shoal.store import read_task

    opened = open_study(study, profile=profile, overrides=set_, store=store, as_last_run=True, on=on)
    record = choose(opened, task)
    folder = opened.store.task(record.step, record.id)
    if attempt is not None and attempt not in {one.number for one in record.attempts}:
        raise UsageError(f"{record.step} {record.id} has no attempt {attempt}; it has {len(record.attempts)}")
    number = attempt or (record.last.number if record.last else 1)
    path = folder.attempt(number) / "log.txt"
    if opened.on is not None and (follow or not path.exists()):
        from shoal.cli.on_cluster import print_log

        if print_log(opened, record, number, follow=follow, tail=tail):
            return
    print(f"==> {record.step} {record.id}, attempt {number}: {path}", file=sys.stderr)
    position = _print(path, 0 if tail is None else _tail(path, tail))
    while follow:
        current = read_task(folder.root, record.step)
        ended = next((one.state == "ended" for one in current.attempts if one.number == number), False)
        position = _print(path, position)
        if ended:
            break
        time.sleep(0.3)


def choose(opened: Opened, reference: str | None) -> TaskRecord:
    """The task that a reference means; with a step or nothing, the one whose attempt started last.

    Raises:
        UsageError: nothing that has been tried is meant.
    """
    from shoal.store import Snapshot

    ids = opened.plan.find([reference]) if reference else set(opened.plan.tasks)
    snapshot = Snapshot.read(opened.store, opened.plan.order)
    tried = [record for id_, record in snapshot.tasks.items() if id_ in ids and record.attempts]
    if not tried:
        what = f"{reference!r}" if reference else f"study {opened.plan.study.study!r}"
        raise UsageError(f"nothing of {what} has been tried yet", hint=f"See what would run: shoal plan {opened.look}")

    def newest(record: TaskRecord) -> tuple[bool, str]:
        last = record.last
        return last is not None and last.state == "running", str(last.data.get("started", "")) if last else ""

    return max(tried, key=newest)


def _print(path: Path, position: int) -> int:
    try:
        with path.open("rb") as file:
            file.seek(position)
            while block := file.read(1 << 16):
                sys.stdout.buffer.write(block)
                position += len(block)
    except FileNotFoundError:
        return position
    sys.stdout.buffer.flush()
    return position


def _tail(path: Path, lines: int) -> int:
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            start = end
            found = b""
            while start > 0 and found.count(b"\n") <= lines:
                step = min(1 << 16, start)
                start -= step
                file.seek(start)
                found = file.read(step) + found
    except FileNotFoundError:
        return 0
    # Lines end with a line feed: a progress bar that draws itself anew after carriage returns is one.
    cut = len(found) - found.endswith(b"\n")
    for _ in range(lines):
        cut = found.rfind(b"\n", 0, cut)
        if cut < 0:
            break
    return end - len(found) + cut + 1
