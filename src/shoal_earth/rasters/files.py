"""The raster files of a scene: each opened when it is first read, seen on any grid, with what they mark as no data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.env
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, reason

__all__ = ["REMOTE", "BandFile", "Files", "environment", "plain_path"]

# Read from a bucket: no listing of the folder for sidecar files, and a server that hiccups is asked again.
REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
}
_SERVERS = ("http://", "https://", "/vsicurl/", "/vsis3/", "/vsigs/", "/vsiaz/")
_GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}
Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def environment(path: str) -> Any:
    """GDAL's settings for a path: :data:`REMOTE` for what lies on a server; local files keep their sidecars."""
    if path.startswith(_SERVERS):
        return rasterio.Env(**REMOTE)
    # Entering one costs as much as reading a small window: once for many is enough.
    return nullcontext() if rasterio.env.hasenv() else rasterio.Env()


def plain_path(path: str) -> str:
    """A GDAL path as a person knows it."""
    return re.sub(r"^/vsi(?:zip|tar)/\{?|^/vsicurl/", "", path).replace("}", "")


@dataclass(frozen=True)
class BandFile:
    """Where pixels of a band lie: what GDAL opens, which of its bands (from 1), and the nominal pixel size if it is known."""

    path: str
    indices: tuple[int, ...] = (1,)
    resolution: float | None = None


