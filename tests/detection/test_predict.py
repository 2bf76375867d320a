"""A whole image through a model that knows the answer: every object once, in its place, on the map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from shoal.errors import UsageError
from shoal_earth.detection.predict import Found, merge, predict_image, to_map, write_geojson, write_geopackage

from .conftest import write_tif


def bright(windows: np.ndarray) -> Sequence[Found]:
    """Finds connected bright pixels; label by which channel is bright; larger pieces score higher."""
    from scipy.ndimage import find_objects, label

    answers = []
    for window in windows:
        boxes, scores, labels = [], [], []
        for channel in range(3):
            marked, _ = label(window[channel] > 128)
            for rows, columns in find_objects(marked):
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                area = (columns.stop - columns.start) * (rows.stop - rows.start)
                scores.append(0.5 + min(area, 4000) / 10_000)
                labels.append(channel)
        answers.append(Found(np.array(boxes, float).reshape(-1, 4), np.array(scores), np.array(labels, int)))
    return answers


def scene(
    path: Path, width: int, height: int, count: int = 60, **profile: object
) -> tuple[Path, np.ndarray, np.ndarray]:
    """Rectangles on a grid (so that none touch), random in size, with their boxes and channels."""
    rng = np.random.default_rng(7)
    values = np.zeros((3, height, width), np.uint8)
    cells = [(r, c) for r in range(height // 40) for c in range(width // 40)]
    boxes, labels = [], []
    for index in rng.permutation(len(cells))[:count]:
        row, column = cells[index]
        wide, high = rng.integers(6, 36, 2)
        left, top = column * 40 + int(rng.integers(0, 40 - wide)), row * 40 + int(rng.integers(0, 40 - high))
        channel = int(rng.integers(3))
        values[channel, top : top + high, left : left + wide] = 200
        boxes.append([left, top, left + wide, top + high])
        labels.append(channel)
    return write_tif(path, values, **profile), np.array(boxes), np.array(labels)


@pytest.mark.parametrize(("width", "height", "size"), [(500, 420, 96), (333, 401, 128), (90, 410, 96), (50, 60, 96)])
def test_every_object_is_found_once_and_whole(tmp_path: Path, width: int, height: int, size: int) -> None:
    path, boxes, labels = scene(tmp_path / "a.tif", width, height)
    found = predict_image(path, bright, size=size, overlap=40, batch=3)
    order, known = np.lexsort(found.boxes.T[:2]), np.lexsort(boxes.T[:2])
    np.testing.assert_array_equal(found.boxes[order], boxes[known])
    np.testing.assert_array_equal(found.labels[order], labels[known])
    assert (np.diff(found.scores) <= 0).all()


def test_windows_are_given_in_batches_of_colours(tmp_path: Path) -> None:
    path, _, _ = scene(tmp_path / "a.tif", 200, 200)
    shapes = []

    def model(windows: np.ndarray) -> Sequence[Found]:
        shapes.append((windows.shape, windows.dtype))
        return [Found(np.empty((0, 4)), np.empty(0), np.empty(0, int)) for _ in windows]

    assert len(predict_image(path, model, size=96, overlap=32, batch=4)) == 0
    assert [shape for shape, _ in shapes] == [(4, 3, 96, 96), (4, 3, 96, 96), (1, 3, 96, 96)]
    assert shapes[0][1] == np.uint8


def test_sixteen_bits_need_a_scale(tmp_path: Path) -> None:
    values = np.zeros((1, 60, 60), np.uint16)
    values[0, 10:20, 30:40] = 3000
    path = write_tif(tmp_path / "a.tif", values)
    with pytest.raises(UsageError, match="uint16, so a scale is needed"):
        predict_image(path, bright, size=64, overlap=8)
    found = predict_image(path, bright, size=64, overlap=8, scale=(0, 3000))
    np.testing.assert_array_equal(found.boxes, [[30, 10, 40, 20]] * 3)


def found_of(rows: list[tuple[list[float], float, int]]) -> Found:
    boxes, scores, labels = zip(*rows, strict=True)
    return Found(np.array(boxes, float), np.array(scores), np.array(labels))


def test_merging_is_class_by_class() -> None:
    found = found_of(
        [([0, 0, 10, 10], 0.9, 0), ([1, 0, 11, 10], 0.8, 0), ([0, 0, 10, 10], 0.7, 1), ([40, 0, 50, 10], 0.95, 0)]
    )
    kept = merge(found, np.zeros(4, bool))
    assert kept.scores.tolist() == [0.95, 0.9, 0.7]
    assert len(merge(found, np.zeros(4, bool), iou=0.99)) == 4


def test_pieces_at_window_edges_give_way_to_the_whole() -> None:
    whole, piece = ([0.0, 0, 30, 10], 0.6, 0), ([0.0, 0, 8, 10], 0.99, 0)
    kept = merge(found_of([whole, piece]), np.array([False, True]))
    assert kept.scores.tolist() == [0.6]
    # Without the whole, the larger piece that scores higher stays; of another class both do.
    assert len(merge(found_of([piece, ([0.0, 0, 6, 10], 0.5, 0)]), np.array([True, True]))) == 1
    assert len(merge(found_of([whole, (piece[0], 0.9, 1)]), np.array([False, True]))) == 2


def test_far_boxes_of_many_classes_do_not_disturb_each_other() -> None:
    """Coordinates of a large image times classes would not fit a float's 24 bits."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2000, (300, 2)) * 20.0 + 0.25
    boxes = np.concatenate([corners, corners + 4], 1)
    unique = np.unique(boxes, axis=0)
    found = Found(np.repeat(unique, 2, 0), np.linspace(1, 0.1, 2 * len(unique)), np.tile([3, 59], len(unique)))
    assert len(merge(found, np.zeros(len(found), bool), iou=0.01)) == len(found)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda windows: [], "answered 0 times"),
        (
            lambda windows: [Found(np.array([[0, 0, np.nan, 1]]), np.ones(1), np.ones(1, int))] * len(windows),
            "not finite",
        ),
        (lambda windows: [Found(np.zeros((2, 4)), np.ones(1), np.ones(1, int))] * len(windows), "2 boxes, 1 scores"),
    ],
)
def test_answers_that_make_no_sense(tmp_path: Path, answer: object, what: str) -> None:
    path, _, _ = scene(tmp_path / "a.tif", 100, 100)
    with pytest.raises(UsageError, match=what):
        predict_image(path, answer, size=64, overlap=8)  # type: ignore[arg-type]


