"""What the verbs share: their arguments, and the way from these to a study, a plan and a store."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.executors import Executor
    from shoal.plan import Plan
    from shoal.store import Store, StudyStore

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.", show_default=False)]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", "-p", metavar="NAME", help="Apply a profile of the study.", show_default=False),
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
    typer.Option("--on", metavar="CLUSTER", help="Where to run: local, debug, or a cluster.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

EXECUTORS = ("local", "debug")
"""Places to run that are no clusters."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A study, planned, and its part of the store."""

    plan: Plan
    store: StudyStore
    root: Store
    profile: str | None
    overrides: tuple[str, ...] = ()
    store_given: str | None = None
    on: str | None = None

    @property
    def store_option(self) -> str:
        """``--store`` as it was given, to be repeated in a command that we suggest."""
        return f" --store {shlex.quote(self.store_given)}" if self.store_given else ""

    @property
    def on_option(self) -> str:
        """``--on``, to be repeated in a command that runs something."""
        return f" --on {shlex.quote(self.on)}" if self.on else ""

    @property
    def look_with(self) -> str:
        """The verb that shows what came out: ``results``, or ``status`` for a study that compares nothing."""
        report = self.plan.study.report
        return "results" if report.objective or report.tables else "status"

    @property
    def options(self) -> str:
        """What was given beside the study file, to be repeated in a command that we suggest."""
        profile = f" --profile {shlex.quote(self.profile)}" if self.profile else ""
        return profile + "".join(f" --set {shlex.quote(item)}" for item in self.overrides) + self.store_option


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
    from shoal.store import find_store, read_json
    from shoal.study import load_study

    study = load_study(file, profile=profile, overrides=overrides or ())
    where = None if on in EXECUTORS else on
    root, place = find_store(study, store, on=where, follow=as_last_run and on is None)
    mine = root.study(study.study)
    if place is not None and (mine.root / "detached.json").exists():
        from shoal.cli.detached import refresh

        refresh(mine, study.folder)
    if place is not None and on is None:
        typer.echo(f"(on {place}, as last run)", err=True)
    if as_last_run and profile is None and not overrides:
        last = read_json(mine.plan) or {}
        profile, overrides = last.get("profile"), last.get("set")
        if profile or overrides:
            words = [f"--profile {profile}"] if profile else []
            words += [f"--set {item}" for item in overrides or ()]
            typer.echo(f"(as last run: {' '.join(words)})", err=True)
            study = load_study(file, profile=profile, overrides=overrides or ())
    return Opened(build(study), mine, root, profile, tuple(overrides or ()), store, place)


def up_to_date(file: Path | str, store: str | None) -> None:
    """Bring what is here of a study up to date, where a runner in a cluster works on it; for verbs that only read results."""
    file = Path(file)
    if not file.is_file():
        return
    from shoal.store import find_store
    from shoal.study import load_study

    study = load_study(file)
    root, place = find_store(study, store)
    mine = root.study(study.study)
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


def console(*, stderr: bool = False) -> Console:
    """A rich console; plain text when not a terminal."""
    from rich.console import Console

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 120
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def print_json(data: Any) -> None:
    """Print JSON on standard output."""
    import json

    typer.echo(json.dumps(data, ensure_ascii=False, indent=None if len(str(data)) > 20_000 else 1))


def gpu_words(found: Mapping[str, int]) -> str:
    """GPUs by type in words, the most first: ``24 a100, 8 l40``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items(), key=lambda one: (-one[1], one[0])))


def duration(seconds: float) -> str:
    """A length of time for people: ``48 s``, ``3 min``, ``2 h 11 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(bytes_: float) -> str:
    """A size for people, in binary units as study files write them: ``24Gi``."""
    for unit in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(bytes_) < 1024 or unit == "Ti":
            return f"{bytes_:.3g}{unit}"
        bytes_ /= 1024
    raise AssertionError


def asks(resources: Any) -> str:
    """What a task asks for, in a few words: ``2 gpu 4 cpu 24Gi``."""
    words = []
    if resources.gpu:
        words.append(f"{resources.gpu} gpu")
    words.append(f"{resources.cpu:g} cpu")
    if resources.memory:
        words.append(size(resources.memory))
    if resources.nodes > 1:
        words.append(f"x {resources.nodes} nodes")
    return " ".join(words)
