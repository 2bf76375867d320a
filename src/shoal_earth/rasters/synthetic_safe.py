"""Writes generated pixels as Sentinel-2 Level-2A products and STAC items: the files' names, folders, types and metadata."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.masks import CLOUD, SCL, mask
from shoal_earth.rasters.output import publish, write_text
from shoal_earth.rasters.safe import SENTINEL2

__all__ = ["write_item", "write_safe", "zip_safe"]

Array = np.ndarray[Any, Any]
_FOLDERS = {
    10: ("B02", "B03", "B04", "B08", "TCI"),
    20: ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL"),
    60: ("B01", "B09"),
}


def write_safe(
    folder: Path,
    tile: str,
    grid: Grid,
    day: dt.date,
    baseline: str,
    reflectance: dict[str, Array],
    classes: Array,
    image: str,
) -> Path:
    """Write one product.

    Args:
        folder: that gets the ``.SAFE`` folder.
        tile: MGRS name.
        grid: of the 10 m pixels.
        day: of the image.
        baseline: of processing; from 04.00 on values are shifted by 1000.
        reflectance: by band at 10 m, 0 where there is no data.
        classes: scene classification at 10 m.
        image: ``jp2`` or ``tif``.

    Returns:
        The ``.SAFE`` folder.
    """
    stamp = f"{day:%Y%m%d}T140051"
    shift = 1000 if float(baseline) >= 4 else 0
    name = f"S2Z_MSIL2A_{stamp}_N{baseline.replace('.', '')}_R067_T{tile}_{day:%Y%m%d}T180000"
    product = folder / f"{name}.SAFE"
    granule = product / "GRANULE" / f"L2A_T{tile}_A012345_{stamp}"
    for side, bands in _FOLDERS.items():
        for band in bands:
            values = _stored(band, side // 10, reflectance, classes, shift)
            path = granule / "IMG_DATA" / f"R{side}m" / f"T{tile}_{stamp}_{band}_{side}m.{image}"
            _write(path, values, grid.resampled(side), image)
    names = [p.relative_to(product).with_suffix("").as_posix() for p in sorted(granule.rglob(f"*.{image}"))]
    write_text(granule / "MTD_TL.xml", _tile_metadata(tile, grid, stamp))
    cloud = 100 * float(mask(classes, CLOUD).mean())
    write_text(product / "MTD_MSIL2A.xml", _metadata(name, day, baseline, shift, names, cloud, image))
    return product


def zip_safe(product: Path) -> Path:
    """Put a product into a zip, as archives deliver it, and remove its folder; the same product gives the same bytes."""
    path = product.with_suffix(".zip")
    with publish(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in product.rglob("*") if p.is_file()):
            archive.writestr(zipfile.ZipInfo(file.relative_to(product.parent).as_posix()), file.read_bytes())
    shutil.rmtree(product)
    return path


def _stored(band: str, step: int, reflectance: dict[str, Array], classes: Array, shift: int) -> Array:
    if band == "SCL":
        return classes[None, ::step, ::step]
    if band == "TCI":
        colours = np.stack([reflectance[name] for name in ("B04", "B03", "B02")])
        return np.where(colours > 0, np.clip(np.rint(colours * 255 / 0.35), 1, 255), 0).astype(np.uint8)
    values = reflectance[band]
    size = len(values) // step
    blocks = values.reshape(size, step, size, step)
    good = (blocks > 0).sum((1, 3))
    mean = np.where(good > 0, blocks.sum((1, 3)) / np.maximum(good, 1), 0)
    return np.where(mean > 0, np.clip(np.rint(mean * 10_000) + shift, 1, 32_767), 0).astype(np.uint16)[None]


def _write(path: Path, values: Array, grid: Grid, image: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = (
        {"driver": "JP2OpenJPEG", "REVERSIBLE": "YES", "QUALITY": "100"}
        if image == "jp2"
        else {"driver": "GTiff", "compress": "DEFLATE", "tiled": True, "blockxsize": 256, "blockysize": 256}
    )
    with rasterio.open(
        path,
        "w",
        count=len(values),
        height=grid.height,
        width=grid.width,
        dtype=values.dtype.name,
        crs=grid.crs,
        transform=grid.transform,
        **options,
    ) as file:
        file.write(values)
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)


def _metadata(name: str, day: dt.date, baseline: str, shift: int, images: list[str], cloud: float, image: str) -> str:
    time = f"{day.isoformat()}T14:00:51.024Z"
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{band}">{-shift}</BOA_ADD_OFFSET>' for band in range(13))
    listed = f"<BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST>" if shift else ""
    files = "".join(f"<IMAGE_FILE>{path}</IMAGE_FILE>" for path in images)
    kind = "JPEG2000" if image == "jp2" else "GeoTIFF"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- Generated: a synthetic product, never seen from space. -->
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>{time}</PRODUCT_START_TIME><PRODUCT_STOP_TIME>{time}</PRODUCT_STOP_TIME>
<PRODUCT_URI>{name}.SAFE</PRODUCT_URI><PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
<PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<Datatake><SPACECRAFT_NAME>Sentinel-2Z (synthetic)</SPACECRAFT_NAME>
<DATATAKE_SENSING_START>{time}</DATATAKE_SENSING_START></Datatake>
<Product_Organisation><Granule_List><Granule imageFormat="{kind}">{files}</Granule></Granule_List></Product_Organisation>
</Product_Info><Product_Image_Characteristics>
<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
<SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
</QUANTIFICATION_VALUES_LIST>{listed}
</Product_Image_Characteristics></n1:General_Info>
<n1:Quality_Indicators_Info><Cloud_Coverage_Assessment>{cloud:.6f}</Cloud_Coverage_Assessment></n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _tile_metadata(tile: str, grid: Grid, stamp: str) -> str:
    left, _, _, top = grid.bounds
    sizes = "".join(
        f'<Size resolution="{side}"><NROWS>{grid.height * 10 // side}</NROWS><NCOLS>{grid.width * 10 // side}</NCOLS></Size>'
        f'<Geoposition resolution="{side}"><ULX>{left:.0f}</ULX><ULY>{top:.0f}</ULY>'
        f"<XDIM>{side}</XDIM><YDIM>-{side}</YDIM></Geoposition>"
        for side in _FOLDERS
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd">
<n1:General_Info><TILE_ID>S2Z_OPER_MSI_L2A_TL_SYNT_{stamp}_A012345_T{tile}</TILE_ID></n1:General_Info>
<n1:Geometric_Info><Tile_Geocoding><HORIZONTAL_CS_CODE>{grid.crs_name}</HORIZONTAL_CS_CODE>{sizes}</Tile_Geocoding></n1:Geometric_Info>
</n1:Level-2A_Tile_ID>
"""


