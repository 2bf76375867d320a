"""Scores by object: which fires or clearings were found, and how well, by their size.

An object is a connected patch of foreground (touching corners count) in a scene, put together again from its chips, so that the
edge of a chip does not cut it in two. Pixels to ignore belong to nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from shoal_earth.rasters.output import write_text

__all__ = ["SIZES", "ObjectScore", "Objects", "object_scores", "pixel_hectares", "write_objects"]

Array = np.ndarray[Any, Any]

SIZES = (1.0, 5.0, 25.0, 100.0)
"""Limits between sizes, in hectares."""


@dataclass(frozen=True)
class ObjectScore:
    """One true object.

    ``row`` and ``column`` are its centre in the scene. ``hectares`` is None where the size of a pixel is not known. ``recall``
    is the share of it that was found; ``iou`` compares it with the predicted patches that touch it, of which only what lies in
    no other true object counts against it.
    """

    scene: str
    row: int
    column: int
    pixels: int
    hectares: float | None
    recall: float
    iou: float


def pixel_hectares(scene: Mapping[str, Any], height: int, width: int) -> float | None:
    """The mean area of the first ``height`` x ``width`` pixels of a scene of an index of chips; None where it is not known."""
    if "pixel_hectares" in scene:
        return float(scene["pixel_hectares"])
    if not scene.get("crs") or not scene.get("transform"):
        return None
    import geopandas
    from rasterio.transform import Affine, array_bounds
    from shapely import box

    from shoal_earth.rasters.polygons import hectares

    bounds = array_bounds(height, width, Affine(*scene["transform"][:6]))
    return float(hectares(geopandas.GeoSeries([box(*bounds)], crs=scene["crs"]))[0]) / (height * width)


class Objects:
    """Takes in chips scene by scene, and scores the objects of a scene once its last chip is in.

    Args:
        scenes: what the index of the chips says of each scene.
        ignore: label of pixels that count for nothing.
    """

    def __init__(self, scenes: Sequence[Mapping[str, Any]], ignore: int = 255) -> None:
        self.scenes = {str(scene["name"]): scene for scene in scenes}
        self.ignore = ignore
        self.found: list[ObjectScore] = []
        self.predicted = 0
        self.right = 0
        self._name: str | None = None
        self._parts: list[tuple[int, int, Array, Array]] = []

    def add(self, scene: str, row: int, column: int, prediction: Array, truth: Array) -> None:
        """Take in a chip (height, width) whose upper left pixel is at ``row``, ``column``; chips of a scene come together."""
        if scene != self._name:
            self._score()
            self._name = scene
        self._parts.append((row, column, prediction.astype(np.uint8), truth.astype(np.uint8)))

    def finish(self, prefix: str) -> dict[str, float]:
        """Score what is left; gives the metrics of :func:`object_scores`."""
        self._score()
        self._name = None
        share = self.right / self.predicted if self.predicted else 0.0
        return object_scores(self.found, prefix) | {f"{prefix}/objects/precision": share}

    def _score(self) -> None:
        from scipy.ndimage import find_objects, label

        parts, self._parts = self._parts, []
        if not parts or self._name is None:
            return
        top, left = min(part[0] for part in parts), min(part[1] for part in parts)
        height = max(row + len(truth) for row, _, _, truth in parts) - top
        width = max(column + truth.shape[1] for _, column, _, truth in parts) - left
        truth, prediction = np.zeros((2, height, width), np.bool_)
        for row, column, predicted, true in parts:
            rows, columns = slice(row - top, row - top + len(true)), slice(column - left, column - left + true.shape[1])
            counted = true != self.ignore
            truth[rows, columns] = (true != 0) & counted
            prediction[rows, columns] = (predicted != 0) & counted
        around = np.ones((3, 3), np.int8)
        objects, count = label(truth, around)
        patches, answers = label(prediction, around)
        inside = np.bincount(patches[truth], minlength=answers + 1)
        all_of = np.bincount(patches.ravel(), minlength=answers + 1)
        outside = all_of - inside
        self.predicted += answers
        self.right += int((2 * inside[1:] >= all_of[1:]).sum())
        area = pixel_hectares(self.scenes.get(self._name, {}), top + height, left + width)
        for number, place in enumerate(find_objects(objects, count), 1):
            here = objects[place] == number
            touching = np.bincount(patches[place][here], minlength=1)
            size, hit = int(here.sum()), int(touching[1:].sum())
            beside = int(outside[1:][np.flatnonzero(touching[1:])].sum())
            down, across = np.nonzero(here)
            self.found.append(
                ObjectScore(
                    self._name,
                    top + place[0].start + int(down.mean()),
                    left + place[1].start + int(across.mean()),
                    size,
                    None if area is None else size * area,
                    hit / size,
                    hit / (size + beside),
                )
            )


def object_scores(objects: Sequence[ObjectScore], prefix: str) -> dict[str, float]:
    """Counts and scores over objects: each counts the same, however large.

    Returns:
        ``{"test/objects/count", "test/objects/recall", "test/objects/iou"}``, and the same with a size behind, such as
        ``test/objects/iou/5-25ha``, for each that occurs. ``recall`` is the share of objects of which at least half was found,
        ``iou`` the mean of theirs.
    """
    groups: dict[str, list[ObjectScore]] = {"": list(objects)}
    for one in objects:
        if one.hectares is not None:
            groups.setdefault("/" + _size(one.hectares), []).append(one)
    result = {}
    for name, group in groups.items():
        result[f"{prefix}/objects/count{name}"] = float(len(group))
        if group:
            result[f"{prefix}/objects/recall{name}"] = float(np.mean([one.recall >= 0.5 for one in group]))
            result[f"{prefix}/objects/iou{name}"] = float(np.mean([one.iou for one in group]))
    return result


def _size(hectares: float) -> str:
    place = int(np.searchsorted(SIZES, hectares, side="right"))
    if place == len(SIZES):
        return f"{SIZES[-1]:g}ha+"
    return f"{SIZES[place - 1] if place else 0:g}-{SIZES[place]:g}ha"


def write_objects(path: Path, objects: Sequence[ObjectScore]) -> None:
    """Write one line of CSV for each object, the largest first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(ObjectScore)]
    writer.writerow(names)
    for one in sorted(objects, key=lambda one: (-one.pixels, one.scene, one.row, one.column)):
        values = [getattr(one, name) for name in names]
        writer.writerow(["" if v is None else f"{v:.4f}" if isinstance(v, float) else v for v in values])
    write_text(path, text.getvalue())
