"""Shoal: one short study file becomes hundreds of trained, compared models.

Two names are for everyday use: ``shoal.task()`` inside of a task, ``shoal.load(study)`` to work with results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.errors import HeldError, ShoalError, StoreError, StudyError, TaskError, UsageError
    from shoal.inside import Task, task
    from shoal.results import load

__all__ = [
    "HeldError",
    "ShoalError",
    "StoreError",
    "StudyError",
    "Task",
    "TaskError",
    "UsageError",
    "load",
    "task",
]

# Loaded on first use: a task that logs a number should not import what draws reports.
_HOMES = {"load": "shoal.results", "Task": "shoal.inside", "task": "shoal.inside"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "shoal.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