def _checked(path: Path) -> dict[str, Any]:
    return {
        "file:size": path.stat().st_size,
        "file:checksum": "1220" + hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def write_item(folder: Path, product: Path, tile: str, grid: Grid, day: dt.date, baseline: str, classes: Array) -> Path:
    """Write the STAC item of a product, with sizes and checksums of its files."""
    from rasterio.warp import transform_bounds, transform_geom

    left, bottom, right, top = grid.bounds
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    footprint = transform_geom(grid.crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    assets: dict[str, Any] = {}
    shift = -0.1 if float(baseline) >= 4 else 0
    if product.suffix == ".zip":
        assets["product"] = {
            "href": f"../{product.relative_to(product.parent.parent).as_posix()}",
            "type": "application/zip",
            "roles": ["data", "archive"],
            **_checked(product),
        }
    for path in sorted(product.glob("GRANULE/*/IMG_DATA/*/*")):
        band, side = path.stem.rsplit("_", 2)[1:]
        pixels = grid.resampled(int(side[:-1]))
        asset: dict[str, Any] = {
            "href": f"../{path.relative_to(product.parent.parent).as_posix()}",
            "type": "image/jp2" if path.suffix == ".jp2" else "image/tiff; application=geotiff",
            "roles": ["data"],
            "gsd": int(side[:-1]),
            **_checked(path),
            "proj:shape": [pixels.height, pixels.width],
            "proj:transform": list(pixels.transform)[:6],
        }
        if band in SENTINEL2:
            asset["eo:bands"] = [{"name": band, "common_name": SENTINEL2[band]}]
            asset["raster:bands"] = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": shift}]
        assets[f"{band}_{side}"] = asset
    valid = classes != SCL.NODATA
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": product.stem,
        "collection": "synthetic-sentinel-2-l2a",
        "geometry": footprint,
        "bbox": list(transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)),
        "properties": {
            "datetime": f"{day.isoformat()}T14:00:51.024000Z",
            "platform": "sentinel-2z",
            "eo:cloud_cover": round(100 * float(mask(classes, CLOUD).sum() / max(1, valid.sum())), 6),
            "s2:mgrs_tile": tile,
            "s2:processing_baseline": baseline,
            "s2:nodata_pixel_percentage": round(100 * float((~valid).mean()), 6),
            "proj:code": grid.crs_name,
        },
        "links": [{"rel": "root", "href": "../catalog.json", "type": "application/json"}],
        "assets": assets,
    }
    path = folder / f"{product.stem}.json"
    write_text(path, json.dumps(item, indent=1) + "\n")
    return path
