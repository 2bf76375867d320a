"""PRODES: yearly polygons of deforestation in Brazil, as TerraBrasilis publishes them, and the protected areas that they lie in.

The columns are those of TerraBrasilis' vector files: ``image_date`` (of the image that shows the clearing), ``main_class``
(``DESMATAMENTO`` for deforestation), ``class_name`` (``d2021``), ``year`` (from August of the year before), ``area_km``,
``path_row`` and others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.labels import Polygons, read_polygons
from shoal_earth.rasters.output import write_polygons
from shoal_earth.rasters.polygons import hectares, in_degrees, polygon_dates

__all__ = ["CLEARINGS", "DATE", "UNITS", "Units", "find_units", "read_clearings", "read_prodes", "save_units"]

DATE = "image_date"
UNITS, CLEARINGS = "units.gpkg", "clearings.gpkg"
_NAMES = ("nome", "nome_uc", "nome_uc1", "unit", "name")


def read_prodes(path: Path, year: int | None = None) -> Polygons:
    """The polygons of deforestation of a PRODES file; other classes (hydrography, clouds, ...) are left out.

    Args:
        path: shapefile, GeoPackage, or a zip of either.
        year: only those of this PRODES year.

    Raises:
        UsageError: the file is missing, empty, of another kind, has no dates, or nothing of the year.
    """
    polygons = read_polygons(path)
    polygon_dates(polygons, DATE)
    kept = np.ones(len(polygons.frame), np.bool_)
    if main_class := polygons.column("main_class"):
        classes = polygons.table[main_class].astype(str).str.upper()
        kept &= (classes == "DESMATAMENTO").to_numpy()
        if not kept.any():
            raise UsageError(
                f'{path}: none of its {len(kept)} polygons has the main_class DESMATAMENTO, but e.g. "{classes.iloc[0]}"',
                hint="Use the file of yearly deforestation.",
            )
    if year is not None:
        column = polygons.column("year")
        if column is None:
            raise UsageError(f'{path}: has no column "year"', hint=f"It has: {', '.join(map(str, polygons.table))}.")
        import pandas as pd

        years = pd.to_numeric(polygons.table[column], errors="coerce")
        kept &= (years == year).to_numpy()
        if not kept.any():
            raise UsageError(
                f"{path}: has no deforestation of the year {year}, but of "
                f"{', '.join(str(int(y)) for y in sorted(years.dropna().unique()))}"
            )
    return polygons.pick(kept)


@dataclass(frozen=True)
class Units:
    """Protected areas by how much of them was cleared, most first; and the clearings inside, each with its unit.

    Columns of ``units``: ``unit``, ``hectares``, ``clearings``, ``first``, ``last`` (days). Of ``clearings``: ``unit``,
    ``image_date``, ``hectares``.
    """

    units: Any
    clearings: Any


def find_units(areas: Path, prodes: Path, year: int, *, name: str | None = None, top: int | None = None) -> Units:
    """Which protected areas contain clearings of a year, and how many hectares.

    Args:
        areas: vector file of the areas, in any CRS.
        prodes: see :func:`read_prodes`.
        year: of PRODES.
        name: column with the areas' names; found by itself where it is a usual one.
        top: only so many, the most deforested.

    Raises:
        UsageError: a file cannot be used, or no clearing lies in an area.
    """
    import geopandas
    from shapely import STRtree

    protected = read_polygons(areas)
    column = next((found for wanted in ([name] if name else _NAMES) if (found := protected.column(wanted))), None)
    if column is None:
        raise UsageError(
            f'{areas}: has no column "{name}"' if name else f"{areas}: has no column with names of areas that is known",
            hint=f"Name one: --name COLUMN. It has: {', '.join(map(str, protected.table)) or 'none'}.",
        )
    cleared = read_prodes(prodes, year)
    frame = in_degrees(protected.frame)
    names = protected.table[column].astype(str).to_numpy()
    clearings = in_degrees(cleared.frame)
    dates = polygon_dates(cleared, DATE)
    tree = STRtree(frame.to_numpy())
    which, of = tree.query(clearings.to_numpy(), predicate="intersects")
    parts = clearings.iloc[which].intersection(frame.iloc[of], align=False)
    table = geopandas.GeoDataFrame(
        {"unit": names[of], "image_date": dates.iloc[which].to_numpy()}, geometry=parts.to_numpy(), crs=4326
    )
    # Those that only touch an area from outside leave a line or a point.
    table = table[table.geom_type.isin(["Polygon", "MultiPolygon"])].reset_index(drop=True)
    if not len(table):
        raise UsageError(
            f"{prodes}: none of its {len(clearings)} clearings of {year} lies in an area of {areas}",
            hint="Are they of the same region, and is the CRS of both files right?",
        )
    table["hectares"] = hectares(table)
    grouped = table.groupby("unit")
    units = geopandas.GeoDataFrame(
        {
            "hectares": grouped["hectares"].sum(),
            "clearings": grouped.size(),
            "first": grouped["image_date"].min().dt.strftime("%Y-%m-%d"),
            "last": grouped["image_date"].max().dt.strftime("%Y-%m-%d"),
        },
        geometry=geopandas.GeoSeries(frame.to_numpy(), crs=4326).groupby(names).agg(lambda shapes: shapes.union_all()),
        crs=4326,
    )
    units = units[units["hectares"].notna()].rename_axis("unit").reset_index()
    units = units.sort_values(["hectares", "unit"], ascending=[False, True], kind="stable").head(top or len(units))
    table = table[table["unit"].isin(units["unit"])].assign(
        image_date=lambda t: t["image_date"].dt.strftime("%Y-%m-%d")
    )
    return Units(units.reset_index(drop=True), table.reset_index(drop=True))


def save_units(units: Units, folder: Path) -> None:
    """Write ``units.gpkg`` and ``clearings.gpkg``."""
    write_polygons(folder / UNITS, units.units)
    write_polygons(folder / CLEARINGS, units.clearings)


def read_clearings(folder: Path) -> Any:
    """What :func:`save_units` wrote of the clearings, as a GeoDataFrame.

    Raises:
        UsageError: it is not there or damaged.
    """
    found = read_polygons(folder / CLEARINGS)
    return found.frame.to_frame("geometry").set_geometry("geometry").join(found.table)
