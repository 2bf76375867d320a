"""Small datasets on disk in each format, and the command line in this process."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geotiff import write_geotiff


@pytest.fixture
def cli(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Run ``shoal-earth detection`` here: exit code, standard output, standard error."""
    return functools.partial(cli, "detection")


def write_png(path: Path, width: int = 64, height: int = 48, mode: str = "RGB", seed: int = 0) -> Path:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"RGB": 3, "L": 1, "RGBA": 4, "LA": 2, "I;16": 1}[mode]
    rng = np.random.default_rng((seed, width, height))
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 5000, (height, width)).astype(np.uint16)).save(path)
        return path
    values = rng.integers(0, 256, (height, width, bands)).astype(np.uint8)
    Image.fromarray(values[..., 0] if bands == 1 else values).save(path)
    return path


def write_tif(path: Path, values: np.ndarray, **more: Any) -> Path:
    """Bands (n, height, width) as a GeoTIFF of half-metre pixels."""
    return write_geotiff(path, values, **{"crs": "EPSG:32617", "origin": (400_000, 3_000_000), "pixel": 0.5, **more})


def write_dota(folder: Path, labels: dict[str, list[str]], **image: Any) -> Path:
    """``name -> lines``, each with an image."""
    for name, lines in labels.items():
        write_png(folder / "images" / f"{name}.png", **image)
        (folder / "labelTxt").mkdir(exist_ok=True)
        (folder / "labelTxt" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def quad(left: float, top: float, right: float, bottom: float, label: str = "plane", difficult: int = 0) -> str:
    return f"{left} {top} {right} {top} {right} {bottom} {left} {bottom} {label} {difficult}"


def write_coco(
    folder: Path,
    annotations: list[Any],
    images: list[Any] | None = None,
    categories: list[Any] | None = None,
    name: str = "labels.json",
) -> Path:
    """A COCO file, an item a line, for one image of 64 x 48 pixels unless told otherwise."""
    write_png(folder / "images" / "a.png")
    parts = {
        "images": images if images is not None else [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": annotations,
        "categories": categories if categories is not None else [{"id": 1, "name": "car"}, {"id": 2, "name": "ship"}],
    }
    body = ",\n".join(
        f'"{key}": [\n' + ",\n".join(json.dumps(v) for v in value) + "\n]" for key, value in parts.items()
    )
    (folder / name).write_text("{" + body + "}")
    return folder


def annotation(number: int, bbox: Any, image: Any = 1, category: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}


def write_xview(folder: Path, features: list[Any], images: tuple[str, ...] = ("5.tif",), crs: Any = None) -> Path:
    """An xView file with a feature a line (the first in line 2), and its images (64 x 48, in UTM)."""
    for name in images:
        write_tif(folder / "train_images" / name, np.zeros((3, 48, 64), np.uint8))
    head = '{"type": "FeatureCollection",' + (f'"crs": {json.dumps(crs)},' if crs else "") + ' "features": [\n'
    (folder / "xView_train.geojson").write_text(head + ",\n".join(json.dumps(f) for f in features) + "\n]}\n")
    return folder


def feature(bounds: Any, kind: Any = 18, image: Any = "5.tif", geometry: Any = None) -> dict[str, Any]:
    facts = {"bounds_imcoords": bounds, "type_id": kind, "image_id": image}
    return {"type": "Feature", "properties": facts, "geometry": geometry}


def write_voc(folder: Path, name: str, objects: str, head: str = "", size: str = "", filename: str = "a.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{head}<annotation>\n<filename>{filename}</filename>\n{size}{objects}\n</annotation>\n"
    (folder / name).write_text(text)
    return folder


def voc_object(left: object, top: object, right: object, bottom: object, label: str = "Tree", more: str = "") -> str:
    corners = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{label}</name>{more}<bndbox>{corners}</bndbox></object>"
