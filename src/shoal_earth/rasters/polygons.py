"""Polygons with dates and areas: which count for an image of a given day, and how many hectares they are."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.labels import Polygons

if TYPE_CHECKING:
    from shoal_earth.rasters.scenes import Scene

__all__ = ["NoDates", "between", "cut_at_antimeridian", "hectares", "in_degrees", "polygon_dates", "touching"]

# Cosine of the angle from their middle within which shapes are measured in one azimuthal projection.
_NEAR = 0.82


class NoDates(UsageError):
    """A column that should hold dates has none."""


def polygon_dates(polygons: Polygons, column: str) -> Any:
    """The date of each polygon (a pandas Series, NaT where there is none).

    Read are dates, text (also ``31.12.2019``, ``31/12/2019`` and ``12/31/2019``, where the column as a whole tells the day from
    the month), and numbers: ``20191231``, milliseconds since 1970, and years, which count from their last day. Numbers that are
    not above 0 stand for days that are not known.

    Raises:
        UsageError: there is no such column, nothing in it is a date, or day and month cannot be told apart.
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
    where = f'{polygons.path}: column "{column}"'
    if pd.api.types.is_datetime64_any_dtype(values):
        dates = values.dt.tz_localize(None)
    else:
        values = values.where(values.astype(str).str.strip() != "")
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.notna().any() and numbers.notna().sum() == values.notna().sum():
            return _of_numbers(numbers, where)
        # The day is that of the place: midnight in Sydney is not the day before.
        local = values.astype(str).str.replace(r"(:\d\d(\.\d+)?) ?([+-]\d\d(:?\d\d)?|Z)$", r"\1", regex=True)
        values = _year_first(local.where(values.notna()), where)
        dates = pd.to_datetime(values, errors="coerce", format="mixed", utc=True).dt.tz_localize(None)
    if not dates.notna().any():
        sample = next(map(str, values.dropna()), "nothing")
        raise NoDates(f'{where} holds no dates, but e.g. "{sample[:40]}"')
    return dates


def _of_numbers(numbers: Any, where: str) -> Any:
    """Dates of whole numbers, all of one kind: which, their size tells."""
    import pandas as pd

    known = numbers[numbers > 0]
    if not len(known):
        raise NoDates(f"{where} holds no dates, but e.g. {numbers.dropna().iloc[0]:g}")
    whole = (known % 1 == 0).all()
    if whole and known.between(1900, 2200).all():
        # Known only to the year, so dated when the year is over.
        dates = pd.to_datetime(known.astype("int64").astype(str) + "-12-31")
    elif whole and known.between(19_000_101, 22_001_231).all():
        dates = pd.to_datetime(known.astype("int64").astype(str), format="%Y%m%d", errors="coerce")
    elif whole and known.between(10**11, 10**13).all():
        dates = pd.to_datetime(known.astype("int64"), unit="ms")
    else:
        raise UsageError(
            f"{where} holds numbers that are no dates, e.g. {known.iloc[0]:.10g}",
            hint="Read are years, days such as 20191231, and milliseconds since 1970.",
        )
    return dates.reindex(numbers.index)


def _year_first(values: Any, where: str) -> Any:
    """Text such as 31/12/2019 with its year first; whether it is the day or the month that comes first, the column must tell."""
    found = values.astype(str).str.extract(r"^\s*(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?!\d)")
    some = found[0].notna()
    if not some.any():
        return values
    one, mark, two, year = (found.loc[some, number] for number in range(4))
    # Dots are written where the day comes first.
    day_first = bool((one.astype(int) > 12).any() or (mark == ".").all())
    if day_first == bool((two.astype(int) > 12).any()):
        raise UsageError(
            f'{where} holds days such as "{values[some].iloc[0]}": day and month cannot be told apart',
            hint="Write them as 2019-12-31.",
        )
    day, month = (one, two) if day_first else (two, one)
    return values.where(~some, year + "-" + month.str.zfill(2) + "-" + day.str.zfill(2))


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
    here = polygons.frame.index.isin(scene.grid().touched(polygons.frame).index)
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
    from shapely import get_coordinates

    geometry = shapes.geometry
    if geometry.crs is None:
        raise UsageError("areas need a coordinate reference system (CRS)")
    if not len(geometry):
        return np.zeros(0)
    degrees = geometry.to_crs(4326)
    centre = _centre(get_coordinates(degrees.to_numpy()))
    if centre is not None:
        # Lambert's azimuthal projection is equal-area on the ellipsoid, and only awkward near the point opposite its centre.
        lon, lat = centre
        target = f"+proj=laea +lat_0={lat:.6f} +lon_0={lon:.6f} +ellps=WGS84 +units=m"
        return np.asarray(geometry.to_crs(target).area, np.float64) / 10_000
    areas = np.array(geometry.to_crs(6933).area, np.float64) / 10_000
    if len(geometry) > 1:
        # What crosses the antimeridian is torn by a cylinder, and measured by itself.
        bounds = degrees.bounds
        for place in np.flatnonzero((bounds["maxx"] - bounds["minx"] > 180).to_numpy()):
            areas[place] = hectares(geometry.iloc[[place]])[0]
    return areas


def _centre(points: np.ndarray[Any, Any]) -> tuple[float, float] | None:
    """Longitude and latitude in the middle of points, wherever the antimeridian lies; None if they are far apart."""
    lon, lat = np.radians(points.T)
    if not np.isfinite(points).all() or not len(points):
        return None
    units = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    east, north, up = units.mean(1)
    length = float(np.hypot(np.hypot(east, north), up))
    if length < 1e-9 or (units.T @ [east, north, up]).min() / length < _NEAR:
        return None
    return float(np.degrees(np.arctan2(north, east))), float(np.degrees(np.arcsin(up / length)))


def in_degrees(shapes: Any) -> Any:
    """Shapes of a GeoSeries in longitude and latitude, those across the antimeridian cut there, as GeoJSON wants it."""
    degrees = shapes.to_crs(4326)
    bounds = degrees.bounds
    for place in np.flatnonzero((bounds["maxx"] - bounds["minx"] > 180).to_numpy()):
        # Straight edges of another projection are bent here: the cut is where they are.
        fine = shapes.iloc[[place]].segmentize(shapes.iloc[place].length / 1000).to_crs(4326)
        degrees.iloc[place] = cut_at_antimeridian(fine.iloc[0])
    return degrees


def cut_at_antimeridian(shape: Any) -> Any:
    """A shape in degrees that goes from 179 to -179 the short way, in two parts; any other as it is."""
    from shapely import box, get_coordinates, make_valid, transform, union_all
    from shapely.affinity import translate

    west, _, east, _ = shape.bounds
    # What lies on the other side of the globe altogether goes across; what spans it does not.
    if east - west <= 180 or not (np.abs(get_coordinates(shape)[:, 0]) > 90).all():
        return shape

    def unroll(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        turned: np.ndarray[Any, Any] = points + [360.0, 0.0] * (points[:, :1] < 0)
        return turned

    whole = make_valid(transform(shape, unroll))
    one, other = (whole.intersection(box(start, -90, start + 180, 90)) for start in (0, 180))
    parts = [part for part in (one, translate(other, -360)) if part.area > 0]
    return union_all(parts) if parts else shape


def _day(day: dt.date | dt.datetime | None) -> Any:
    import pandas as pd

    if day is None:
        return None
    if isinstance(day, dt.datetime) and day.tzinfo is not None:
        day = day.astimezone(dt.UTC)
    return pd.Timestamp(day.year, day.month, day.day)
