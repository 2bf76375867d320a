"""Polygons: hectares, dates, mended rings, any CRS and format, across the antimeridian."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import from_origin
from shapely.geometry import Polygon, box

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.labels import burn, read_polygons
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.polygons import between, hectares, in_degrees, polygon_dates, touching
from shoal_earth.rasters.stac import read_area
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


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([20190731, 20190801, -9999], ["2019-07-31", "2019-08-01", None]),
        ([1564531200000, 1564617600000, 0], ["2019-07-31", "2019-08-01", None]),
        (["20190731", "20190801", None], ["2019-07-31", "2019-08-01", None]),
        ([2019, 2020, -9999], ["2019-12-31", "2020-12-31", None]),
        (["31/07/2019", "01/08/2019 12:00", "2019-08-02"], ["2019-07-31", "2019-08-01", "2019-08-02"]),
        (["07/31/2019", "08/01/2019", None], ["2019-07-31", "2019-08-01", None]),
        (["01.08.2019", "02.08.2019", None], ["2019-08-01", "2019-08-02", None]),
        # Midnight in winter and in summer time, and late in the evening west of Greenwich.
        (["2019-08-01T00:00:00+10:00", "2019-12-01T00:00:00+11:00", None], ["2019-08-01", "2019-12-01", None]),
        (["2019-08-01T22:00:00-07:00", "2019-08-02 22:00:00Z", None], ["2019-08-01", "2019-08-02", None]),
    ],
)
@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_days_as_agencies_write_them(tmp_path: Path, written: list, read: list, suffix: str) -> None:
    polygons = read_polygons(dated(tmp_path / f"p.{suffix}", written))
    days = polygon_dates(polygons, "date")
    assert [None if day is None or day != day else f"{day:%Y-%m-%d}" for day in days] == read


@pytest.mark.parametrize(
    ("written", "match"),
    [
        (["01/08/2019", "02/08/2019"], 'holds days such as "01/08/2019": day and month cannot be told apart'),
        (["31/07/2019", "07/31/2019"], "day and month cannot be told apart"),
        ([7, 8], "holds numbers that are no dates, e.g. 7"),
        ([-9999, 0], "holds no dates, but e.g. -9999"),
    ],
)
def test_days_that_cannot_be_told_are_refused(tmp_path: Path, written: list, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        polygon_dates(read_polygons(dated(tmp_path / "p.gpkg", written)), "date")


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


def test_polygons_of_a_utm_zone_across_the_antimeridian_are_cut_and_measured_there(tmp_path: Path) -> None:
    # The edge of zone 1 lies at 180 degrees; at 65 degrees north both squares are within a degree of it.
    shapes = geopandas.GeoSeries(
        [box(355_000, 7_200_000, 360_000, 7_205_000), box(370_000, 7_200_000, 371_000, 7_201_000)]
    )
    shapes = shapes.set_crs(32601)
    west = geopandas.GeoSeries([box(300_000, 7_200_000, 365_000, 7_205_000)], crs=32601)
    assert np.ptp(west.to_crs(4326).total_bounds[::2]) > 350, "it does cross"
    exact = [
        abs(Geod(ellps="WGS84").geometry_area_perimeter(shape)[0]) / 10_000
        for shape in [*shapes.to_crs(4326), *west.to_crs(4326)]
    ]
    far = geopandas.GeoSeries([box(10, 50, 10.1, 50.1)], crs=4326).to_crs(32601)
    for together in (
        west,
        geopandas.GeoSeries([*west, *shapes], crs=32601),
        geopandas.GeoSeries([*west, *far], crs=32601),
    ):
        assert hectares(together)[0] == pytest.approx(exact[2], rel=1e-3)
    cut = in_degrees(west)
    assert [part.geom_type for part in cut] == ["MultiPolygon"]
    assert all(part.bounds[2] - part.bounds[0] < 2 for part in cut.iloc[0].geoms)
    assert hectares(cut)[0] == pytest.approx(exact[2], rel=1e-3)
    assert in_degrees(shapes).iloc[1].equals(shapes.to_crs(4326).iloc[1]), "what does not cross stays"
    west.to_file(tmp_path / "area.gpkg")
    area = read_area(str(tmp_path / "area.gpkg"))
    assert not area.intersects(box(-170, 60, 170, 70))


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


@pytest.mark.parametrize("epsg", [32601, 32660, 32721, 32633])
def test_shapes_of_other_parts_of_the_world_touch_no_grid(epsg: int) -> None:
    grid = Grid(CRS.from_epsg(epsg), from_origin(600_000, 5_100_000, 1000, 1000), 110, 110)
    lon, lat = (degrees.ravel() for degrees in np.meshgrid(np.arange(-180, 180, 3), np.arange(-84, 85, 3)))
    cells = geopandas.GeoSeries(shapely.box(lon, lat, lon + 3, lat + 3), crs=4326)
    # Some of these have no place in a transverse Mercator projection, and one seems to lie in the grid.
    here = grid.touched(cells)
    around = geopandas.GeoSeries([box(*grid.bounds).segmentize(5000)], crs=grid.crs).to_crs(4326).iloc[0]
    turned = [cells.translate(turn).intersects(around) for turn in (-360, 0, 360)]
    assert list(here.index) == list(cells[np.any(turned, 0)].index)
    assert 1 <= len(here) <= 4


def test_windows_touched_by_bounds() -> None:
    grid = Grid("EPSG:32721", from_origin(1000, 2000, 10, 10), 50, 60)
    window = grid.window_of((1015, 1955, 1041, 1999))
    assert (window.col_off, window.row_off, window.width, window.height) == (1, 0, 4, 5)
    assert grid.window_of((0, 0, 10, 10)) is None
    assert grid.window_of((900, 1000, 3000, 3000)).width == 60
