"""Composites by hand, masks, filters, and scales."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from geotiff import write_geotiff
from shoal.errors import UsageError
from shoal_earth.rasters.composites import COMPOSITES, composite, write_composite
from shoal_earth.rasters.filters import Rules, measure, sift
from shoal_earth.rasters.grids import Pixels
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.normalise import Fitter, Scale
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.statistics import normalise
from shoal_earth.rasters.synthetic import World

from .conftest import fitted


def raster(path: Path, values: np.ndarray, **more: Any) -> Path:
    return write_geotiff(path, values, crs="EPSG:32720", origin=(0, 0), pixel=10, **more)


def test_ndvi_of_a_known_pixel_by_hand(safes: dict[str, Path]) -> None:
    # Stored at row 50, column 50 of the real trees, as gdallocationinfo shows; NDVI by hand, with the offset where it applies.
    for tile, offset in (("22HBD", 0), ("01UBT", -1000)):
        stored = {}
        for band in ("B04", "B08"):
            with rasterio.open(next(safes[tile].rglob(f"*_{band}_10m.*"))) as source:
                stored[band] = int(source.read(1, window=Window(50, 50, 1, 1))[0, 0]) + offset
        by_hand = (stored["B08"] - stored["B04"]) / (stored["B08"] + stored["B04"])
        with read_scene(safes[tile]) as scene:
            assert composite(scene, "ndvi", Window(50, 50, 1, 1)).values[0, 0, 0] == pytest.approx(by_hand, abs=1e-5)
    # Without the offset the last one would be nearer to zero: this is what it is for.
    wrong = (stored["B08"] - stored["B04"]) / (stored["B08"] + stored["B04"] + 2000)
    assert abs(wrong) < abs(by_hand)


def test_indices_are_signed_and_defined_only_where_they_mean_something(tmp_path: Path) -> None:
    #          blue  red   nir     NDVI                      EVI
    pixels = [
        (0.02, 0.03, 0.45),  # vegetation
        (0.30, 0.40, 0.10),  # NDVI -0.6
        (0.0, 0.0, 0.0),  # no NDVI: 0 / 0
        (0.50, 0.20, 0.30),  # EVI's divisor is negative
        (0.02, -0.01, 0.05),  # a small negative reflectance, as new baselines have: NDVI beyond 1
    ]
    values = np.array(pixels, np.float32).T[:, None, :]
    path = raster(tmp_path / "r.tif", values, names=["blue", "red", "nir"])
    with read_scene(path) as scene:
        ndvi, evi = composite(scene, "ndvi"), composite(scene, "evi")
    assert ndvi.values.dtype == np.float32
    np.testing.assert_allclose(ndvi.values[0, 0, [0, 1, 4]], [0.42 / 0.48, -0.6, 1.0], rtol=1e-5)
    assert ndvi.valid[0].tolist() == [True, True, False, True, True]
    expected = 2.5 * 0.42 / (0.45 + 6 * 0.03 - 7.5 * 0.02 + 1)
    np.testing.assert_allclose(evi.values[0, 0, 0], expected, rtol=1e-5)
    assert 0.5 + 0.7 - 3.75 < 0
    assert evi.valid[0].tolist() == [True, True, True, False, True]
    assert (evi.values[0, ~evi.valid] == 0).all()


def test_written_composites_keep_no_data_apart(world: World, tmp_path: Path) -> None:
    edged = next(path for path in world.scenes if (read_scene(path).classes() == 0).any())
    for kind in (*COMPOSITES, "swir22+nir+red"):
        path = tmp_path / f"{kind}.tif"
        with read_scene(edged) as scene:
            expected = composite(scene, kind)
            write_composite(scene, kind, path)
        with rasterio.open(path) as made:
            assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            values, marks = made.read(), made.dataset_mask() > 0
            assert made.tags()["scene"] == edged.stem
        assert (marks == expected.valid).all()
        if kind == "tci":
            assert values.dtype == np.uint8
        else:
            np.testing.assert_array_equal(values[:, marks], expected.values[:, marks])
            assert np.isnan(values[:, ~marks]).all()
    assert sorted(file.name[0] for file in tmp_path.iterdir()) == sorted(k[0] for k in (*COMPOSITES, "s"))


def test_a_composite_made_again_is_the_same_file(world: World, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        with read_scene(world.scenes[0]) as scene:
            write_composite(scene, "ngb", tmp_path / name)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


_MEMORY = """
import resource, sys, rasterio
from pathlib import Path
from shoal_earth.rasters.composites import write_composite
from shoal_earth.rasters.filters import measure
from shoal_earth.rasters.opening import read_scene

