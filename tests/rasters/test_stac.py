"""Searches: by area, dates, cloud and tile, in static catalogues and an API; catalogues that are down, slow or no catalogues."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path

import geopandas
import pytest
from shapely import Point, get_num_coordinates, union_all
from shapely.geometry import shape
from tests.rasters.conftest import Server

from shoal.errors import UsageError
from shoal_earth.rasters.stac import CatalogueError, Query, batch, load_items, read_area, save_items, search
from shoal_earth.rasters.synthetic import World

Serve = Callable[[Path], Server]


@pytest.fixture(scope="session")
def real(fixtures: Path) -> Path:
    """A real item collection: thirteen scenes of one tile, two months of 2020."""
    return fixtures / "stac" / "odc-stac" / "site2-2020_jun_jul-35MNM.geojson"


def test_the_real_items_by_date_cloud_and_area(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = search(str(real), Query())
    assert len(everything) == 13
    days = [item["properties"]["datetime"] for item in everything]
    assert days == sorted(days)
    june = search(str(real), Query(first=dt.date(2020, 6, 1), last=dt.date(2020, 6, 26)))
    assert len(june) == 6, "both days count"
    clear = search(str(real), Query(cloud=20))
    assert len(clear) == 11
    inside = everything[0]["bbox"]
    middle = f"{inside[0] + 0.1},{inside[1] + 0.1},{inside[2] - 0.1},{inside[3] - 0.1}"
    assert len(search(str(real), Query(area=read_area(middle)))) == 13
    assert search(str(real), Query(area=read_area("100,50,101,51"))) == []
    assert len(search(str(real), Query(tiles=("T35MNM",)))) == 13
    assert search(str(real), Query(tiles=("35MNN",))) == []
    assert len(search(str(real), Query(limit=3))) == 3
    monkeypatch.setattr("shoal_earth.rasters.stac._TOO_MANY", 12)
    with pytest.raises(CatalogueError, match="more than 12 items fit"):
        search(str(real), Query())
    assert len(search(str(real), Query(cloud=20))) == 11


def test_an_image_that_was_processed_anew_counts_once(real: Path, tmp_path: Path) -> None:
    content = json.loads(real.read_text())
    first = content["features"][0]
    facts = first["properties"] | {"s2:processing_baseline": "05.00"}
    other = first["properties"] | {"datetime": "2020-06-01T08:00:00Z", "s2:processing_baseline": "99.00"}
    content["features"] += [
        first | {"id": "newer", "properties": facts},
        first | {"id": "another day", "properties": other},
    ]
    (tmp_path / "items.geojson").write_text(json.dumps(content))
    found = {item["id"] for item in search(str(tmp_path / "items.geojson"), Query())}
    assert len(found) == 14
    assert {"newer", "another day"} <= found
    assert first["id"] not in found


def test_a_real_static_catalogue(fixtures: Path, serve: Serve) -> None:
    root = fixtures / "stac" / "stactools-sentinel2" / "examples"
    local = search(str(root / "catalog.json"), Query())
    assert sorted(item["id"] for item in local) == ["S2A_T01LAC_20200717T221944_L1C", "S2A_T07HFE_20190212T192646_L2A"]
    server = serve(root)
    remote = search(f"{server.url}/catalog.json", Query(), timeout=5, retries=1)
    assert [item["id"] for item in remote] == [item["id"] for item in local]


def test_links_become_absolute(world: World, serve: Serve) -> None:
    (item,) = search(str(world.catalogue), Query(limit=1))
    assert all(Path(asset["href"]).is_file() for asset in item["assets"].values())
    server = serve(world.folder)
    found = search(f"{server.url}/catalog.json", Query(), timeout=5, retries=1)
    assert len(found) == 8
    assert found[0]["assets"]["B02_10m"]["href"].startswith(f"{server.url}/scenes/S2Z_")


def test_an_api_is_asked_page_by_page_and_its_answer_checked(real: Path, tmp_path: Path, serve: Serve) -> None:
    features = json.loads(real.read_text())["features"]
    server = serve(tmp_path)
    asked: list[dict] = []
    links = [
        {"rel": "self", "href": server.url + "/landing.json"},
        {"rel": "root", "href": server.url + "/landing.json"},
        {"rel": "search", "href": server.url + "/search", "method": "POST", "type": "application/geo+json"},
    ]
    conforms = [
        "https://api.stacspec.org/v1.0.0/core",
        "https://api.stacspec.org/v1.0.0/item-search",
        "https://api.stacspec.org/v1.0.0/item-search#query",
    ]
    landing = {"type": "Catalog", "id": "api", "stac_version": "1.0.0", "description": "d", "links": links}
    (tmp_path / "landing.json").write_text(json.dumps({**landing, "conformsTo": conforms}))

    def answer(body: dict) -> dict:
        asked.append(body)
        start = int(body.get("token", 0))
        page = {"type": "FeatureCollection", "features": features[start : start + 5], "links": []}
        if start + 5 < len(features):
            page["links"] = [
                {"rel": "next", "href": server.url + "/search", "method": "POST", "body": {**body, "token": start + 5}}
            ]
        return page

    server.search = answer
    area = read_area("26,-8,29,-5")
    query = Query(area, dt.date(2020, 6, 1), dt.date(2020, 7, 31), 20, ("sentinel-2-l2a",))
    found = search(f"{server.url}/landing.json", query, timeout=5, retries=1)
    assert len(found) == 11, "this server ignores the filter, so it is applied here"
    assert len(asked) == 3
    assert asked[0]["collections"] == ["sentinel-2-l2a"]
    assert asked[0]["datetime"] == "2020-06-01T00:00:00Z/2020-07-31T23:59:59Z"
    assert asked[0]["query"] == {"eo:cloud_cover": {"lte": 20}}
    assert asked[0]["intersects"]["type"] == "Polygon"
    # Items that do not fit count for no limit: a server's pages are asked for until there are enough.
    last = features[-1]["id"]
    kept = search(f"{server.url}/landing.json", Query(area, limit=1), keep=lambda item: item["id"] == last, retries=1)
    assert [item["id"] for item in kept] == [last]
    # Of many fires far apart, the server is asked for cells around them and not for all that lies between.
    fires = union_all(
        [Point(x, y).buffer(0.05) for x, y in ((27.5, -8), (28.5, -6), (28.7, -6), (120, 60), (-120, 50))]
    )
    assert len(search(f"{server.url}/landing.json", Query(fires), retries=1)) > 0
    outline = shape(asked[-1]["intersects"])
    assert outline.contains(fires)
    assert outline.area < 60
    assert get_num_coordinates(outline) <= 300


def test_a_catalogue_that_recovers_is_used(world: World, serve: Serve) -> None:
    server = serve(world.folder)
    server.faults["/catalog.json"] = ["503", "503", "cut"]
    assert len(search(f"{server.url}/catalog.json", Query(), timeout=5, retries=3)) == 8
    server.faults["/catalog.json"] = ["cut"] * 2
    with pytest.raises(CatalogueError, match=r"catalog.json: .*the connection broke before the document was whole"):
        search(f"{server.url}/catalog.json", Query(), timeout=5, retries=1)


def test_catalogues_that_are_down_slow_or_none(tmp_path: Path, world: World, serve: Serve) -> None:
    server = serve(world.folder)
    server.faults["/catalog.json"] = ["silent"] * 3
    started = time.monotonic()
    with pytest.raises(CatalogueError, match=r"catalog.json: cannot be read as a catalogue: the server"):
        search(f"{server.url}/catalog.json", Query(), timeout=0.3, retries=1)
    assert time.monotonic() - started < 5
    server.faults["/catalog.json"] = ["500"] * 5
    with pytest.raises(CatalogueError, match="keeps failing"):
        search(f"{server.url}/catalog.json", Query(), timeout=1, retries=1)
    server.faults.clear()
    item = next((world.folder / "items").glob("*.json"))
    server.faults[f"/items/{item.name}"] = ["404"]
    with pytest.raises(CatalogueError, match=item.name):
        search(f"{server.url}/catalog.json", Query(), timeout=1, retries=0)
    url = server.url
    server.close()
    with pytest.raises(CatalogueError, match="cannot be reached"):
        search(f"{url}/catalog.json", Query(), timeout=1, retries=0)
    with pytest.raises(CatalogueError, match="there is no such catalogue"):
        search(str(tmp_path / "none.json"), Query())
    for name, text in (("text.json", "<html>"), ("list.json", "[1]"), ("other.json", '{"type": "Sonata"}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(CatalogueError, match=name):
            search(str(tmp_path / name), Query())


def test_a_catalogue_that_goes_in_circles_ends(tmp_path: Path) -> None:
    links = [{"rel": "child", "href": "./b.json"}, {"rel": "child", "href": "./a.json"}]
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"type": "Catalog", "id": name, "links": links}))
    assert search(str(tmp_path / "a.json"), Query()) == []


def test_reversed_dates_and_impossible_areas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the dates are reversed: 2020-02-01 is after 2020-01-01"):
        Query(first=dt.date(2020, 2, 1), last=dt.date(2020, 1, 1))
    with pytest.raises(UsageError, match="in percent"):
        Query(cloud=120)
    for text in ("1,2,3,x", "0,10,1,5", "0,0,200,10"):
        with pytest.raises(UsageError, match="is no area"):
            read_area(text)
    with pytest.raises(UsageError, match=r"none.shp: there is no such file"):
        read_area(str(tmp_path / "none.shp"))


def test_areas_across_the_antimeridian_and_from_files(tmp_path: Path, fixtures: Path) -> None:
    area = read_area("178,-10,-179,10")
    assert area.geom_type == "MultiPolygon"
    assert area.area == pytest.approx(3 * 20)
    frame = geopandas.read_file(fixtures / "burned" / "EFFIS_polygon" / "effis_9856.geojson")
    frame.to_crs(32633).to_file(tmp_path / "fire.gpkg")
    west, south, *_ = read_area(str(tmp_path / "fire.gpkg")).bounds
    assert (west, south) == pytest.approx((14.4431, 40.8060), abs=1e-3)
    found = []
    for path in sorted((fixtures / "stac" / "stactools-sentinel2" / "expected").glob("*T01*L2A*")):
        found += search(str(path), Query(area=area))
    assert not found, "all of these lie further from the equator"
    found = []
    for path in sorted((fixtures / "stac" / "stactools-sentinel2" / "expected").glob("S2A_MSIL2A_20230821*")):
        found += search(str(path), Query(area=read_area("179,-20,-179,-10")))
    assert len(found) == 1
    # As catalogues write it that do not cut footprints there.
    ring = [[179.5, 50], [-179.5, 50], [-179.5, 51], [179.5, 51], [179.5, 50]]
    item = {"type": "Feature", "id": "x", "assets": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "item.json").write_text(json.dumps(item))
    for text, count in (("0,50,10,51", 0), ("-179.9,50,-179.8,51", 1), ("179.8,50,179.9,51", 1)):
        assert len(search(str(tmp_path / "item.json"), Query(area=read_area(text)))) == count


def test_batches_cover_all_and_share_nothing() -> None:
    items = [{"id": str(number)} for number in range(1000)]
    parts = [batch(items, number, 187) for number in range(1, 188)]
    assert [item for part in parts for item in part] == items
    assert {len(part) for part in parts} == {5, 6}
    for number in (0, 188):
        with pytest.raises(UsageError, match="there is no batch"):
            batch(items, number, 187)


def test_found_items_are_kept_in_a_file(world: World, tmp_path: Path) -> None:
    items = search(str(world.catalogue), Query())
    save_items(items, tmp_path / "items.geojson")
    assert load_items(tmp_path / "items.geojson") == items
    assert len(geopandas.read_file(tmp_path / "items.geojson")) == 8
    (tmp_path / "x.json").write_text(json.dumps(items[0]))
    with pytest.raises(CatalogueError, match="no collection of items"):
        load_items(tmp_path / "x.json")
