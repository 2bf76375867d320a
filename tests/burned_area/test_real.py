"""Real pixels and real items, as a user takes them: searched over HTTP, fetched, filtered, labelled, cut, trained on, mapped.

Nothing burnt in these scenes when they were taken, so the fires are drawn by the tests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from shapely.geometry import box, mapping
from tests.rasters.conftest import Server

from shoal_earth.rasters.shards import ShardReader

Cli = Callable[..., tuple[int, str, str]]
LANDSAT = "LC08_L2SP_232066_20190727_20200827_02_T1"
SIZE = 16
torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """A catalogue with one real scene, and what a user says of it."""

    folder: Path
    product: Path
    bands: tuple[str, ...]
    fetch: tuple[str, ...]
    resolution: float
    day: str
    margin: float
    # Reflectance of stored numbers, and the file of the red band.
    scale: float
    offset: float
    red: Path
    extra: tuple[str, ...] = ()


def sentinel(fixtures: Path, folder: Path) -> Case:
    """The ``.SAFE`` tree in JP2, with the item that describes it, as published but for its place."""
    source = next((fixtures / "safe" / "stactools_downsampled").glob("esa_S2B*.SAFE"))
    tree = folder / source.name
    shutil.copytree(source, tree)
    (item,) = (fixtures / "stac" / "stactools-sentinel2" / "expected").glob("esa_S2B*20210122*.json")
    shutil.copy(item, tree / "item.json")
    (red,) = tree.rglob("*_B04_10m.jp2")
    # Every band is shrunk to 100 x 100 pixels, so these are of 1,098 m.
    return Case(
        folder,
        tree,
        ("red", "green", "blue", "visual", "scl"),
        ("--resolution", "10"),
        1098,
        "2021-01-05",
        2000,
        1e-4,
        0,
        red,
    )


def landsat(fixtures: Path, folder: Path) -> Case:
    """Real reflectance in the numbers and names of Collection 2, under a real item that was moved there."""
    with rasterio.open(fixtures / "rasters" / "scikit-eo" / "LC08_232066_20190727.tif") as source:
        values, profile = source.read(), source.profile
        bounds = transform_bounds(source.crs, 4326, *source.bounds)
    product = folder / LANDSAT
    product.mkdir(parents=True)
    place = {key: profile[key] for key in ("height", "width", "crs", "transform")}
    for number, band in enumerate(("B2", "B3", "B4", "B5", "B6", "B7")):
        stored = np.rint((values[number] * 1e-4 + 0.2) / 2.75e-5).astype(np.uint16)
        stored[values[number] == profile["nodata"]] = 0
        path = product / f"{LANDSAT}_SR_{band}.TIF"
        with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint16", nodata=0, **place) as file:
            file.write(stored, 1)
    real = json.loads((fixtures / "stac" / "odc-stac" / "LC08_L2SP_028030_20200114_20200824_02_T1_SR.json").read_text())
    assets = {}
    for key, asset in real["assets"].items():
        name = asset["href"].rpartition("/")[2].replace("LC08_L2SP_028030_20200114_20200824_02_T1", LANDSAT)
        if (product / name).is_file():
            kept = {word: value for word, value in asset.items() if word not in ("file:checksum", "alternate")}
            assets[key] = kept | {"href": f"./{name}"}
    facts = real["properties"] | {"datetime": "2019-07-27T14:22:00Z", "proj:epsg": 32620}
    facts |= {"landsat:wrs_path": "232", "landsat:wrs_row": "066"}
    moved = {"id": f"{LANDSAT}_SR", "bbox": list(bounds), "geometry": mapping(box(*bounds)), "links": []}
    (product / "item.json").write_text(json.dumps(real | moved | {"assets": assets, "properties": facts}))
    return Case(
        folder,
        product,
        ("red", "green", "blue"),
        (),
        30,
        "2019-07-10",
        100,
        2.75e-5,
        -0.2,
        product / f"{LANDSAT}_SR_B4.TIF",
        # The sample has no QA_PIXEL.
        ("--unclassified",),
    )


def draw_fires(case: Case, path: Path) -> None:
    """Six squares, each of about a tenth of the scene's width."""
    with rasterio.open(case.red) as file:
        left, bottom, right, top = file.bounds
        crs = file.crs
    side = (right - left) / 30
    across, down = np.linspace(left, right, 5)[1:4], np.linspace(bottom, top, 4)[1:3]
    shapes = [box(x - side, y - side, x + side, y + side) for x in across for y in down]
    days = [case.day] * len(shapes)
    table = {"id": range(len(shapes)), "FIREDATE": days, "FINALDATE": days}
    geopandas.GeoDataFrame(table, geometry=shapes, crs=crs).to_crs(4326).to_file(path)


