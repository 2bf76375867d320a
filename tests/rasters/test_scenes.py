"""Scenes of every kind: the right pixels at the right place, on one grid, with the right offset, no-data apart."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, same_grid
from shoal_earth.rasters.items import item_scene
from shoal_earth.rasters.masks import CLOUD, SCL, landsat_to_scl, mask
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.scenes import tile_of
from shoal_earth.rasters.synthetic import World

TREES = ("07HFE", "01UBT", "22HBD")


@pytest.mark.parametrize("tile", TREES)
def test_a_window_of_a_real_tree_is_what_gdal_reads(safes: dict[str, Path], tile: str) -> None:
    window = Window(17, 30, 41, 25)
    with read_scene(safes[tile]) as scene:
        assert scene.tile == tile
        names = [name for name in scene.bands if name.startswith("B")]
        assert len(names) == 12
        for name in names:
            file = scene.band(name).files[0].path
            with rasterio.open(file) as source:
                expected = source.read(1, window=window)
            got = scene.read([name], window, stored=True)
            assert (got.values[0] == expected).all()
            assert (got.valid == (expected != 0)).all()
        with rasterio.open(next(safes[tile].rglob("*_SCL_20m.*"))) as source:
            assert (scene.classes(window) == source.read(1, window=window)).all()
        with rasterio.open(next(safes[tile].rglob("*_TCI_10m.*"))) as source:
            assert (scene.read(["tci"], window, stored=True).values == source.read(window=window)).all()


def test_the_offset_of_baseline_0400_comes_from_the_metadata(safes: dict[str, Path]) -> None:
    new, old = safes["01UBT"], safes["07HFE"]
    with read_scene(new) as scene:
        assert scene.baseline == "04.00"
        with rasterio.open(next(new.rglob("*_B08_10m.tif"))) as source:
            stored = source.read(1).astype(np.int64)
        pixels = scene.read(["nir"])
        assert (stored > 0).sum() > 9000
        np.testing.assert_allclose(pixels.values[0][stored > 0], (stored[stored > 0] - 1000) / 10_000, atol=1e-6)
        assert not pixels.valid[stored == 0].any()
        assert (pixels.values[0][stored == 0] == 0).all(), "no data is no reflectance of -0.1"
    with read_scene(old) as scene:
        assert scene.baseline == "02.12"
        with rasterio.open(next(old.rglob("*_B08_10m.tif"))) as source:
            stored = source.read(1)
        np.testing.assert_allclose(scene.read(["B8"]).values[0], stored / 10_000, atol=1e-6)


def test_newer_baselines_without_their_offset_are_refused(safes: dict[str, Path], tmp_path: Path) -> None:
    tree = shutil.copytree(safes["01UBT"], tmp_path / safes["01UBT"].name)
    metadata = tree / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace("BOA_ADD_OFFSET", "GONE"))
    with pytest.raises(UsageError, match=r"MTD_MSIL2A.xml: is of processing baseline 04.00 but has no BOA_ADD_OFFSET"):
        read_scene(tree)


def test_a_level_one_product_has_its_own_names_and_offsets(world: World, tmp_path: Path) -> None:
    """Level-1C: no folders by resolution, no SCL, RADIO_ADD_OFFSET instead of BOA_ADD_OFFSET; made from a generated tree."""
    source = world.scenes[2]
    tree = tmp_path / source.name.replace("MSIL2A", "MSIL1C")
    images = tree / "GRANULE" / "L1C_T21LXF_A012345_20200614T140051" / "IMG_DATA"
    images.mkdir(parents=True)
    for path in source.rglob("*_10m.tif"):
        shutil.copy(path, images / path.name.replace("_10m", ""))
    text = (source / "MTD_MSIL2A.xml").read_text()
    for old, new in (
        ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"),
        ("BOA_QUANTIFICATION", "QUANTIFICATION"),
        ("MSIL2A", "MSIL1C"),
    ):
        text = text.replace(old, new)
    (tree / "MTD_MSIL1C.xml").write_text(text)
    with read_scene(tree) as one, read_scene(source) as two:
        assert one.sensor == "sentinel-2-l1c"
        assert (one.band("red").offset, one.band("red").scale) == (-0.1, 1e-4)
        np.testing.assert_array_equal(one.read(["red", "nir"]).values, two.read(["red", "nir"]).values)
        with pytest.raises(UsageError, match="Level-1C products have none"):
            one.classes()


@pytest.mark.parametrize("inside", [True, False])
def test_a_zip_reads_as_the_tree_does(safes: dict[str, Path], tmp_path: Path, inside: bool) -> None:
    tree = safes["22HBD"]  # JP2
    path = tmp_path / "product.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(tree.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(tree.parent if inside else tree))
    with read_scene(tree) as one, read_scene(path) as other:
        assert other.name.startswith("S2B_MSIL2A_20210122T133229")
        assert list(one.bands) == list(other.bands)
        a, b = one.read(["red", "B11"]), other.read(["red", "B11"])
        assert (a.values == b.values).all()
        assert a.valid.any()
        assert (one.classes() == other.classes()).all()


def test_the_antimeridian_tree_keeps_its_own_grid(safes: dict[str, Path]) -> None:
    with read_scene(safes["01UBT"]) as scene:
        grid = scene.grid()
        assert grid.crs_name == "EPSG:32601"
        assert grid.bounds == (199_980, 5_690_220, 309_780, 5_800_020)
    from rasterio.warp import transform

    (left,), _ = transform(grid.crs, "EPSG:4326", [grid.bounds[0]], [grid.bounds[3]])
    (right,), _ = transform(grid.crs, "EPSG:4326", [grid.bounds[2]], [grid.bounds[1]])
    assert left > 178
    assert right < -179


def test_bands_of_several_resolutions_meet_on_one_grid(world: World) -> None:
    with read_scene(world.scenes[1]) as scene:
        ten, twenty = scene.grid(["B02", "B11"]), scene.grid(["B11"])
        assert (ten.width, twenty.width) == (120, 60)
        assert same_grid(twenty, ten.resampled(20)) is None
        files = {band: scene.band(band).files[0].path for band in ("B02", "B11")}
        fine = scene.read(["B02", "B11"], grid=ten, stored=True)
        with (
            rasterio.open(files["B11"]) as source,
            WarpedVRT(
                source,
                crs=ten.crs,
                transform=ten.transform,
                width=120,
                height=120,
                resampling=Resampling.bilinear,
                src_nodata=0,
            ) as view,
        ):
            assert (fine.values[1] == view.read(1)).all()
        # 40 m from the 20 m file: the mean of two by two pixels.
        coarse = scene.read(["B11"], grid=ten.resampled(40), stored=True)
        with rasterio.open(files["B11"]) as source:
            blocks = source.read(1).reshape(30, 2, 30, 2).mean((1, 3))
        assert np.abs(coarse.values[0] - blocks).max() <= 0.51


def test_the_file_that_is_fine_enough_is_read_and_no_finer(world: World) -> None:
    with read_scene(world.scenes[0]) as scene:
        grid = scene.grid(["B02"])
        scene.read(["B02"], grid=grid.resampled(60))
        opened = set(scene._files._datasets)
        assert any("B02_20m" in path for path in opened)
        with rasterio.open(next(p for p in opened if "B02_20m" in p)) as source:
            stored = source.read(1).reshape(20, 3, 20, 3).mean((1, 3))
        got = scene.read(["B02"], grid=grid.resampled(60), stored=True)
        assert np.abs(got.values[0] - stored).max() <= 0.51


def test_resampling_never_mixes_in_no_data(world: World) -> None:
    edged = next(path for path in world.scenes if (read_scene(path).classes() == 0).any())
    with read_scene(edged) as scene:
        grid = scene.grid(["B02"])
        own = scene.read(["B02"], grid=grid)
        for resolution in (5.0, 30.0, 60.0):
            there = scene.read(["B02"], grid=grid.resampled(resolution))
            assert not there.valid.all()
            assert there.values[0][there.valid].min() >= own.values[0][own.valid].min() - 1e-6


def test_a_grid_that_leaves_the_scene_is_no_data_there(world: World) -> None:
    with read_scene(world.scenes[0]) as scene:
        own = scene.grid()
        left, _, _, top = own.bounds
        shifted = Grid(own.crs, from_origin(left - 300, top + 300, 10, 10), 60, 60)
        pixels, classes = scene.read(["red"], grid=shifted), scene.classes(grid=shifted)
        assert not pixels.valid[:30].any()
        assert not pixels.valid[:, :30].any()
        assert pixels.valid[31:, 31:].all()
        assert not classes[:30].any()
        inside = scene.read(["red"], Window(0, 0, 30, 30))
        np.testing.assert_array_equal(pixels.values[:, 30:, 30:], inside.values)
        with pytest.raises(UsageError, match="leaves the grid"):
            scene.read(["red"], Window(100, 0, 40, 10))


def test_windows_together_are_the_whole(world: World) -> None:
    with read_scene(world.scenes[2]) as scene:
        grid = scene.grid(["B02", "B11"])
        whole = scene.read(["B02", "B11"], grid=grid)
        for window in grid.windows(50):
            part = scene.read(["B02", "B11"], window, grid)
            rows, columns = window.toslices()
            assert (part.values == whole.values[:, rows, columns]).all()
            assert (part.valid == whole.valid[rows, columns]).all()


def landsat(folder: Path, product: str = "LC08_L2SP_232066_20190727_20200827_02_T1") -> Path:
    """A Landsat scene in its true file names: numbers as in Collection 2."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 50, "crs": "EPSG:32620"}
    profile["transform"] = from_origin(393_465, -962_925, 30, 30)
    for band in range(1, 8):
        values = rng.integers(8000, 20_000, (40, 50)).astype(np.uint16)
        values[:, :5] = 0
        with rasterio.open(folder / f"{product}_SR_B{band}.TIF", "w", dtype="uint16", nodata=0, **profile) as file:
            file.write(values, 1)
    quality = np.full((40, 50), 0b0101010101000000, np.uint16)  # clear
    quality[:10] = 1 << 3  # cloud
    quality[10:12] = 1 << 4  # shadow
    quality[:, :5] = 1  # fill
    with rasterio.open(folder / f"{product}_QA_PIXEL.TIF", "w", dtype="uint16", nodata=1, **profile) as file:
        file.write(quality, 1)
    return folder


