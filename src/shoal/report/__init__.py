"""The report: one self-contained HTML page about a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.results import StudyData

__all__ = ["write_report"]


def write_report(study: StudyData | Path | str, path: Path | str) -> Path:
    """Write the report of a study as one HTML file that opens from disk and fetches nothing.

    Args:
        study: what :func:`shoal.results.read_store` gave, or the folder of a study in the store.
        path: the file to write; its folder is made when missing.

    Returns:
        The absolute path of the file.

    Raises:
        UsageError: no study is there.
        StoreError: the plan is damaged, or the file cannot be written.
    """
    from shoal.report.page import write_report as write

    return write(study, path)
