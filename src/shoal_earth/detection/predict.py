"""A detector over a whole image of any size: overlapping windows, boxes merged class by class, back on the map.

A model here is a function from a batch of windows, uint8 (n, 3, size, size), to one :class:`Found` for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.detection.imagery import ImageError, Source, on_map, probe, quiet, starts, to_rgb
from shoal_earth.rasters.output import write_polygons, write_text

__all__ = ["Found", "Model", "merge", "predict_image", "to_map", "write_geojson", "write_geopackage"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Found:
    """Objects: ``boxes`` (n, 4) left, top, right, bottom in pixels, ``scores`` (n,), ``labels`` (n,) counted from 0."""

    boxes: Array
    scores: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: Array) -> Found:
        """Some of them, by index or mask."""
        return Found(self.boxes[which], self.scores[which], self.labels[which])


Model = Callable[[Array], Sequence[Found]]


def predict_image(
    path: Path,
    model: Model,
    *,
    size: int = 512,
    overlap: int = 128,
    batch: int = 8,
    min_score: float = 0.05,
    iou: float = 0.5,
    bands: Sequence[int] | None = None,
    scale: tuple[float, float] | None = None,
) -> Found:
    """Detect objects in an image, decoding it once and holding one row of windows at a time.

    Args:
        path: the image.
        model: answers to windows; its boxes are in pixels of the window.
        size: side of a window, as the model was trained. An image that is smaller is padded with 0.
        overlap: pixels that windows share: at least as many as the larger objects have, or these are found in parts.
        batch: windows at once.
        min_score: lower ones are dropped.
        iou: boxes of one class that overlap more are one object.
        bands: see :class:`imagery.Source`.
        scale: values of pixels that become 0 and 255; needed where pixels are not of 8 bits (as the chips' index has them).

    Returns:
        Objects in pixels of the image, from the highest score down.

    Raises:
        UsageError: the image cannot be read, or the model's answers make no sense.
    """
    if size < 8 or not 0 <= overlap < size or batch < 1 or not 0 < iou <= 1:
        raise UsageError("a window has at least 8 pixels on a side, the overlap is less than that, and 0 < iou <= 1")
    parts: list[tuple[Array, Array, Array, Array]] = []
    try:
        with quiet(), Source(path, bands) as source:
            if source.dtype != "uint8" and scale is None:
                raise UsageError(
                    f"{path}: its pixels are {source.dtype}, so a scale is needed",
                    hint="Give the values that become black and white: those of the training images in the chips' index.",
                )
            tops, lefts = (starts(length, size, overlap) for length in (source.height, source.width))
            waiting: list[tuple[int, int, Array]] = []
            shape = (source.height, source.width)
            for top, strip in source.strips(size, tops):
                for left in lefts:
                    colours = to_rgb(strip[:, :, left : left + size], *(scale or (None, None)))
                    window = np.zeros((3, size, size), np.uint8)
                    window[:, : colours.shape[1], : colours.shape[2]] = colours
                    waiting.append((top, left, window))
                    if len(waiting) == batch:
                        parts += _ask(model, waiting, shape, size, min_score)
                        waiting = []
            if waiting:
                parts += _ask(model, waiting, shape, size, min_score)
    except ImageError as error:
        raise UsageError(f"{path}: cannot be read as an image: {error}") from None
    boxes, scores, labels, cut = (np.concatenate(column) for column in zip(*parts, strict=True))
    return merge(Found(boxes, scores, labels), cut, iou)


def _ask(
    model: Model, waiting: list[tuple[int, int, Array]], shape: tuple[int, int], size: int, min_score: float
) -> list[tuple[Array, Array, Array, Array]]:
    """Answers to windows in pixels of the image: boxes, scores, labels, and whether a window's inner edge cuts the box."""
    answers = model(np.stack([window for _, _, window in waiting]))
    if len(answers) != len(waiting):
        raise UsageError(f"the model answered {len(answers)} times to {len(waiting)} windows")
    result = []
    for (top, left, _), found in zip(waiting, answers, strict=True):
        boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)
        scores, labels = np.asarray(found.scores, np.float64), np.asarray(found.labels, np.int64)
        if not len(boxes) == len(scores) == len(labels):
            raise UsageError(
                f"the model answered with {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise UsageError("the model answered with numbers that are not finite")
        boxes = np.clip(boxes, 0, size)
        edge = max(1.0, size / 256)
        inner = np.array([left > 0, top > 0, left + size < shape[1], top + size < shape[0]])
        cut = (np.concatenate([boxes[:, :2] <= edge, boxes[:, 2:] >= size - edge], 1) & inner).any(1)
        boxes = boxes + np.array([left, top, left, top])
        boxes[:, ::2] = np.clip(boxes[:, ::2], 0, shape[1])
        boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, shape[0])
        good = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (scores >= min_score)
        result.append((boxes[good], scores[good], labels[good], cut[good]))
    return result