def test_landsat_in_a_folder_and_in_a_tar(tmp_path: Path) -> None:
    folder = landsat(tmp_path / "scene")
    with rasterio.open(next(folder.glob("*_SR_B5.TIF"))) as source:
        stored = source.read(1).astype(np.float64)
    path = tmp_path / "LC08_L2SP_232066_20190727_20200827_02_T1.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    for where in (folder, path):
        with read_scene(where) as scene:
            assert scene.tile == "232066"
            assert str(scene.acquired.date()) == "2019-07-27"
            assert scene.grid().bounds[1] < 0, "south of the equator in a northern zone"
            nir = scene.read(["nir"])  # Landsat's is the narrow one
            np.testing.assert_allclose(nir.values[0][:, 5:], stored[:, 5:] * 2.75e-5 - 0.2, atol=1e-5)
            assert not nir.valid[:, :5].any()
            classes = scene.classes()
            assert (classes[:10, 5:] == SCL.CLOUD_HIGH).all()
            assert (classes[10:12, 5:] == SCL.SHADOW).all()
            assert (classes[12:, 5:] == SCL.BARE).all()
            assert (classes[:, :5] == SCL.NODATA).all()
            assert mask(classes, CLOUD).sum() == 10 * 45


def test_landsat_seven_counts_its_bands_differently_and_level_one_is_refused(tmp_path: Path) -> None:
    folder = landsat(tmp_path / "seven", "LE07_L2SP_232066_20010727_20200827_02_T1")
    with read_scene(folder) as scene:
        assert scene.band("red").name == "B3"
        assert scene.band("nir").name == "B4"
        assert "B6" not in scene.bands
    folder = landsat(tmp_path / "one", "LC08_L1TP_232066_20190727_20200827_02_T1")
    with pytest.raises(UsageError, match="is a Level-1 scene"):
        read_scene(folder)