folder, peaks = Path(sys.argv[1]), []
with rasterio.Env(GDAL_CACHEMAX=16):
    for side in (512, 4096):
        path = folder / f"{side}.tif"
        profile = dict(driver="GTiff", count=2, height=side, width=side, dtype="uint16", crs="EPSG:32721")
        profile |= dict(transform=rasterio.Affine(10, 0, 0, 0, -10, 0), tiled=True, compress="zstd", sparse_ok=True)
        with rasterio.open(path, "w", **profile) as file:
            file.set_band_description(1, "red")
            file.set_band_description(2, "nir")
        with read_scene(path) as scene:
            write_composite(scene, "ndvi", folder / "out.tif")
            measure(scene)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*peaks)
"""


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=200
    )
    small, large = map(float, done.stdout.split())
    # Sixty-four times the pixels: 64 MB a float band if it were held at once; windows of 2048 x 2048 are read.
    assert large - small < 150, f"{small:.0f} MB, then {large:.0f} MB"


def test_unknown_composites_are_refused(world: World) -> None:
    with read_scene(world.scenes[0]) as scene, pytest.raises(UsageError, match='no composite "nvdi"'):
        composite(scene, "nvdi")


def test_what_hides_the_ground_is_shadow_and_cloud_of_any_kind() -> None:
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert mask(classes, HIDDEN).ravel().nonzero()[0].tolist() == [3, 7, 8, 9, 10]


def test_figures_of_the_real_trees(safes: dict[str, Path]) -> None:
    for tile, nodata in (("22HBD", 0.0), ("01UBT", 0.0), ("07HFE", 0.9)):
        with rasterio.open(next(safes[tile].rglob("*_SCL_20m.*"))) as source:
            classes = source.read(1)
        with rasterio.open(next(safes[tile].rglob("*_B04_10m.*"))) as source:
            red = source.read(1)
        with read_scene(safes[tile]) as scene:
            figures = measure(scene)
        valid = (classes != 0) & (red != 0)
        assert figures.nodata == pytest.approx(1 - valid.mean())
        assert figures.cloud == pytest.approx(np.isin(classes[valid], [8, 9, 10]).mean())
        assert figures.nodata >= nodata
    judged = {f.scene[39:44]: why for f, why in sift(safes.values(), Rules())}
    assert judged["22HBD"] is None, "the product itself states 0.4 % cloud"
    assert "cloud, more than 25%" in str(judged["01UBT"]), "the product itself states 99 % cloud"
    assert "is no data, more than 80%" in str(judged["07HFE"])


def test_cloud_is_counted_over_valid_pixels_alone(tmp_path: Path, world: World) -> None:
    tree = shutil.copytree(world.scenes[0], tmp_path / world.scenes[0].name)
    path = next(tree.rglob("*_SCL_20m.tif"))
    with rasterio.open(path, "r+") as file:
        classes = np.full((60, 60), 4, np.uint8)
        classes[:48] = 0  # 80 % no data: not more than 80 %
        classes[48:51] = 9  # a quarter of the rest: not more than a quarter
        file.write(classes, 1)
    ((figures, why),) = sift([tree], Rules(), tmp_path / "figures.csv")
    assert (figures.nodata, figures.cloud, why) == (0.8, 0.25, None)
    with rasterio.open(path, "r+") as file:
        classes[51, 0] = 9
        file.write(classes, 1)
    ((figures, why),) = sift([tree], Rules(), tmp_path / "figures.csv")
    assert why == "25.1% of the valid pixels are cloud, more than 25%"
    with (tmp_path / "figures.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["nodata"], row["kept"], row["reason"]) == ("0.800000", "no", why)
    assert float(row["cloud"]) == pytest.approx(181 / 720, abs=1e-6)


def test_a_scene_without_classification_is_not_taken_for_clear(tmp_path: Path) -> None:
    path = raster(tmp_path / "r.tif", np.ones((1, 20, 20), np.uint8), names=["red"])
    ((figures, why),) = sift([path], Rules())
    assert figures.cloud is None
    assert "clouds cannot be told" in str(why)
    ((_, why),) = sift([path], Rules(unclassified=True))
    assert why is None
    with pytest.raises(UsageError, match="is a share from 0 to 1, not 80"):
        Rules(max_nodata=80)


def test_the_shared_inter_quartile_scale_by_hand() -> None:
    # Band one: 0..100, quartiles 25 and 75; band two: 1000 with outliers; in steps of 1/10,000.
    one = np.arange(101)
    two = np.concatenate([np.full(50, 1000), np.linspace(1000, 1100, 50).round(), [9000]])
    fitter = Fitter("rgb", 2)
    cube = np.stack([one, two])[:, None, :] / 10_000
    fitter.add(Pixels(cube.astype(np.float32), np.ones((1, 101), bool)))
    scale = fitter.fit("iqr")
    q1, q3 = np.sort(two)[[25, 75]]
    whiskers = [
        (max(25 - 75, 0), min(75 + 75, 100)),
        (max(q1 - 1.5 * (q3 - q1), 1000), min(q3 + 1.5 * (q3 - q1), 9000)),
    ]
    for band in scale.bands:
        assert band["low"] == pytest.approx(min(low for low, _ in whiskers) / 10_000)
        assert band["high"] == pytest.approx(max(high for _, high in whiskers) / 10_000)
    assert max(high for _, high in whiskers) < 1300, "the outlier does not decide"
    unit = scale.unit(Pixels(cube.astype(np.float32), np.ones((1, 101), bool))).values
    assert unit.min() == 0
    assert unit.max() == 1


def test_percentiles_and_reflectance() -> None:
    values = np.random.default_rng(0).uniform(-0.1, 0.9, (2, 50, 50)).astype(np.float32)
    valid = np.ones((50, 50), bool)
    valid[:10] = False
    fitter = Fitter("ndvi", 2)
    fitter.add(Pixels(values, valid))
    scale = fitter.fit("percentile", 2, 98)
    for band, number in zip(scale.bands, (0, 1), strict=True):
        inside = values[number][valid]
        assert band["low"] == pytest.approx(np.percentile(inside, 2), abs=2e-3)
        assert band["high"] == pytest.approx(np.percentile(inside, 98), abs=2e-3)
        unit = np.clip((inside - band["low"]) / (band["high"] - band["low"]), 0, 1)
        assert band["mean"] == pytest.approx(unit.mean(), abs=1e-3)
        assert band["std"] == pytest.approx(unit.std(), abs=1e-3)
    fixed = fitter.fit("reflectance")
    assert [(band["low"], band["high"]) for band in fixed.bands] == [(0, 1), (0, 1)]
    # The form is the one that the chips' own normalise takes.
    assert normalise(values, scale.bands).mean() == pytest.approx(0, abs=0.2)
    with pytest.raises(UsageError, match='no way to normalise named "zscore"'):
        fitter.fit("zscore")
    with pytest.raises(UsageError, match="no valid pixel"):
        Fitter("rgb", 3).fit("iqr")


def test_a_saved_scale_is_read_again_and_a_damaged_one_refused(world: World, tmp_path: Path) -> None:
    scale = fitted(world.scenes[:3], "ngb")
    assert scale.scenes == [path.stem for path in world.scenes[:3]]
    scale.save(tmp_path / "scale.json")
    assert Scale.load(tmp_path / "scale.json") == scale
    (tmp_path / "scale.json").write_text((tmp_path / "scale.json").read_text()[:50])
    with pytest.raises(UsageError, match=r"scale.json: cannot be read as a scale"):
        Scale.load(tmp_path / "scale.json")
    (tmp_path / "scale.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UsageError, match="another version"):
        Scale.load(tmp_path / "scale.json")
