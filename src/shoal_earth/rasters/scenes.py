"""One interface to every kind of scene: bands by name, read in windows, on one grid, no-data apart.

A :class:`Scene` is made by :func:`read_scene` from a Sentinel-2 ``.SAFE`` tree or zip, a Landsat folder or tar, a STAC item, or
any raster that GDAL reads. It opens files when they are first read and holds no pixels.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, Pixels, in_steps, reason

__all__ = ["REMOTE", "Band", "BandFile", "Classes", "Scene", "environment", "find_scenes", "read_scene", "tile_of"]

# Read from a bucket: no listing of the folder for sidecar files, and a server that hiccups is asked again.
REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
}
_UPSAMPLE, _DOWNSAMPLE = Resampling.bilinear, Resampling.average
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
# Who asks for near infrared means the broad band; a sensor without one has the narrow.
_STAND_INS = {"nir": "nir08", "visual": "tci", "tci": "visual"}


def environment(path: str) -> Any:
    """GDAL's settings for a path: :data:`REMOTE` for what lies on a server; local files keep their sidecars."""
    remote = re.match(r"https?://|/vsi(curl|s3|gs|az)/", path) is not None
    return rasterio.Env(**REMOTE) if remote else rasterio.Env()


@dataclass(frozen=True)
class BandFile:
    """Where pixels of a band lie: what GDAL opens, which of its bands (from 1), and the nominal pixel size if it is known."""

    path: str
    indices: tuple[int, ...] = (1,)
    resolution: float | None = None


@dataclass(frozen=True)
class Band:
    """A band of a scene.

    ``value = scale * stored + offset`` is its reflectance (or whatever else the product says). ``nodata`` is a stored value, in
    addition to what the file itself marks. ``files`` holds it in one or more resolutions, finest first.
    """

    name: str
    common: str | None
    files: tuple[BandFile, ...]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    # True colour pictures are black where there is nothing, but may be black in one channel elsewhere.
    all_channels: bool = False


@dataclass(frozen=True)
class Classes:
    """What lies on the ground or above it, pixel by pixel: a band, and how its numbers become those of Sentinel-2's SCL."""

    band: Band
    to_scl: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, np.dtype[np.uint8]]]


