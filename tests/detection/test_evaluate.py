"""Scores: equal to pycocotools on random sets, and by hand on small ones."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import UsageError
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.evaluate import (
    Scores,
    evaluate,
    load_predictions,
    predictions_of,
    save_predictions,
    truth_from_chips,
)
from shoal_earth.detection.matching import match, sweep
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules

from .conftest import quad, write_dota


def random_set(
    seed: int, images: int = 12, classes: int = 4, ties: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth with crowds and difficult ones, all sizes, a class without objects; predictions near it and at random."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": n * 3, "file_name": f"{n}.png", "width": 400, "height": 400} for n in range(images)],
        "categories": [{"id": n * 2 + 1, "name": f"class {n}"} for n in range(classes)],
        "annotations": [],
    }
    predictions = []
    for own in truth["images"]:
        for _ in range(int(rng.integers(0, 14))):
            category = int(rng.integers(0, classes - 1)) * 2 + 1
            side = float(rng.choice([14, 50, 150]))
            box = [*rng.uniform(0, 250, 2), *rng.uniform(0.7, 1.3, 2) * side]
            item = {"id": len(truth["annotations"]), "image_id": own["id"], "category_id": category, "bbox": box}
            truth["annotations"].append(
                {
                    **item,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.1),
                    "difficult": int(rng.random() < 0.1),
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                near = np.array(box) + rng.normal(0, side / 12, 4)
                predictions.append(
                    {"image_id": own["id"], "category_id": category, "bbox": np.maximum(near, 1).tolist()}
                )
        for _ in range(int(rng.integers(0, 6))):
            category = int(rng.integers(0, classes)) * 2 + 1
            predictions.append(
                {
                    "image_id": own["id"],
                    "category_id": category,
                    "bbox": [*rng.uniform(0, 300, 2), *rng.uniform(5, 100, 2)],
                }
            )
    for item in predictions:
        item["score"] = float(np.round(rng.random(), 1) if ties else rng.random())
    return truth, predictions


def reference(truth: dict[str, Any], predictions: list[dict[str, Any]], detections: int) -> Any:
    """pycocotools on the same: difficult as crowds, area as that of the box."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            **truth,
            "annotations": [
                {**item, "id": n, "iscrowd": int(item["iscrowd"] or item["difficult"])}
                for n, item in enumerate(truth["annotations"], 1)
            ],
        }
        known.createIndex()
        run = COCOeval(known, known.loadRes([dict(item) for item in predictions]), "bbox")
        run.params.maxDets = [1, 10, detections]
        run.evaluate()
        run.accumulate()
        if detections == 100:
            run.summarize()
    return run


NAMES = [
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
]


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_those_of_pycocotools(seed: int) -> None:
    truth, predictions = random_set(seed, ties=seed > 3)
    found, run = evaluate(truth, predictions), reference(truth, predictions, 100)
    for name, value in zip(NAMES, run.stats, strict=True):
        assert found.metrics.get(name, -1) == pytest.approx(value, abs=1e-9), name
    precision = run.eval["precision"]
    for position, category in enumerate(truth["categories"]):
        own = precision[:, :, position, 0, -1]
        expected = own[own > -1].mean() if (own > -1).any() else None
        got = found.classes[category["name"]].get("ap")
        assert got == (pytest.approx(expected, abs=1e-9) if expected is not None else None)


@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_pycocotools(seed: int) -> None:
    """What F1 and the curves rest on: the same detections hit, the same are left out of account."""
    truth, predictions = random_set(seed)
    run = reference(truth, predictions, 100)
    expected = []
    for item in run.evalImgs:
        if item is None or item["aRng"] != run.params.areaRng[0]:
            continue
        for score, hit, ignored in zip(item["dtScores"], item["dtMatches"][0], item["dtIgnore"][0], strict=True):
            if not ignored:
                expected.append((item["category_id"], round(score, 12), bool(hit)))
    annotations = [{**a, "iscrowd": int(a["iscrowd"] or a["difficult"])} for a in truth["annotations"]]
    found = match(annotations, predictions, 0.5, 100)
    got = [
        (int(c), round(float(s), 12), bool(h)) for c, s, h in zip(found.classes, found.scores, found.hits, strict=True)
    ]
    assert sorted(got) == sorted(expected)
    assert found.objects == sum(not a["iscrowd"] for a in annotations)


