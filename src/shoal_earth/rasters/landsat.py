"""Landsat Collection 2 Level-2 scenes as they come: a folder or tar of band files with ``QA_PIXEL`` and ``MTL``."""

from __future__ import annotations

import datetime as dt
import re
import tarfile
from pathlib import Path, PurePosixPath

from shoal.errors import UsageError
from shoal_earth.rasters.files import BandFile
from shoal_earth.rasters.masks import landsat_to_scl
from shoal_earth.rasters.scenes import Band, Classes, Scene

__all__ = ["LANDSAT", "common_names", "is_landsat", "read_landsat"]

_EIGHT = {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08", "B6": "swir16", "B7": "swir22"}
_SEVEN = {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir08", "B5": "swir16", "B7": "swir22"}
LANDSAT = {"4": _SEVEN, "5": _SEVEN, "7": _SEVEN, "8": _EIGHT, "9": _EIGHT}
"""Satellite's number to its bands and their common names."""

# Collection 2 Level-2 surface reflectance, the same for all scenes; MTL repeats it.
SCALE, OFFSET = 2.75e-5, -0.2
_NAME = re.compile(r"(L[COTEM]0([45789])_(L\w{3})_\d{6}_(\d{8})_\d{8}_\d{2}_\w{2})_(.+)\.TIF$", re.IGNORECASE)


def common_names(product: str) -> dict[str, str]:
    """Band to common name for the satellite that a product's name starts with (``LC08_...``)."""
    found = re.match(r"L[COTEM]0([45789])_", product)
    return LANDSAT[found.group(1)] if found else {}


def _members(path: Path) -> dict[str, str]:
    """File name to what GDAL opens."""
    if path.is_dir():
        return {found.name: str(found) for found in sorted(path.iterdir()) if found.is_file()}
    try:
        with tarfile.open(path, "r:*") as archive:
            names = [member.name for member in archive if member.isfile()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(
            f"{path}: cannot be read as a tar: {error}", hint="It is probably truncated: fetch it again."
        ) from None
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(f'{path}: holds a member that leaves the folder, "{name}"', hint="Do not unpack this tar.")
    return {PurePosixPath(name).name: f"/vsitar/{{{path}}}/{name}" for name in names}


def is_landsat(path: Path) -> bool:
    """Whether this is a folder of Landsat band files, or a tar named like a Landsat product."""
    if path.is_dir():
        return any(_NAME.match(found.name) for found in path.glob("L*.TIF"))
    return re.match(r"L[COTEM]0\d_.*\.tar(\.gz)?$", path.name) is not None


def read_landsat(path: Path) -> Scene:
    """A Landsat Level-2 scene: surface reflectance by band, clouds from ``QA_PIXEL``.

    Raises:
        UsageError: the folder or tar is damaged, holds no such scene, several, or a Level-1 one.
    """
    members = _members(path)
    found = {name: match for name in members if (match := _NAME.match(name))}
    products = sorted({match.group(1) for match in found.values()})
    if len(products) != 1:
        raise UsageError(f"{path}: holds {len(products)} Landsat scenes where one is expected")
    first = next(iter(found.values()))
    if first.group(3).upper() not in ("L2SP", "L2SR"):
        raise UsageError(
            f"{path}: is a Level-1 scene ({first.group(3)}), whose numbers are not surface reflectance",
            hint="Fetch the Level-2 product (L2SP or L2SR).",
        )
    names = LANDSAT[first.group(2)]
    bands, quality = {}, None
    for name, match in found.items():
        part = match.group(5).upper()
        if part.startswith("SR_B") and part[3:] in names:
            band = part[3:]
            bands[band] = Band(band, names[band], (BandFile(members[name]),), SCALE, OFFSET, 0)
        elif part == "QA_PIXEL":
            quality = Band("QA_PIXEL", None, (BandFile(members[name]),), nodata=1)
    if not bands:
        raise UsageError(f"{path}: holds no surface reflectance (files *_SR_B*.TIF)")
    date = dt.datetime.strptime(first.group(4), "%Y%m%d").replace(tzinfo=dt.UTC)
    return Scene(
        str(path),
        products[0],
        f"landsat-{first.group(2)}-l2",
        dict(sorted(bands.items())),
        acquired=date,
        classification=Classes(quality, landsat_to_scl) if quality else None,
        tile=products[0].split("_")[2],
    )
