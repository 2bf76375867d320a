"""Small GeoTIFFs for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin


def write_geotiff(
    path: Path,
    values: np.ndarray,
    *,
    crs: str | None = "EPSG:32616",
    origin: tuple[float, float] = (500_000, 4_000_000),
    pixel: float = 1,
    names: Sequence[str] = (),
    **profile: Any,
) -> Path:
    """Bands (n, height, width) as a GeoTIFF.

    Args:
        origin: upper left corner, in units of the CRS.
        pixel: their size, in the same units.
        names: descriptions of the bands.
        profile: anything else that rasterio takes: ``nodata``, ``compress``, ...
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype.name}
    place = {"transform": from_origin(*origin, pixel, pixel), **({"crs": crs} if crs else {})}
    with rasterio.open(path, "w", driver="GTiff", **{**shape, **place, **profile}) as file:
        file.write(values)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
    return path
