"""The task a command runs in: Shoal's inside of a run, a folder named by ``--out`` by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import shoal
from shoal.errors import UsageError

if TYPE_CHECKING:
    from shoal import Task

__all__ = ["current_task"]


def current_task(out: Path | None) -> Task:
    """Shoal's task, or outside of a run one that writes to ``out``.

    Raises:
        UsageError: there is neither.
    """
    if "SHOAL_SPEC" in os.environ:
        return shoal.task()
    if out is None:
        raise UsageError(
            "there is nowhere to write to", hint="Name a folder: --out DIR (inside a Shoal task its own is used)."
        )
    return shoal.task(params={}, out=out)
