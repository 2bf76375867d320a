"""A trained detector and images of any size become objects: COCO JSON in pixels, GeoPackage and GeoJSON on the map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shoal.errors import UsageError
from shoal_earth.detection.chips import add_valid, pixel_range
from shoal_earth.detection.evaluate import predictions_of
from shoal_earth.detection.imagery import EXTENSIONS, ImageError, Source, probe, quiet
from shoal_earth.detection.inference import windows
from shoal_earth.detection.predict import Found, predict_image, to_map, write_geojson, write_geopackage
from shoal_earth.detection.testing import load_detector
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.statistics import BandStatistics
from shoal_earth.training.checkpoint import find_checkpoint
from shoal_earth.training.distributed import ranks

__all__ = ["COCO", "Detected", "detect_images", "own_scale"]

COCO = "detections.json"
_STRIP = 512


@dataclass(frozen=True)
class Detected:
    """What came out for one image: how many objects, by class, and the files with their places on the map, if it has one."""

    image: Path
    count: int
    classes: dict[str, int]
    maps: tuple[Path, ...]


def detect_images(
    trial: Path,
    images: Sequence[Path],
    out: Path,
    *,
    overlap: float = 0.25,
    batch_size: int = 8,
    min_score: float = 0.3,
    iou: float = 0.5,
    bands: Sequence[int] | None = None,
    scale: tuple[float, float] | None = None,
    precision: str = "fp32",
    device: str = "auto",
) -> list[Detected]:
    """Find the objects in whole images.

    Writes ``detections.json`` (COCO: ``images``, ``categories``, and ``annotations`` with ``score``), and for each image that has
    a place on earth ``<name>.gpkg`` in its own CRS and ``<name>.geojson`` in longitude and latitude.

    Args:
        trial: a checkpoint, or the folder of a training.
        images: files, or folders of them.
        out: folder to write to.
        overlap: share of a window that neighbours share; larger than the larger objects, or these are found in parts.
        batch_size: windows at once.
        min_score: lower ones are dropped; the threshold of a test says where F1 is best.
        iou: boxes of one class that overlap more are one object.
        bands: which to read, by the rule of the chips by default.
        scale: values of pixels that become 0 and 255. By default, as for chips, 8 bits stay as they are, and of others the
            image's own 1st to 99th percentile is taken.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: the model or an image cannot be used, or two images would be written to the same file.
        WriteError: the disk is full.
    """
    if not 0 <= overlap < 1:
        raise UsageError(f"the overlap is a share of a window, from 0 to less than 1, not {overlap:g}")
    files = _files(images)
    model, meta = load_detector(find_checkpoint(trial))
    names, size = list(meta["classes"]), int(meta["image_size"])
    known: list[dict[str, object]] = []
    objects: list[dict[str, object]] = []
    results = []
    with ranks(device) as here:
        answer = windows(model.to(here.device).to(memory_format=torch.channels_last), here.device, precision)
        for number, path in enumerate(files):
            found = predict_image(
                path,
                answer,
                size=size,
                overlap=round(size * overlap),
                batch=batch_size,
                min_score=min_score,
                iou=iou,
                bands=bands,
                scale=scale or own_scale(path, bands),
            )
            with quiet():
                facts = probe(path)
            known.append({"id": number, "file_name": path.name, "width": facts.width, "height": facts.height})
            for item in predictions_of(number, found.boxes, found.scores, found.labels):
                area = item["bbox"][2] * item["bbox"][3]
                objects.append({"id": len(objects) + 1, **item, "area": round(area, 3), "iscrowd": 0})
            placed = facts.crs is not None and facts.transform is not None
            results.append(_result(path, found, names, _write_maps(path, found, names, out) if placed else ()))
    write_text(out / COCO, _coco(known, objects, names))
    return results


def own_scale(path: Path, bands: Sequence[int] | None = None) -> tuple[float, float] | None:
    """What becomes black and white in an image whose pixels are not of 8 bits, as its chips would have it; None for 8 bits.

    Raises:
        UsageError: the image cannot be read.
    """
    try:
        with quiet(), Source(path, bands) as source:
            if source.dtype == "uint8":
                return None
            statistics = BandStatistics(source.count, source.dtype)
            for _, strip in source.strips(_STRIP, range(0, source.height, _STRIP)):
                add_valid(statistics, strip, source.nodata)
    except ImageError as error:
        raise UsageError(f"{path}: cannot be read as an image: {error}") from None
    low, high = pixel_range(statistics)
    return None if low is None or high is None else (low, high)


def _files(images: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in images:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path}: holds no image", hint=f"Images end in {', '.join(EXTENSIONS)}.")
        files += inside
    stems: dict[str, Path] = {}
    for path in files:
        if stems.setdefault(path.stem, path) != path:
            raise UsageError(f"{path} and {stems[path.stem]}: would both be written to {path.stem}.gpkg")
    return files


def _write_maps(path: Path, found: Found, names: list[str], out: Path) -> tuple[Path, ...]:
    frame = to_map(path, found, names)
    maps = out / f"{path.stem}.gpkg", out / f"{path.stem}.geojson"
    write_geopackage(maps[0], frame)
    write_geojson(maps[1], frame)
    return maps


def _result(path: Path, found: Found, names: list[str], maps: tuple[Path, ...]) -> Detected:
    counts = {name: int((found.labels == n).sum()) for n, name in enumerate(names)}
    return Detected(path, len(found), {name: count for name, count in counts.items() if count}, maps)


def _coco(images: list[dict[str, object]], objects: list[dict[str, object]], names: list[str]) -> str:
    lists = {
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
        "images": images,
        "annotations": objects,
    }
    parts = [
        f' "{key}": [\n  ' + ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n ]"
        if items
        else f' "{key}": []'
        for key, items in lists.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"
