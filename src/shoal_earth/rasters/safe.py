"""Sentinel-2 products as they come: ``.SAFE`` folders and zips, Level-1C and 2A, JP2 or TIF, with newer baselines' offset."""

from __future__ import annotations

import datetime as dt
import re
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.files import BandFile
from shoal_earth.rasters.scenes import Band, Classes, Scene, tile_of

__all__ = ["SENTINEL2", "is_safe", "read_safe"]

SENTINEL2 = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge071",
    "B06": "rededge075",
    "B07": "rededge078",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}
"""Band to its common name (of STAC's ``eo`` extension)."""

# ``band_id`` in the metadata counts the bands in this order.
_ORDER = [*list(SENTINEL2)[:8], "B8A", "B09", "B10", "B11", "B12"]
_IMAGE = re.compile(r"(?:^|_)(B\d[\dA]|SCL|TCI|AOT|WVP)(?:_(\d{2})m)?\.(?:jp2|tiff?)$", re.IGNORECASE)
_METADATA = re.compile(r"MTD_MSIL(1C|2A)\.xml$")
_MAX_METADATA = 64 * 2**20


class _Files:
    """The members of a product, in a folder or a zip, by their path inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.zip = path.is_file()
        if not self.zip:
            self.names = sorted(
                str(PurePosixPath(p.relative_to(path).as_posix())) for p in path.rglob("*") if p.is_file()
            )
            return
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UsageError(
                f"{path}: cannot be read as a zip: {error}", hint="It is probably truncated: fetch it again."
            ) from None
        for name in self.names:
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name):
                raise UsageError(
                    f'{path}: holds a member that leaves the folder, "{name}"',
                    hint="Do not unpack this zip: fetch it again.",
                )

    def text(self, name: str) -> bytes:
        try:
            if not self.zip:
                return (self.path / name).read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(name).file_size > _MAX_METADATA:
                    raise UsageError(f"{self.path}: {name} is too large for metadata")
                return archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise UsageError(f"{self.path}: {name} cannot be read: {error}", hint="Fetch the product again.") from None

    def gdal(self, name: str) -> str:
        """The member as GDAL opens it."""
        return f"/vsizip/{{{self.path}}}/{name}" if self.zip else str(self.path / name)


def is_safe(path: Path) -> bool:
    """Whether this looks like a Sentinel-2 product: a ``.SAFE`` folder, one inside this folder, or a zip."""
    if path.is_dir():
        return path.name.upper().endswith(".SAFE") or any(
            _METADATA.search(found.name) for found in [*path.glob("MTD_MSIL*.xml"), *path.glob("*.SAFE/MTD_MSIL*.xml")]
        )
    return path.suffix.lower() == ".zip"


def read_safe(path: Path) -> Scene:
    """A Sentinel-2 product as a scene: its bands in every resolution it has, TCI, and SCL where it is Level-2A.

    Raises:
        UsageError: the folder or zip is damaged, holds no product or several, or its metadata lacks what reflectance needs.
    """
    if path.is_dir() and not path.name.upper().endswith(".SAFE"):
        inside = sorted(path.glob("*.SAFE"))
        if len(inside) > 1:
            raise UsageError(f"{path}: holds {len(inside)} products: name one of them, e.g. {inside[0].name}")
        path = inside[0] if inside else path
    files = _Files(path)
    metadata = [name for name in files.names if _METADATA.search(name)]
    if len(metadata) != 1:
        found = f"{len(metadata)} of them" if metadata else "none"
        raise UsageError(
            f"{path}: a Sentinel-2 product has one MTD_MSIL1C.xml or MTD_MSIL2A.xml, this has {found}",
            hint="Is it complete? Products from before 2016-12 in the old layout are not read.",
        )
    level = metadata[0][-6:-4]
    root = _xml(files, metadata[0])
    start = str(PurePosixPath(metadata[0]).parent)
    bands = _bands(
        files, "" if start == "." else f"{start}/", root, level, f"{path}: {PurePosixPath(metadata[0]).name}"
    )
    product = _text(root, "PRODUCT_URI") or path.name
    stem = re.sub(r"\.(SAFE|zip)$", "", PurePosixPath(product).name, flags=re.IGNORECASE)
    classification = bands.pop("SCL", None)
    return Scene(
        str(path),
        stem,
        f"sentinel-2-l{level.lower()}",
        bands,
        acquired=_time(_text(root, "DATATAKE_SENSING_START") or _text(root, "PRODUCT_START_TIME")),
        classification=Classes(classification, _same) if classification else None,
        tile=tile_of(stem),
        baseline=_text(root, "PROCESSING_BASELINE"),
        facts={"level": level, "cloud_cover": _number(_text(root, "Cloud_Coverage_Assessment"))},
    )


def _bands(files: _Files, start: str, root: ET.Element, level: str, where: str) -> dict[str, Band]:
    images: dict[str, dict[float | None, str]] = {}
    for name in files.names:
        below = name.removeprefix(start)
        match = _IMAGE.search(name)
        if match and name.startswith(start) and "/IMG_DATA/" in f"/{below}":
            resolution = float(match.group(2)) if match.group(2) else None
            band = images.setdefault(match.group(1).upper(), {})
            if resolution in band:
                raise UsageError(
                    f"{files.path}: holds band {match.group(1)} twice: {band[resolution]} and {name}",
                    hint="A product with several granules: split it into tiles first.",
                )
            band[resolution] = name
    if not images:
        raise UsageError(f"{files.path}: holds no images in GRANULE/*/IMG_DATA", hint="Fetch the product again.")
    quantification, offsets = _radiometry(root, level, where)
    nodata = _special(root, "NODATA")
    result = {}
    for name in sorted(images, key=lambda n: (n not in SENTINEL2, _ORDER.index(n) if n in _ORDER else 0, n)):
        by_resolution = sorted(images[name].items(), key=lambda item: item[0] or 0)
        indices = (1, 2, 3) if name == "TCI" else (1,)
        paths = tuple(BandFile(files.gdal(member), indices, resolution) for resolution, member in by_resolution)
        if name in SENTINEL2:
            offset = offsets.get(_ORDER.index(name), 0.0) / quantification
            result[name] = Band(name, SENTINEL2[name], paths, 1 / quantification, offset, nodata)
        elif name == "TCI":
            result[name] = Band(name, "visual", paths, nodata=0, all_channels=True)
        elif name == "SCL":
            result[name] = Band(name, "scl", paths, nodata=0)
        else:  # thickness of aerosol, centimetres of water: where 0 is a value
            quantity = _number(_text(root, f"{name}_QUANTIFICATION_VALUE")) or 1000.0
            result[name] = Band(name, name.lower(), paths, 1 / quantity)
    return result


def _radiometry(root: ET.Element, level: str, where: str) -> tuple[float, dict[int, float]]:
    """What to divide by, and what to add before, for each band in the metadata's order."""
    names = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE") if level == "2A" else ("QUANTIFICATION_VALUE",)
    values = [number for number in (_number(_text(root, name)) for name in names) if number]
    if not values:
        raise UsageError(f"{where}: has no {names[0]}, so its numbers cannot become reflectance")
    tag = "BOA_ADD_OFFSET" if level == "2A" else "RADIO_ADD_OFFSET"
    offsets = {int(found.get("band_id", "-1")): float(found.text or 0) for found in _all(root, tag)}
    baseline = _number(_text(root, "PROCESSING_BASELINE"))
    if not offsets and baseline is not None and baseline >= 4:
        raise UsageError(
            f"{where}: is of processing baseline {baseline:05.2f} but has no {tag}; since 04.00 values are shifted by it",
            hint="The metadata is incomplete: fetch the product again.",
        )
    return values[0], offsets


def _xml(files: _Files, name: str) -> ET.Element:
    try:
        return ET.fromstring(files.text(name))
    except ET.ParseError as error:
        raise UsageError(
            f"{files.path}: {name} cannot be read as XML: {error}",
            hint="It is probably truncated: fetch the product again.",
        ) from None


def _all(root: ET.Element, tag: str) -> list[ET.Element]:
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == tag]


def _text(root: ET.Element, tag: str) -> str | None:
    found = _all(root, tag)
    return (found[0].text or "").strip() or None if found else None


def _special(root: ET.Element, word: str) -> float | None:
    for group in _all(root, "Special_Values"):
        if _text(group, "SPECIAL_VALUE_TEXT") == word:
            return _number(_text(group, "SPECIAL_VALUE_INDEX"))
    return 0.0


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _time(text: str | None) -> dt.datetime | None:
    if not text:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _same(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return values.astype(np.uint8)
