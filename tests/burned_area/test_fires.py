"""Fires of several agencies in one table, and what of them a scene of a given day shows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from shapely.geometry import Point, box

from shoal.errors import UsageError
from shoal_earth.burned_area.fires import gather, load_fires, save_fires
from shoal_earth.burned_area.labels import label_scenes
from shoal_earth.burned_area.places import load_labels
from shoal_earth.burned_area.synthetic import BurnedWorld, make_burned_world
from shoal_earth.rasters.masks import HIDDEN
from shoal_earth.rasters.opening import read_scene


def write(path: Path, columns: dict, shapes: list | None = None, crs: int = 3978) -> Path:
    count = len(next(iter(columns.values())))
    shapes = shapes or [box(i * 50_000, 0, i * 50_000 + 1000, 1000) for i in range(count)]
    geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    return path


@pytest.mark.parametrize(
    ("columns", "start", "end"),
    [
        ({"NFIREID": [7], "AFSDATE": ["2019-06-01"], "AFEDATE": ["2019-06-20"]}, "2019-06-01", "2019-06-20"),
        ({"GID": ["2019_7"], "AG_SDATE": [None], "HS_SDATE": ["2019/06/02"], "HS_EDATE": ["2019/06/04"]},
         "2019-06-02", "2019-06-04"),
        ({"FIRE_ID": ["A7"], "REP_DATE": ["2019-06-03"], "OUT_DATE": [None]}, "2019-06-03", "2019-06-03"),
        ({"id": ["9"], "FIREDATE": ["2019-06-01 00:00:00"], "FINALDATE": ["2019-06-05 00:00:00"]}, "2019-06-01", "2019-06-05"),
        ({"FIRE_ID": ["A7"], "YEAR": [2019]}, "2019-01-01", "2019-12-31"),
        ({"id": [1], "sdate": ["2019-06-09"], "edate": ["2019-06-01"]}, "2019-06-09", "2019-06-09"),
    ],
)  # fmt: skip
def test_agencies_columns_are_understood(tmp_path: Path, columns: dict, start: str, end: str) -> None:
    fires, (line,) = gather([write(tmp_path / "a.gpkg", columns)])
    (row,) = fires.frame.to_dict("records")
    assert (f"{row['start']:%Y-%m-%d}", f"{row['end']:%Y-%m-%d}") == (start, end)
    assert row["fire"].startswith("a/")
    assert row["hectares"] == pytest.approx(100, rel=0.02)
    assert line.startswith("a.gpkg: 1 features, 1 fires")
    assert ("reversed" in line) == (columns.get("edate") == ["2019-06-01"])


def test_the_real_polygon_of_effis(fixtures: Path) -> None:
    fires, _ = gather([fixtures / "burned" / "EFFIS_polygon" / "effis_9856.geojson"])
    (row,) = fires.frame.to_dict("records")
    assert row["hectares"] == pytest.approx(243, abs=1), "as EFFIS states"
    assert (str(row["start"].date()), str(row["end"].date())) == ("2016-07-20", "2016-07-22")
    assert [len(part.frame) for part in fires.on(dt.date(2016, 7, 23))] == [1, 0]
    assert [len(part.frame) for part in fires.on(dt.date(2016, 7, 22))] == [0, 1], "it may have burnt on that day"
    assert [len(part.frame) for part in fires.on(dt.date(2016, 7, 19))] == [0, 0]


def test_parts_of_a_fire_are_one_and_neighbours_go_together(tmp_path: Path) -> None:
    near, far = box(3000, 0, 4000, 1000), box(90_000, 0, 91_000, 1000)
    shapes = [box(0, 0, 1000, 1000), box(0, 1500, 1000, 2500), near, far]
    days = ["2019-06-01", "2019-06-03", "2019-07-01", "2019-08-01"]
    columns = {"FIRE_ID": ["x", "x", "y", "z"], "REP_DATE": days}
    fires, _ = gather([write(tmp_path / "set.shp", columns, shapes)], margin=1200)
    assert fires.frame["fire"].tolist() == ["set/x", "set/y", "set/z"]
    assert str(fires.frame["end"][0].date()) == "2019-06-03"
    groups = fires.frame["group"].tolist()
    assert groups[0] == groups[1] != groups[2]
    apart, _ = gather([tmp_path / "set.shp"], margin=500)
    assert apart.frame["group"].nunique() == 3
    save_fires(fires, tmp_path / "fires.gpkg")
    again = load_fires(tmp_path / "fires.gpkg")
    assert again.frame[["fire", "set", "start", "end", "group"]].equals(
        fires.frame[["fire", "set", "start", "end", "group"]]
    )


def test_fires_of_one_name_are_told_apart_by_agency_and_year_and_years_stand_for_days(tmp_path: Path) -> None:
    columns = {
        "FIRE_ID": ["1", "1", "1", "2", "3"],
        "SRC_AGENCY": ["BC", "BC", "AB", "BC", "BC"],
        "YEAR": [2018, 2019, 2019, 2020, 2019],
        "REP_DATE": ["2018-06-01", None, "2019-06-02", None, None],
        "OUT_DATE": ["2018-06-09", None, None, None, "2019-07-01"],
    }
    fires, (line,) = gather([write(tmp_path / "a.gpkg", columns)])
    found = {row["fire"]: (row["start"], row["end"]) for row in fires.frame.to_dict("records")}
    days = {name: tuple("" if day != day else f"{day:%Y-%m-%d}" for day in pair) for name, pair in found.items()}
    assert days == {
        "a/1-BC-2018": ("2018-06-01", "2018-06-09"),
        "a/1-BC-2019": ("2019-01-01", "2019-12-31"),
        "a/1-AB-2019": ("2019-06-02", "2019-06-02"),
        "a/2": ("2020-01-01", "2020-12-31"),
        "a/3": ("", "2019-07-01"),
    }
    assert "5 fires" in line
    burnt, unsure = (set(part.table["fire"]) for part in fires.on(dt.date(2019, 8, 1), 365))
    assert burnt == {"a/1-AB-2019", "a/3"}
    assert unsure == {"a/1-BC-2018", "a/1-BC-2019"}, "one is more than a year old, of the other only the year is known"
    assert set(fires.on(dt.date(2019, 8, 1))[0].table["fire"]) == burnt | {"a/1-BC-2018"}


def test_fires_across_the_antimeridian_are_neighbours_there(tmp_path: Path) -> None:
    shapes = [box(300_000, 7_200_000, 365_000, 7_205_000), box(366_000, 7_200_000, 367_000, 7_201_000)]
    shapes.append(box(200_000, 7_200_000, 201_000, 7_201_000))
    columns = {"FIRE_ID": ["x", "y", "z"], "REP_DATE": ["2019-06-01"] * 3}
    fires, _ = gather([write(tmp_path / "a.gpkg", columns, shapes, crs=32601)], margin=1000)
    groups = fires.frame["group"].tolist()
    assert groups[0] == groups[1] != groups[2]
    assert fires.frame["hectares"].tolist() == pytest.approx([32_500, 100, 100], rel=0.01)
    save_fires(fires, tmp_path / "fires.gpkg")
    again = load_fires(tmp_path / "fires.gpkg").frame
    assert again["fire"].tolist() == ["a/x", "a/y", "a/z"]
    assert again.to_crs(32601).area.tolist() == pytest.approx([s.area for s in shapes], rel=1e-6)


def test_files_that_are_no_fires(tmp_path: Path) -> None:
    write(tmp_path / "undated.gpkg", {"name": ["a"]})
    with pytest.raises(UsageError, match=r"undated.gpkg: has no column with the day of a fire"):
        gather([tmp_path / "undated.gpkg"])
    write(tmp_path / "points.gpkg", {"date": ["2019-01-01"]}, [Point(0, 0)])
    with pytest.raises(UsageError, match=r"points.gpkg: holds no polygons"):
        gather([tmp_path / "points.gpkg"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="nothing: holds no shapefile"):
        gather([tmp_path / "nothing"])
    with pytest.raises(UsageError, match=r"undated.gpkg: has no column .* so it is no table of fires"):
        load_fires(tmp_path / "undated.gpkg")
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        write(folder / "twice.gpkg", {"date": ["2019-01-01"]})
    with pytest.raises(UsageError, match='two sets of fires are named "twice"'):
        gather([tmp_path / "twice.gpkg", tmp_path / "other" / "twice.gpkg"])


def test_labels_say_what_had_burnt_by_the_day(burned: BurnedWorld, tmp_path: Path) -> None:
    fires, _ = gather([burned.fires])
    scenes = burned.scenes[:4]
    lines = label_scenes(scenes, fires, tmp_path, part="x")
    content = load_labels(tmp_path)
    assert len(lines) == len(content["scenes"]) == 4
    burnt_ever = 0
    for path, entry in zip(scenes, content["scenes"], strict=True):
        with read_scene(path) as scene, rasterio.open(tmp_path / entry["file"]) as file:
            grid, got, day = scene.grid(["red"]), file.read(1), scene.acquired.date()
            assert file.crs == grid.crs
            assert file.transform == grid.transform
            hidden = np.isin(scene.classes(grid=grid), (0, *HIDDEN))
        frame = fires.frame.to_crs(grid.crs)
        over, burning = (frame["end"].dt.date < day), (frame["start"].dt.date <= day) & (frame["end"].dt.date >= day)
        shapes = [(shape, 255) for shape in frame[burning].geometry] + [(shape, 1) for shape in frame[over].geometry]
        size = (grid.height, grid.width)
        expected = rasterize(shapes, size, transform=grid.transform) if shapes else np.zeros(size, np.uint8)
        expected[hidden] = 255
        assert (got == expected).all()
        for fire, pixels in entry["burnt"].items():
            shape = frame.set_index("fire").geometry[fire]
            assert pixels == int((rasterize([shape], size, transform=grid.transform) & (got == 1)).sum())
        burnt_ever += sum(entry["burnt"].values())
    assert burnt_ever > 500


def test_the_world_says_what_it_is_and_is_the_same_again(burned: BurnedWorld, tmp_path: Path) -> None:
    again = make_burned_world(tmp_path / "w", size=180, image="tif")
    files = sorted(p.relative_to(burned.folder) for p in burned.folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again.folder) for p in again.folder.rglob("*") if p.is_file())
    # A dBASE table has the day of its making in its head.
    for file in files:
        one, other = (burned.folder / file).read_bytes(), (again.folder / file).read_bytes()
        assert one == other or (file.suffix == ".dbf" and one[4:] == other[4:]), file
    assert {path.suffix for path in burned.scenes} == {".SAFE", ".zip"}
    assert all(path.name.startswith("S2Z_") for path in burned.scenes)
    columns = [set(geopandas.read_file(path).columns) for path in sorted(burned.fires.glob("*.shp"))]
    assert len(columns) == 5
    for names in ({"NFIREID", "AFSDATE"}, {"GID", "AG_SDATE", "HS_SDATE"}, {"FIRE_ID", "REP_DATE"}):
        assert any(names <= found for found in columns)
    with pytest.raises(UsageError, match="holds a world already"):
        make_burned_world(tmp_path / "w", size=180)
