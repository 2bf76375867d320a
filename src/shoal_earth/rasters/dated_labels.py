"""Labels of a scene, or of what changed between two: polygons of the right dates, burnt once, with a class to ignore."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, reason, same_grid
from shoal_earth.rasters.labels import FOREGROUND, IGNORE, Polygons, burn
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.polygons import between
from shoal_earth.rasters.scenes import Scene

__all__ = ["Labels", "change_labels", "read_labels", "scene_labels"]

_STRIP = 1024


@dataclass(frozen=True)
class Labels:
    """Labels on a grid: 0 background, 1 foreground, 255 to ignore; and how many polygons they come from.

    ``undated`` polygons had no date and were left out; ``polygons`` touch the grid.
    """

    values: np.ndarray[Any, np.dtype[np.uint8]]
    polygons: int
    undated: int


@dataclass(frozen=True)
class _Target:
    """What burning needs to know of a scene."""

    height: int
    width: int
    crs: Any
    transform: Any
    path: Path


def scene_labels(
    polygons: Polygons,
    scene: Scene,
    grid: Grid,
    *,
    column: str | None = None,
    after: dt.date | None = None,
    unsure: Polygons | None = None,
    hidden: Iterable[int] = HIDDEN,
) -> Labels:
    """Labels of one scene: polygons dated up to its day (and after ``after``); where the ground is hidden, or there is no data,
    ignore.

    Args:
        polygons: all of them.
        scene: whose classification is used where it has one.
        grid: to burn on.
        column: of the polygons' dates; without it all count.
        after: day before which nothing counts, e.g. the start of the fire season.
        unsure: polygons of which it is not known whether the scene shows them: to ignore, beside the others.
        hidden: classes to ignore.

    Raises:
        UsageError: dates are needed but missing, or no polygon touches the grid.
    """
    undated = 0
    if column is not None:
        polygons, undated = between(polygons, column, after, _day(scene))
    values, count = _burn(polygons, grid, scene.path)
    if unsure is not None:
        values[(_burn(unsure, grid, scene.path)[0] == FOREGROUND) & (values != FOREGROUND)] = IGNORE
    _ignore(values, [scene], grid, hidden)
    return Labels(values, count, undated)


def change_labels(
    polygons: Polygons,
    first: Scene,
    second: Scene,
    grid: Grid,
    *,
    column: str,
    whole_year: bool = True,
    hidden: Iterable[int] = HIDDEN,
    smooth: int = 5,
) -> Labels:
    """Labels of a change: polygons dated after the first image up to the end of the second's year; hidden at either date, ignore.

    Args:
        polygons: all of them.
        first: the earlier scene.
        second: the later one.
        grid: to burn on.
        column: of the polygons' dates.
        whole_year: up to the end of the second image's year, as yearly inventories are dated; else up to its day.
        hidden: classes to ignore.
        smooth: side of a median filter over the burnt polygons, in pixels; 1 for none. What is ignored does not enter it.

    Raises:
        UsageError: a scene has no date, the dates are reversed, or no polygon touches the grid.
    """
    start, end = _day(first), _day(second)
    if start >= end:
        raise UsageError(
            f"{first.path} ({start}) is not before {second.path} ({end}): the dates are reversed",
            hint="Name the earlier scene first.",
        )
    chosen, undated = between(polygons, column, start, dt.date(end.year, 12, 31) if whole_year else end)
    values, count = _burn(chosen, grid, second.path)
    if smooth > 1:
        from scipy.ndimage import median_filter

        values = median_filter(values, size=smooth, mode="nearest")
    _ignore(values, [first, second], grid, hidden)
    return Labels(values, count, undated)


def read_labels(
    path: Path, grid: Grid, window: Window | None = None, *, command: str
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Labels that were written as a raster: all of them, or those of a window.

    Args:
        path: of the raster.
        grid: that it should have: its scene's.
        window: of that grid.
        command: that makes such labels, for advice.

    Raises:
        UsageError: it is not there, damaged, or of another scene.
    """
    again = f"Make the labels with: {command}"
    if not path.exists():
        raise UsageError(f"{path}: there are no such labels", hint=again)
    try:
        with rasterio.open(path) as file:
            if differs := same_grid(Grid.of(file, path), grid):
                raise UsageError(f"{path}: does not lie on its scene: {differs}", hint=again)
            values: np.ndarray[Any, np.dtype[np.uint8]] = file.read(1, window=window)
    except RasterioError as error:
        raise UsageError(f"{path}: cannot be read: {reason(error)}", hint=again) from None
    return values


def _burn(polygons: Polygons, grid: Grid, path: str) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], int]:
    if not len(polygons.frame):
        return np.zeros((grid.height, grid.width), np.uint8), 0
    target: Any = _Target(grid.height, grid.width, grid.crs, grid.transform, Path(path))
    values, (here,) = burn([polygons], target)
    assert values.max(initial=0) <= FOREGROUND
    return values, len(here)


def _ignore(values: np.ndarray[Any, Any], scenes: list[Scene], grid: Grid, hidden: Iterable[int]) -> None:
    """Mark what no scene shows, strip by strip."""
    classes = (*hidden, 0)
    for scene in scenes:
        if scene.classification is None:
            continue
        for row in range(0, grid.height, _STRIP):
            window = Window(0, row, grid.width, min(_STRIP, grid.height - row))
            part = values[row : row + int(window.height)]
            part[mask(scene.classes(window, grid), classes)] = IGNORE


def _day(scene: Scene) -> dt.date:
    if scene.acquired is None:
        raise UsageError(f"{scene.path}: has no date, so it cannot be told which polygons count")
    return scene.acquired.date()