def test_quality_bits_become_classes() -> None:
    # Values from the product guide: clear, water, dilated cloud, cloud, shadow, snow; with the confidence bits they carry.
    values = np.array([1, 21824, 21952, 21826, 22280, 23888, 30048, 54596], np.uint16)
    expected = [SCL.NODATA, SCL.BARE, SCL.WATER, SCL.CLOUD_MEDIUM, SCL.CLOUD_HIGH, SCL.SHADOW, SCL.SNOW, SCL.CIRRUS]
    assert landsat_to_scl(values).tolist() == expected


def test_all_real_items_are_understood(fixtures: Path) -> None:
    read = 0
    for path in sorted((fixtures / "stac").rglob("*.json")):
        content = json.loads(path.read_text())
        if content.get("type") != "Feature":
            continue
        scene = read_scene(path)
        read += 1
        assert scene.bands
        assert scene.acquired is not None
        if scene.name.startswith("S2") and "L2A" in path.name:
            assert {"red", "green", "blue", "nir"} <= {band.common for band in scene.bands.values()}
            assert scene.classification is not None
            assert len(scene.tile or "") == 5
    assert read >= 28


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("odc-stac/S2C_MSIL2A_20250330T100051_N0511_R122_T33UWP_20250330T145914_cdse_stac_v110.json", -0.1),
        ("odc-stac/S2A_28QCH_20200714_0_L2A.json", 0.0),
        ("odc-stac/S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json", 0.0),
        ("stactools-sentinel2/expected/S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_*", -0.1),
    ],
)
def test_offsets_of_real_items(fixtures: Path, name: str, offset: float) -> None:
    red = read_scene(next((fixtures / "stac").glob(name))).band("red")
    assert red.offset == offset
    assert red.scale == 1e-4
    assert red.nodata == 0


