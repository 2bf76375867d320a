"""Chips: right pixels, right labels, no pixel shared between splits, the same bytes again, and clear refusals."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.transform import from_origin
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon

from geotiff import write_geotiff
from shoal.errors import UsageError
from shoal_earth.rasters.chips import ChipRules, make_chips
from shoal_earth.rasters.labels import burn, read_polygons
from shoal_earth.rasters.shards import ShardReader, ShardWriter
from shoal_earth.rasters.split import assign
from shoal_earth.rasters.statistics import BandStatistics, normalise
from shoal_earth.rasters.strips import open_strips

from .conftest import QUICKSTART, square, write_polygons

RULES = ChipRules(size=16, stride=8)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_made_again_the_chips_are_byte_identical(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    for name in "ab":
        make_chips([scene[0]], [scene[1]], tmp_path / name, RULES)
        time.sleep(1.1)  # tar stores whole seconds
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert set(first) == {"index.json", "train-00000.tar", "val-00000.tar", "test-00000.tar"}
    assert first == second
    make_chips([scene[0]], [scene[1]], tmp_path / "b", RULES)
    assert contents(tmp_path / "b") == first


@pytest.mark.parametrize(
    "rules",
    [
        ChipRules(size=128, stride=32),
        ChipRules(size=64, stride=16, resolution=1.0, region=2),
        ChipRules(size=100, stride=37, seed=3),
    ],
)
def test_no_pixel_of_real_imagery_is_in_two_splits(tmp_path: Path, rules: ChipRules) -> None:
    make_chips([QUICKSTART / "atlanta.tif"], [QUICKSTART / "buildings.geojson"], tmp_path / "chips", rules)
    seen = {split: np.zeros((900, 900), int) for split in ("train", "val", "test")}
    with ShardReader(tmp_path / "chips") as reader:
        for chip in reader.chips:
            row, column = chip["row"], chip["column"]
            seen[chip["split"]][row : row + rules.size, column : column + rules.size] += 1
    assert all(counts.any() for counts in seen.values())
    assert sum((counts > 0).astype(int) for counts in seen.values()).max() == 1
    # What is scored is scored once.
    assert seen["val"].max() == seen["test"].max() == 1


def test_chips_are_windows_of_the_raster_and_of_the_mask(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    make_chips([scene[0]], [scene[1]], tmp_path / "chips", RULES)
    with rasterio.open(scene[0]) as source:
        values = source.read()
    shapes = list(geopandas.read_file(scene[1]).geometry)
    with ShardReader(tmp_path / "chips") as reader:
        assert len(reader.chips) > 40
        for position, chip in enumerate(reader.chips):
            row, column = chip["row"], chip["column"]
            window = values[:, row : row + 16, column : column + 16]
            np.testing.assert_array_equal(reader.read(position, "image"), window)
            own = rasterize(shapes, (16, 16), transform=from_origin(500_000 + column, 4_000_000 - row, 1, 1))
            label = reader.read(position, "label")
            np.testing.assert_array_equal(label, own)
            assert chip["share"] == pytest.approx(label.mean(), abs=1e-6)


def test_index_points_at_the_members_of_the_tars(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    folder = tmp_path / "chips"
    make_chips([scene[0]], [scene[1]], folder, RULES)
    listed = 0
    with ShardReader(folder) as reader:
        for shard in reader.index["shards"]:
            with tarfile.open(folder / shard["name"]) as tar:
                members = {member.name: member for member in tar}
                assert {member.mtime for member in members.values()} == {0}
                for chip in reader.chips:
                    if chip["shard"] == shard["name"]:
                        for kind in ("image", "label"):
                            member = members.pop(f"{chip['key']}.{kind}.npy")
                            assert chip[kind] == [member.offset_data, member.size]
                            listed += 1
                assert not members
    assert listed == 2 * len(reader.chips)


def test_large_output_is_cut_into_several_shards(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, shard_bytes=5000)
    arrays = [np.full((1, 20, 20), n, np.uint16) for n in range(20)]
    for n, array in enumerate(arrays):
        # Some names are longer than a tar's own field for them, or not ASCII.
        writer.add("train", f"chip{n:02d}" + "é" * (n % 2) + "x" * (n * 9), {"image": array})
    assert not (tmp_path / "index.json").exists()
    writer.close()
    with ShardReader(tmp_path) as reader:
        assert len(reader.index["shards"]) > 3
        for n in (19, 0, 7):
            np.testing.assert_array_equal(reader.read(n, "image"), arrays[n])
        for chip in reader.chips:
            with tarfile.open(tmp_path / chip["shard"]) as archive:
                assert archive.getmember(f"{chip['key']}.image.npy").offset_data == chip["image"][0]


def test_statistics_come_from_training_pixels_alone(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    make_chips([scene[0]], [scene[1]], tmp_path / "a", RULES)
    with ShardReader(tmp_path / "a") as reader:
        scale, chips = reader.index["scale"], reader.chips
    with rasterio.open(scene[0]) as source:
        values = source.read()
    training = np.zeros(values.shape[1:], bool)
    other = np.zeros(values.shape[1:], bool)
    for chip in chips:
        where = training if chip["split"] == "train" else other
        where[chip["row"] : chip["row"] + 16, chip["column"] : chip["column"] + 16] = True
    for band in range(2):
        pixels = values[band][training].astype(float)
        low, high = np.percentile(pixels, [1, 99], method="inverted_cdf")
        assert (scale[band]["low"], scale[band]["high"]) == (low, high)
        scaled = np.clip((pixels - low) / (high - low), 0, 1)
        assert scale[band]["mean"] == pytest.approx(scaled.mean())
        assert scale[band]["std"] == pytest.approx(scaled.std())
    values[:, other] = 65_000
    write_geotiff(tmp_path / "town.tif", values)
    make_chips([tmp_path / "town.tif"], [scene[1]], tmp_path / "b", RULES)
    with ShardReader(tmp_path / "b") as reader:
        assert reader.index["scale"] == scale
    image = normalise(values[:, :16, :16], scale)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()


def test_statistics_of_floats_skip_what_is_not_finite() -> None:
    statistics = BandStatistics(1, "float32")
    values = np.linspace(-1, 1, 10_001, dtype=np.float32)[None]
    statistics.add(np.concatenate([values, np.full((1, 50), np.nan, np.float32)], 1))
    (scale,) = statistics.scale()
    assert scale["low"] == pytest.approx(-0.98, abs=1e-3)
    assert scale["high"] == pytest.approx(0.98, abs=1e-3)
    with pytest.raises(UsageError, match="no valid pixel"):
        BandStatistics(1, "uint8").scale()


def test_resampling_takes_the_mean_of_the_pixels_below(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    path = write_geotiff(tmp_path / "ramp.tif", values)
    with open_strips(path, 2.0) as scene:
        got = np.concatenate([scene.rows(0, 10)[0], scene.rows(10, 32)[0]], 1)
        assert scene.resolution == 2
    np.testing.assert_allclose(got[0], values[0].reshape(32, 2, 32, 2).mean((1, 3)))


def test_polygons_in_another_crs_burn_alike(tmp_path: Path) -> None:
    frame = geopandas.read_file(QUICKSTART / "buildings.geojson")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "degrees.gpkg")
    with open_strips(QUICKSTART / "atlanta.tif") as scene:
        own, here = burn([read_polygons(QUICKSTART / "buildings.geojson")], scene)
        moved, there = burn([read_polygons(tmp_path / "degrees.gpkg")], scene)
    assert len(here[0]) == len(there[0]) == 43
    assert own.sum() > 30_000
    assert (own != moved).sum() < 20


def test_broken_features_are_mended_or_skipped_and_counted(tmp_path: Path) -> None:
    bow_tie = Polygon([(500_000, 4_000_000), (500_010, 3_999_990), (500_010, 4_000_000), (500_000, 3_999_990)])
    mixed = GeometryCollection([MultiPolygon([square(20, 20, 4), square(30, 30, 4)]), LineString([(0, 0), (1, 1)])])
    features = [bow_tie, None, Polygon(), Point(500_001, 3_999_999), mixed]
    frame = geopandas.GeoDataFrame({"id": range(5)}, geometry=features, crs="EPSG:32616")
    frame.to_file(tmp_path / "f.geojson", driver="GeoJSON")
    found = read_polygons(tmp_path / "f.geojson")
    assert (found.found, found.mended, found.empty, found.other) == (5, 1, 2, 1)
    path = write_geotiff(tmp_path / "r.tif", np.ones((1, 64, 64), np.uint8))
    with open_strips(path) as scene:
        mask, _ = burn([found], scene)
    # Both wings of the bow tie, 25 square metres each, give or take the pixels that its diagonals cut, and two squares.
    assert mask[20:24, 20:24].all()
    assert mask[30:34, 30:34].all()
    assert 40 <= mask[:10, :10].sum() <= 60


def test_invalid_pixels_are_ignored_and_bad_chips_skipped(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    with rasterio.open(scene[0]) as source:
        values = source.read()
    values[:, 40:, :70] = 0
    path = write_geotiff(tmp_path / "holes.tif", values, nodata=0)
    made = make_chips([path], [scene[1]], tmp_path / "chips", RULES)
    assert made.counts["chips/skipped"] > 0
    assert "less than 50% valid" in made.lines[-1]
    with ShardReader(tmp_path / "chips") as reader:
        labels = [reader.read(n, "label") for n in range(len(reader.chips))]
        holes = [(reader.read(n, "image") == 0).all(0) for n in range(len(reader.chips))]
    assert any(hole.any() for hole in holes)
    for label, hole in zip(labels, holes, strict=True):
        np.testing.assert_array_equal(label == 255, hole)
        assert hole.mean() <= 0.5


def test_empty_training_chips_can_be_dropped(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    rules = ChipRules(size=16, stride=8, keep_empty=False)
    made = make_chips([scene[0]], [scene[1]], tmp_path / "chips", rules)
    assert "chips with no foreground" in made.lines[-1]
    with ShardReader(tmp_path / "chips") as reader:
        assert min(chip["share"] for chip in reader.chips if chip["split"] == "train") > 0


def test_regions_are_dealt_in_the_shares_asked_for() -> None:
    weights = [float(w) for w in np.random.default_rng(0).integers(0, 500, 100) * (np.arange(100) % 3 > 0)]
    shares = {"train": 0.6, "val": 0.15, "test": 0.25}
    given = assign(weights, shares, 0)
    for split, share in shares.items():
        assert sum(w for w, s in zip(weights, given, strict=True) if s == split) / sum(weights) == pytest.approx(
            share, abs=0.03
        )
        assert given.count(split) == pytest.approx(100 * share, abs=2)
    assert given == assign(weights, shares, 0)
    assert given != assign(weights, shares, 1)


@pytest.fixture
def bad(tmp_path: Path, scene: tuple[Path, Path]) -> dict[str, tuple[Path, Path]]:
    raster, polygons = scene
    data = (QUICKSTART / "atlanta.tif").read_bytes()
    truncated, junk, empty = tmp_path / "truncated.tif", tmp_path / "junk.tif", tmp_path / "empty.geojson"
    truncated.write_bytes(data[: len(data) // 2])
    junk.write_bytes(b"not a raster at all" * 10)
    empty.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    far = write_polygons(tmp_path / "far.gpkg", [square(90_000, 0, 10)])
    points = write_polygons(tmp_path / "points.gpkg", [Point(500_001, 3_999_999)])
    bare = write_geotiff(tmp_path / "bare.tif", np.ones((1, 64, 64), np.uint8), crs=None)
    tiny = write_geotiff(tmp_path / "tiny.tif", np.ones((1, 12, 12), np.uint8))
    return {
        "no such raster": (tmp_path / "nowhere.tif", polygons),
        "cannot be read as a raster": (junk, polygons),
        "probably truncated": (truncated, QUICKSTART / "buildings.geojson"),
        "no coordinate reference system": (bare, polygons),
        "less than one chip": (tiny, polygons),
        "holds no polygons": (raster, empty),
        "1 of another kind": (raster, points),
        "none of its 1 polygons touches": (raster, far),
        "cannot be read as a vector file": (raster, junk),
        "no such file of polygons": (raster, tmp_path / "nowhere.gpkg"),
    }


@pytest.mark.parametrize(
    "message",
    [
        "no such raster",
        "cannot be read as a raster",
        "probably truncated",
        "no coordinate reference system",
        "less than one chip",
        "holds no polygons",
        "1 of another kind",
        "none of its 1 polygons touches",
        "cannot be read as a vector file",
        "no such file of polygons",
    ],
)
def test_bad_input_is_one_message_that_names_the_file(message: str, bad: dict, tmp_path: Path, cli) -> None:
    raster, polygons = bad[message]
    out = tmp_path / "out"
    code, _, error = cli(
        "segmentation", "chips", "--raster", raster, "--polygons", polygons, "--size", 16, "--out", out
    )
    assert code == 2
    assert message in error
    assert raster.name in error or polygons.name in error
    assert "Traceback" not in error
    assert not (out / "index.json").exists()


def test_options_that_make_no_sense_are_refused(cli, scene: tuple[Path, Path], tmp_path: Path) -> None:
    base = ["segmentation", "chips", "--raster", scene[0], "--polygons", scene[1], "--out", tmp_path / "out"]
    for more, message in (
        (["--split", "0.5,0.5"], "three numbers"),
        (["--split", "a,b,c"], "three numbers"),
        (["--size", 2], "at least 8 pixels"),
        (["--size", 16, "--resolution", 0], "above 0"),
        (["--size", 90], "no chip for val"),
        (["--size", 16, "--raster", scene[0]], "two rasters are named town"),
    ):
        code, _, error = cli(*base, *more)
        assert (code, message in error) == (2, True), error
    code, _, error = cli(*base[:-2])
    assert code == 2
    assert "--out DIR" in error


def test_damaged_chips_are_refused(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    folder = tmp_path / "chips"
    with pytest.raises(UsageError, match="no folder of chips"):
        ShardReader(folder)
    make_chips([scene[0]], [scene[1]], folder, RULES)
    shard, index = folder / "val-00000.tar", folder / "index.json"
    whole, text = shard.read_bytes(), index.read_text()
    shard.write_bytes(whole[:-512])
    with pytest.raises(UsageError, match=r"val-00000.tar: should have"):
        ShardReader(folder)
    shard.unlink()
    with pytest.raises(UsageError, match="is missing"):
        ShardReader(folder)
    shard.write_bytes(whole)
    index.write_text(text.replace("val-00000.tar", "../val-00000.tar"))
    with pytest.raises(UsageError, match="leaves the folder"):
        ShardReader(folder)
    index.write_text(text[:-20])
    with pytest.raises(UsageError, match="cannot be read as an index"):
        ShardReader(folder)
    index.write_text(text)
    shard.write_bytes(b"\0" * len(whole))
    with ShardReader(folder) as reader, pytest.raises(UsageError, match="is damaged"):
        reader.read(next(i for i, chip in enumerate(reader.chips) if chip["split"] == "val"), "image")
