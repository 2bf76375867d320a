"""A small real-format scene, and the quickstart's real one."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import torch
from shapely.geometry import Polygon, box

from geotiff import write_geotiff

torch.set_num_threads(1)

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart"


def write_polygons(path: Path, shapes: list, crs: str | None = "EPSG:32616") -> Path:
    geopandas.GeoDataFrame({"id": range(len(shapes))}, geometry=shapes, crs=crs).to_file(path)
    return path


def square(row: int, column: int, side: int) -> Polygon:
    """A square that covers whole pixels of a raster of :func:`write_geotiff` as it is by default."""
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
    return write_geotiff(tmp_path / "town.tif", values), write_polygons(tmp_path / "houses.gpkg", shapes)