class Files:
    """Opens files when they are first read, and keeps them open; for one thread."""

    def __init__(self) -> None:
        self._datasets: dict[str, Any] = {}
        self._grids: dict[str, Grid] = {}
        self._views: dict[Any, tuple[Any, int | None]] = {}

    def dataset(self, path: str) -> Any:
        """The open file.

        Raises:
            UsageError: it is missing or damaged.
        """
        if path not in self._datasets:
            try:
                with environment(path):
                    self._datasets[path] = rasterio.open(path)
            except RasterioError as error:
                raise UsageError(
                    f"{plain_path(path)}: cannot be read as a raster: {reason(error)}",
                    hint="The file is missing, truncated or damaged: fetch it again.",
                ) from None
        return self._datasets[path]

    def grid(self, file: BandFile) -> Grid:
        """The file's own grid."""
        if file.path not in self._grids:
            self._grids[file.path] = Grid.of(self.dataset(file.path), plain_path(file.path))
        return self._grids[file.path]

    def dtype(self, file: BandFile) -> np.dtype[Any]:
        """The type of its numbers."""
        kinds = self.dataset(file.path).dtypes
        return np.result_type(*(np.dtype(kinds[index - 1]) for index in file.indices))

    def read(
        self,
        file: BandFile,
        window: Window,
        grid: Grid,
        resampling: Resampling,
        *,
        nodata: float | None = None,
        all_channels: bool = False,
        out: Array | None = None,
    ) -> tuple[Array, Mask | None]:
        """Its bands in a window of a grid, and where there is something; None where that is everywhere.

        Args:
            file: what to read.
            window: in pixels of the grid.
            grid: to read on.
            resampling: if that is not the file's own.
            nodata: stored value that means nothing, in addition to what the file itself marks.
            all_channels: nothing is there only where all of the bands say so.
            out: array to read into, of shape (bands, height, width).

        Raises:
            UsageError: the file is missing, truncated or damaged.
        """
        view, alpha = self.dataset(file.path), None
        if self.grid(file) != grid:
            view, alpha = self._view(file, grid, resampling, nodata, all_channels)
        try:
            with environment(file.path):
                values: Array = view.read(list(file.indices), window=window, out=out)
                marks = _marks(view, alpha, values, file.indices, window, nodata)
        except (RasterioError, MemoryError) as error:
            raise UsageError(
                f"{plain_path(file.path)}: cannot be read at row {window.row_off}, column {window.col_off}: {reason(error)}",
                hint="The file is probably truncated or damaged: fetch it again.",
            ) from None
        valid: Mask | None = None
        if marks is not None:
            valid = marks[0] if len(marks) == 1 else np.asarray(marks.any(0) if all_channels else marks.all(0))
        if values.dtype.kind == "f":
            finite: Mask = np.asarray(np.isfinite(values).all(0))
            valid = finite if valid is None else valid & finite
        return values, valid

    def _view(
        self, file: BandFile, grid: Grid, resampling: Resampling, stored: float | None, all_channels: bool
    ) -> tuple[Any, int | None]:
        """The file as seen on another grid, and which of its bands is an alpha band (the file has no no-data value then)."""
        key = (file.path, grid, resampling)
        if key not in self._views:
            source = self.dataset(file.path)
            flags = source.mask_flag_enums[0]
            nodata = source.nodata if source.nodata is not None else stored
            if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
                source, nodata = self._with_alpha(file.path, source), None
            elif nodata is None and np.dtype(source.dtypes[0]).kind == "f":
                nodata = float("nan")
            has_alpha = any(MaskFlags.alpha in flags for flags in source.mask_flag_enums)
            # Without a no-data value, an alpha band tells where there is nothing, and where the grid leaves the file.
            extra = {"src_nodata": nodata, "nodata": nodata} if nodata is not None else {"add_alpha": not has_alpha}
            # A true-colour pixel is no data where all three channels are.
            options = {"UNIFIED_SRC_NODATA": "YES"} if all_channels else {}
            view = WarpedVRT(
                source,
                crs=grid.crs,
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=resampling,
                **extra,
                **options,
            )
            self._views[key] = view, view.count if nodata is None else None
        return self._views[key]

    def _with_alpha(self, path: str, source: Any) -> Any:
        """The same raster with its inner mask as an alpha band: a warp heeds that, but not the mask."""
        key = f"alpha {path}"
        if key not in self._datasets:
            name = f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename>'
            alpha = (
                f'<VRTRasterBand dataType="Byte" band="{source.count + 1}"><ColorInterp>Alpha</ColorInterp><SimpleSource>'
                f"{name}<SourceBand>mask,1</SourceBand></SimpleSource></VRTRasterBand>"
            )
            bands = "".join(
                f'<VRTRasterBand dataType="{_GDAL_TYPES[kind]}" band="{number}"><SimpleSource>'
                f"{name}<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
                for number, kind in enumerate(source.dtypes, 1)
            )
            corners = ",".join(repr(float(number)) for number in source.transform.to_gdal())
            self._datasets[key] = rasterio.open(
                f'<VRTDataset rasterXSize="{source.width}" rasterYSize="{source.height}">'
                f"<SRS>{escape(source.crs.to_wkt())}</SRS><GeoTransform>{corners}</GeoTransform>{bands}{alpha}</VRTDataset>"
            )
        return self._datasets[key]

    def close(self) -> None:
        """Close what is open."""
        for view, _ in self._views.values():
            view.close()
        for dataset in self._datasets.values():
            dataset.close()
        self._views.clear()
        self._datasets.clear()
        self._grids.clear()


def _marks(
    view: Any, alpha: int | None, values: Array, indices: Sequence[int], window: Window, stored: float | None
) -> Mask | None:
    """Which values are valid, band by band; None where all are."""
    flags = {flag for index in indices for flag in view.mask_flag_enums[index - 1]}
    marks: Mask | None = None
    nodata = view.nodata
    if alpha is not None:
        marks = np.repeat(view.read([alpha], window=window) > 0, len(values), 0)
    elif flags <= {MaskFlags.all_valid}:
        pass
    elif flags <= {MaskFlags.nodata} and nodata is not None and nodata == nodata:
        # The same as the mask, without another pass through the file.
        marks = _other_than(values, nodata)
    else:
        marks = view.read_masks(list(indices), window=window) > 0
    marked = nodata == stored and MaskFlags.nodata in flags
    if stored is not None and not np.isnan(stored) and not marked:
        there = _other_than(values, stored)
        marks = there if marks is None else marks if there is None else marks & there
    return marks


def _other_than(values: Array, nodata: float) -> Mask | None:
    """Where values are not this one; None where none is. Most windows lie inside of a scene, and their least value tells."""
    if values.size and (values.min() > nodata or values.max() < nodata):
        return None
    other: Mask = values != nodata
    return other
