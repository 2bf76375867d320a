"""From a study file to the folder of its results."""

from __future__ import annotations

from pathlib import Path

from shoal.results.read import find_study
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
    return find_study(find_store(study, store)[0].study(study.study).root)
