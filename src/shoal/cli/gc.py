"""``shoal gc``: give back disk that nothing needs any more."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.common import JsonOption, OnOption, StoreOption, StudyArgument, open_study
from shoal.cli.words import print_json
from shoal.units import format_size


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("gc")(gc)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A folder that nothing needs, and why."""

    path: Path
    why: str
    bytes: int


def gc(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it. Without this, only show.")] = False,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Leave checkpoints of finished tasks.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Show, or with --yes remove, what nothing needs any more.

    That is: tasks that are in the study no longer, under any of its profiles; checkpoints of finished tasks (their outputs
    stay); copies of code that no result was made with; what a kill left half-made. On a cluster also the study's Jobs and
    whatever else of it is in the namespace, once nothing of it runs; results stay, logs of pods go.
    """
    from shoal.store import RunnerLock

    opened = open_study(study, store=store, as_last_run=True, on=on)
    mine = opened.store
    found: list[Garbage] = []
    if mine.root.is_dir():
        # To look needs no hold of the study; what runs is left out.
        with RunnerLock(mine.lock, look=opened.look) if yes else contextlib.nullcontext():
            found = find_garbage(study, mine.root, keep_checkpoints=keep_checkpoints)
            if yes:
                for item in found:
                    _remove(item.path)
    total = sum(item.bytes for item in found)
    objects: dict[str, int] = {}
    running = 0
    if opened.on is not None:
        from shoal.cli.detached import runner_lease
        from shoal.cli.on_cluster import remove_all

        objects, running = remove_all(opened, runner_lease, yes=yes)
    if json:
        print_json(
            {
                "removed": yes,
                "bytes": total,
                "objects": objects,
                "items": [{"path": str(item.path), "why": item.why, "bytes": item.bytes} for item in found],
            }
        )
        return
    by_why: dict[str, list[Garbage]] = {}
    for item in found:
        by_why.setdefault(item.why, []).append(item)
    for why, items in by_why.items():
        typer.echo(f"{len(items):>6}  {format_size(sum(item.bytes for item in items)):>8}  {why}")
    if objects:
        listed = ", ".join(
            f"{count} {kinds if count != 1 else kinds.removesuffix('s')}" for kinds, count in objects.items()
        )
        done = "" if running else " removed" if yes else ", to remove with --yes"
        typer.echo(f"on {opened.on}: {listed}{done}")
        if running:
            typer.echo(f"{running} of these Jobs run, so they are left; end them with: shoal stop {opened.look}")
    if not found and not objects:
        typer.echo("nothing to remove")
    elif found:
        typer.echo(f"{'removed' if yes else 'to remove with --yes:'} {format_size(total)}")


def find_garbage(file: Path, root: Path, *, keep_checkpoints: bool = False) -> list[Garbage]:
    """What nothing needs in a study's part of the store. A task that is under way is left alone, whatever it has."""
    from shoal.plan import build
    from shoal.store import Snapshot, StudyStore, read_json
    from shoal.study import load_study

    mine = StudyStore(root)
    study = load_study(file)
    wanted = set(build(study).tasks)
    for profile in study.profiles:
        wanted |= set(build(load_study(file, profile=profile)).tasks)
    # A run with --set has tasks of its own; its plan stays good until another run replaces it.
    wanted |= {str(task.get("id")) for task in (read_json(mine.plan) or {}).get("tasks", ())}
    found = []
    used_code = set()
    for record in Snapshot.read(mine).tasks.values():
        folder = mine.task(record.step, record.id)
        running = record.last is not None and record.last.state == "running"
        if record.id not in wanted and not running:
            found.append(Garbage(folder.root, "tasks that are in the study no longer", _bytes(folder.root)))
            continue
        if record.result is not None:
            used_code.add(str(record.result.get("code"))[:16])
        else:
            for spec in folder.root.glob("attempts/*/spec.json"):
                used_code.add(str((read_json(spec) or {}).get("code"))[:16])
        if running:
            continue
        for half_made in folder.root.glob(".*"):
            found.append(Garbage(half_made, "left half-made by a kill", _bytes(half_made)))
        if record.result is None or keep_checkpoints or not folder.checkpoints.is_dir():
            continue
        if any(folder.checkpoints.iterdir()):
            found.append(Garbage(folder.checkpoints, "checkpoints of finished tasks", _bytes(folder.checkpoints)))
    if mine.code.is_dir():
        for folder_ in sorted(mine.code.iterdir()):
            if folder_.name not in used_code:
                found.append(Garbage(folder_, "copies of code that no result was made with", _bytes(folder_)))
    return found


def _bytes(path: Path) -> int:
    if not path.is_dir() or path.is_symlink():
        return _size(path)
    return sum(_size(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:  # it went while we looked
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # The result goes first, so that what a kill leaves is no task that looks done.
        (path / "result.json").unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
