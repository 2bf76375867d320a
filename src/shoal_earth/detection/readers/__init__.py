"""Readers of published datasets, all into :class:`shoal_earth.detection.form.Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.imagery import quiet
from shoal_earth.detection.readers.coco import read_coco, read_rareplanes
from shoal_earth.detection.readers.dota import read_dota
from shoal_earth.detection.readers.table import read_csv
from shoal_earth.detection.readers.voc import read_voc
from shoal_earth.detection.readers.xview import read_xview

__all__ = ["READERS", "read_dataset"]

READERS: dict[str, Callable[..., Dataset]] = {
    "dota": read_dota,
    "xview": read_xview,
    "rareplanes": read_rareplanes,
    "coco": read_coco,
    "voc": read_voc,
    "csv": read_csv,
}
"""By the name of the format."""


def read_dataset(kind: str, folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read a dataset.

    Args:
        kind: one of :data:`READERS`.
        folder: where it is.
        only: read these classes alone, in this order.

    Raises:
        UsageError: it cannot be read as one of that kind, or nothing of it can be used.
    """
    if kind not in READERS:
        raise UsageError(f'there is no reader named "{kind}"', hint=f"There are: {', '.join(READERS)}.")
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such folder")
    with quiet():
        dataset = READERS[kind](folder, only=only)
    if not dataset.images:
        told = "\n".join(dataset.findings.lines())
        raise UsageError(f"{folder}: no image of it can be used", hint=told or "Is it the right folder?")
    return dataset
