"""From a study file to the folder of its results."""

from __future__ import annotations

import shlex
from pathlib import Path

from shoal.errors import UsageError
from shoal.store.place import find_store

__all__ = ["study_folder"]


def study_folder(file: Path, store: str | None) -> Path:
    """Return the folder in the store that holds a study file's results.

    Raises:
        StudyError: the file is not a study.
        UsageError: nothing of it has been run.
    """
    from shoal.study import load_study

    study = load_study(file)
    folder = find_store(study, store)[0].study(study.study).root
    if not (folder / "plan.json").is_file():
        raise UsageError(
            f"nothing of study {study.study!r} has been run yet ({folder} holds no results)",
            hint=f"Start with: shoal run {shlex.quote(str(file))}",
        )
    return folder