def test_an_offset_that_the_catalogue_applied_is_not_applied_twice(fixtures: Path) -> None:
    path = fixtures / "stac" / "stactools-sentinel2" / "expected"
    item = json.loads(next(path.glob("S2B_*N0400*")).read_text())
    item["properties"]["earthsearch:boa_offset_applied"] = True
    assert item_scene(item, "x").band("red").offset == 0
    item["properties"]["earthsearch:boa_offset_applied"] = False
    assert item_scene(item, "x").band("red").offset == -0.1


def test_an_item_without_raster_facts_is_judged_by_its_baseline(fixtures: Path) -> None:
    path = fixtures / "stac" / "odc-stac" / "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json"
    item = json.loads(path.read_text())  # Planetary Computer lists no offsets
    for baseline, offset in (("02.12", 0.0), ("04.00", -0.1), ("05.09", -0.1)):
        item["properties"]["s2:processing_baseline"] = baseline
        assert item_scene(item, "x").band("B04").offset == offset


def test_a_level_one_item_is_refused(fixtures: Path) -> None:
    item = json.loads(next((fixtures / "stac" / "odc-stac").glob("LC08_L2SP*")).read_text())
    item["id"] = item["id"].replace("L2SP", "L1TP")
    with pytest.raises(UsageError, match="is a Level-1 scene"):
        item_scene(item, "x")