def test_images_that_cannot_be_read_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0nonsense")
    with pytest.raises(UsageError, match=r"a\.tif: cannot be read as an image"):
        predict_image(tmp_path / "a.tif", bright)
    with pytest.raises(UsageError, match="the overlap is less"):
        predict_image(tmp_path / "a.tif", bright, size=64, overlap=64)


def test_boxes_go_to_the_map_and_back(tmp_path: Path) -> None:
    path, boxes, labels = scene(tmp_path / "a.tif", 300, 200, count=20)
    found = predict_image(path, bright, size=128, overlap=40)
    frame = to_map(path, found, ["red", "green", "blue"])
    write_geopackage(tmp_path / "a.gpkg", frame)
    write_geojson(tmp_path / "a.geojson", frame)
    own = geopandas.read_file(tmp_path / "a.gpkg")
    assert own.crs.to_epsg() == 32617
    with rasterio.open(path) as source:
        inverse = ~source.transform
        corners = [(*(inverse @ (b[0], b[3])), *(inverse @ (b[2], b[1]))) for b in own.bounds.to_numpy()]
    np.testing.assert_allclose(sorted(map(list, corners)), sorted(boxes.tolist()))
    degrees = geopandas.read_file(tmp_path / "a.geojson")
    assert degrees.crs.to_epsg() == 4326
    back = degrees.to_crs(32617)
    np.testing.assert_allclose(back.area.to_numpy(), own.area.to_numpy(), rtol=2e-2)
    np.testing.assert_allclose(back.centroid.x, own.centroid.x, atol=0.05)
    assert degrees["class"].tolist() == own["class"].tolist()
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert set(content) == {"type", "features"}
    ring = np.array(content["features"][0]["geometry"]["coordinates"][0])
    area = ((ring[:-1, 0] * ring[1:, 1]) - (ring[1:, 0] * ring[:-1, 1])).sum() / 2
    assert area > 0  # counter-clockwise
    write_geopackage(tmp_path / "b.gpkg", frame)
    assert len(labels) == len(own)


def test_turned_images_give_turned_boxes(tmp_path: Path) -> None:
    turned = Affine.translation(400_000, 3_000_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    path = write_tif(tmp_path / "a.tif", np.zeros((1, 40, 40), np.uint8), transform=turned)
    found = Found(np.array([[4.0, 8, 24, 18]]), np.array([0.5]), np.array([0]))
    shape = to_map(path, found, ["a"]).geometry[0]
    assert shape.area == pytest.approx(20 * 10 * 0.25)
    assert shape.area < shape.envelope.area
    centre = turned @ (14, 13)
    assert (shape.centroid.x, shape.centroid.y) == pytest.approx(centre)


def test_an_image_without_a_place_has_no_map(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.zeros((1, 40, 40), np.uint8), crs=None)
    nothing = Found(np.empty((0, 4)), np.empty(0), np.empty(0, int))
    with pytest.raises(UsageError, match="has no place on earth"):
        to_map(path, nothing, ["a"])
    placed = write_tif(tmp_path / "b.tif", np.zeros((1, 40, 40), np.uint8))
    frame = to_map(placed, nothing, ["a"])
    write_geojson(tmp_path / "b.geojson", frame)
    write_geopackage(tmp_path / "b.gpkg", frame)
    assert len(geopandas.read_file(tmp_path / "b.gpkg")) == 0
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []
    with pytest.raises(UsageError, match="not among the 1 classes"):
        to_map(placed, Found(np.ones((1, 4)), np.ones(1), np.array([1])), ["a"])
