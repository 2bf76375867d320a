"""Any raster that GDAL reads, local or at a URL, as a scene: GeoTIFF, COG, and files without names for their bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import rasterio
from rasterio.errors import RasterioError

from shoal.errors import UsageError
from shoal_earth.rasters.files import BandFile, environment
from shoal_earth.rasters.grids import reason
from shoal_earth.rasters.scenes import Band, Scene, tile_of

__all__ = ["read_raster"]


def read_raster(path: str, *, bands: Sequence[str] | None = None, nodata: float | None = None) -> Scene:
    """A raster file as a scene. Its bands have the names given, else those written in the file, else ``1``, ``2``, ...

    Raises:
        UsageError: it cannot be read, or ``bands`` are not as many as it has.
    """
    try:
        with environment(path), rasterio.open(path) as dataset:
            count, described = dataset.count, list(dataset.descriptions)
            scales, offsets, marked = dataset.scales, dataset.offsets, dataset.nodatavals
            tags = dataset.tags()
    except RasterioError as error:
        raise UsageError(f"{path}: cannot be read as a raster: {reason(error)}") from None
    if bands is not None and len(bands) != count:
        raise UsageError(f"{path}: has {count} band(s), but {len(bands)} names were given for them")
    names = list(bands) if bands is not None else [str(name) for name in described if name]
    if len(names) != count or len({name.lower() for name in names}) != count:
        if bands is not None:
            raise UsageError(f"{path}: two of its bands were given the same name: {', '.join(bands)}")
        names = [str(number) for number in range(1, count + 1)]
    found = {
        name: Band(
            name,
            None,
            (BandFile(path, (number,)),),
            scale=scales[number - 1],
            offset=offsets[number - 1],
            # What the file itself marks is read from its mask.
            nodata=nodata if nodata is not None else marked[number - 1],
        )
        for number, name in enumerate(names, 1)
    }
    stem = PurePosixPath(urlsplit(path).path if "://" in path else path.replace("\\", "/")).stem
    return Scene(path, stem, "raster", found, tile=tile_of(stem), facts={"tags": tags})