def test_plain_rasters_with_names_given_or_not(fixtures: Path) -> None:
    path = fixtures / "rasters" / "scikit-eo" / "LC08_232066_20190727.tif"
    names = ["blue", "green", "red", "nir08", "swir16", "swir22"]
    with rasterio.open(path) as source:
        stored, marks = source.read(), source.dataset_mask()
    with read_scene(path, bands=names) as scene:
        assert scene.grid().bounds[3] == -962_925
        pixels = scene.read(["nir", "red"])
        assert (pixels.values[0][pixels.valid] == stored[3][pixels.valid]).all()
        assert not pixels.valid[marks == 0].any()
    with read_scene(path) as scene:
        assert list(scene.bands) == ["1", "2", "3", "4", "5", "6"]
    with pytest.raises(UsageError, match=r"LC08_232066_20190727.tif: has 6 band\(s\), but 2 names"):
        read_scene(path, bands=["a", "b"])


def test_a_mask_with_minus_one_and_a_crs_without_a_code(fixtures: Path, tmp_path: Path) -> None:
    path = next((fixtures / "burned" / "terratorch").glob("*.tif"))
    with rasterio.open(path) as source:
        stored, wkt = source.read(1), source.crs
    with read_scene(path) as scene:
        grid = scene.grid()
        assert grid.crs == wkt
        assert grid.crs_name.startswith(("PROJCS", "PROJCRS"))
        pixels = scene.read(["1"], stored=True)
        assert (pixels.valid == (stored != -1)).all()
        assert (pixels.values[0] == np.where(stored == -1, 0, stored)).all()
        assert 0.15 < pixels.values.mean() < 0.25
    holes = stored.copy()
    holes[100:200, 50:150] = -1
    with rasterio.open(path) as source, rasterio.open(tmp_path / "holes.tif", "w", **source.profile) as file:
        file.write(holes, 1)
    with read_scene(tmp_path / "holes.tif") as scene:
        pixels = scene.read(["1"])
        assert int((~pixels.valid).sum()) == 10_000
        smaller = scene.read(["1"], grid=scene.grid(resolution=60))
        assert int((~smaller.valid).sum()) == 2500
        assert smaller.values.min() == 0, "-1 is never averaged in"


def test_an_internal_mask_and_nan_count_as_no_data(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": 32, "width": 32, "dtype": "float32", "crs": "EPSG:32720"}
    profile["transform"] = from_origin(0, 0, 10, 10)
    good = np.ones((32, 32), bool)
    good[:, :16] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(tmp_path / "m.tif", "w", **profile) as file:
        file.write(np.full((1, 32, 32), 7, np.float32))
        file.write_mask(good)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(tmp_path / "e.tif", "w", **profile) as file:
        file.write(np.full((1, 32, 32), 7, np.float32))
        file.write_mask(good)
    assert (tmp_path / "e.tif.msk").exists(), "this one has its mask in a file beside it"
    values = np.full((1, 32, 32), 7, np.float32)
    values[0][~good] = np.nan
    with rasterio.open(tmp_path / "n.tif", "w", **profile) as file:
        file.write(values)
    for name in ("m.tif", "e.tif", "n.tif"):
        with read_scene(tmp_path / name) as scene:
            assert (scene.read(["1"]).valid == good).all()
            half = scene.read(["1"], grid=scene.grid(resolution=20))
            assert (half.valid == good[::2, ::2]).all()


def test_names_of_tiles() -> None:
    assert tile_of("S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857") == "07HFE"
    assert tile_of("S2B_10SGF_20250808_0_L2A") == "10SGF"
    assert tile_of("S2A_5QKB_20200714_0_L2A") == "05QKB"
    assert tile_of("LC08_L2SP_232066_20190727_20200827_02_T1") == "232066"
    assert tile_of("holiday") is None


def test_a_band_that_is_not_there_is_named_with_those_that_are(world: World) -> None:
    scene = read_scene(world.scenes[0])
    with pytest.raises(UsageError, match=r'has no band "thermal"') as caught:
        scene.read(["thermal"])
    assert "B8A (nir08)" in str(caught.value)
