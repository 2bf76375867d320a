"""Read a scene in strips of rows, on its own grid or resampled to a given ground resolution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from shoal.errors import UsageError

__all__ = ["Strips", "open_strips"]


@dataclass(frozen=True)
class Strips:
    """An open raster: its grid and a way to read rows of it.

    ``resolution`` is in units of the CRS, metres for projected ones.
    """

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    crs: Any
    transform: Affine
    source: Any

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def resolution(self) -> float:
        """Size of a pixel in units of the CRS."""
        return float(abs(self.transform.a))

    def rows(self, first: int, last: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Rows ``first`` to ``last - 1``: values (bands, rows, width) and which pixels are valid (rows, width)."""
        window = ((first, last), (0, self.width))
        try:
            values = self.source.read(window=window)
            valid = self.source.dataset_mask(window=window) > 0
        except RasterioError as error:
            raise UsageError(
                f"{self.path}: cannot be read at rows {first} to {last}: {_reason(error)}",
                hint="The file is probably truncated: fetch it again.",
            ) from None
        return values, valid


@contextmanager
def open_strips(path: Path, resolution: float | None = None) -> Iterator[Strips]:
    """Open a raster for reading.

    Args:
        path: any raster that GDAL reads, with a CRS.
        resolution: pixel size to resample to (the mean of the pixels it covers), in units of the CRS; its own by default.

    Raises:
        UsageError: the file is missing, unreadable, has no CRS or is rotated.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such raster")
    try:
        source = rasterio.open(path)
    except RasterioError as error:
        raise UsageError(f"{path}: cannot be read as a raster: {_reason(error)}") from None
    with source:
        if source.crs is None:
            raise UsageError(
                f"{path}: has no coordinate reference system (CRS), so polygons cannot be laid over it",
                hint="Assign the right one, e.g. with: gdal_edit.py -a_srs EPSG:32616 FILE",
            )
        own = source.transform
        if own.b or own.d or own.a <= 0 or own.e >= 0:
            raise UsageError(f"{path}: is rotated or mirrored", hint="Warp it to a north-up grid with gdalwarp first.")
        if len(set(source.dtypes)) > 1 or np.dtype(source.dtypes[0]).kind not in "uif":
            raise UsageError(
                f"{path}: has bands of type {', '.join(source.dtypes)}; one real number type for all is needed"
            )
        if resolution is None:
            yield Strips(path, source.height, source.width, source.count, source.dtypes[0], source.crs, own, source)
            return
        across, down = round(source.width * own.a / resolution), round(source.height * -own.e / resolution)
        if min(across, down) < 1:
            raise UsageError(f"{path}: is smaller than one pixel of the resolution {resolution} that was asked for")
        grid = Affine(own.a * source.width / across, 0, own.c, 0, own.e * source.height / down, own.f)
        with WarpedVRT(
            source, crs=source.crs, transform=grid, width=across, height=down, resampling=Resampling.average
        ) as view:
            yield Strips(path, down, across, source.count, source.dtypes[0], source.crs, grid, view)


def _reason(error: Exception) -> str:
    text = str(error.__cause__ or error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
