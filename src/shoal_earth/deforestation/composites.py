"""Composites of chosen scenes: blue, green, red and near infrared at 10 m with the classification, in one file a scene.

Of these few bands NGB, NDVI and EVI are made when chips are cut, so a scene's JPEG 2000 files are decoded once, for any number of
chip sizes and inputs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.deforestation.pairs import Chosen
from shoal_earth.rasters.contact_sheet import check_pair
from shoal_earth.rasters.files import BandFile
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.output import write_cog
from shoal_earth.rasters.plain import read_raster
from shoal_earth.rasters.scenes import Band, Classes, Scene

__all__ = ["BANDS", "composite_path", "read_composite", "write_composites"]

BANDS = ("blue", "green", "red", "nir")
_STEP, _NOTHING = 1e-4, -32_768


def composite_path(folder: Path, scene: Path) -> Path:
    """Where the composite of a scene lies."""
    name = scene.name
    for suffix in (".SAFE", ".zip", ".tar", ".tif"):
        name = name.removesuffix(suffix)
    return folder / f"{name}.tif"


def write_composites(pairs: Sequence[Chosen], out: Path) -> list[Path]:
    """Write the composite of each scene of the pairs as COG; those that are there already stay.

    Raises:
        UsageError: a scene is unreadable, has no date or classification, or a pair does not fit together.
        WriteError: the disk is full.
    """
    made = []
    for pair in pairs:
        with read_scene(pair.first) as first, read_scene(pair.second) as second:
            check_pair(first, second)
            for path, scene in ((pair.first, first), (pair.second, second)):
                target = composite_path(out, path)
                if target not in made:
                    made.append(target)
                    if not target.exists():
                        _write(scene, target)
    return made


def _write(scene: Scene, path: Path) -> None:
    if scene.acquired is None:
        raise UsageError(f"{scene.path}: has no date, so it cannot be told what changed since")
    grid = scene.grid(BANDS)

    def blocks() -> Iterator[tuple[Window, np.ndarray[Any, Any]]]:
        for window in grid.windows(1024):
            pixels = scene.read(BANDS, window, grid, step=_STEP)
            values = np.concatenate([pixels.values, scene.classes(window, grid)[None].astype(np.int16)])
            values[:-1, ~pixels.valid] = _NOTHING
            yield window, values

    tags = {"scene": scene.name, "acquired": scene.acquired.isoformat(), "tile": scene.tile or ""}
    write_cog(
        path, grid, blocks(), bands=(*BANDS, "scl"), dtype="int16", nodata=_NOTHING, overviews="nearest", tags=tags
    )


def read_composite(path: Path) -> Scene:
    """A composite as a scene with date and classification.

    Raises:
        UsageError: it is not there, damaged, or no composite of :func:`write_composites`.
    """
    if not path.exists():
        raise UsageError(
            f"{path}: there is no such composite", hint="Make it with: shoal-earth deforestation composites"
        )
    raster = read_raster(str(path))
    tags = raster.facts["tags"]
    if tuple(raster.bands) != (*BANDS, "scl") or "acquired" not in tags:
        raise UsageError(f"{path}: is no composite with the bands {', '.join(BANDS)} and scl, and a date")
    bands = {
        name: Band(name, name, (BandFile(str(path), (number,)),), scale=_STEP, nodata=_NOTHING)
        for number, name in enumerate(BANDS, 1)
    }
    classes = Band("SCL", None, (BandFile(str(path), (len(BANDS) + 1,)),), nodata=0)
    return Scene(
        str(path),
        tags.get("scene", path.stem),
        "composite",
        bands,
        acquired=dt.datetime.fromisoformat(tags["acquired"]),
        classification=Classes(classes, lambda values: values.astype(np.uint8)),
        tile=tags.get("tile") or None,
    )
