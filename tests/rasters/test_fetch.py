"""Downloads: resumed, checked, bounded, atomic, against a server that is slow, lies, breaks and fails."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from shapely.geometry import box
from tests.rasters.conftest import QUICK, Server

from shoal.errors import ShoalError, UsageError
from shoal_earth.rasters import parts, transfer
from shoal_earth.rasters.assets import ITEM, choose_assets, plan_assets
from shoal_earth.rasters.download import Access, Download, FetchError, download, download_all
from shoal_earth.rasters.fetch import fetch_items, fetch_windows, planetary_computer
from shoal_earth.rasters.filters import measure
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.output import WriteError
from shoal_earth.rasters.parts import Part
from shoal_earth.rasters.stac import Query, search
from shoal_earth.rasters.synthetic import World

Serve = Callable[[Path], Server]


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    content = np.random.default_rng(0).bytes(1_500_000)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "f.bin").write_bytes(content)
    return content


def sha(content: bytes) -> str:
    return "1220" + hashlib.sha256(content).hexdigest()


def clean(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_is_not_fetched_twice(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    assert download(file, QUICK) == len(data)
    assert file.path.read_bytes() == data
    assert clean(tmp_path / "out") == ["f.bin"]
    assert download(file, QUICK) is None
    assert len(server.requests) == 1


def test_a_broken_connection_is_resumed_where_it_broke(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    server.faults["/f.bin"] = ["cut"] * 5  # more often than attempts, but it gets further each time
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    received = download(file, QUICK)
    assert file.path.read_bytes() == data
    assert len(server.requests) == 6
    starts = [int(span[6:-1]) for _, span in server.requests[1:] if span]
    assert len(starts) == 5
    assert starts == sorted(starts)
    assert starts[0] > 0
    assert received == len(data) == server.sent["/f.bin"], "no byte was sent twice"


def test_a_later_run_goes_on_with_what_an_earlier_one_left(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    server.faults["/f.bin"] = ["cut", *["503"] * 10]
    with pytest.raises(FetchError, match=r"/f.bin: cannot be fetched: the server answers 503"):
        download(file, QUICK)
    assert not file.path.exists()
    assert all(name.startswith(".") for name in clean(tmp_path / "out"))
    server.faults["/f.bin"].clear()
    assert download(file, QUICK) < len(data)
    assert file.path.read_bytes() == data
    assert clean(tmp_path / "out") == ["f.bin"]


def test_a_file_that_changed_in_between_is_started_anew(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin")
    server.faults["/f.bin"] = ["cut", *["503"] * 10]
    with pytest.raises(FetchError):
        download(file, QUICK)
    other = data[::-1]
    (tmp_path / "www" / "f.bin").write_bytes(other)
    server.faults["/f.bin"].clear()
    download(file, QUICK)
    assert file.path.read_bytes() == other


def test_without_a_tag_or_checksum_nothing_is_pieced_together(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    server.tags = False
    server.faults["/f.bin"] = ["cut"]
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin")
    download(file, QUICK)
    assert file.path.read_bytes() == data
    assert [span for _, span in server.requests] == [None, None]


@pytest.mark.parametrize("fault", ["503", "429", "500"])
def test_a_server_in_trouble_is_asked_again(tmp_path: Path, data: bytes, serve: Serve, fault: str) -> None:
    server = serve(tmp_path / "www")
    server.faults["/f.bin"] = [fault, fault]
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    download(file, QUICK)
    assert file.path.read_bytes() == data
    assert len(server.requests) == 3


@pytest.mark.parametrize(("code", "hint"), [("404", "Search the catalogue again"), ("403", "SHOAL_EARTH_TOKEN")])
def test_a_refusal_is_final_and_says_what_to_do(
    tmp_path: Path, data: bytes, serve: Serve, code: str, hint: str
) -> None:
    server = serve(tmp_path / "www")
    server.faults["/f.bin"] = [code] * 9
    with pytest.raises(FetchError, match=f"/f.bin: the server answers {code}") as caught:
        download(Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin"), QUICK)
    assert hint in str(caught.value)
    assert len(server.requests) == 1


def test_a_size_that_is_not_as_promised_is_refused(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    for promised in (len(data) - 1, len(data) + 1):
        file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", promised)
        with pytest.raises(FetchError, match=r"has 1,500,000 bytes, but the catalogue promises 1,\d+,\d+"):
            download(file, QUICK)
        assert clean(tmp_path / "out") == []


def test_a_server_that_sends_more_or_less_without_saying(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    server.faults["/f.bin"] = ["unsized"]  # ends early: is resumed
    download(file, QUICK)
    assert file.path.read_bytes() == data
    file.path.unlink()
    server.faults["/f.bin"] = ["endless"]
    with pytest.raises(FetchError, match="sent more than the 1,500,000 bytes promised"):
        download(file, QUICK)
    assert not file.path.exists()


def test_a_wrong_checksum_is_tried_once_more_and_then_refused(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    server.faults["/f.bin"] = ["corrupt"]
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    download(file, QUICK)
    assert file.path.read_bytes() == data
    file.path.unlink()
    server.faults["/f.bin"] = ["corrupt", "corrupt"]
    with pytest.raises(FetchError, match="sha256 checksum differs"):
        download(file, QUICK)
    assert clean(tmp_path / "out") == []


def test_checksums_of_all_kinds_that_catalogues_use(tmp_path: Path) -> None:
    def differs(checksum: str) -> bool:
        part = Part(Download("http://127.0.0.1/f", tmp_path / "f", checksum=checksum))
        part.path.write_bytes(b"pixels")
        return part.wrong_checksum() is not None

    for prefix, name in parts._HASHES.items():
        good = prefix + hashlib.new(name, b"pixels").hexdigest()
        assert not differs(good)
        assert not differs(good.upper())
        assert differs(prefix + hashlib.new(name, b"other").hexdigest())
    # An unknown kind promises nothing that could be checked.
    assert not differs("ffff00")


@pytest.mark.parametrize("fault", ["slow", "silent"])
def test_a_server_that_dawdles_is_given_up(tmp_path: Path, data: bytes, serve: Serve, fault: str) -> None:
    server = serve(tmp_path / "www")
    server.faults["/f.bin"] = [fault]
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data), sha(data))
    started = time.monotonic()
    download(file, dataclasses.replace(QUICK, read=0.5))
    assert time.monotonic() - started < 4
    assert file.path.read_bytes() == data
    assert len(server.requests) == 2


def test_nobody_there(tmp_path: Path, serve: Serve) -> None:
    server = serve(tmp_path)
    url = server.url
    server.close()
    with pytest.raises(FetchError, match=r"/f.bin: cannot be fetched: no connection"):
        download(Download(f"{url}/f.bin", tmp_path / "out" / "f.bin"), QUICK)


def test_a_full_disk_leaves_nothing(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    file = Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin", len(data))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    try:
        with pytest.raises(WriteError, match=r"f.bin: cannot be written: the file may not grow further"):
            download(file, QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert clean(tmp_path / "out") == []


def test_too_little_room_is_told_before_the_first_byte(
    tmp_path: Path, data: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(tmp_path / "www")
    usage = transfer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(WriteError, match="the disk is full"):
        download(Download(f"{server.url}/f.bin", tmp_path / "out" / "f.bin"), QUICK)
    assert clean(tmp_path / "out") == []


def test_several_failures_are_told_together_and_the_rest_is_fetched(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    out = tmp_path / "out"
    names = ["gone1", "f.bin", "gone2"]
    with pytest.raises(FetchError, match="2 of 3 files could not be fetched") as caught:
        download_all([Download(f"{server.url}/{name}", out / name) for name in names], QUICK)
    assert "gone1" in str(caught.value)
    assert "gone2" in str(caught.value)
    assert clean(out) == ["f.bin"]


def test_two_processes_may_fetch_the_same_file(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    answer = server.answer

    def slowly(handler: object, head: bool = False) -> None:
        time.sleep(0.2)
        answer(handler, head)

    server.answer = slowly
    code = (
        "import sys; from pathlib import Path; from shoal_earth.rasters.download import *\n"
        "print(download(Download(sys.argv[1], Path(sys.argv[2])), Access(attempts=3, wait=0.01)))"
    )
    command = [sys.executable, "-c", code, f"{server.url}/f.bin", str(tmp_path / "out" / "f.bin")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed == ["1500000", "None", "None"]
    assert len(server.requests) == 1
    assert (tmp_path / "out" / "f.bin").read_bytes() == data
    assert clean(tmp_path / "out") == ["f.bin"]


def test_links_that_are_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="links of s3:// are not fetched"):
        download(Download("s3://bucket/f.bin", tmp_path / "f.bin"), QUICK)


# Scenes


@pytest.fixture
def items(world: World, serve: Serve) -> tuple[Server, list[dict]]:
    """The world behind a server, and all its items."""
    server = serve(world.folder)
    return server, search(f"{server.url}/catalog.json", Query(), timeout=5, retries=1)


def test_scenes_are_fetched_whole_and_read_the_same(
    tmp_path: Path, world: World, items: tuple[Server, list[dict]]
) -> None:
    server, found = items
    counts = fetch_items(found[:2], tmp_path / "out", access=QUICK)
    assert (counts["scenes"], counts["fetched"]) == (2, 10)
    name = found[0]["id"]
    original = next(path for path in world.scenes if path.stem == name)
    with read_scene(tmp_path / "out" / name) as here, read_scene(original) as there:
        a, b = here.read(["nir", "red"]), there.read(["nir", "red"])
        np.testing.assert_array_equal(a.values, b.values)
        assert (here.classes() == there.classes()).all()
        assert here.acquired == there.acquired
    asked = len(server.requests)
    again = fetch_items(found[:2], tmp_path / "out", access=QUICK)
    assert again["there"] == 10
    assert len(server.requests) == asked


def test_a_scene_counts_as_whole_only_with_its_item(tmp_path: Path, items: tuple[Server, list[dict]]) -> None:
    server, found = items
    path = found[1]["assets"]["B03_10m"]["href"].removeprefix(server.url)
    server.faults[path] = ["404"]
    with pytest.raises(FetchError, match="B03_10m"):
        fetch_items(found[:2], tmp_path, access=QUICK)
    assert (tmp_path / found[0]["id"] / ITEM).is_file()
    assert not (tmp_path / found[1]["id"] / ITEM).exists()
    with pytest.raises(UsageError, match="is a folder, but no scene"):
        read_scene(tmp_path / found[1]["id"])
    counts = fetch_items(found[:2], tmp_path, access=QUICK)
    assert counts["fetched"] == 1
    assert (tmp_path / found[1]["id"] / ITEM).is_file()


def test_more_bands_of_a_scene_join_those_that_are_there(tmp_path: Path, items: tuple[Server, list[dict]]) -> None:
    _, found = items
    fetch_items(found[:1], tmp_path, bands=["red", "scl"], access=QUICK)
    counts = fetch_items(found[:1], tmp_path, bands=["red", "swir22"], access=QUICK)
    assert (counts["fetched"], counts["there"]) == (1, 1)
    with read_scene(tmp_path / found[0]["id"]) as scene:
        assert sorted(scene.bands) == ["B04", "B12"]
        assert scene.classification is not None
    before = (tmp_path / found[0]["id"] / ITEM).stat().st_mtime_ns
    fetch_items(found[:1], tmp_path, bands=["red"], access=QUICK)
    assert (tmp_path / found[0]["id"] / ITEM).stat().st_mtime_ns == before


def test_a_catalogue_that_lies_about_sizes(tmp_path: Path, items: tuple[Server, list[dict]]) -> None:
    _, found = items
    item = json.loads(json.dumps(found[0]))
    item["assets"]["B02_10m"]["file:size"] += 7
    with pytest.raises(FetchError, match=r"B02_10m.tif: has [\d,]+ bytes, but the catalogue promises"):
        fetch_items([item], tmp_path, access=QUICK)
    assert not (tmp_path / item["id"] / ITEM).exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "..", "/etc", "x" * 300])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, items: tuple[Server, list[dict]], name: str) -> None:
    item = {**items[1][0], "id": name}
    with pytest.raises(FetchError, match="cannot be the name of a folder"):
        fetch_items([item], tmp_path / "out", access=QUICK)
    assert not (tmp_path / "out").exists()


def test_file_names_of_assets_stay_inside(tmp_path: Path, items: tuple[Server, list[dict]]) -> None:
    item = json.loads(json.dumps(items[1][0]))
    item["assets"]["B02_10m"]["file:local_path"] = "../../../B02 $evil.tif"
    item["assets"]["B03_10m"]["file:local_path"] = "x/item.json"
    fetch_items([item], tmp_path / "out", bands=["blue", "green"], access=QUICK)
    assert clean(tmp_path / "out" / item["id"]) == ["B02__evil.tif", "B03_10m-item.json", "item.json"]
    assert clean(tmp_path) == ["out"]


def test_only_the_blocks_that_places_touch_are_fetched(tmp_path: Path, serve: Serve) -> None:
    profile = {"driver": "COG", "count": 1, "height": 2048, "width": 2048, "dtype": "uint16", "crs": "EPSG:32721"}
    profile |= {"transform": rasterio.Affine(10, 0, 600_000, 0, -10, 8_800_000), "nodata": 0, "blocksize": 512}
    values = np.random.default_rng(1).integers(1, 9000, (1, 2048, 2048)).astype(np.uint16)
    (tmp_path / "www").mkdir()
    with rasterio.open(tmp_path / "www" / "B04.tif", "w", compress="none", **profile) as file:
        file.write(values)
    server = serve(tmp_path / "www")
    server.faults["/B04.tif"] = ["503"]
    asset = {"href": f"{server.url}/B04.tif", "type": "image/tiff", "roles": ["data"]}
    item = {"type": "Feature", "id": "S2_x", "properties": {}, "assets": {"B04": asset}, "links": []}
    place = geopandas.GeoSeries([box(606_000, 8_793_000, 606_500, 8_793_500)], crs="EPSG:32721").to_crs(4326)
    counts = fetch_windows([item], place, tmp_path / "out", bands=["red"], access=QUICK)
    assert counts["pixels"] == 512 * 512
    size = (tmp_path / "www" / "B04.tif").stat().st_size
    assert sum(server.sent.values()) < size / 5, "of sixteen blocks one was needed"
    with read_scene(tmp_path / "out" / "S2_x") as scene:
        grid = scene.grid()
        assert (grid.width, grid.resolution) == (2048, 10)
        pixels = scene.read(["red"], stored=True)
        assert pixels.valid.sum() == 512 * 512
        assert (pixels.values[0][pixels.valid] == values[0][pixels.valid]).all()
    assert (tmp_path / "out" / "S2_x" / "B04.tif").stat().st_size < 700_000
    assert fetch_windows([item], place, tmp_path / "out", bands=["red"], access=QUICK)["there"] == 1
    two = {**item, "assets": {"B04": asset, "B08": asset}}
    assert fetch_windows([two], place, tmp_path / "out", bands=["red", "nir"], access=QUICK)["pixels"] == 512 * 512
    assert sorted(read_scene(tmp_path / "out" / "S2_x").bands) == ["B04", "B08"]
    figures = measure(read_scene(tmp_path / "out" / "S2_x"))
    assert figures.nodata == 0, "what was not fetched does not count"
    more = geopandas.GeoSeries([*place, *place.translate(0.1)], crs=4326)
    assert fetch_windows([item], more, tmp_path / "out", bands=["red"], access=QUICK)["pixels"] == 2 * 512 * 512
    assert fetch_items([item], tmp_path / "out", bands=["red"], access=QUICK)["fetched"] == 1, (
        "blocks are not the whole"
    )
    assert read_scene(tmp_path / "out" / "S2_x").read(["red"]).valid.all()
    assert fetch_windows([item], place, tmp_path / "out", bands=["red"], access=QUICK)["there"] == 1
    far = geopandas.GeoSeries([box(0, 50, 1, 51)], crs=4326)
    with pytest.raises(UsageError, match="none of the places touches any of the 1 scenes"):
        fetch_windows([item], far, tmp_path / "far", bands=["red"], access=QUICK)
    gone = {**item, "assets": {"B04": {**asset, "href": f"{server.url}/gone.tif"}}}
    with pytest.raises(FetchError, match=r"gone.tif: cannot be opened"):
        fetch_windows([gone], place, tmp_path / "gone", bands=["red"], access=QUICK)


def test_the_right_assets_of_real_items(fixtures: Path) -> None:
    stac = fixtures / "stac"
    for name, expected in (
        ("odc-stac/S2C_*", ["B02_10m", "B08_10m", "SCL_20m", "B11_20m"]),
        ("odc-stac/S2A_28QCH*", ["B02", "B08", "SCL", "B11"]),
        ("stactools-sentinel2/expected/S2B_MSIL2A_20220413*", ["blue", "nir", "scl", "swir16"]),
        ("odc-stac/LC08_L2SP*", ["blue", "nir08", "qa_pixel", "swir16"]),
    ):
        item = json.loads(next(stac.glob(name)).read_text())
        assert choose_assets(item, ["blue", "nir", "scl", "swir16"]) == expected
    item = json.loads(next(stac.glob("odc-stac/S2C_*")).read_text())
    assert choose_assets(item, ["blue", "scl"], resolution=60) == ["B02_60m", "SCL_60m"]
    assert choose_assets(item, ["Product"]) == ["Product"]
    # A band that is no asset of its own is in the product as a whole, where the catalogue offers that.
    assert choose_assets(item, ["thermal"]) == ["Product"]
    del item["assets"]["Product"]
    with pytest.raises(FetchError, match='lists no asset for "thermal"'):
        choose_assets(item, ["thermal"])


def test_links_into_buckets_give_way_to_https(fixtures: Path) -> None:
    item = json.loads(next((fixtures / "stac" / "odc-stac").glob("S2C_*")).read_text())
    (asset,) = plan_assets(item, ["B02_10m"])
    assert asset.href.startswith("https://zipper.dataspace.copernicus.eu/")
    assert asset.name == "T33UWP_20250330T100051_B02_10m.jp2"
    assert asset.size == 118_933_074
    assert asset.checksum.startswith("1620")


def test_tokens_go_to_servers_and_signatures_into_links(
    tmp_path: Path, data: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal_earth.rasters.fetch import access_from_environment

    server = serve(tmp_path / "www")
    monkeypatch.setenv("SHOAL_EARTH_TOKEN", "secret")
    access = access_from_environment(attempts=2, wait=0.01, sign=lambda url: url + "?sig=1")
    server.faults["/f.bin"] = ["cut", "503", "503", "503", "503"]
    with pytest.raises(FetchError):
        download(Download(f"{server.url}/f.bin", tmp_path / "f.bin"), access)
    kept = (tmp_path / ".f.bin.part.json").read_text()
    assert "/f.bin" in kept
    assert "sig=" not in kept
    assert "secret" not in kept
    server.faults.clear()
    download(Download(f"{server.url}/f.bin", tmp_path / "f.bin"), access)
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    assert server.headers[-1]["Range"].startswith("bytes=")
    sign = planetary_computer(f"{server.url}/sign")
    assert sign("https://elsewhere.example/x") == "https://elsewhere.example/x"
    with pytest.raises(ShoalError, match="/sign: cannot sign"):
        sign("https://account.blob.core.windows.net/x")


def test_downloads_at_once_are_bounded(tmp_path: Path, data: bytes, serve: Serve) -> None:
    server = serve(tmp_path / "www")
    active, most = [0], [0]
    answer = server.answer

    def counted(handler: object, head: bool = False) -> None:
        with server.lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.02)
        try:
            answer(handler, head)
        finally:
            with server.lock:
                active[0] -= 1

    server.answer = counted
    files = [Download(f"{server.url}/f.bin", tmp_path / "out" / f"{n}.bin") for n in range(8)]
    download_all(files, Access(parallel=2, attempts=2, wait=0.01))
    assert most[0] == 2
    assert len(clean(tmp_path / "out")) == 8
