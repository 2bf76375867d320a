"""CSV tables with a row for each box: ``image_path,xmin,ymin,xmax,ymax,label``, as DeepForest has them.

The columns may come in any order, beside others. A row whose four numbers are all empty, or all 0, says that its image has no
object. Images lie beside the table, or in ``images/``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.readers.base import Collector, Open, find_images, first_there, inside, text_lines

__all__ = ["read_csv"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS = ("image_path", *_CORNERS, "label")


def read_csv(folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read all tables of boxes in a folder (or one, if ``folder`` is a file). Classes are those met, sorted.

    Args:
        folder: with the tables; others, without the columns, are passed over, and named.
        only: read these classes alone.

    Raises:
        UsageError: there is no table of boxes, or one names a file outside of the folder.
    """
    files, root = ([folder], folder.parent) if folder.is_file() else (sorted(folder.glob("*.csv")), folder)
    take = Collector("csv", root, None, only)
    tables, others = [], []
    for path in files:
        rows = csv.DictReader(text_lines(path, take.findings, take.below(path)), restkey="", strict=False)
        if lacking := [column for column in _COLUMNS if column not in (rows.fieldnames or ())]:
            others.append((take.below(path), f"no column {', '.join(lacking)}"))
        else:
            tables.append((path, rows))
    if not tables:
        raise UsageError(f"{folder}: has no CSV file with the columns {', '.join(_COLUMNS)}")
    for name, text in others:
        take.findings.read("label files")
        take.findings.skip("label files", "other content", name, text)
    for path, rows in tables:
        _read_table(take, path, rows)
    for place in (root, root / "images"):
        take.unlabelled(find_images(place))
    return take.finish()


def _read_table(take: Collector, path: Path, rows: csv.DictReader[str]) -> None:
    name, images = take.below(path), dict[str, Open | None]()
    take.findings.read("label files")
    try:
        for row in rows:
            line = rows.line_num
            where, file = f"{name}:{line}", (row["image_path"] or "").strip()
            if not file:
                take.findings.read("labels")
                take.findings.skip("labels", "malformed", where, "no image_path")
                continue
            if file not in images:
                paths = [inside(place, file, where) for place in (path.parent, path.parent / "images")]
                images[file] = take.image(first_there(paths) or paths[0], where, name)
            box = [row[corner] for corner in _CORNERS]
            if all((value or "").strip() in ("", "0", "0.0") for value in box):
                take.findings.read("labels")
                take.findings.skip("labels", "no object", where, file)
                continue
            short = "" in row or any(value is None for value in box)
            take.label(images[file], None if short else box, (row["label"] or "").strip() or None, (name, line))
    except csv.Error as error:
        raise UsageError(f"{path}:{rows.line_num}: is no valid CSV: {error}") from None
    take.findings.keep("label files")
