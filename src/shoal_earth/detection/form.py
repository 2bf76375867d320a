"""The one form that every dataset is brought into: images of any size with axis-aligned boxes, each traced to its line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from shoal_earth.detection.findings import Findings

__all__ = ["Boxes", "Dataset", "Image"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image.

    ``xyxy`` (n, 4) float64: left, top, right, bottom in pixels from the upper left corner, inside the image; ``classes`` (n,)
    indices into the dataset's classes; ``difficult`` and ``crowd`` flags; ``lines`` of the label file, 0 where it has none.
    """

    xyxy: Array
    classes: Array
    difficult: Array
    crowd: Array
    lines: Array

    @classmethod
    def of(cls, rows: list[tuple[tuple[float, float, float, float], int, bool, bool, int]]) -> Boxes:
        """From rows of (box, class, difficult, crowd, line)."""
        boxes, classes, difficult, crowd, lines = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return cls(
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(classes, np.int64),
            np.array(difficult, np.bool_),
            np.array(crowd, np.bool_),
            np.array(lines, np.int64),
        )

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True)
class Image:
    """A source image and its labels.

    Args:
        name: path below the dataset's folder, with forward slashes; unique.
        path: the file.
        width: in pixels.
        height: in pixels.
        bands: how many the file has.
        dtype: of its pixels, e.g. ``uint8``.
        boxes: its objects; none means that there are none, not that nobody looked.
        label_file: where the boxes come from, below the dataset's folder.
        crs: coordinate reference system as ``EPSG:n`` or well-known text; None without.
        transform: the six coefficients from (column, row) to the CRS; None without.
        gsd: ground size of a pixel in metres where the labels state it.
        group: the scene it was cut from; images of one scene go to the same split.
        split: ``train``, ``val`` or ``test`` where the dataset is published that way.
    """

    name: str
    path: Path
    width: int
    height: int
    bands: int
    dtype: str
    boxes: Boxes
    label_file: str
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    gsd: float | None = None
    group: str = ""
    split: str | None = None

    def where(self, box: int) -> str:
        """File and line of a box's label."""
        line = int(self.boxes.lines[box])
        return f"{self.label_file}:{line}" if line else self.label_file


@dataclass(frozen=True)
class Dataset:
    """Images in order of their names, the names of the classes, and what was found on the way."""

    name: str
    folder: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    findings: Findings = field(repr=False)

    @property
    def box_count(self) -> int:
        """Boxes of all images."""
        return sum(len(image.boxes) for image in self.images)
