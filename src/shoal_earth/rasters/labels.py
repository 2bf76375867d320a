"""Polygons from a vector file: mended, counted, moved to a raster's CRS, burnt once per scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid

if TYPE_CHECKING:
    from shoal_earth.rasters.strips import Strips

__all__ = ["BACKGROUND", "FOREGROUND", "IGNORE", "Polygons", "burn", "read_polygons"]

BACKGROUND, FOREGROUND, IGNORE = 0, 1, 255


@dataclass(frozen=True)
class Polygons:
    """Valid polygons of one file, with what was found on the way.

    ``found`` counts features; ``empty`` had no geometry, ``other`` were points or lines, ``mended`` had invalid rings.
    ``table`` holds the features' other columns, one row for each polygon of ``frame``.
    """

    path: Path
    frame: Any
    found: int
    empty: int
    other: int
    mended: int
    table: Any = None

    def column(self, name: str) -> str | None:
        """The column of this name, in whatever case the file writes it; None where there is none."""
        return next((column for column in self.table.columns if str(column).lower() == name.lower()), None)

    def pick(self, kept: np.ndarray[Any, Any]) -> Polygons:
        """Those polygons for which ``kept`` holds."""
        frame, table = self.frame[kept].reset_index(drop=True), self.table[kept].reset_index(drop=True)
        return replace(self, frame=frame, table=table)


def read_polygons(path: Path) -> Polygons:
    """Read all polygons of a vector file (GeoJSON, GeoPackage, shapefile, ...).

    Raises:
        UsageError: the file is missing, unreadable, has no CRS or no polygon.
    """
    import geopandas

    if not path.exists():
        raise UsageError(f"{path}: there is no such file of polygons")
    try:
        # As text, days keep the zone in which they were written.
        frame = geopandas.read_file(path, datetime_as_string=True)
    except Exception as error:  # the drivers raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{path}: cannot be read as a vector file: {reason[:200]}") from None
    found = len(frame)
    if found == 0 or not isinstance(frame, geopandas.GeoDataFrame):
        raise UsageError(f"{path}: holds no polygons")
    if frame.crs is None:
        raise UsageError(
            f"{path}: has no coordinate reference system (CRS)", hint="Add a .prj file or write it as GeoPackage."
        )
    shapes = frame.geometry
    bare = shapes.isna() | shapes.is_empty
    invalid = ~bare & ~shapes.is_valid
    shapes = shapes.where(~invalid, shapes.make_valid())
    # Mending a bow tie may leave lines and points beside its polygons.
    parts = shapes[~bare].explode(index_parts=False).explode(index_parts=False)
    parts = parts[parts.geom_type.isin(["Polygon"])]
    kept = set(parts.index)
    other = sum(index not in kept for index in shapes[~bare].index)
    if len(parts) == 0:
        raise UsageError(
            f"{path}: holds no polygons: {int(bare.sum())} of {found} features are empty, {other} of another kind"
        )
    table = frame.drop(columns=frame.geometry.name).loc[parts.index].reset_index(drop=True)
    return Polygons(path, parts.reset_index(drop=True), found, int(bare.sum()), other, int(invalid.sum()), table)


def burn(polygons: list[Polygons], scene: Strips) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[set[int]]]:
    """Burn polygons into a mask of the scene's grid: a pixel is foreground if its centre is inside one.

    Returns:
        The mask (height, width) and, for each file, which of its polygons touch the scene.
    """
    from rasterio.features import rasterize

    mask = np.zeros((scene.height, scene.width), np.uint8)
    grid = Grid(scene.crs, scene.transform, scene.height, scene.width)
    touching = []
    for file in polygons:
        try:
            shapes = grid.touched(file.frame)
        except Exception as error:
            raise UsageError(f"{file.path}: cannot be moved to the CRS of {scene.path}: {error}") from None
        touching.append(set(shapes.index))
        if len(shapes):
            rasterize(((shape, FOREGROUND) for shape in shapes), out=mask, transform=scene.transform)
    return mask, touching
