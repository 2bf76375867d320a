"""A grid of pixels on the ground, and pixels read on one: what every scene, composite and map of this package has in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine, array_bounds
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from shoal.errors import UsageError

__all__ = ["Grid", "Pixels", "in_steps", "reason", "same_grid"]


@dataclass(frozen=True)
class Pixels:
    """Pixels of a window.

    ``values`` has shape (bands, height, width), ``valid`` (height, width); a value is only meant where ``valid`` is true,
    and is 0 elsewhere.
    """

    values: np.ndarray[Any, Any]
    valid: np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Grid:
    """North-up pixels: CRS, upper left corner and pixel size (as an affine transform), and how many.

    Units are those of the CRS, metres for projected ones.
    """

    crs: Any
    transform: Affine
    height: int
    width: int

    @classmethod
    def of(cls, dataset: Any, where: object) -> Grid:
        """The grid of an open dataset.

        Raises:
            UsageError: it has no CRS, or is rotated or mirrored.
        """
        if dataset.crs is None:
            raise UsageError(
                f"{where}: has no coordinate reference system (CRS)",
                hint="Assign the right one, e.g. with: gdal_edit.py -a_srs EPSG:32616 FILE",
            )
        own = dataset.transform
        if own.b or own.d or own.a <= 0 or own.e >= 0:
            raise UsageError(f"{where}: is rotated or mirrored", hint="Warp it to a north-up grid with gdalwarp first.")
        return cls(dataset.crs, own, dataset.height, dataset.width)

    @classmethod
    def like(cls, path: Path | str) -> Grid:
        """The grid of a raster file.

        Raises:
            UsageError: the file cannot be read.
        """
        try:
            with rasterio.open(path) as dataset:
                return cls.of(dataset, path)
        except RasterioError as error:
            raise UsageError(f"{path}: cannot be read as a raster: {reason(error)}") from None

    @property
    def resolution(self) -> float:
        """Width of a pixel in units of the CRS."""
        return float(self.transform.a)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top, in the CRS."""
        left, bottom, right, top = array_bounds(self.height, self.width, self.transform)
        return left, bottom, right, top

    @property
    def crs_name(self) -> str:
        """``EPSG:32616``, or well-known text where the CRS has no code."""
        try:
            code = self.crs.to_epsg()
        except CRSError:
            code = None
        return f"EPSG:{code}" if code else str(self.crs.to_wkt())

    def resampled(self, resolution: float) -> Grid:
        """The same ground from the same upper left corner, in pixels of another size.

        Where the size does not divide the extent, the last pixels reach less than half a pixel beyond it or stop short of it.
        """
        if not resolution > 0:
            raise UsageError(f"the resolution must be above 0, not {resolution}")
        left, bottom, right, top = self.bounds
        width, height = round((right - left) / resolution), round((top - bottom) / resolution)
        if min(width, height) < 1:
            raise UsageError(f"a pixel of {resolution:g} is larger than the scene")
        return Grid(self.crs, Affine(resolution, 0, left, 0, -resolution, top), height, width)

    def part(self, window: Window) -> Grid:
        """The grid of a window of this one."""
        own = self.transform
        corner = Affine(own.a, 0, own.c + window.col_off * own.a, 0, own.e, own.f + window.row_off * own.e)
        return Grid(self.crs, corner, int(window.height), int(window.width))

    @property
    def whole(self) -> Window:
        """The window that is all of it."""
        return Window(0, 0, self.width, self.height)

    def windows(self, side: int = 1024) -> Iterator[Window]:
        """Squares (smaller at the right and lower edges) that cover it, row by row."""
        for row in range(0, self.height, side):
            for column in range(0, self.width, side):
                yield Window(column, row, min(side, self.width - column), min(side, self.height - row))

    def check(self, window: Window, where: object) -> None:
        """Raise UsageError unless the window lies inside."""
        if (
            window.col_off < 0
            or window.row_off < 0
            or min(window.width, window.height) < 1
            or window.col_off + window.width > self.width
            or window.row_off + window.height > self.height
        ):
            raise UsageError(
                f"{where}: the window of {window.width} x {window.height} pixels at row {window.row_off}, "
                f"column {window.col_off} leaves the grid of {self.width} x {self.height}"
            )

    def window_of(self, bounds: tuple[float, float, float, float]) -> Window | None:
        """The whole pixels that bounds in this CRS (left, bottom, right, top) touch; None where they touch none."""
        left, bottom, right, top = bounds
        own = self.transform
        column = max(0, int(np.floor((left - own.c) / own.a)))
        row = max(0, int(np.floor((top - own.f) / own.e)))
        width = min(self.width, int(np.ceil((right - own.c) / own.a))) - column
        height = min(self.height, int(np.ceil((bottom - own.f) / own.e))) - row
        return Window(column, row, width, height) if width > 0 and height > 0 else None

    def touched(self, shapes: Any, margin: float = 0.0) -> Any:
        """The shapes of a GeoSeries that touch it, in its CRS and with their index, grown by ``margin`` in its units."""
        from shapely import box

        # Shapes of other parts of the world have no place in most projections, or a wrong one.
        here = shapes[self._near(shapes, margin)].to_crs(self.crs)
        here = here.buffer(margin) if margin else here
        return here[here.intersects(box(*self.bounds))]

    def _near(self, shapes: Any, margin: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which shapes may touch it, by longitude and latitude alone."""
        left, bottom, right, top = self.bounds
        sides = (left - margin, bottom - margin, right + margin, top + margin)
        west, south, east, north = transform_bounds(self.crs, "EPSG:4326", *sides, densify_pts=21)
        east += 360 * (west > east)
        found: np.ndarray[Any, Any] = shapes.to_crs(4326).bounds.to_numpy()
        least, low, most, high = found.T
        beside = [(least + turn <= east) & (most + turn >= west) for turn in (-360, 0, 360)]
        near: np.ndarray[Any, np.dtype[np.bool_]] = np.any(beside, 0) & (low <= north) & (high >= south)
        return near


def same_grid(one: Grid, other: Grid, tolerance: float = 0.01) -> str | None:
    """None if both grids are the same to within ``tolerance`` of a pixel, else what differs, in words."""
    if one.crs != other.crs:
        return f"one is in {one.crs_name}, the other in {other.crs_name}"
    if (one.height, one.width) != (other.height, other.width):
        return f"one has {one.width} x {one.height} pixels, the other {other.width} x {other.height}"
    slack = tolerance * one.resolution
    apart = max(abs(a - b) for a, b in zip(one.bounds, other.bounds, strict=True))
    return f"their corners are {apart:g} units apart" if apart > slack else None


def in_steps(values: np.ndarray[Any, Any], step: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Values as 16-bit integers, in steps; what lies beyond their range is held to its ends."""
    scaled = values * np.float32(1 / step)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -32_768, 32_767, out=scaled)
    return scaled.astype(np.int16)


def reason(error: BaseException) -> str:
    """The first line of what a library's error says."""
    text = str(error.__cause__ or error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
