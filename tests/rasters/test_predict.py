"""Whole-scene prediction: no seams, exact where it must be, bounded memory, maps and polygons that agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, Pixels
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.polygons import hectares
from shoal_earth.rasters.predict import NOTHING, CompositeSource, PairSource, predict_scene
from shoal_earth.rasters.synthetic import World

from .conftest import fitted


class Array:
    """A source in memory."""

    def __init__(self, values: np.ndarray, valid: np.ndarray | None = None, crs: str = "EPSG:32721") -> None:
        self.values = values
        self.valid = np.ones(values.shape[-2:], bool) if valid is None else valid
        self.grid = Grid(CRS.from_string(crs), from_origin(600_000, 8_800_000, 10, 10), *values.shape[-2:])
        self.reads: list[tuple[int, int]] = []

    def read(self, window: Window) -> Pixels:
        rows, columns = window.toslices()
        self.reads.append((int(window.height), int(window.width)))
        return Pixels(self.values[..., rows, columns], self.valid[rows, columns])


def pixelwise(batch: np.ndarray) -> np.ndarray:
    """Band one is the probability of class one."""
    return np.stack([1 - batch[:, 0], batch[:, 0]], 1)


@pytest.mark.parametrize(("height", "width"), [(100, 130), (64, 64), (65, 90), (40, 150), (20, 20), (193, 64)])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_a_model_that_looks_at_single_pixels_leaves_no_seam(
    tmp_path: Path, height: int, width: int, overlap: int
) -> None:
    rng = np.random.default_rng(height + width)
    values = rng.integers(0, 251, (1, height, width)).astype(np.float32) / 250
    valid = rng.random((height, width)) > 0.1
    made = predict_scene(Array(values, valid), pixelwise, tmp_path, size=64, overlap=overlap, batch=3)
    with rasterio.open(made.probability) as file:
        got = file.read(1)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert (got == np.where(valid, np.rint(values[0] * 250), NOTHING)).all()
    with rasterio.open(made.classes) as file:
        assert (file.read(1) == np.where(valid, values[0] > 0.5, NOTHING)).all()
        assert file.nodata == NOTHING


def test_neighbours_answers_are_blended(tmp_path: Path) -> None:
    """A model that is wrong at the edge of its window: with overlap the middle counts, without it the edge shows."""

    def edgy(batch: np.ndarray) -> np.ndarray:
        answer = np.full((len(batch), 2, 64, 64), 0.5, np.float32)
        answer[:, 1, :, :4] = answer[:, 1, :4, :] = 1
        answer[:, 0] = 1 - answer[:, 1]
        return answer

    spread = {}
    for overlap in (0, 32):
        source = Array(np.zeros((1, 256, 256), np.float32))
        made = predict_scene(source, edgy, tmp_path / str(overlap), size=64, overlap=overlap)
        with rasterio.open(made.probability) as file:
            inner = file.read(1)[40:200, 40:200] / 250
        spread[overlap] = np.abs(np.diff(inner, axis=1)).max()
    assert spread[0] == pytest.approx(0.5)
    assert spread[32] < 0.1


def test_polygons_are_the_map(tmp_path: Path) -> None:
    values = np.zeros((1, 120, 160), np.float32)
    values[0, 10:30, 20:60] = 0.9
    values[0, 50:52, 50:52] = 0.8
    values[0, 100:, 150:] = 0.7
    made = predict_scene(Array(values), pixelwise, tmp_path, size=64, overlap=16, name="burnt")
    frame = geopandas.read_file(made.polygons)
    assert made.polygons.name == "burnt.gpkg"
    assert made.count == len(frame) == 3
    assert frame["class"].tolist() == ["burnt"] * 3
    # 10 m pixels are 100 m2; the projection's scale there makes the ground a little different.
    np.testing.assert_allclose(frame["hectares"], [8, 2, 0.04], rtol=2e-3)
    np.testing.assert_allclose(frame["hectares"], hectares(frame), rtol=1e-6)
    assert made.hectares == pytest.approx(frame["hectares"].sum())
    np.testing.assert_allclose(frame["probability"], [0.9, 0.7, 0.8], atol=0.003)
    with rasterio.open(made.classes) as file:
        burnt = rasterize(frame.geometry, file.shape, transform=file.transform)
        assert (burnt == file.read(1)).all()
    fewer = predict_scene(Array(values), pixelwise, tmp_path / "b", size=64, overlap=16, min_hectares=0.5)
    assert fewer.count == 2


def test_nothing_found_is_a_map_without_polygons(tmp_path: Path) -> None:
    made = predict_scene(Array(np.zeros((1, 70, 70), np.float32)), pixelwise, tmp_path, size=64, overlap=16)
    assert (made.count, made.hectares) == (0, 0)
    assert len(geopandas.read_file(made.polygons)) == 0


def test_a_scene_without_any_data_is_not_shown_to_the_model(tmp_path: Path) -> None:
    values, valid = np.ones((1, 200, 100), np.float32), np.zeros((200, 100), bool)
    valid[150:] = True
    asked = []

    def model(batch: np.ndarray) -> np.ndarray:
        asked.append(len(batch))
        return pixelwise(batch)

    made = predict_scene(Array(values, valid), model, tmp_path, size=64, overlap=0)
    with rasterio.open(made.classes) as file:
        assert (file.read(1) == np.where(valid, 1, NOTHING)).all()
    assert sum(asked) == made.windows == 4
    empty = predict_scene(Array(values, valid & False), model, tmp_path / "e", size=64, overlap=0)
    assert empty.windows == 0


def test_thresholds_and_several_classes(tmp_path: Path) -> None:
    values = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))[None]

    def three(batch: np.ndarray) -> np.ndarray:
        return np.stack([(1 - batch[:, 0]) * 0.4, batch[:, 0], (1 - batch[:, 0]) * 0.6], 1)

    made = predict_scene(Array(values), three, tmp_path, size=64, overlap=0, threshold=0.8)
    with rasterio.open(made.classes) as file:
        got = file.read(1)[0]
    assert (got[values[0, 0] >= 0.8] == 1).all()
    assert (got[values[0, 0] < 0.79] == 2).all()
    with pytest.raises(UsageError, match="knows 3 classes, so there is no class 3"):
        predict_scene(Array(values), three, tmp_path, size=64, overlap=0, foreground=3)


def test_where_judging_is_not_allowed(tmp_path: Path) -> None:
    values = np.ones((1, 100, 100), np.float32)
    cloud = np.zeros((100, 100), bool)
    cloud[20:40, 30:60] = True

    def clear(window: Window) -> np.ndarray:
        return ~cloud[window.toslices()]

    made = predict_scene(Array(values), pixelwise, tmp_path, size=64, overlap=16, valid=clear)
    with rasterio.open(made.classes) as file:
        assert ((file.read(1) == NOTHING) == cloud).all()


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda batch: np.zeros((len(batch), 2, 8, 8)), "the model answered with shape"),
        (lambda batch: np.zeros((2, 64, 64)), "the model answered with shape"),
        (lambda batch: np.full((len(batch), 2, 64, 64), np.nan), "not finite"),
    ],
)
def test_answers_that_make_no_sense_leave_no_map(tmp_path: Path, model: object, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        predict_scene(Array(np.ones((1, 100, 100), np.float32)), model, tmp_path / "out", size=64, overlap=8)
    assert list((tmp_path / "out").iterdir()) == []


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    source = Array(np.ones((1, 70, 70), np.float32))
    for settings in ({"overlap": 64}, {"overlap": -1}, {"batch": 0}, {"threshold": 1.5}):
        with pytest.raises(UsageError):
            predict_scene(source, pixelwise, tmp_path, size=64, **settings)


def test_a_pair_of_scenes_on_one_grid(tmp_path: Path) -> None:
    before, after = np.zeros((2, 1, 90, 90), np.float32)
    after[0, 30:60, 30:60] = 1

    def change(batch: np.ndarray) -> np.ndarray:
        assert batch.shape[1:] == (2, 1, 64, 64)
        return pixelwise(np.abs(batch[:, 1] - batch[:, 0]))

    made = predict_scene(PairSource(Array(before), Array(after)), change, tmp_path, size=64, overlap=16)
    with rasterio.open(made.classes) as file:
        assert (file.read(1) == after[0]).all()
    with pytest.raises(UsageError, match="not on one grid: one has 90 x 90 pixels, the other 80 x 90"):
        PairSource(Array(before), Array(np.zeros((1, 90, 80), np.float32)))
    with pytest.raises(UsageError, match="one is in EPSG:32721, the other in EPSG:32720"):
        PairSource(Array(before), Array(after, crs="EPSG:32720"))


def test_a_crs_without_a_code(tmp_path: Path, fixtures: Path) -> None:
    with rasterio.open(next((fixtures / "burned" / "terratorch").glob("*.tif"))) as source:
        crs, stored = source.crs, source.read(1)
    source = Array(stored[None].astype(np.float32))
    source.grid = Grid(crs, from_origin(699_960, 5_200_020, 30, 30), 512, 512)
    made = predict_scene(source, pixelwise, tmp_path, size=256, overlap=32)
    frame = geopandas.read_file(made.polygons)
    assert frame["hectares"].sum() == pytest.approx((stored == 1).sum() * 0.09, rel=3e-3)


def test_a_scene_of_the_generated_world_becomes_a_map(world: World, tmp_path: Path) -> None:
    scale = fitted(world.scenes[:2], "ndvi", "reflectance")
    with read_scene(world.scenes[0]) as scene:
        source = CompositeSource(scene, "ndvi", scene.grid(["red", "nir"]), scale.unit)
        made = predict_scene(source, pixelwise, tmp_path, size=64, overlap=16, name="green")
        expected = source.read(source.grid.whole)
    with rasterio.open(made.probability) as file:
        got = file.read(1)
        assert file.crs.to_epsg() == 32721
    assert (np.abs(got - expected.values[0] * 250)[expected.valid] <= 0.51).all()


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((1, 100, 100), dtype=np.float32).round(2)
    made = [
        predict_scene(Array(values), pixelwise, tmp_path / name, size=64, overlap=16, min_hectares=0.03)
        for name in "ab"
    ]
    for one, other in zip((made[0].classes, made[0].polygons), (made[1].classes, made[1].polygons), strict=True):
        assert one.read_bytes() == other.read_bytes()


_MEMORY = """
import resource, sys, numpy as np, rasterio
from pathlib import Path
from rasterio.crs import CRS
from rasterio.transform import from_origin
from shoal_earth.rasters.grids import Grid, Pixels
from shoal_earth.rasters.predict import predict_scene

class Source:
    def __init__(self, height):
        self.grid = Grid(CRS.from_epsg(32721), from_origin(600000, 8800000, 10, 10), height, 512)
    def read(self, window):
        shape = (int(window.height), int(window.width))
        return Pixels(np.zeros((3, *shape), np.float32), np.ones(shape, bool))

def model(batch):
    return np.stack([1 - batch[:, 0], batch[:, 0]], 1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

with rasterio.Env(GDAL_CACHEMAX=16):
    predict_scene(Source(512), model, Path(sys.argv[1]) / "a", size=256, overlap=64)
    small = peak()
    predict_scene(Source(8192), model, Path(sys.argv[1]) / "b", size=256, overlap=64)
print(small, peak())
"""


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    small, large = map(float, done.stdout.split())
    # Sixteen times the pixels; held at once they would be 32 MB as probabilities, 50 MB as inputs.
    assert large - small < 25, f"{small:.0f} MB, then {large:.0f} MB"