@dataclass
class Scene:
    """A scene: use it in a ``with`` block, from one thread.

    ``path`` is what the user named; ``acquired`` is in UTC.
    """

    path: str
    name: str
    sensor: str
    bands: dict[str, Band]
    acquired: dt.datetime | None = None
    classification: Classes | None = None
    tile: str | None = None
    baseline: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    _open: dict[Any, Any] = field(default_factory=dict, repr=False)

    def band(self, name: str) -> Band:
        """A band by its own name (``B08``, ``b8``) or its common one (``nir``), in any case.

        Raises:
            UsageError: there is none.
        """
        wanted = _key(name)
        for want in (wanted, _STAND_INS.get(wanted)):
            for band in self.bands.values():
                if want in (_key(band.name), _key(band.common or "")):
                    return band
        named = ", ".join(f"{b.name} ({b.common})" if b.common else b.name for b in self.bands.values())
        raise UsageError(f'{self.path}: has no band "{name}"', hint=f"It has: {named or 'none'}.")

    def grid(self, bands: Sequence[str] | None = None, resolution: float | None = None) -> Grid:
        """The grid of the finest of these bands (of all by default), or the same ground in pixels of ``resolution``.

        Raises:
            UsageError: a band is missing or unreadable, or bands do not cover the same ground.
        """
        names = list(bands) if bands else list(self.bands)
        if not names:
            raise UsageError(f"{self.path}: has no bands")
        files = [self.band(name).files[0] for name in names]
        grids = [(self._grid(file), file) for file in files]
        best, file = min(grids, key=lambda pair: pair[0].resolution)
        for grid, other in grids:
            if grid.crs != best.crs:
                raise UsageError(
                    f"{_plain(other.path)}: is in {grid.crs_name}, but {_plain(file.path)} of the same scene in {best.crs_name}"
                )
            apart = max(abs(a - b) for a, b in zip(grid.bounds, best.bounds, strict=True))
            if apart > grid.resolution:
                raise UsageError(
                    f"{_plain(other.path)}: its corners are {apart:g} units from those of {_plain(file.path)}, "
                    "more than a pixel: the bands of the scene do not cover the same ground"
                )
        return best if resolution is None else best.resampled(resolution)

    def read(
        self,
        bands: Sequence[str],
        window: Window | None = None,
        grid: Grid | None = None,
        *,
        stored: bool = False,
        step: float | None = None,
    ) -> Pixels:
        """Read bands in a window of a grid: the finest band's own by default.

        Bands on other grids are resampled: the mean of the valid pixels where they get coarser, between neighbours where they
        get finer. A pixel is valid where every band is.

        Args:
            bands: names; a true-colour picture gives three.
            window: in pixels of the grid; all of it by default.
            grid: to read on.
            stored: the numbers as the files hold them, with no scale or offset and in the files' type.
            step: give whole numbers of this step (int16, held to their range) instead of floats; without a detour over floats
                where the product itself counts in this step.

        Raises:
            UsageError: a band is missing or unreadable, or the window leaves the grid.
        """
        found = [self.band(name) for name in bands]
        grid = grid or self.grid(bands)
        window = window or grid.whole
        grid.check(window, self.path)
        parts: list[np.ndarray[Any, Any]] = []
        valid = np.ones((int(window.height), int(window.width)), np.bool_)
        for band in found:
            values, good = self._band(band, window, grid, nearest=False)
            valid &= good
            parts.append(values if stored else _scaled(values, band, step))
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if not valid.all():
            joined[:, ~valid] = 0
        return Pixels(joined, valid)

    def classes(self, window: Window | None = None, grid: Grid | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The scene classification in SCL's numbers (0 is no data), nearest pixel, shape (height, width).

        Raises:
            UsageError: the scene has none.
        """
        if self.classification is None:
            raise UsageError(
                f"{self.path}: has no scene classification (SCL or QA_PIXEL), so clouds cannot be told",
                hint="Level-1C products have none; fetch the Level-2A product, or the missing file.",
            )
        grid = grid or self._grid(self.classification.band.files[0])
        window = window or grid.whole
        grid.check(window, self.path)
        values, valid = self._band(self.classification.band, window, grid, nearest=True)
        result = self.classification.to_scl(values[0])
        result[~valid] = 0
        return result

    def classes_grid(self) -> Grid | None:
        """The grid of the scene classification; None where there is none."""
        return self._grid(self.classification.band.files[0]) if self.classification else None

    def _band(self, band: Band, window: Window, grid: Grid, *, nearest: bool) -> tuple[Any, Any]:
        file = self._file(band, grid)
        source = self._dataset(file.path)
        own = self._grid(file)
        view, alpha = source, None
        times = _times_finer(own, grid) if nearest else 1
        if times > 1:
            return self._repeated(band, file, window, own, times)
        if own != grid:
            resampling = _DOWNSAMPLE if grid.resolution > own.resolution * 1.001 else _UPSAMPLE
            view, alpha = self._view(file, band, grid, Resampling.nearest if nearest else resampling)
        try:
            with environment(file.path):
                values = view.read(list(file.indices), window=window)
                marks = self._marks(view, alpha, values, file.indices, window)
        except (RasterioError, MemoryError) as error:
            raise UsageError(
                f"{_plain(file.path)}: cannot be read at row {window.row_off}, column {window.col_off}: {reason(error)}",
                hint="The file is probably truncated or damaged: fetch it again.",
            ) from None
        marked = view.nodata == band.nodata and MaskFlags.nodata in view.mask_flag_enums[file.indices[0] - 1]
        if band.nodata is not None and not np.isnan(band.nodata) and not marked:
            marks &= values != band.nodata
        valid = marks[0] if len(marks) == 1 else marks.any(0) if band.all_channels else marks.all(0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(0)
        return values, valid

    def _repeated(self, band: Band, file: BandFile, window: Window, own: Grid, times: int) -> tuple[Any, Any]:
        """The nearest pixel on a grid that is finer by a whole number: each one repeated, far cheaper than a warp."""
        top, left = int(window.row_off) // times, int(window.col_off) // times
        bottom = -(-(int(window.row_off) + int(window.height)) // times)
        right = -(-(int(window.col_off) + int(window.width)) // times)
        values, valid = self._band(band, Window(left, top, right - left, bottom - top), own, nearest=True)
        rows = slice(int(window.row_off) - top * times, int(window.row_off) - top * times + int(window.height))
        columns = slice(int(window.col_off) - left * times, int(window.col_off) - left * times + int(window.width))
        wide = [array.repeat(times, -2).repeat(times, -1)[..., rows, columns] for array in (values, valid)]
        return wide[0], wide[1]

    def _marks(
        self, view: Any, alpha: int | None, values: np.ndarray[Any, Any], indices: tuple[int, ...], window: Window
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which values the file itself marks as valid, band by band."""
        if alpha is not None:
            return np.repeat(view.read([alpha], window=window) > 0, len(values), 0)
        flags = {flag for index in indices for flag in view.mask_flag_enums[index - 1]}
        if flags <= {MaskFlags.all_valid}:
            return np.ones(values.shape, np.bool_)
        nodata = view.nodata
        if flags <= {MaskFlags.nodata} and nodata is not None and nodata == nodata:
            # The same as the mask, without another pass through the file.
            same: np.ndarray[Any, np.dtype[np.bool_]] = values != nodata
            return same
        masks: np.ndarray[Any, np.dtype[np.bool_]] = view.read_masks(list(indices), window=window) > 0
        return masks

    def _file(self, band: Band, grid: Grid) -> BandFile:
        """The coarsest file that is still as fine as the grid: no need to decode 10 m for 60 m."""
        finest, enough = band.files[0], grid.resolution * 1.001
        for file in reversed(band.files[1:]):
            if file.resolution is None or file.resolution > enough:
                continue
            # Names of shrunken samples lie about pixel sizes, so the file itself is asked too.
            if self._grid(finest).resolution < self._grid(file).resolution <= enough:
                return file
        return finest

    def _grid(self, file: BandFile) -> Grid:
        key = ("grid", file.path)
        if key not in self._open:
            self._open[key] = Grid.of(self._dataset(file.path), _plain(file.path))
        grid: Grid = self._open[key]
        return grid

    def _dataset(self, path: str) -> Any:
        if path not in self._open:
            try:
                with environment(path):
                    self._open[path] = rasterio.open(path)
            except RasterioError as error:
                raise UsageError(
                    f"{_plain(path)}: cannot be read as a raster: {reason(error)}",
                    hint="The file is missing, truncated or damaged: fetch it again.",
                ) from None
        return self._open[path]

    def _view(self, file: BandFile, band: Band, grid: Grid, resampling: Resampling) -> tuple[Any, int | None]:
        """The file as seen on another grid, and which of its bands is an alpha band (the file has no no-data value then)."""
        key = (file.path, grid, resampling)
        if key not in self._open:
            source = self._dataset(file.path)
            flags = source.mask_flag_enums[0]
            nodata = source.nodata if source.nodata is not None else band.nodata
            if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
                source, nodata = self._with_alpha(file.path, source), None
            elif nodata is None and np.dtype(source.dtypes[0]).kind == "f":
                nodata = float("nan")
            has_alpha = any(MaskFlags.alpha in flags for flags in source.mask_flag_enums)
            # Without a no-data value, an alpha band tells where there is nothing, and where the grid leaves the file.
            extra = {"src_nodata": nodata, "nodata": nodata} if nodata is not None else {"add_alpha": not has_alpha}
            # A true-colour pixel is no data where all three channels are.
            options = {"UNIFIED_SRC_NODATA": "YES"} if band.all_channels else {}
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
            self._open[key] = view, view.count if nodata is None else None
        found: tuple[Any, int | None] = self._open[key]
        return found

    def _with_alpha(self, path: str, source: Any) -> Any:
        """The same raster with its inner mask as an alpha band: a warp heeds that, but not the mask."""
        key = f"alpha {path}"
        if key not in self._open:
            alpha = (
                f'<VRTRasterBand dataType="Byte" band="{source.count + 1}"><ColorInterp>Alpha</ColorInterp><SimpleSource>'
                f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename><SourceBand>mask,1</SourceBand>'
                "</SimpleSource></VRTRasterBand>"
            )
            bands = "".join(
                f'<VRTRasterBand dataType="{_GDAL_TYPES[kind]}" band="{number}"><SimpleSource>'
                f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename><SourceBand>{number}</SourceBand>'
                "</SimpleSource></VRTRasterBand>"
                for number, kind in enumerate(source.dtypes, 1)
            )
            corners = ",".join(repr(float(number)) for number in source.transform.to_gdal())
            self._open[key] = rasterio.open(
                f'<VRTDataset rasterXSize="{source.width}" rasterYSize="{source.height}">'
                f"<SRS>{escape(source.crs.to_wkt())}</SRS><GeoTransform>{corners}</GeoTransform>{bands}{alpha}</VRTDataset>"
            )
        return self._open[key]

    def close(self) -> None:
        """Close its files."""
        items = list(self._open.values())
        for view in [item[0] for item in items if isinstance(item, tuple)]:
            view.close()
        for item in items:
            if not isinstance(item, (tuple, Grid)):
                item.close()
        self._open.clear()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _times_finer(own: Grid, grid: Grid) -> int:
    """How many pixels of ``grid`` lie side by side in one of ``own``, where that is a whole number everywhere; else 1."""
    times = round(own.resolution / grid.resolution)
    if times < 2 or own.crs != grid.crs or (own.height * times, own.width * times) != (grid.height, grid.width):
        return 1
    apart = max(abs(a - b) for a, b in zip(own.bounds, grid.bounds, strict=True))
    return times if apart < 1e-6 * grid.resolution else 1


def _scaled(values: np.ndarray[Any, Any], band: Band, step: float | None) -> np.ndarray[Any, Any]:
    """What stored values (which may be overwritten) stand for: as float32, or as whole numbers of ``step``."""
    if step is not None and values.dtype.kind in "ui" and abs(band.scale - step) < 1e-9 * step:
        shift = round(band.offset / step)
        limits = np.iinfo(np.int16)
        top, bottom = limits.max - max(shift, 0), limits.min - min(shift, 0)
        if values.size and int(values.max()) > top:
            np.minimum(values, top, out=values)
        if values.dtype.kind == "i" and values.size and int(values.min()) < bottom:
            np.maximum(values, bottom, out=values)
        # Sentinel-2's own numbers are as wide: no copy is needed to call them signed.
        whole: np.ndarray[Any, Any] = values.view(np.int16) if values.itemsize == 2 else values.astype(np.int16)
        if shift:
            whole += np.int16(shift)
        return whole
    result = values.astype(np.float32)
    if band.scale != 1:
        result *= np.float32(band.scale)
    if band.offset:
        result += np.float32(band.offset)
    return result if step is None else in_steps(result, step)


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
    from shoal_earth.rasters.items import read_item
    from shoal_earth.rasters.landsat import is_landsat, read_landsat
    from shoal_earth.rasters.plain import read_raster
    from shoal_earth.rasters.safe import is_safe, read_safe

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


def tile_of(name: str) -> str | None:
    """The MGRS tile (``35MNM``) or Landsat path and row (``232066``) in a product's name; None where there is none."""
    if found := re.search(r"(?:^|_)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:_|$|\.)", name):
        return found.group(1).zfill(5)
    found = re.match(r"L[COTEM]0\d_[A-Z0-9]{4}_(\d{6})_\d{8}", name)
    return found.group(1) if found else None


def _key(name: str) -> str:
    """``B8`` and ``b08`` are the same band."""
    return re.sub(r"^b0*(\d+a?)$", r"b\1", name.strip().lower())


def _plain(path: str) -> str:
    """A GDAL path as a person knows it."""
    return re.sub(r"^/vsi(?:zip|tar)/\{?|^/vsicurl/", "", path).replace("}", "")
