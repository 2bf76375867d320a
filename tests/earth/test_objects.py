"""Scores by object: patches across chips, what is found of them, and their sizes in hectares."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from shoal_earth.segmentation.objects import Objects, object_scores, pixel_hectares, write_objects

UTM = {"name": "a", "crs": "EPSG:32721", "transform": [10, 0, 600_000, 0, -10, 8_800_000]}


def in_chips(objects: Objects, scene: str, prediction: np.ndarray, truth: np.ndarray, side: int = 8) -> None:
    for row in range(0, len(truth), side):
        for column in range(0, truth.shape[1], side):
            here = slice(row, row + side), slice(column, column + side)
            objects.add(scene, 100 + row, 40 + column, prediction[here], truth[here])


def test_objects_are_put_together_from_chips_and_scored_one_by_one() -> None:
    truth = np.zeros((16, 24), np.uint8)
    prediction = np.zeros_like(truth)
    truth[6:10, 6:10] = 1  # lies in four chips; half of it is found, with 4 pixels beside it
    prediction[6:10, 8:11] = 1
    truth[1, 20] = truth[2, 21] = 1  # touches by a corner: one object, missed
    truth[12:15, 2:5] = 1  # found exactly
    prediction[12:15, 2:5] = 1
    prediction[13, 20] = 1  # a false alarm
    truth[4:6, 16:20] = 255  # counts for nothing, whatever is predicted there
    prediction[4:6, 16:20] = 1
    objects = Objects([UTM])
    in_chips(objects, "a", prediction, truth)
    got = objects.finish("test")
    each = {(one.row - 100, one.column - 40): one for one in objects.found}
    assert set(each) == {(7, 7), (1, 20), (13, 3)}
    assert (each[7, 7].recall, each[7, 7].iou) == (0.5, 8 / 20)
    assert (each[1, 20].pixels, each[1, 20].recall, each[1, 20].iou) == (2, 0, 0)
    assert each[13, 3].iou == 1
    assert each[7, 7].hectares == pytest.approx(16 * 0.01, rel=2e-3)
    assert got["test/objects/count"] == got["test/objects/count/0-1ha"] == 3
    assert got["test/objects/recall"] == pytest.approx(2 / 3)
    assert got["test/objects/iou"] == pytest.approx((0.4 + 0 + 1) / 3)
    # Of three predicted patches, two lie mostly in something true.
    assert got["test/objects/precision"] == pytest.approx(2 / 3)


def test_a_patch_over_two_objects_counts_against_each_only_with_what_is_in_neither() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[2:4, 0:3], truth[2:4, 5:8] = 1, 1
    objects = Objects([])
    objects.add("a", 0, 0, np.where(np.arange(8)[:, None] // 2 == 1, 1, 0) + np.zeros((8, 8), int), truth)
    objects.finish("x")
    assert [one.iou for one in objects.found] == [6 / (6 + 4)] * 2
    assert objects.found[0].hectares is None


def test_scenes_are_kept_apart_and_sizes_counted_by_hectares(tmp_path: Path) -> None:
    objects = Objects([UTM, {"name": "b", "pixel_hectares": 1.5}])
    one = np.ones((8, 8), np.uint8)
    objects.add("a", 0, 0, one, one)
    objects.add("b", 0, 8, 0 * one, one)
    got = objects.finish("val")
    assert got["val/objects/count/0-1ha"] == got["val/objects/count/25-100ha"] == 1
    assert (got["val/objects/recall/0-1ha"], got["val/objects/recall/25-100ha"]) == (1, 0)
    write_objects(tmp_path / "objects.csv", objects.found)
    rows = list(csv.DictReader((tmp_path / "objects.csv").open()))
    assert [(row["scene"], row["pixels"], row["recall"]) for row in rows] == [
        ("a", "64", "1.0000"),
        ("b", "64", "0.0000"),
    ]
    assert float(rows[1]["hectares"]) == 96
    assert object_scores([], "x") == {"x/objects/count": 0}


def test_the_area_of_a_pixel_is_right_in_degrees_too() -> None:
    degrees = {"name": "c", "crs": "EPSG:4326", "transform": [0.0001, 0, 10, 0, -0.0001, 60.05]}
    # At 60 degrees north a degree of longitude is half as long as at the equator: 111.3 km times 0.5.
    assert pixel_hectares(degrees, 1000, 1000) == pytest.approx(11.14 * 11.13 / 2 / 10_000, rel=0.01)
    assert pixel_hectares(UTM, 100, 100) == pytest.approx(0.01, rel=2e-3)
    assert pixel_hectares({"name": "d"}, 100, 100) is None
