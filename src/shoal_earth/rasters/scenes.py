"""One interface to every kind of scene: bands by name, read in windows, on one grid, no-data apart.

A :class:`Scene` is made by :func:`opening.read_scene`. It opens files when they are first read and holds no pixels.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.files import BandFile, Files, plain_path
from shoal_earth.rasters.grids import Grid, Pixels, in_steps
from shoal_earth.rasters.rooms import Rooms

__all__ = ["Band", "Classes", "Scene", "tile_of"]

_UPSAMPLE, _DOWNSAMPLE = Resampling.bilinear, Resampling.average
# Who asks for near infrared means the broad band; a sensor without one has the narrow.
_STAND_INS = {"nir": "nir08", "visual": "tci", "tci": "visual"}


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
    _files: Files = field(default_factory=Files, repr=False)
    _rooms: Rooms = field(default_factory=Rooms, repr=False)

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
        grids = [(self._files.grid(file), file) for file in files]
        best, file = min(grids, key=lambda pair: pair[0].resolution)
        for grid, other in grids:
            if grid.crs != best.crs:
                raise UsageError(
                    f"{plain_path(other.path)}: is in {grid.crs_name}, but {plain_path(file.path)} of the same scene in "
                    f"{best.crs_name}"
                )
            apart = max(abs(a - b) for a, b in zip(grid.bounds, best.bounds, strict=True))
            if apart > grid.resolution:
                raise UsageError(
                    f"{plain_path(other.path)}: its corners are {apart:g} units from those of {plain_path(file.path)}, "
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
        files = [self._file(band, grid) for band in found]
        shape = (sum(len(file.indices) for file in files), int(window.height), int(window.width))
        kinds = [self._files.dtype(file) for file in files]
        # Bands that are stored alike, and wanted as they are stored, need no room but that of the result.
        whole = step is not None and all(_counts_in(b, k, step) for b, k in zip(found, kinds, strict=True))
        as_stored = stored or whole
        kind = np.result_type(*kinds) if as_stored else np.dtype(np.float32)
        result = self._rooms.array(shape, np.dtype(np.int16) if whole and kind.itemsize == 1 else kind)
        valid: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        first = 0
        for band, file in zip(found, files, strict=True):
            part = result[first : first + len(file.indices)]
            first += len(part)
            values, good = self._band(band, window, grid, nearest=False, out=part if as_stored else None)
            if not as_stored:
                np.multiply(values, np.float32(band.scale), out=part, casting="unsafe", dtype=np.float32)
                if band.offset:
                    part += np.float32(band.offset)
            elif not stored:
                _shift(part, round(band.offset / band.scale))
            if good is not None:
                valid = good if valid is None else valid & good
        if whole and not stored:
            result = result.view(np.int16) if result.itemsize == 2 else result.astype(np.int16)
        elif step is not None and not stored:
            result = in_steps(result, step)
        if valid is None:
            valid = np.ones(shape[1:], np.bool_)
        elif not valid.all():
            result[:, ~valid] = 0
        return Pixels(result, valid)

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
        grid = grid or self._files.grid(self.classification.band.files[0])
        window = window or grid.whole
        grid.check(window, self.path)
        values, valid = self._band(self.classification.band, window, grid, nearest=True)
        result = self.classification.to_scl(values[0])
        if valid is not None:
            result[~valid] = 0
        return result

    def classes_grid(self) -> Grid | None:
        """The grid of the scene classification; None where there is none."""
        return self._files.grid(self.classification.band.files[0]) if self.classification else None

    def _band(
        self, band: Band, window: Window, grid: Grid, *, nearest: bool, out: np.ndarray[Any, Any] | None = None
    ) -> tuple[Any, Any]:
        """A band's values, read into ``out`` if it is given, and where they are valid (None: everywhere)."""
        file = self._file(band, grid)
        own = self._files.grid(file)
        times = _times_finer(own, grid) if nearest else 1
        if times > 1:
            return self._repeated(band, window, own, times)
        resampling = _DOWNSAMPLE if grid.resolution > own.resolution * 1.001 else _UPSAMPLE
        return self._files.read(
            file,
            window,
            grid,
            Resampling.nearest if nearest else resampling,
            nodata=band.nodata,
            all_channels=band.all_channels,
            out=out,
        )

    def _repeated(self, band: Band, window: Window, own: Grid, times: int) -> tuple[Any, Any]:
        """The nearest pixel on a grid that is finer by a whole number: each one repeated, far cheaper than a warp."""
        top, left = int(window.row_off) // times, int(window.col_off) // times
        bottom = -(-(int(window.row_off) + int(window.height)) // times)
        right = -(-(int(window.col_off) + int(window.width)) // times)
        values, valid = self._band(band, Window(left, top, right - left, bottom - top), own, nearest=True)
        rows = slice(int(window.row_off) - top * times, int(window.row_off) - top * times + int(window.height))
        columns = slice(int(window.col_off) - left * times, int(window.col_off) - left * times + int(window.width))
        # Along the rows first, while there are few of them.
        wide = [
            None if array is None else array.repeat(times, -1)[..., columns].repeat(times, -2)[..., rows, :]
            for array in (values, valid)
        ]
        return wide[0], wide[1]

    def _file(self, band: Band, grid: Grid) -> BandFile:
        """The coarsest file that is still as fine as the grid: no need to decode 10 m for 60 m."""
        finest, enough = band.files[0], grid.resolution * 1.001
        for file in reversed(band.files[1:]):
            if file.resolution is None or file.resolution > enough:
                continue
            # Names of shrunken samples lie about pixel sizes, so the file itself is asked too.
            if self._files.grid(finest).resolution < self._files.grid(file).resolution <= enough:
                return file
        return finest

    def close(self) -> None:
        """Close its files."""
        self._files.close()
        self._rooms.clear()

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


def _counts_in(band: Band, kind: np.dtype[Any], step: float) -> bool:
    """Whether a band is stored in whole numbers of this step, of at most 16 bits."""
    return kind.kind in "ui" and kind.itemsize <= 2 and abs(band.scale - step) < 1e-9 * step


def _shift(values: np.ndarray[Any, Any], offset: int) -> None:
    """Add an offset to stored numbers where they lie, held to what 16 bits with a sign can say."""
    limits = np.iinfo(np.int16)
    top, bottom = limits.max - max(offset, 0), limits.min - min(offset, 0)
    if values.size and int(values.max()) > top:
        np.minimum(values, top, out=values)
    if values.dtype.kind == "i" and values.size and int(values.min()) < bottom:
        np.maximum(values, bottom, out=values)
    if offset:
        # Sentinel-2's own numbers are as wide: from here on they are called signed.
        signed = values.view(np.int16) if values.itemsize == 2 else values
        signed += offset


def tile_of(name: str) -> str | None:
    """The MGRS tile (``35MNM``) or Landsat path and row (``232066``) in a product's name; None where there is none."""
    if found := re.search(r"(?:^|_)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:_|$|\.)", name):
        return found.group(1).zfill(5)
    found = re.match(r"L[COTEM]0\d_[A-Z0-9]{4}_(\d{6})_\d{8}", name)
    return found.group(1) if found else None


def _key(name: str) -> str:
    """``B8`` and ``b08`` are the same band."""
    return re.sub(r"^b0*(\d+a?)$", r"b\1", name.strip().lower())