@pytest.mark.parametrize("kind", [sentinel, landsat])
def test_from_a_catalogue_to_a_map(
    fixtures: Path, kind: Callable[[Path, Path], Case], serve: Callable[[Path], Server], tmp_path: Path, cli: Cli
) -> None:
    case = kind(fixtures, tmp_path / "served")
    link = {"rel": "item", "href": f"./{case.product.name}/item.json"}
    catalogue = {"type": "Catalog", "stac_version": "1.0.0", "id": "real", "description": "x", "links": [link]}
    (case.folder / "catalog.json").write_text(json.dumps(catalogue))
    server = serve(case.folder)
    draw_fires(case, tmp_path / "drawn.gpkg")
    fires, scenes, labels = tmp_path / "fires.gpkg", tmp_path / "scenes", tmp_path / "labels"

    def ran(*words: object) -> str:
        code, out, err = cli(*words)
        assert (code, err) == (0, ""), err
        return out

    assert "6 fires in 6 groups" in ran(
        "burned-area", "fires", tmp_path / "drawn.gpkg", "--out", fires, "--margin", case.margin
    )
    search = ("burned-area", "search", "--fires", fires, "--catalogue", f"{server.url}/catalog.json")
    assert ran(*search, "--out", tmp_path / "items.geojson").startswith("1 scenes of 6 fires")
    fetch = ("scenes", "fetch", tmp_path / "items.geojson", "--out", scenes, "--bands", ",".join(case.bands))
    assert f"{len(case.bands)} files fetched" in ran(*fetch, *case.fetch)
    assert ran("burned-area", "filter", "--scenes", scenes, "--out", tmp_path, *case.extra).endswith("1 of 1 kept\n")
    made = ran(
        *("burned-area", "labels", "--scenes", scenes, "--figures", tmp_path, "--fires", fires, "--part", "all"),
        *("--resolution", case.resolution, "--out", labels),
    )
    assert "6 fires seen, 0 unsure" in made
    ran(
        *("burned-area", "split", labels, "--fires", fires, "--margin", case.margin, "--size", SIZE),
        *("--out", tmp_path / "split"),
    )
    for imagery in ("img", "tci")[: 2 if "visual" in case.bands else 1]:
        ran(
            *("burned-area", "chips", "--scenes", scenes, "--labels", labels, "--places", tmp_path / "split"),
            *("--imagery", imagery, "--size", SIZE, "--out", tmp_path / "part" / imagery),
        )
        ran("burned-area", "dataset", tmp_path / "part" / imagery, "--out", tmp_path / imagery)

    # The chips are the published numbers, where gdal finds them.
    with ShardReader(tmp_path / "img") as reader, rasterio.open(case.red) as red:
        places = {scene["name"]: scene for scene in reader.index["scenes"]}
        assert {chip["split"] for chip in reader.chips} == {"train", "val", "test"}
        for position, chip in enumerate(reader.chips):
            left, top = places[chip["scene"]]["transform"][2], places[chip["scene"]]["transform"][5]
            row, column = red.index(left + case.resolution / 2, top - case.resolution / 2)
            stored = red.read(1, window=Window(column + chip["column"], row + chip["row"], SIZE, SIZE))
            image = reader.read(position, "image")[0]
            there = (stored != 0) & (image != 0)
            assert there.mean() > 0.5
            wanted = (stored * case.scale + case.offset) / reader.index["step"]
            assert np.abs(image - wanted)[there].max() <= 0.51
            assert (reader.read(position, "label") == 1).any()

    trial = tmp_path / "trial"
    ran(
        *("segmentation", "train", "--chips", tmp_path / "img", "--model", "unet", "--encoder", "tu-resnet10t"),
        *("--pretrained", "false", "--epochs", 1, "--batch-size", 2, "--device", "cpu", "--out", trial),
    )
    # One map, whether of what was fetched, of the product itself, or of a composite that was made of it.
    ran("scenes", "composite", case.product, "--kind", "rgb", "--out", tmp_path / "composite")
    (cog,) = (tmp_path / "composite").glob("*_rgb.tif")
    # Beside its item the product would be read as that.
    (case.product / "item.json").unlink()
    maps = []
    for name, scene in (("fetched", next(scenes.iterdir())), ("product", case.product), ("cog", cog)):
        ran("predict", "--model", trial, "--scene", scene, "--out", tmp_path / name, "--min-hectares", 50)
        with rasterio.open(tmp_path / name / "probability.tif") as file, rasterio.open(case.red) as red:
            assert (file.crs, file.shape, file.bounds) == (red.crs, red.shape, red.bounds)
            maps.append(file.read(1))
        assert (geopandas.read_file(tmp_path / name / "burnt.gpkg")["hectares"] >= 50).all()
    assert len(np.unique(maps[0])) > 3
    assert (maps[0] == maps[1]).all()
    assert (maps[0] == maps[2]).all()
