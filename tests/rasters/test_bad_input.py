"""Bad input: one clear message that names the file, and nothing half-written taken for whole."""

from __future__ import annotations

import io
import resource
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from shapely.geometry import Point

from shoal.errors import ShoalError, UsageError
from shoal_earth.rasters.choosing import CutRules, Layer
from shoal_earth.rasters.composites import composite, write_composite
from shoal_earth.rasters.contact_sheet import Candidate, check_pair, write_contact_sheet
from shoal_earth.rasters.cutting import cut_layers, cut_part
from shoal_earth.rasters.filters import measure
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.labels import read_polygons
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.output import WriteError, publish, write_cog, write_polygons, write_text
from shoal_earth.rasters.predict import CompositeSource, predict_scene
from shoal_earth.rasters.shards import ShardReader, ShardWriter
from shoal_earth.rasters.synthetic import World, make_world

Cli = Callable[..., tuple[int, str, str]]


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: what a full disk looks like to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def tree(safes: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the real JP2 tree, to be spoilt."""
    return shutil.copytree(safes["22HBD"], tmp_path / safes["22HBD"].name)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.7, 0.97])
def test_a_truncated_jp2(tree: Path, share: float, tmp_path: Path) -> None:
    path = next(tree.rglob("*_B04_10m.jp2"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with read_scene(tree) as scene:
        with pytest.raises(UsageError, match=r"B04_10m.jp2: cannot be read") as caught:
            write_composite(scene, "ndvi", tmp_path / "out" / "ndvi.tif")
        assert "fetch it again" in str(caught.value)
        scene.read(["nir"])
    assert list((tmp_path / "out").glob("*")) == [] == list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("share", [0.1, 0.6, 0.999])
def test_a_truncated_zip(safes: dict[str, Path], tmp_path: Path, share: float) -> None:
    path = tmp_path / "product.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in [*sorted(safes["22HBD"].rglob("*_10m.jp2")), safes["22HBD"] / "MTD_MSIL2A.xml"]:
            archive.write(file, file.relative_to(safes["22HBD"].parent))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UsageError, match=r"product.zip: cannot be read as a zip: .*\n.*fetch it again"):
        read_scene(path)


@pytest.mark.parametrize("name", ["../evil.jp2", "/etc/evil.jp2", "a/../../evil.jp2", "C:/evil.jp2", "..\\evil.jp2"])
def test_a_zip_whose_members_leave_the_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("X.SAFE/MTD_MSIL2A.xml", "<a/>")
        archive.writestr(name, b"")
    with pytest.raises(UsageError, match=r"slip.zip: holds a member that leaves the folder"):
        read_scene(tmp_path / "slip.zip")


def test_a_tar_whose_members_leave_the_folder_or_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "LC08_L2SP_232066_20190727_20200827_02_T1.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("../LC08_L2SP_232066_20190727_20200827_02_T1_SR_B4.TIF")
        archive.addfile(member, io.BytesIO())
    with pytest.raises(UsageError, match="leaves the folder"):
        read_scene(path)
    path.write_bytes(b"not a tar at all")
    with pytest.raises(UsageError, match=r"02_T1.tar: cannot be read as a tar"):
        read_scene(path)


def test_a_missing_band(tree: Path) -> None:
    for path in tree.rglob("*_B08_*"):
        path.unlink()
    with read_scene(tree) as scene:
        composite(scene, "rgb")
        nir = scene.band("nir")
        assert nir.name == "B8A", "the narrow band stands in"
    for path in tree.rglob("*_B8A_*"):
        path.unlink()
    with read_scene(tree) as scene, pytest.raises(UsageError, match=r'T22HBD.*SAFE: has no band "nir"'):
        composite(scene, "ndvi")


def test_a_missing_classification(tree: Path) -> None:
    for path in tree.rglob("*_SCL_*"):
        path.unlink()
    with read_scene(tree) as scene:
        assert measure(scene).cloud is None
        with pytest.raises(UsageError, match=r"T22HBD.*: has no scene classification"):
            scene.classes()


@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "twice"])
def test_damaged_metadata(tree: Path, damage: str) -> None:
    path = tree / "MTD_MSIL2A.xml"
    if damage == "gone":
        path.unlink()
    elif damage == "twice":
        shutil.copy(path, tree / "GRANULE" / path.name)
    else:
        path.write_bytes(path.read_bytes()[: 20_000 if damage == "cut" else 0])
    with pytest.raises(UsageError, match=r"T22HBD_20210122T155500.SAFE: .*MTD_MSIL2A.xml"):
        read_scene(tree)


def test_metadata_without_a_quantification(tree: Path) -> None:
    path = tree / "MTD_MSIL2A.xml"
    path.write_text(path.read_text().replace("BOA_QUANTIFICATION_VALUE", "GONE"))
    with pytest.raises(UsageError, match="has no BOA_QUANTIFICATION_VALUE"):
        read_scene(tree)


def test_no_scene_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such scene"):
        read_scene(tmp_path / "none")
    with pytest.raises(UsageError, match="is a folder, but no scene"):
        read_scene(tmp_path)
    for name in ("text.tif", "text.json", "text.zip"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(UsageError, match=name):
            read_scene(tmp_path / name)
    (tmp_path / "x.json").write_text('{"type": "Feature"}')
    with pytest.raises(UsageError, match=r"x.json: is JSON, but no STAC item"):
        read_scene(tmp_path / "x.json")


def test_bands_that_do_not_lie_on_each_other(tree: Path) -> None:
    path = next(tree.rglob("*_B04_10m.jp2"))
    with rasterio.open(path) as source:
        values, profile = source.read(), source.profile
    for spoil, match in (
        ({"crs": "EPSG:32721"}, r"is in EPSG:3272[12], but .* of the same scene in EPSG:3272[12]"),
        ({"transform": from_origin(199_980 + 3000, 5_900_020, 1098, 1098)}, "corners are 3000 units from"),
    ):
        path.unlink()
        with rasterio.open(path.with_suffix(".tif"), "w", **(profile | {"driver": "GTiff"} | spoil)) as file:
            file.write(values)
        path = path.with_suffix(".tif")
        with read_scene(tree) as scene, pytest.raises(UsageError, match=match) as caught:
            scene.grid(["B04", "B08"])
        assert "B04_10m.tif" in str(caught.value)


def test_pairs_that_make_no_sense(world: World, safes: dict[str, Path], tmp_path: Path) -> None:
    by_tile = sorted(world.scenes, key=lambda path: (path.stem.split("_")[5], path.stem))
    first, second, other = by_tile[0], by_tile[2], by_tile[6]
    with read_scene(first) as one, read_scene(second) as two, read_scene(other) as far:
        check_pair(one, two)
        with pytest.raises(UsageError, match=r"T21LXF.* is not before .*T21LXF.*: the dates are reversed"):
            check_pair(two, one)
        with pytest.raises(UsageError, match="cannot be a pair: their corners are 1200 units apart"):
            check_pair(one, far)
    with read_scene(safes["07HFE"]) as one, read_scene(safes["22HBD"]) as two:
        with pytest.raises(UsageError, match="one is in EPSG:32707, the other in EPSG:32722"):
            check_pair(one, two)
    small = make_world(tmp_path / "small", tiles=1, size=60, dates=("2021-06-01",), image="tif")
    with read_scene(first) as one, read_scene(small.scenes[0]) as two:
        with pytest.raises(UsageError, match="one has 120 x 120 pixels, the other 60 x 60"):
            check_pair(one, two)
    with pytest.raises(UsageError, match="reversed"):
        write_contact_sheet([Candidate("x", second, first)], tmp_path / "sheet")
    assert not (tmp_path / "sheet").exists()


def test_polygon_files_without_polygons(tmp_path: Path) -> None:
    columns = {"geometry": []}
    geopandas.GeoDataFrame(columns, geometry="geometry", crs=4326).to_file(tmp_path / "empty.gpkg")
    geopandas.GeoDataFrame(geometry=[Point(0, 0)], crs=4326).to_file(tmp_path / "points.gpkg")
    (tmp_path / "broken.shp").write_bytes(b"\0" * 30)
    for name, match in (("empty", "holds no polygons"), ("points", "1 of another kind"), ("broken", "cannot be read")):
        path = next(tmp_path.glob(f"{name}.*"))
        with pytest.raises(UsageError, match=f"{path.name}: .*{match}"):
            read_polygons(path)


def test_a_full_disk_leaves_no_composite(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for size in (2_000, 20_000, 60_000):
        with read_scene(world.scenes[0]) as scene, little_room(size):
            with pytest.raises(WriteError, match=r"rgb.tif: cannot be written"):
                write_composite(scene, "rgb", out / "rgb.tif")
        assert list(out.iterdir()) == []
    if sys.platform == "linux":
        assert capfd.readouterr() == ("", ""), "one message, and nothing of the libraries below"
    with read_scene(world.scenes[0]) as scene:
        write_composite(scene, "rgb", out / "rgb.tif")
    whole = (out / "rgb.tif").read_bytes()
    with read_scene(world.scenes[1]) as scene, little_room(20_000), pytest.raises(WriteError):
        write_composite(scene, "rgb", out / "rgb.tif")
    assert (out / "rgb.tif").read_bytes() == whole, "what was there before is still there"


def test_a_full_disk_leaves_no_chips(world: World, tmp_path: Path) -> None:
    def cut(out: Path) -> None:
        with read_scene(world.scenes[0]) as scene:
            grid = scene.grid()
            labels = np.ones((grid.height, grid.width), np.uint8)
            layer = Layer("a", "a", CompositeSource(scene, "rgb", grid), labels)
            cut_layers([layer], out, CutRules(24, 24, (1, 0, 0), min_valid=0.5), kind="rgb")

    for size in (0, 2_000, 40_000):
        with little_room(size), pytest.raises(WriteError, match=r"chips: cannot be written: the file may not grow"):
            cut(tmp_path / "chips")
        assert list((tmp_path / "chips").iterdir()) == []
    cut(tmp_path / "chips")
    with ShardReader(tmp_path / "chips") as reader:
        assert len(reader.chips) > 10


def test_a_full_disk_leaves_no_map(world: World, tmp_path: Path) -> None:
    def judged(batch: np.ndarray) -> np.ndarray:
        chance = np.clip(batch[:, 0] * 4, 0, 1)
        return np.stack([1 - chance, chance], 1)

    out = tmp_path / "map"
    with read_scene(world.scenes[0]) as scene:
        source = CompositeSource(scene, "rgb", scene.grid())
        # Wherever it happens: in the step before the map, in either raster, in the polygons.
        for size in (0, 100, 400, 2_000, 9_000, 20_000, 40_000):
            with little_room(size), pytest.raises(WriteError, match=r"map/.* cannot be written"):
                predict_scene(source, judged, out, size=48, overlap=16)
            assert list(out.iterdir()) == []
        assert predict_scene(source, judged, out, size=48, overlap=16).count > 0


def test_a_full_disk_leaves_no_part_of_a_dataset(world: World, tmp_path: Path) -> None:
    labels = np.ones((120, 120), np.uint8)
    with read_scene(world.scenes[0]) as scene:
        layer = Layer("a", "a", CompositeSource(scene, "rgb", scene.grid()), labels)
        rules = CutRules(24, 24, (1, 0, 0), min_valid=0.5)
        for size in (0, 3_000, 20_000):
            with little_room(size), pytest.raises(WriteError, match="part"):
                cut_part([layer], tmp_path / "part", rules, kind="rgb", splits={"a": "train"}, held=[])
            assert list((tmp_path / "part").iterdir()) == []


def test_what_a_disk_swallowed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems report a full disk to nobody: the file reads back as something else."""
    grid = Grid(rasterio.crs.CRS.from_epsg(32721), from_origin(0, 0, 10, 10), 64, 64)
    copy = rasterio.shutil.copy

    def lossy(source: Path, target: Path, **options: object) -> None:
        with rasterio.open(source, "r+") as file:
            file.write(np.zeros((1, 64, 32), np.uint8), window=rasterio.windows.Window(32, 0, 32, 64))
        copy(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", lossy)
    blocks = [(grid.whole, np.ones((1, 64, 64), np.uint8))]
    with pytest.raises(WriteError, match="what was read back is not what was written"):
        write_cog(tmp_path / "x.tif", grid, blocks, bands=["a"], dtype="uint8", nodata=255)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_polygons_nor_text(tmp_path: Path, world: World) -> None:
    frame = geopandas.read_file(world.fires)
    with little_room(10_000), pytest.raises(WriteError, match=r"p.gpkg: cannot be written"):
        write_polygons(tmp_path / "p.gpkg", frame)
    with little_room(10), pytest.raises(WriteError, match=r"t.txt: cannot be written: the file may not grow"):
        write_text(tmp_path / "t.txt", "x" * 100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", ["jp2", "tif"])
def test_a_full_disk_leaves_no_world_that_looks_whole(tmp_path: Path, image: str) -> None:
    # JPEG 2000 is written by a library that says nothing of a full disk.
    for size in (0, 1_000):
        with little_room(size), pytest.raises(WriteError, match=r"/w.*: cannot be written: "):
            make_world(tmp_path / "w", tiles=1, size=60, dates=("2021-06-01",), image=image)
        assert not (tmp_path / "w" / "catalog.json").exists()


def test_pieces_of_shards_that_a_disk_refuses_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are written by a thread while the next one is filled: whichever fails, it is told, and nothing is left."""
    monkeypatch.setattr("shoal_earth.rasters.staging._PIECE", 8192)
    chip = {"image": np.ones((3, 40, 40), np.int16)}

    def write(folder: Path) -> None:
        with ShardWriter(folder) as writer:
            for number in range(20):
                writer.add("train", f"chip{number:02d}", chip)
            writer.close()

    for size in (0, 8_000, 30_000, 100_000):
        with little_room(size), pytest.raises(WriteError, match="the file may not grow further"):
            write(tmp_path / "chips")
        assert list((tmp_path / "chips").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        write_text(tmp_path / "file" / "t.txt", "x")


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with publish(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".x.part.txt").write_text("half of an earlier run")
    write_text(tmp_path / "x.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_the_command_line_says_it_in_one_message(tree: Path, cli: Cli, tmp_path: Path) -> None:
    path = next(tree.rglob("*_B03_10m.jp2"))
    path.write_bytes(path.read_bytes()[:3000])
    code, out, err = cli("scenes", "composite", tree, "--out", tmp_path / "out")
    assert code == 2
    assert out == ""
    assert err.startswith("shoal-earth: ")
    assert "B03_10m.jp2: cannot be read" in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 2


def test_all_refusals_are_shoals_own() -> None:
    from shoal_earth.rasters.download import FetchError
    from shoal_earth.rasters.stac import CatalogueError

    for kind in (WriteError, FetchError, CatalogueError):
        assert issubclass(kind, ShoalError)
        assert kind("x").exit_code == 1
