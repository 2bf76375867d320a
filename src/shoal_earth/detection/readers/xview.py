"""xView: one large GeoJSON with pixel boxes, GeoTIFFs of 0.3 m.

Layout: ``xView_train.geojson`` and ``train_images/*.tif`` in one folder. Terms: CC BY-NC-SA 4.0 for the labels, imagery by
DigitalGlobe for non-commercial use, after registration. Lam et al., "xView: Objects in Context in Overhead Imagery", 2018.

Known of the published file: the types 75 and 82 are no classes; boxes are empty lists, inverted, or outside of their image;
1395.tif is named but not published. All of it is counted and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.imagery import on_map
from shoal_earth.detection.jsonstream import stream
from shoal_earth.detection.readers.base import Collector, Open, find_images, inside, number

__all__ = ["CLASSES", "TYPES", "read_xview"]

TYPES = {
    11: "Fixed-wing Aircraft",
    12: "Small Aircraft",
    13: "Cargo Plane",
    15: "Helicopter",
    17: "Passenger Vehicle",
    18: "Small Car",
    19: "Bus",
    20: "Pickup Truck",
    21: "Utility Truck",
    23: "Truck",
    24: "Cargo Truck",
    25: "Truck w/Box",
    26: "Truck Tractor",
    27: "Trailer",
    28: "Truck w/Flatbed",
    29: "Truck w/Liquid",
    32: "Crane Truck",
    33: "Railway Vehicle",
    34: "Passenger Car",
    35: "Cargo Car",
    36: "Flat Car",
    37: "Tank car",
    38: "Locomotive",
    40: "Maritime Vessel",
    41: "Motorboat",
    42: "Sailboat",
    44: "Tugboat",
    45: "Barge",
    47: "Fishing Vessel",
    49: "Ferry",
    50: "Yacht",
    51: "Container Ship",
    52: "Oil Tanker",
    53: "Engineering Vehicle",
    54: "Tower crane",
    55: "Container Crane",
    56: "Reach Stacker",
    57: "Straddle Carrier",
    59: "Mobile Crane",
    60: "Dump Truck",
    61: "Haul Truck",
    62: "Scraper/Tractor",
    63: "Front loader/Bulldozer",
    64: "Excavator",
    65: "Cement Mixer",
    66: "Ground Grader",
    71: "Hut/Tent",
    72: "Shed",
    73: "Building",
    74: "Aircraft Hangar",
    76: "Damaged Building",
    77: "Facility",
    79: "Construction Site",
    83: "Vehicle Lot",
    84: "Helipad",
    86: "Storage Tank",
    89: "Shipping container lot",
    91: "Shipping Container",
    93: "Pylon",
    94: "Tower",
}
"""Number in the file to class."""

# So many labels of an image are looked up on the map.
_PLACES = 50
CLASSES = tuple(TYPES.values())
"""The 60 classes, by number."""


def read_xview(folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read xView in one pass over its GeoJSON.

    Args:
        folder: with one GeoJSON and the images in ``train_images`` (or ``images``, or beside it).
        only: read these classes alone.

    Raises:
        UsageError: there is no GeoJSON, or it is no valid one.
    """
    labels = sorted(folder.glob("*.geojson"))
    if len(labels) != 1:
        names = ", ".join(path.name for path in labels) or "none"
        raise UsageError(
            f"{folder}: should have one GeoJSON file, and has {names}", hint="xView's is xView_train.geojson."
        )
    pictures = next((p for p in (folder / "train_images", folder / "images") if p.is_dir()), folder)
    take = Collector("xview", folder, CLASSES, only)
    take.findings.read("label files")
    name, crs, images = take.below(labels[0]), "OGC:CRS84", dict[str, Open | None]()
    for key, line, item in stream(labels[0], ("features",)):
        if key == "crs":
            crs = _crs_name(item) or crs
        elif key == "features":
            _feature(take, images, pictures, item, (name, line))
    take.findings.keep("label files")
    for image in list(take.images.values()):
        if image.places and (text := _elsewhere(image, crs)):
            take.forget(image, "other place", text)
    take.unlabelled(find_images(pictures))
    return take.finish()


def _feature(
    take: Collector, images: dict[str, Open | None], pictures: Path, item: Any, where: tuple[str, int]
) -> None:
    facts = item.get("properties") if isinstance(item, dict) else None
    file = facts.get("image_id") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or not isinstance(file, str) or not file:
        take.findings.read("labels")
        take.findings.skip("labels", "malformed", f"{where[0]}:{where[1]}", "a feature without an image_id")
        return
    if file not in images:
        place = f"{where[0]}:{where[1]}"
        images[file] = take.image(inside(pictures, file, place), place, where[0])
    given = facts.get("bounds_imcoords")
    box = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    kind = number(facts.get("type_id"))
    label = TYPES.get(int(kind)) if kind == kind and abs(kind) < 1e6 and kind == int(kind) else None
    image = images[file]
    # The number is what a finding shows where there is no class of that number.
    shown = label or f"type {facts.get('type_id')}"
    if take.label(image, box, shown, where) and image is not None and len(image.places) < _PLACES:
        centre = _centre(item.get("geometry"))
        image.places += [centre] if centre else []


def _crs_name(item: Any) -> str | None:
    try:
        return str(item["properties"]["name"])
    except (KeyError, TypeError):
        return None


def _centre(geometry: Any) -> tuple[float, float] | None:
    """The centre of a polygon's first ring."""
    try:
        ring = geometry["coordinates"][0]
        across, down = [number(point[0]) for point in ring], [number(point[1]) for point in ring]
        x, y = (min(across) + max(across)) / 2, (min(down) + max(down)) / 2
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return (x, y) if x == x and y == y else None


def _elsewhere(image: Open, crs: str) -> str | None:
    """None if labels lie, on the ground too, in their image or near it; else where they lie."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError
    from rasterio.transform import Affine

    if image.facts.crs is None or image.facts.transform is None:
        return None
    points = np.array(image.places)
    try:
        move = Transformer.from_crs(crs, image.facts.crs, always_xy=True)
        x, y = move.transform(points[:, 0], points[:, 1])
    except ProjError as error:
        return f"the labels' CRS cannot be used: {str(error).splitlines()[0][:120]}"
    known = np.isfinite(x) & np.isfinite(y)
    columns, rows = on_map(tuple(~Affine(*image.facts.transform)), np.asarray(x)[known], np.asarray(y)[known])
    slack = 0.1 * max(image.facts.width, image.facts.height)
    near = (columns > -slack) & (columns < image.facts.width + slack)
    near &= (rows > -slack) & (rows < image.facts.height + slack)
    if near.any():
        return None
    return f"its labels' map coordinates begin at {points[0][0]:.5f}, {points[0][1]:.5f}, the image lies elsewhere"
