"""Brings what tasks made to this machine: one task after another, each compared with its digest, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shoal.agent.agent import digest_tree
from shoal.errors import ShoalError, StoreError
from shoal.executors.kubernetes.client import Unreachable

__all__ = ["Files", "Pulled", "Wanted", "pull_outputs"]

_TRIES = 4


class Files(Protocol):
    """Where files come from: a claim or a bucket."""

    def outputs(self, step: str, task: str, folder: Path) -> None:
        """Bring what a task made into an empty folder here."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task whose outputs are wanted.

    Attributes:
        step: name of its step.
        task: its id.
        digest: of its outputs, by its result.
        size: of them in bytes.
    """

    step: str
    task: str
    digest: str
    size: int = 0


@dataclass(slots=True)
class Pulled:
    """What came of it.

    Attributes:
        new: tasks whose outputs were brought.
        here: tasks whose outputs were here already.
        failed: task to why not.
    """

    new: list[Wanted] = field(default_factory=list)
    here: list[Wanted] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def pull_outputs(
    files: Files, wanted: Iterable[Wanted], target: Path, *, say: Callable[[Wanted, str], None] = lambda *_: None
) -> Pulled:
    """Bring outputs to ``target/STEP/TASK/out``; what is there already, and is right, stays.

    A task that cannot be brought does not keep the others from it. A run that is cut short is gone on with by the next one.

    Args:
        files: where from.
        wanted: what.
        target: where to.
        say: told of each task what became of it.
    """
    found = Pulled()
    for one in wanted:
        folder = target / one.step / one.task
        try:
            _sweep(folder)
            if _digest(folder / "out") == one.digest:
                found.here.append(one)
                say(one, "is here")
                continue
            _bring(files, one, folder)
        except (ShoalError, OSError) as error:
            found.failed[one.task] = str(error)
            say(one, f"failed: {error}")
            if isinstance(error, OSError):
                raise StoreError(f"cannot be written: {error.strerror or error}", path=folder) from error
        else:
            found.new.append(one)
            say(one, "brought")
    return found


def _bring(files: Files, one: Wanted, folder: Path) -> None:
    making = folder / f".out.{os.getpid()}.part"
    for attempt in range(_TRIES):
        making.mkdir(parents=True)
        try:
            files.outputs(one.step, one.task, making)
            if _digest(making) != one.digest:
                raise StoreError(
                    f"the outputs of {one.step} {one.task} are not what its result says",
                    hint="Was the task run again meanwhile? shoal status brings the results up to date.",
                )
            _swap(making, folder / "out")
            return
        except Unreachable:
            if attempt == _TRIES - 1:
                raise
            time.sleep(2.0**attempt)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _swap(making: Path, out: Path) -> None:
    doomed = out.with_name(f".{making.name}.old")
    with contextlib.suppress(FileNotFoundError):
        out.rename(doomed)
    making.rename(out)
    shutil.rmtree(doomed, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what an earlier pull left that was cut short."""
    for pattern in (".out.*.part", "..out.*.part.old"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _digest(folder: Path) -> str | None:
    try:
        return str(digest_tree(str(folder))["digest"])
    except OSError:
        return None
