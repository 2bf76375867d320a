"""Polygons with dates and areas: which count for an image of a given day, and how many hectares they are."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.labels import Polygons

if TYPE_CHECKING:
    from shoal_earth.rasters.scenes import Scene

__all__ = ["between", "hectares", "polygon_dates", "touching"]


def polygon_dates(polygons: Polygons, column: str) -> Any:
    """The date of each polygon (a pandas Series, NaT where there is none), from text, dates or plain years (their last day).

    Raises:
        UsageError: there is no such column, or nothing in it is a date.
    """
    import pandas as pd

    table = polygons.table
    name = polygons.column(column)
    if name is None:
        raise UsageError(
            f'{polygons.path}: has no column "{column}"',
            hint=f"It has: {', '.join(map(str, table.columns)) or 'none'}.",
        )
    values = table[name]
    numbers = pd.to_numeric(values, errors="coerce")
    years = numbers.notna() & (numbers % 1 == 0) & numbers.between(1900, 2200)
    if years.any() and years.sum() == values.notna().sum():
        # Known only to the year, so dated when the year is over.
        text = numbers.where(years).map(lambda year: f"{int(year)}-12-31" if year == year else None)
        return pd.to_datetime(text, errors="coerce")
    dates = pd.to_datetime(values, errors="coerce", format="mixed", utc=True).dt.tz_localize(None)
    if not dates.notna().any():
        sample = next((str(value) for value in values if value is not None), "nothing")
        raise UsageError(f'{polygons.path}: column "{column}" holds no dates, but e.g. "{sample[:40]}"')
    return dates


def between(
    polygons: Polygons, column: str, after: dt.date | dt.datetime | None, until: dt.date | dt.datetime | None
) -> tuple[Polygons, int]:
    """The polygons dated after one day and up to and including another.

    Args:
        polygons: with a column of dates.
        column: its name.
        after: for a change between two images, the day of the first.
        until: the day of the second (or of the only image).

    Returns:
        Those polygons (maybe none), and how many were left out because they have no date.

    Raises:
        UsageError: the column is missing or holds no dates, or the days are in the wrong order.
    """
    first, last = _day(after), _day(until)
    if first is not None and last is not None and first >= last:
        raise UsageError(
            f"{polygons.path}: nothing can be dated after {first.date()} and up to {last.date()}: the dates are reversed",
            hint="Give the earlier image first.",
        )
    dates = polygon_dates(polygons, column).dt.normalize()
    known = dates.notna().to_numpy()
    kept = known.copy()
    if first is not None:
        kept &= (dates > first).to_numpy()
    if last is not None:
        kept &= (dates <= last).to_numpy()
    return polygons.pick(kept), int((~known).sum())


def touching(polygons: Polygons, scene: Scene) -> Polygons:
    """The polygons that touch a scene's extent.

    Raises:
        UsageError: none does.
    """
    from shapely import box

    grid = scene.grid()
    here = polygons.frame.to_crs(grid.crs).intersects(box(*grid.bounds)).to_numpy()
    if not here.any():
        raise UsageError(
            f"{polygons.path}: none of its {len(here)} polygons touches {scene.path}",
            hint="Are they of another place, or is the CRS of one of the files wrong?",
        )
    return polygons.pick(here)


def hectares(shapes: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The area of each shape in hectares, in an equal-area projection centred on them.

    Args:
        shapes: a GeoSeries or GeoDataFrame with a CRS. Shapes all over the world are measured in one cylindrical projection.
    """
    geometry = shapes.geometry
    if geometry.crs is None:
        raise UsageError("areas need a coordinate reference system (CRS)")
    if not len(geometry):
        return np.zeros(0)
    degrees = geometry.to_crs(4326)
    west, south, east, north = degrees.total_bounds
    # Lambert's azimuthal projection is equal-area on the ellipsoid, and only awkward near the point opposite its centre.
    local = east - west < 60 and north - south < 60
    target = (
        f"+proj=laea +lat_0={(south + north) / 2:.6f} +lon_0={(west + east) / 2:.6f} +ellps=WGS84 +units=m"
        if local
        else 6933
    )
    areas: np.ndarray[Any, np.dtype[np.float64]] = geometry.to_crs(target).area.to_numpy() / 10_000
    return areas


def _day(day: dt.date | dt.datetime | None) -> Any:
    import pandas as pd

    if day is None:
        return None
    if isinstance(day, dt.datetime) and day.tzinfo is not None:
        day = day.astimezone(dt.UTC)
    return pd.Timestamp(day.year, day.month, day.day)