def merge(found: Found, cut: Array, iou: float = 0.5) -> Found:
    """One box for each object, class by class, from the highest score down.

    Boxes that a window's edge does not cut come first: of those, the lower-scoring of two that overlap by more than ``iou`` goes
    (plain non-maximum suppression). A cut box stands for the part of an object that its window shows, so it goes if most of
    it (0.6) lies in one that stays, or if it overlaps one by ``iou``.

    Args:
        found: of all windows, in pixels of the image.
        cut: of each, whether it reaches an edge of its window that is no edge of the image.
        iou: overlap that makes two boxes one.
    """
    import torch
    from torchvision.ops import batched_nms

    whole = np.flatnonzero(~cut)
    # Doubles: with the classes' offsets added, coordinates of large images would not fit a float.
    tensors = [torch.from_numpy(np.ascontiguousarray(a[whole])) for a in (found.boxes, found.scores, found.labels)]
    kept: list[int] = whole[batched_nms(*tensors, iou).numpy()].tolist() if len(whole) else []
    parts = np.flatnonzero(cut)
    for label in np.unique(found.labels[parts]):
        own = parts[found.labels[parts] == label]
        own = own[np.argsort(-found.scores[own], kind="stable")]
        stays = [number for number in kept if found.labels[number] == label]
        boxes = np.empty((len(stays) + len(own), 4))
        boxes[: len(stays)] = found.boxes[stays]
        held = len(stays)
        for number in own:
            box = found.boxes[number]
            others = boxes[:held]
            sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
            shared = np.prod(np.clip(sides, 0, None), 1)
            area = np.prod(box[2:] - box[:2])
            union = area + np.prod(others[:, 2:] - others[:, :2], 1) - shared
            if not ((shared > 0.6 * area) | (shared > iou * union)).any():
                boxes[held] = box
                held += 1
                kept.append(int(number))
    order = sorted(kept, key=lambda number: (-found.scores[number], number))
    return found.take(np.array(order, np.int64))


def to_map(path: Path, found: Found, classes: Sequence[str]) -> Any:
    """Boxes as polygons (a GeoDataFrame with ``class`` and ``score``) in the CRS of their image.

    Raises:
        UsageError: the image has no place on earth, or a label has no name.
    """
    import geopandas
    from shapely import polygons

    try:
        with quiet():
            facts = probe(path)
    except ImageError as error:
        raise UsageError(f"{path}: cannot be read as an image: {error}") from None
    if facts.crs is None or facts.transform is None:
        raise UsageError(
            f"{path}: has no place on earth (CRS and transform), so its boxes have none",
            hint="Save them in pixels instead, as COCO JSON.",
        )
    if len(found) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < len(classes):
        raise UsageError(f"a label is not among the {len(classes)} classes")
    left, top, right, bottom = found.boxes.T if len(found) else np.empty((4, 0))
    # All four corners, since an image may be turned against its map.
    columns, rows = np.stack([left, right, right, left], 1), np.stack([top, top, bottom, bottom], 1)
    x, y = on_map(facts.transform, columns, rows)
    return geopandas.GeoDataFrame(
        {"class": [classes[int(label)] for label in found.labels], "score": np.round(found.scores, 6)},
        geometry=list(polygons(np.stack([x, y], 2))) if len(found) else [],
        crs=facts.crs,
    )


def write_geopackage(path: Path, frame: Any) -> None:
    """Write boxes of :func:`to_map` as a GeoPackage, in their own CRS.

    Raises:
        WriteError: the disk is full.
    """
    write_polygons(path, frame)


def write_geojson(path: Path, frame: Any) -> None:
    """Write boxes of :func:`to_map` as GeoJSON: in WGS 84 longitude and latitude, as RFC 7946 has it, to about a centimetre.

    Raises:
        WriteError: the disk is full.
    """
    rows = []
    for label, score, shape in zip(frame["class"], frame["score"], frame.geometry.to_crs(4326), strict=True):
        ring = [[round(x, 7), round(y, 7)] for x, y in shape.normalize().exterior.coords]
        # GeoJSON's outer rings run counter-clockwise.
        geometry = {"type": "Polygon", "coordinates": [ring if shape.normalize().exterior.is_ccw else ring[::-1]]}
        rows.append({"type": "Feature", "properties": {"class": label, "score": score}, "geometry": geometry})
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f'{{"type": "FeatureCollection", "features": [\n{body}\n]}}\n')
