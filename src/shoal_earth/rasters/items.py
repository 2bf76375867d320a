"""STAC items as scenes: assets of Sentinel-2 and Landsat as catalogues describe them, from version 1.0.0-beta to 1.1.0."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.files import BandFile
from shoal_earth.rasters.landsat import OFFSET, SCALE, common_names
from shoal_earth.rasters.masks import landsat_to_scl
from shoal_earth.rasters.safe import SENTINEL2, read_safe
from shoal_earth.rasters.scenes import Band, Classes, Scene, tile_of

__all__ = [
    "BLOCKS",
    "asset_bands",
    "asset_resolution",
    "is_archive",
    "item_baseline",
    "item_orbit",
    "item_scene",
    "item_tile",
    "item_time",
    "quality_kind",
    "read_item",
]

BLOCKS = "shoal:blocks"
"""Of an asset of which only blocks were fetched: for which ``places``, and their ``share`` of its pixels."""

_RASTER = re.compile(r"tiff|jp2|jpeg2000|geotiff", re.IGNORECASE)
_QUALITY = re.compile(r"^(scl|qa_pixel)(?:[._](\d+)m|\.tif)?$", re.IGNORECASE)


def read_item(path: str) -> Scene:
    """A STAC item in a local file as a scene; assets with relative names lie beside the file.

    Raises:
        UsageError: it is no item, or has no asset with pixels.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a STAC item: {error}") from None
    if not isinstance(content, dict) or content.get("type") != "Feature" or "assets" not in content:
        raise UsageError(f"{path}: is JSON, but no STAC item")
    return item_scene(content, path)


def item_scene(item: Mapping[str, Any], where: str) -> Scene:
    """A STAC item as a scene.

    Args:
        item: as parsed from JSON.
        where: the file or URL it comes from; relative links start there.

    Raises:
        UsageError: it has no asset with pixels.
    """
    name = str(item.get("id") or "item")
    properties = item.get("properties") or {}
    if re.match(r"L[COTEM]0\d_L1", name):
        raise UsageError(
            f"{where}: {name} is a Level-1 scene, whose numbers are not surface reflectance",
            hint="Search for the Level-2 product (L2SP or L2SR).",
        )
    quality: Band | None = None
    best: dict[str, Band] = {}
    fetched = 1.0
    for key, asset in (item.get("assets") or {}).items():
        if not isinstance(asset, Mapping) or not asset.get("href"):
            continue
        fetched = min(fetched, (asset.get(BLOCKS) or {}).get("share", 1.0))
        file = _gdal(str(asset["href"]), where)
        resolution = asset_resolution(key, asset)
        if kind := quality_kind(key):
            band = Band(kind, None, (BandFile(file, (1,), resolution),), nodata=0 if kind == "SCL" else 1)
            quality = _joined(quality, band)
        elif re.match(r"^(visual|tci)(?:[._-]\d+m)?$", key, re.IGNORECASE):
            band = Band("TCI", "visual", (BandFile(file, (1, 2, 3), resolution),), nodata=0, all_channels=True)
            best["TCI"] = _joined(best.get("TCI"), band)
        elif _is_raster(key, asset):
            for number, (own, common) in enumerate(asset_bands(name, key, asset), 1):
                scale, offset, nodata = _values(name, own, asset, number, properties)
                band = Band(own, common, (BandFile(file, (number,), resolution),), scale, offset, nodata)
                best[own] = _joined(best.get(own), band)
    if not best and quality is None:
        archives = [
            _gdal(str(asset["href"]), where) for asset in (item.get("assets") or {}).values() if is_archive(asset)
        ]
        if len(archives) == 1 and Path(archives[0]).is_file():
            return read_safe(Path(archives[0]))
        raise UsageError(f"{where}: the item {name} has no asset with pixels (GeoTIFF or JP2)")
    to_scl = landsat_to_scl if quality is not None and quality.name == "QA_PIXEL" else _same
    return Scene(
        where,
        name,
        str(item.get("collection") or "stac"),
        best,
        acquired=item_time(item),
        classification=Classes(quality, to_scl) if quality else None,
        tile=item_tile(item),
        baseline=item_baseline(item),
        facts={"cloud_cover": properties.get("eo:cloud_cover"), "orbit": item_orbit(item), "fetched": fetched},
    )


