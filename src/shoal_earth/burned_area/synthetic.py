"""A small generated world with fires, for tests and smoke runs: five sets of polygons as agencies publish them, and scenes.

Nothing in it was ever seen from space, and every name in it says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.synthetic import make_world

__all__ = ["SETS", "BurnedWorld", "make_burned_world"]

SETS = 5
_DATES = ("2019-06-05", "2019-07-20", "2019-08-14", "2019-09-18")
_CANADA = "EPSG:3978"  # Canada Atlas Lambert, in which these agencies publish


@dataclass(frozen=True)
class BurnedWorld:
    """Where everything lies. ``fires`` is a folder with a shapefile for each set."""

    folder: Path
    scenes: list[Path]
    fires: Path
    catalogue: Path


def make_burned_world(folder: Path, *, size: int = 180, seed: int = 0, image: str = "jp2") -> BurnedWorld:
    """Generate a world of five tiles, four dates and twenty fires; the same arguments give the same bytes.

    Every third product is a zip; every third image ends at the edge of the swath; some are too cloudy to use.

    Args:
        folder: where to; must not hold a world already.
        size: side of a tile in pixels of 10 m, a multiple of 6.
        seed: of everything.
        image: ``jp2`` or ``tif``.

    Raises:
        UsageError: an argument makes no sense, or the folder is in use.
    """
    import geopandas

    if (folder / "fires").exists():
        raise UsageError(f"{folder}: holds a world already", hint="Name another folder, or remove it.")
    made = make_world(
        folder, tiles=SETS, size=size, dates=_DATES, fires=4, clearings=1, seed=seed, image=image, gap=6000, zip_every=3
    )
    frame = geopandas.read_file(made.fires).to_crs(_CANADA)
    (folder / "fires").mkdir()
    for number, (_, part) in enumerate(frame.groupby("tile", sort=True), 1):
        columns = _STYLES[number % len(_STYLES)](part, f"synthetic-{number}")
        table = geopandas.GeoDataFrame(columns, geometry=part.geometry.to_numpy(), crs=_CANADA)
        table.to_file(folder / "fires" / f"set-{number}.shp")
    return BurnedWorld(folder, made.scenes, folder / "fires", made.catalogue)


def _span(part: Any) -> tuple[list[str], list[str]]:
    """First and last day of each fire: the world's fires are there from one day on, agencies know them by two."""
    days = [dt.date.fromisoformat(str(day)[:10]) for day in part["date"]]
    return [(day - dt.timedelta(days=3)).isoformat() for day in days], [day.isoformat() for day in days]


def _nbac(part: Any, name: str) -> dict[str, Any]:
    start, end = _span(part)
    count = len(part)
    return {
        "YEAR": [2019] * count,
        "NFIREID": np.arange(1, count + 1),
        "BASRC": [name] * count,
        "AFSDATE": start,
        "AFEDATE": end,
        "POLY_HA": np.round(part.area.to_numpy() / 1e4, 1),
    }


def _nbac_new(part: Any, name: str) -> dict[str, Any]:
    start, end = _span(part)
    count = len(part)
    # Where the agency gave no day, hot spots did.
    known = [number % 2 == 0 for number in range(count)]
    return {
        "YEAR": [2019] * count,
        "GID": [f"{name}-{number}" for number in range(count)],
        "AG_SDATE": [day if there else None for day, there in zip(start, known, strict=True)],
        "AG_EDATE": [day if there else None for day, there in zip(end, known, strict=True)],
        "HS_SDATE": start,
        "HS_EDATE": end,
        "POLY_HA": np.round(part.area.to_numpy() / 1e4, 1),
    }


def _cnfdb(part: Any, name: str) -> dict[str, Any]:
    start, end = _span(part)
    return {
        "SRC_AGENCY": ["SYN"] * len(part),
        "FIRE_ID": [f"{name}-{number}" for number in range(len(part))],
        "YEAR": [2019] * len(part),
        "REP_DATE": start,
        "OUT_DATE": end,
        "CALC_HA": np.round(part.area.to_numpy() / 1e4, 1),
    }


_STYLES: tuple[Callable[[Any, str], dict[str, Any]], ...] = (_nbac, _nbac_new, _cnfdb)
