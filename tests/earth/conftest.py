"""A small real-format scene, and the quickstart's real one."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from shapely.geometry import Polygon, box

torch.set_num_threads(1)

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart"


def write_raster(
    path: Path, values: np.ndarray, *, crs: str | None = "EPSG:32616", nodata: float | None = None
) -> Path:
    """Bands (n, height, width) as a GeoTIFF of 1 m pixels, upper left corner at (500000, 4000000)."""
    profile = {
        "driver": "GTiff",
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype.name,
        "transform": from_origin(500_000, 4_000_000, 1, 1),
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **profile, **({"crs": crs} if crs else {})) as file:
        file.write(values)
    return path


def write_polygons(path: Path, shapes: list, crs: str | None = "EPSG:32616") -> Path:
    geopandas.GeoDataFrame({"id": range(len(shapes))}, geometry=shapes, crs=crs).to_file(path)
    return path


def square(row: int, column: int, side: int) -> Polygon:
    """A square that covers whole pixels of a raster of :func:`write_raster`."""
    left, top = 500_000 + column, 4_000_000 - row
    return box(left, top - side, left + side, top)


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """96 x 128 pixels, two bands, with 30 bright squares and their polygons."""
    rng = np.random.default_rng(5)
    values = rng.integers(100, 400, (2, 96, 128)).astype(np.uint16)
    shapes = []
    for _ in range(30):
        row, column, side = int(rng.integers(0, 84)), int(rng.integers(0, 116)), int(rng.integers(4, 12))
        values[:, row : row + side, column : column + side] += 600
        shapes.append(square(row, column, side))
    return write_raster(tmp_path / "town.tif", values), write_polygons(tmp_path / "houses.gpkg", shapes)