def asset_bands(product: str, key: str, asset: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Name and common name of the bands of an asset."""
    described = asset.get("bands") or asset.get("eo:bands") or []
    found = []
    for band in described:
        if isinstance(band, Mapping) and band.get("name"):
            own = str(band["name"])
            # Catalogues differ (B8A is "rededge" in one, "nir08" in another): a known band has one name here.
            common = _common(product, own) or band.get("common_name") or band.get("eo:common_name")
            found.append((own, str(common) if common else None))
    if found:
        return found
    own = re.sub(r"([._]\d+m|\.TIF)$", "", key, flags=re.IGNORECASE)
    own = re.sub(r"^SR_", "", own)
    return [(own, _common(product, own))]


def item_time(item: Mapping[str, Any]) -> dt.datetime | None:
    """When an item was acquired (its start, where it spans a time), in UTC."""
    properties = item.get("properties") or {}
    return _time(properties.get("datetime") or properties.get("start_datetime"))


def item_tile(item: Mapping[str, Any]) -> str | None:
    """The MGRS tile, or Landsat path and row, of an item; None where it has none."""
    return _tile(str(item.get("id") or ""), item.get("properties") or {})


def item_baseline(item: Mapping[str, Any]) -> str | None:
    """The processing baseline of a Sentinel-2 item (``05.00``); None where it has none."""
    return _baseline(str(item.get("id") or ""), item.get("properties") or {})


def item_orbit(item: Mapping[str, Any]) -> str | None:
    """The relative orbit of a Sentinel-2 item (``R067``): scenes of one orbit see a place from the same side."""
    properties = item.get("properties") or {}
    number = properties.get("sat:relative_orbit")
    if isinstance(number, int):
        return f"R{number:03d}"
    for text in (item.get("id"), properties.get("s2:product_uri"), properties.get("sentinel:product_id")):
        if found := re.search(r"_(R\d{3})_", str(text or "")):
            return found.group(1)
    return None


def quality_kind(key: str) -> str | None:
    """``SCL`` or ``QA_PIXEL`` if that is what the asset of this name is."""
    found = _QUALITY.match(key)
    return found.group(1).upper() if found else None


def is_archive(asset: Any) -> bool:
    """Whether an asset is a whole product, as a zip."""
    if not isinstance(asset, Mapping) or not asset.get("href"):
        return False
    return "zip" in str(asset.get("type") or "") or urlsplit(str(asset["href"])).path.lower().endswith(".zip")


def _common(product: str, band: str) -> str | None:
    landsat = common_names(product)
    return landsat.get(band.upper()) if landsat else SENTINEL2.get(band.upper())


def _is_raster(key: str, asset: Mapping[str, Any]) -> bool:
    roles = asset.get("roles") or []
    if any(role in roles for role in ("thumbnail", "overview", "metadata")):
        return False
    href = urlsplit(str(asset["href"])).path
    kind = str(asset.get("type") or "")
    return bool(_RASTER.search(kind) if kind else re.search(r"\.(tiff?|jp2)$", href, re.IGNORECASE))


def _values(
    product: str, band: str, asset: Mapping[str, Any], number: int, properties: Mapping[str, Any]
) -> tuple[float, float, float | None]:
    """Scale, offset and no-data value of a band."""
    listed = asset.get("raster:bands") or asset.get("bands") or []
    own = listed[number - 1] if number <= len(listed) and isinstance(listed[number - 1], Mapping) else {}
    scale = _first(own.get("scale"), own.get("raster:scale"), asset.get("raster:scale"))
    offset = _first(own.get("offset"), own.get("raster:offset"), asset.get("raster:offset"))
    nodata = _first(own.get("nodata"), asset.get("nodata"))
    if band.upper() in SENTINEL2 and not common_names(product):
        if _applied(properties):
            # The catalogue has shifted the values already, though it may still list the offset.
            offset = 0.0
        elif offset is None:
            baseline = _baseline(product, properties)
            offset = -0.1 if baseline and float(baseline) >= 4 else 0.0
        return scale or 1e-4, offset, 0.0 if nodata is None else nodata
    if common_names(product) and band.upper() in common_names(product):
        return scale or SCALE, OFFSET if offset is None else offset, 0.0 if nodata is None else nodata
    return scale or 1.0, offset or 0.0, nodata


def _applied(properties: Mapping[str, Any]) -> bool:
    return any(properties.get(key) is True for key in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"))


def _baseline(name: str, properties: Mapping[str, Any]) -> str | None:
    for key in ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version"):
        value = str(properties.get(key) or "")
        if re.fullmatch(r"\d\d?\.\d\d", value):
            return value.zfill(5)
    found = re.search(r"_N(\d{2})(\d{2})_", name)
    return f"{found.group(1)}.{found.group(2)}" if found else None


def _tile(name: str, properties: Mapping[str, Any]) -> str | None:
    for key in ("s2:mgrs_tile", "grid:code"):
        value = re.sub(r"^(MGRS-|T)", "", str(properties.get(key) or ""))
        if re.fullmatch(r"\d{1,2}[A-Z]{3}", value):
            return value.zfill(5)
    for prefix in ("mgrs", "sentinel"):
        parts = [properties.get(f"{prefix}:{part}") for part in ("utm_zone", "latitude_band", "grid_square")]
        if all(parts):
            return "".join(map(str, parts)).zfill(5)
    return tile_of(name)


def _first(*values: Any) -> float | None:
    for value in values:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def asset_resolution(key: str, asset: Mapping[str, Any]) -> float | None:
    """The pixel size of an asset as the catalogue gives it; None where it does not."""
    if found := re.search(r"[._](\d+)m$", key):
        return float(found.group(1))
    transform = asset.get("proj:transform") or []
    listed = [band for band in asset.get("raster:bands") or [] if isinstance(band, Mapping)]
    return _first(
        transform[0] if transform else None, listed[0].get("spatial_resolution") if listed else None, asset.get("gsd")
    )


def _joined(one: Band | None, other: Band) -> Band:
    """One band in more resolutions, finest first."""
    if one is None:
        return other
    files = sorted([*one.files, *other.files], key=lambda file: file.resolution or 0)
    return Band(one.name, one.common or other.common, tuple(files), one.scale, one.offset, one.nodata, one.all_channels)


def _gdal(href: str, where: str) -> str:
    """The link as GDAL opens it: absolute URL, or a path beside the item."""
    if re.match(r"(https?|s3|gs)://", href):
        scheme, _, rest = href.partition("://")
        return href if scheme.startswith("http") else f"/vsi{scheme}/{rest}"
    if re.match(r"https?://", where):
        return urljoin(where, href)
    return str(Path(where).parent / href.removeprefix("file://"))


def _time(text: Any) -> dt.datetime | None:
    if not text:
        return None
    try:
        time = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _same(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return values.astype(np.uint8)