def test_f1_precision_and_recall_by_hand() -> None:
    """Scores 0.9 hit, 0.8 miss, 0.8 hit, 0.3 hit, of 4 objects: at 0.8 F1 is 2*2/(3+4), at 0.3 it is 2*3/(4+4)."""
    curve = sweep(np.array([0.8, 0.9, 0.3, 0.8]), np.array([False, True, True, True]), 4)
    np.testing.assert_allclose(curve.threshold, [0.9, 0.8, 0.3])
    np.testing.assert_allclose(curve.precision, [1, 2 / 3, 3 / 4])
    np.testing.assert_allclose(curve.recall, [1 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(curve.f1, [2 / 5, 4 / 7, 6 / 8])


def small() -> dict[str, Any]:
    boxes = [[10, 10, 20, 20], [60, 60, 20, 20], [10, 60, 20, 20]]
    return {
        "images": [{"id": 0}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": 0, "category_id": 1 + (n == 2), "bbox": box} for n, box in enumerate(boxes)
        ],
    }


def test_best_threshold_is_one_for_all_and_one_for_each_class() -> None:
    found = [
        {"image_id": 0, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9},
        {"image_id": 0, "category_id": 1, "bbox": [60, 10, 20, 20], "score": 0.5},
        {"image_id": 0, "category_id": 2, "bbox": [10, 60, 20, 20], "score": 0.2},
    ]
    scores = evaluate(small(), found)
    assert scores.classes["a"]["f1"] == pytest.approx(2 / 3)
    assert scores.classes["a"]["threshold"] == 0.9
    assert scores.classes["b"]["f1"] == 1
    assert scores.metrics["f1_classes"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores.metrics["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores.metrics["threshold"] == 0.2
    assert scores.classes["a"]["objects"] == 2
    assert set(scores.curves) == {"a", "b", "all"}


def test_nothing_found_scores_zero() -> None:
    scores = evaluate(small(), [])
    assert {scores.metrics[name] for name in ("ap", "ap50", "ap75", "ap_small", "ar_100", "f1")} == {0.0}
    assert "ap_large" not in scores.metrics
    assert scores.classes["b"]["ap"] == 0


def test_all_found_scores_one() -> None:
    truth = small()
    found = [{**item, "score": 0.5} for item in truth["annotations"]]
    scores = evaluate(truth, found)
    assert {scores.metrics[name] for name in ("ap", "ap50", "ar_100", "f1", "precision", "recall")} == {1.0}


def test_difficult_objects_are_neither_rewarded_nor_punished() -> None:
    truth = small()
    truth["annotations"][0]["difficult"] = 1
    found = [{"image_id": 0, "category_id": 1, "bbox": [60, 60, 20, 20], "score": 0.5}]
    assert evaluate(truth, found).metrics["recall"] == pytest.approx(1 / 2)
    more = [*found, {"image_id": 0, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}]
    one, other = evaluate(truth, more).metrics, evaluate(truth, found).metrics
    # With one detection an image, COCO's ar_1, that one is the ignored.
    assert {**one, "ar_1": 0} == {**other, "ar_1": 0}


def test_detections_beyond_the_limit_do_not_count() -> None:
    truth = {"images": [{"id": 0}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    truth["annotations"] = [{"id": n, "image_id": 0, "category_id": 1, "bbox": [n * 10, 0, 8, 8]} for n in range(150)]
    found = [{**item, "score": 1 - n / 1000} for n, item in enumerate(truth["annotations"])]
    assert evaluate(truth, found).metrics["recall"] == pytest.approx(100 / 150)
    wide = evaluate(truth, found, max_detections=200).metrics
    assert wide["recall"] == 1
    assert wide["ar_200"] == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image_id": 7}, "is of image 7"),
        ({"category_id": 9}, "class 9"),
        ({"bbox": [1, 2, 3]}, "no valid box"),
        ({"bbox": [1, 2, -3, 4]}, "no valid box"),
        ({"score": float("nan")}, "no valid box or score"),
        ({"bbox": "x"}, "not in COCO's form"),
    ],
)
def test_bad_predictions_are_refused(change: dict[str, Any], what: str) -> None:
    item = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5, **change}
    with pytest.raises(UsageError, match=what):
        evaluate(small(), [item])


def test_bad_truth_is_refused(tmp_path: Path) -> None:
    for truth in ({}, {"images": [], "annotations": [], "categories": []}, {**small(), "images": [{"id": 5}]}):
        with pytest.raises(UsageError, match="the truth"):
            evaluate(truth, [])
    (tmp_path / "p.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="should hold a list"):
        load_predictions(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("[{")
    with pytest.raises(UsageError, match="cannot be read as predictions"):
        load_predictions(tmp_path / "p.json")


def test_from_chips_to_scores_on_the_command_line(tmp_path: Path, cli: Any) -> None:
    folder = write_dota(
        tmp_path / "in", {"P1": [quad(2, 2, 12, 12), quad(20, 20, 34, 30, "ship"), quad(40, 4, 50, 14, "ship", 1)]}
    )
    prepare("dota", folder, tmp_path / "chips", ChipRules(64, 0), SplitRules((1, 0, 0)))
    truth = truth_from_chips(tmp_path / "chips", "train")
    assert [a["difficult"] for a in truth["annotations"]] == [0, 0, 1]
    boxes = np.array([[2, 2, 12, 12], [20, 20, 34, 30.0]])
    rows = predictions_of(0, boxes, np.array([0.9, 0.4]), np.array([0, 6]))
    save_predictions(tmp_path / "p.json", rows)
    assert load_predictions(tmp_path / "p.json") == rows
    arguments = ["evaluate", "--predictions", tmp_path / "p.json", "--out", tmp_path / "scores"]
    code, out, err = cli(*arguments, "--chips", tmp_path / "chips", "--split", "train")
    assert code == 0, err
    assert "ap 1.0000" in out
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["metrics"]["ap"] == 1
    assert scores["classes"]["ship"]["objects"] == 1
    with (tmp_path / "scores" / "curves.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"plane", "ship", "all"}
    with (tmp_path / "scores" / "classes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15
    # The same truth as a file gives the same.
    (tmp_path / "t.json").write_text(json.dumps(truth))
    code, again, _ = cli(*arguments, "--truth", tmp_path / "t.json")
    assert (code, again) == (0, out)
    code, _, err = cli(*arguments)
    assert code == 2
    assert "--chips DIR or --truth FILE" in err
    code, _, err = cli(*arguments, "--chips", tmp_path / "chips", "--split", "val")
    assert code == 2
    assert "has no chip for val" in err


def test_curves_are_thinned_without_losing_their_ends() -> None:
    rng = np.random.default_rng(0)
    curve = sweep(rng.random(5000), rng.random(5000) < 0.5, 4000)
    thin = curve.thinned(200)
    assert 100 < len(thin.recall) <= 202
    assert (thin.recall[0], thin.recall[-1]) == (curve.recall[0], curve.recall[-1])


def test_scores_in_words() -> None:
    lines = evaluate(small(), []).lines()
    assert lines[0] == "ap 0.0000"
    assert any(line.startswith("  a: ap 0.000, ap50 0.000, f1 0.000 (2 objects)") for line in lines)
    assert isinstance(Scores({}, {}, {}).lines(), list)
