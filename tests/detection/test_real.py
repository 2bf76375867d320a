"""Real imagery: NEON tree crowns and SpaceNet buildings convert, chip, and read back where they lie on the ground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image as Picture

from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.drawing import draw_boxes
from shoal_earth.detection.predict import Found, to_map
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.readers import read_dataset
from shoal_earth.detection.shards import DetectionChips
from shoal_earth.detection.splits import SplitRules


@pytest.fixture
def neon(fixtures: Path) -> Path:
    return fixtures / "detection" / "deepforest_NEON"


@pytest.fixture
def spacenet(fixtures: Path) -> Path:
    return fixtures / "detection" / "solaris_SpaceNet"


def test_voc_and_csv_of_the_same_image_agree(neon: Path) -> None:
    voc, table = read_dataset("voc", neon), read_dataset("csv", neon)
    assert {image.name: len(image.boxes) for image in voc.images} == {
        "2019_YELL_2_541000_4977000_image_crop.png": 279,
        "OSBS_029.tif": 61,
        "SOAP_061.png": 37,
    }
    one = next(image for image in voc.images if image.name == "OSBS_029.tif")
    other = table.images[0]
    assert (other.name, other.crs, other.width, other.height) == ("OSBS_029.tif", "EPSG:32617", 400, 400)
    np.testing.assert_array_equal(one.boxes.xyxy, other.boxes.xyxy)
    lines = (neon / "OSBS_029.csv").read_text().splitlines()
    for number, line in enumerate(other.boxes.lines):
        assert [float(v) for v in lines[line - 1].split(",")[1:5]] == other.boxes.xyxy[number].tolist()
    assert voc.findings.counts["images"].skipped == {"no labels": 2}


def test_trees_chip_and_read_back(neon: Path, tmp_path: Path, cli: Any) -> None:
    arguments = ("prepare", "--dataset", "voc", "--source", neon, "--out", tmp_path, "--size", 200, "--overlap", 40)
    code, out, err = cli(*arguments, "--classes", "Tree")
    assert code == 0, err
    assert "unknown class: " in out
    dataset = read_dataset("voc", neon, only=["Tree"])
    with DetectionChips(tmp_path) as chips:
        seen = set()
        for number in range(len(chips)):
            facts, rows = chips.facts(number), chips.boxes(number)
            with rasterio.open(neon / facts["image_name"]) as source:
                left, top = facts["column"], facts["row"]
                window = source.read(window=((top, top + facts["height"]), (left, left + facts["width"])))[:3]
            np.testing.assert_array_equal(chips.image(number)[:, : facts["height"], : facts["width"]], window)
            seen |= {int(row["object"]) for row in rows}
    assert seen == set(range(dataset.box_count))


def test_buildings_of_sixteen_bits(spacenet: Path, tmp_path: Path) -> None:
    made = prepare("coco", spacenet, tmp_path, ChipRules(256, 64), SplitRules((1, 0, 0)))
    counts = made.dataset.findings.counts
    # File 2 labels the one image that is there; files 1 and 3 are for tiles that are not.
    assert counts["labels"].read == 3 + 43 + 89
    assert counts["labels"].kept == 43
    assert counts["labels"].skipped == {"image left out": 92}
    assert counts["boxes"].kept == 43
    assert made.dataset.classes == ("0.0", "1.0", "other")
    with DetectionChips(tmp_path) as chips:
        assert chips.images[0]["dtype"] == "uint16"
        shown = chips.image(0)
        assert shown.dtype == np.uint8
        assert 20 < shown.mean() < 235
        assert shown.std() > 20
        rows = chips.boxes(0)
        draw_boxes(tmp_path / "chip.png", shown, rows["box"], [(255, 0, 0)] * len(rows), scale=2)
    drawn = np.asarray(Picture.open(tmp_path / "chip.png"))
    assert drawn.shape == (512, 512, 3)
    for left, top, right, bottom in rows["box"]:
        middle = drawn[min(int(top + bottom), 511), int(2 * left) + 1]
        assert middle.tolist() == [255, 0, 0], (left, top, right, bottom)


def test_boxes_lie_on_the_ground_where_the_polygons_do(spacenet: Path) -> None:
    """COCO's pixels, brought to the map by this code, against the polygons that they were once made from."""
    dataset = read_dataset("coco", spacenet)
    image = dataset.images[0]
    found = Found(image.boxes.xyxy, np.ones(43), image.boxes.classes)
    frame = to_map(image.path, found, dataset.classes)
    truth = geopandas.read_file(spacenet / "geotiff_labels.geojson").to_crs(frame.crs)
    extent = rasterio.open(image.path).bounds
    truth = truth.clip([extent.left, extent.bottom, extent.right, extent.top])
    bounds = np.sort(truth.bounds.to_numpy(), 0)
    np.testing.assert_allclose(np.sort(frame.bounds.to_numpy(), 0), bounds, atol=0.6)


