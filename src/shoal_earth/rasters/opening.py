"""A scene from whatever a path is, and the scenes of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import UsageError
from shoal_earth.rasters.items import read_item
from shoal_earth.rasters.landsat import is_landsat, read_landsat
from shoal_earth.rasters.plain import read_raster
from shoal_earth.rasters.safe import is_safe, read_safe
from shoal_earth.rasters.scenes import Scene

__all__ = ["find_scenes", "read_scene"]


def read_scene(path: Path | str, *, bands: Sequence[str] | None = None, nodata: float | None = None) -> Scene:
    """A scene from whatever ``path`` is: ``.SAFE`` folder or zip, Landsat folder or tar, STAC item (JSON, or a folder with
    ``item.json``), or a raster file or its URL.

    Args:
        path: file, folder or URL.
        bands: names for the bands of a plain raster, in its order.
        nodata: stored value of a plain raster that means nothing, where the file does not say so itself.

    Raises:
        UsageError: it is none of these, or damaged.
    """
    text = str(path)
    remote = re.match(r"https?://", text) is not None
    local = Path(text)
    if not remote and not local.exists():
        raise UsageError(f"{text}: there is no such scene")
    if not remote and local.is_dir() and (local / "item.json").is_file():
        text = str(local / "item.json")
    if bands is None and text.lower().endswith((".json", ".geojson")):
        return read_item(text)
    if not remote and bands is None:
        if is_safe(local):
            return read_safe(local)
        if is_landsat(local):
            return read_landsat(local)
        if local.is_dir():
            raise UsageError(
                f"{text}: is a folder, but no scene: it holds no MTD_MSIL*.xml, no Landsat bands and no item.json"
            )
    return read_raster(text, bands=bands, nodata=nodata)


def find_scenes(folder: Path) -> list[Path]:
    """The scenes in a folder, by name: fetched ones, ``.SAFE`` folders and zips, Landsat folders and tars, rasters.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder of scenes")
    files = (".zip", ".tar", ".tif", ".tiff")
    return sorted(p for p in folder.iterdir() if p.name[0] != "." and (p.is_dir() or p.suffix.lower() in files))
