"""From a study file to the folder of its results."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import StudyError, UsageError
from shoal.results.data import StudyData
from shoal.store.index import read_json
from shoal.store.place import find_store, other_file

if TYPE_CHECKING:
    from shoal.study import Study

__all__ = ["as_the_file_says", "locate"]


def locate(file: Path, store: str | None) -> tuple[Path, Study]:
    """Return the folder in the store that holds a study file's results, and the study as the file has it now.

    Raises:
        StudyError: the file is not a study.
        UsageError: nothing of it has been run.
    """
    from shoal.study import load_study

    study = load_study(file)
    folder = find_store(study, store)[0].study(study.study).root
    last = read_json(folder / "plan.json")
    if last is None and not (folder / "plan.json").is_file():
        raise UsageError(
            f"nothing of study {study.study!r} has been run yet ({folder} holds no results)",
            hint=f"Start with: shoal run {shlex.quote(str(file))}",
        )
    if last and other_file(last.get("file"), file) is None and (last.get("profile") or last.get("set")):
        with contextlib.suppress(StudyError):  # the profile, or what was overridden, may have gone since
            study = load_study(file, profile=last.get("profile"), overrides=last.get("set") or ())
    return folder, study


def as_the_file_says(data: StudyData, file: Path, study: Study) -> None:
    """Take title, description and report section from the file as it is now: they change no task, so that a table that was
    added to the file after the last run is shown without another run.
    """
    if data.file == file.name:
        data.title, data.description = study.title or "", study.description or ""
        data.report = study.report_json()