def test_trees_train_and_are_found_on_the_map(neon: Path, tmp_path: Path, cli: Any) -> None:
    """Tree crowns of three forests: chips, a few epochs of a tiny detector, its answers in a whole image on the map."""
    arguments = (
        "prepare",
        "--dataset",
        "voc",
        "--source",
        neon,
        "--out",
        tmp_path / "chips",
        "--size",
        200,
        "--overlap",
        0,
    )
    code, out, err = cli(*arguments, "--classes", "Tree", "--split", "0.6,0.4,0")
    assert code == 0, err
    model = ("--model", "fcos", "--size", "tiny", "--epochs", 2, "--batch-size", 4)
    code, out, err = cli(
        "train", "--chips", tmp_path / "chips", *model, "--augment", "flips", "--out", tmp_path / "model"
    )
    assert code == 0, err
    assert "best: val/ap" in out
    # Three images make no third split worth the name.
    score = ("test", "--split", "val", "--chips", tmp_path / "chips", "--checkpoint", tmp_path / "model")
    code, out, err = cli(*score, "--out", tmp_path / "test")
    assert code == 0, err
    scene = neon / "OSBS_029.tif"
    found = (
        "predict",
        "--model",
        tmp_path / "model",
        "--image",
        scene,
        "--min-score",
        0.05,
        "--out",
        tmp_path / "found",
    )
    code, out, err = cli(*found)
    assert code == 0, err
    frame = geopandas.read_file(tmp_path / "found" / "OSBS_029.gpkg")
    with rasterio.open(scene) as source:
        bounds, crs = source.bounds, source.crs
    assert frame.crs == crs
    assert len(frame) > 0
    assert set(frame["class"]) == {"Tree"}
    assert (frame.bounds.minx >= bounds.left - 0.01).all()
    assert (frame.bounds.maxy <= bounds.top + 0.01).all()


def test_buildings_of_sixteen_bits_train_and_are_found(spacenet: Path, tmp_path: Path) -> None:
    """The only image is 439 pixels: the same chips stand for training and validation here, which no study would do."""
    import json

    from shoal_earth.detection.mapping import detect_images
    from shoal_earth.detection.train import TrainSettings, train

    prepare("coco", spacenet, tmp_path / "chips", ChipRules(128, 32), SplitRules((1, 0, 0)))
    index = json.loads((tmp_path / "chips" / "index.json").read_text())
    for chip in index["chips"][::3]:
        chip["split"] = "val"
    (tmp_path / "chips" / "index.json").write_text(json.dumps(index))
    best = train(
        tmp_path / "chips",
        tmp_path / "model",
        TrainSettings("convnext", size="tiny", epochs=2, batch_size=2, device="cpu"),
    )
    assert np.isfinite(best["value"])
    image = next(i for i in read_dataset("coco", spacenet).images)
    (found,) = detect_images(tmp_path / "model", [image.path], tmp_path / "found", min_score=0.0)
    assert found.count > 0
    assert [path.suffix for path in found.maps] == [".gpkg", ".geojson"]
