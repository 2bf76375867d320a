"""What a shell may complete: names that the study on the command line, or the clusters beside it, have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shoal.errors import ShoalError

if TYPE_CHECKING:
    from shoal.study import Study

__all__ = ["clusters", "gates", "profiles", "steps"]


def steps(context: typer.Context, incomplete: str) -> list[str]:
    """Steps of the study."""
    study = _study(context)
    return _starting(incomplete, study.steps if study else ())


def gates(context: typer.Context, incomplete: str) -> list[str]:
    """Steps of the study that wait for a person."""
    study = _study(context)
    return _starting(incomplete, [name for name, step in study.steps.items() if step.gate is not None] if study else ())


def profiles(context: typer.Context, incomplete: str) -> list[str]:
    """Profiles of the study."""
    study = _study(context)
    return _starting(incomplete, study.profiles if study else ())


def clusters(context: typer.Context, incomplete: str) -> list[str]:
    """Places to run."""
    from shoal.cli.opened import EXECUTORS
    from shoal.clusters import cluster_places, known_clusters

    file = _file(context)
    beside = Path(file).parent if file else Path.cwd()
    return _starting(incomplete, [*EXECUTORS, *sorted(known_clusters(cluster_places(beside)))])


def _file(context: typer.Context) -> str | None:
    # Where an option still lacks its value, as it does when that is asked for, the arguments have no names yet.
    return context.params.get("study") or next(iter(context.args), None)


def _study(context: typer.Context) -> Study | None:
    """The study that stands on the command line before; None if it cannot be read, which is not said now."""
    from shoal.study import load_study

    file = _file(context)
    with contextlib.suppress(ShoalError):
        return load_study(file) if file else None
    return None


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
