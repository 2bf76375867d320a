"""What the verbs share: their options, and the way from these to a study, a plan, a store and an executor."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli import complete
from shoal.cli.opened import EXECUTORS, Opened
from shoal.errors import UsageError

if TYPE_CHECKING:
    from shoal.executors import Executor
    from shoal.results import StudyResults
    from shoal.store import StudyStore
    from shoal.study import Study

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.", show_default=False)]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME",
        help="Apply a profile of the study.",
        show_default=False,
        autocompletion=complete.profiles,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a value of the study; may be given several times.",
        show_default=False,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where results live [default: SHOAL_STORE, the study's own, or 'runs' beside the study file].",
        show_default=False,
    ),
]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Where tasks run: local, debug, or a cluster.",
        show_default=False,
        autocompletion=complete.clusters,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def absent_secrets(opened: Opened) -> list[str]:
    """Notes on secrets that the environment here lacks, where tasks take them from it, as on a cluster they do not."""
    if opened.on is not None:
        return []
    return [
        f"note: {name}: the secret {secret} is not in this environment, so its tasks will not have it: export it first."
        for name, step in opened.plan.study.steps.items()
        for secret in step.secrets
        if secret not in os.environ
    ]


def open_study(
    file: Path,
    *,
    profile: str | None = None,
    overrides: list[str] | None = None,
    store: str | None = None,
    as_last_run: bool = False,
    on: str | None = None,
) -> Opened:
    """Load and plan a study, and find its store.

    Args:
        file: the study file.
        profile: name of a profile.
        overrides: ``--set`` items.
        store: ``--store``.
        as_last_run: where neither a profile nor an override is named, take those of the last run, so that ``shoal status``
            after ``shoal run --profile smoke`` speaks of the same tasks; likewise the place, where ``on`` names none.
        on: ``--on``.
    """
    from shoal.plan import build
    from shoal.store import find_store, other_file, read_json
    from shoal.study import load_study

    study = load_study(file, profile=profile, overrides=overrides or ())
    where = None if on in EXECUTORS else on
    root, place = find_store(study, store, on=where, follow=as_last_run and on is None)
    mine = root.study(study.study)
    _refresh(mine, place, study)
    if place is not None and on is None:
        typer.echo(f"(on {place}, as last run)", err=True)
    if as_last_run and profile is None and not overrides:
        last = read_json(mine.plan) or {}
        if other_file(last.get("file"), file) is not None:
            last = {}  # its profiles are none of ours
        profile, overrides = last.get("profile"), last.get("set")
        if profile or overrides:
            _say_last_run(profile, overrides or ())
            study = load_study(file, profile=profile, overrides=overrides or ())
    return Opened(build(study), mine, root, profile, tuple(overrides or ()), store, place, shlex.quote(str(file)))


def load_results(study: str, store: str | None, on: str | None) -> StudyResults:
    """The results of a study file, or of a study's folder in a store, for the verbs that only read them.

    Raises:
        UsageError: nothing of it has been run, or ``--on`` goes with a folder.
    """
    from shoal.results import load
    from shoal.store import find_store, other_file, read_json
    from shoal.study import load_study

    file = Path(study)
    if file.is_file():
        now = load_study(file)
        root, place = find_store(now, store, on=None if on in EXECUTORS else on, follow=on is None)
        mine = root.study(now.study)
        _refresh(mine, place, now)
        if on is not None:
            if read_json(mine.plan) is None:
                again = f"shoal run {shlex.quote(study)} --on {shlex.quote(on)}"
                raise UsageError(
                    f"nothing of study {now.study!r} has been run on {on} yet", hint=f"Start with: {again}"
                )
            store = str(root.root)
    elif on is not None:
        raise UsageError(f"--on {on} goes with a study file, and {study} is none")
    found = load(study, store)
    data = found.data
    if file.is_file():
        _say_last_run(data.profile, data.overrides, other_file(data.file, file))
    return found


def _say_last_run(profile: str | None, overrides: Sequence[str], other: str | None = None) -> None:
    """Say what the last run was asked with, where that is more than the study file; ``other``: the file it was of."""
    words = [shlex.quote(other)] if other else []
    words += [f"--profile {shlex.quote(profile)}"] if profile else []
    words += [f"--set {shlex.quote(item)}" for item in overrides]
    if words:
        typer.echo(f"(as last run: {' '.join(words)})", err=True)


def _refresh(mine: StudyStore, place: str | None, study: Study) -> None:
    """Bring what is here of a study up to date, where a runner in a cluster works on it."""
    if place is not None and (mine.root / "detached.json").exists():
        from shoal.cli.detached import refresh

        refresh(mine, study.folder)


def _find_own_commands() -> None:
    """Let tasks find the commands beside this ``shoal`` where the caller has not activated its environment.

    They come last, so that an environment that is active goes before.
    """
    folder = os.path.dirname(os.path.abspath(sys.executable))  # noqa: PTH100, PTH120 (not through the link to the base Python)
    path = os.environ.get("PATH", os.defpath)
    if folder not in path.split(os.pathsep):
        os.environ["PATH"] = f"{path}{os.pathsep}{folder}"


def open_executor(name: str | None) -> Executor:
    """The executor of this machine that ``--on`` names: ``local`` or ``debug``."""
    _find_own_commands()
    if name == "debug":
        from shoal.executors.debug import DebugExecutor

        return DebugExecutor()
    from shoal.executors.local import LocalExecutor

    return LocalExecutor()
