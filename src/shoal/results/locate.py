"""From a study file to the folder of its results."""

from __future__ import annotations

from pathlib import Path

from shoal.results.read import find_study
from shoal.store.layout import open_store

__all__ = ["study_folder"]


def study_folder(file: Path, store: str | None) -> Path:
    """Return the folder in the store that holds a study file's results.

    Raises:
        StudyError: the file is not a study.
        UsageError: nothing of it has been run.
    """
    from shoal.study import load_study

    study = load_study(file)
    return find_study(open_store(store, beside=file.parent, default=study.store).study(study.study).root)
