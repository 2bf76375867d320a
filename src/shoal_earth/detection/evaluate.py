"""Scores of predictions: COCO's through faster-coco-eval, and precision, recall and F1 over the threshold, exact.

Truth and predictions are in COCO's form. Objects marked difficult are treated as COCO's crowds: finding them is neither
rewarded nor punished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.detection.matching import Curve, match, sweep
from shoal_earth.rasters.output import write_text

__all__ = [
    "Scores",
    "as_truth",
    "evaluate",
    "load_predictions",
    "predictions_of",
    "save_predictions",
    "truth_from_chips",
    "write_scores",
]

Array = np.ndarray[Any, Any]
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions.

    Args:
        metrics: ``ap``, ``ap50``, ``ap75``, ``ap_small|medium|large`` (below 32 x 32 pixels, to 96 x 96, beyond), ``ar_1``,
            ``ar_10``, ``ar_N`` for the number of detections counted, ``ar_small|medium|large``, ``f1``, ``precision`` and
            ``recall`` at the threshold ``threshold`` (one for all classes, where F1 at IoU 0.5 is best), ``f1_classes`` (the mean
            over classes, each at its own best threshold). A metric without any object to be measured on is left out.
        classes: the same by class: ``ap``, ``ap50``, ``ap75``, ``ar``, ``f1``, ``precision``, ``recall``, ``threshold``,
            ``objects``, ``detections``.
        curves: precision over recall at IoU 0.5, by class and, as ``all``, over all classes.
    """

    metrics: dict[str, float]
    classes: dict[str, dict[str, float]]
    curves: dict[str, Curve]

    def lines(self) -> list[str]:
        """In words, one metric a line, then the classes."""
        lines = [f"{name} {value:.4f}" for name, value in self.metrics.items()]
        for name, own in sorted(self.classes.items(), key=lambda pair: -pair[1].get("ap", -1)):
            told = ", ".join(f"{key} {own[key]:.3f}" for key in ("ap", "ap50", "f1") if key in own)
            lines.append(f"  {name}: {told or 'no object'} ({own['objects']:.0f} objects)")
        return lines


def evaluate(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], *, max_detections: int = 100
) -> Scores:
    """Score predictions.

    Args:
        truth: COCO's ``images``, ``annotations`` and ``categories``.
        predictions: ``image_id``, ``category_id``, ``bbox`` (left, top, width, height), ``score``.
        max_detections: in an image and class; COCO's is 100, crowded overhead images may need more.

    Raises:
        UsageError: a prediction is of an unknown image or class, or no valid box; or there is no truth.
    """
    images, classes = _check(truth, predictions)
    if max_detections < 10:
        raise UsageError(f"at least 10 detections in an image must be counted, not {max_detections}")
    annotations = [as_truth(item, number) for number, item in enumerate(truth["annotations"], 1)]
    known = {"images": list(truth["images"]), "categories": list(truth["categories"]), "annotations": annotations}
    # Other keys, such as "caption", would change what the library makes of them.
    given = [{key: item[key] for key in ("image_id", "category_id", "bbox", "score")} for item in predictions]
    metrics, by_class = _coco(known, given, max_detections)
    matched = match(annotations, given, 0.5, max_detections)
    curves: dict[str, Curve] = {}
    for number, name in classes.items():
        own = matched.of_class(number)
        curve = curves[name] = sweep(own.scores, own.hits, own.objects)
        by_class[name] |= {"objects": float(own.objects), "detections": float(len(own.scores))}
        if own.objects:
            by_class[name] |= _best(curve)
    curves["all"] = sweep(matched.scores, matched.hits, matched.objects)
    if matched.objects:
        metrics |= _best(curves["all"])
        metrics["f1_classes"] = float(np.mean([own["f1"] for own in by_class.values() if "f1" in own]))
    metrics |= {"images": float(len(images)), "objects": float(matched.objects)}
    return Scores(metrics, by_class, {name: curve for name, curve in curves.items() if curve.objects})


def _check(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> tuple[set[Any], dict[int, str]]:
    try:
        images = {item["id"] for item in truth["images"]}
        classes = {int(item["id"]): str(item["name"]) for item in truth["categories"]}
        strays = [item for item in truth["annotations"] if item["image_id"] not in images]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the truth is not in COCO's form: {error!r}") from None
    if not images or not classes:
        raise UsageError("the truth has no images or no classes")
    if strays:
        raise UsageError(f"the truth has an annotation of image {strays[0]['image_id']}, which it does not list")
    for number, item in enumerate(predictions, 1):
        try:
            box, score = [float(value) for value in item["bbox"]], float(item["score"])
            unknown = item["image_id"] not in images or item["category_id"] not in classes
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"prediction {number} is not in COCO's form: {error!r}") from None
        if unknown:
            raise UsageError(
                f"prediction {number} is of image {item['image_id']}, class {item['category_id']}, which the truth has not",
                hint="Are predictions and truth of the same split?",
            )
        if len(box) != 4 or not all(map(math.isfinite, (*box, score))) or min(box[2:]) < 0:
            raise UsageError(f"prediction {number} has no valid box or score: {box}, {score}")
    return images, classes


def as_truth(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    """An annotation as evaluation takes it, with an id from 1; a difficult object is ignored as a crowd is."""
    wide, high = float(item["bbox"][2]), float(item["bbox"][3])
    ignored = int(bool(item.get("iscrowd")) or bool(item.get("difficult")))
    # Ids from 1: zero means "not matched" inside COCO's evaluation.
    return {
        "id": number,
        "image_id": item["image_id"],
        "category_id": item["category_id"],
        "bbox": [float(value) for value in item["bbox"]],
        "area": wide * high,
        "iscrowd": ignored,
    }


def _coco(
    truth: dict[str, Any], predictions: list[dict[str, Any]], max_detections: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

    names = {int(item["id"]): str(item["name"]) for item in truth["categories"]}
    by_class: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    known = COCO(truth, print_function=_silent)
    run = COCOeval_faster(known, known.loadRes(predictions), iouType="bbox", print_function=_silent)
    run.params.maxDets = sorted({1, 10, max_detections})
    run.evaluate()
    run.accumulate()
    precision, recall = np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])
    at = {0.5: int(np.argmin(abs(run.params.iouThrs - 0.5))), 0.75: int(np.argmin(abs(run.params.iouThrs - 0.75)))}
    metrics: dict[str, float | None] = {
        "ap": _mean(precision[:, :, :, 0, -1]),
        "ap50": _mean(precision[at[0.5], :, :, 0, -1]),
        "ap75": _mean(precision[at[0.75], :, :, 0, -1]),
    }
    metrics |= {f"ap_{size}": _mean(precision[:, :, :, n, -1]) for n, size in enumerate(SIZES) if n}
    metrics |= {f"ar_{count}": _mean(recall[:, :, 0, n]) for n, count in enumerate(run.params.maxDets)}
    metrics |= {f"ar_{size}": _mean(recall[:, :, n, -1]) for n, size in enumerate(SIZES) if n}
    for position, number in enumerate(run.params.catIds):
        own = {
            "ap": _mean(precision[:, :, position, 0, -1]),
            "ap50": _mean(precision[at[0.5], :, position, 0, -1]),
            "ap75": _mean(precision[at[0.75], :, position, 0, -1]),
            "ar": _mean(recall[:, position, 0, -1]),
        }
        by_class[names[int(number)]] = {key: value for key, value in own.items() if value is not None}
    return {key: value for key, value in metrics.items() if value is not None}, by_class


def _mean(values: Array) -> float | None:
    """The mean of what could be measured: -1 stands for what could not."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


def _best(curve: Curve) -> dict[str, float]:
    at = int(np.argmax(curve.f1)) if len(curve.f1) else -1
    if at < 0:
        return {"f1": 0.0, "precision": 0.0, "recall": 0.0, "threshold": 0.0}
    keys = ("f1", "precision", "recall", "threshold")
    return {key: float(getattr(curve, key)[at]) for key in keys}


def _silent(*_: object) -> None:
    """The library's progress is nobody's business."""


def truth_from_chips(folder: Path, split: str) -> dict[str, Any]:
    """The truth of a split of chips in COCO's form; image ids are positions of chips in the split, categories count from 1.

    Raises:
        UsageError: it is no folder of chips, or has none of that split.
    """
    from shoal_earth.detection.shards import DetectionChips

    with DetectionChips(folder, split) as chips:
        if not len(chips):
            raise UsageError(f"{folder}: has no chip for {split}")
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for number in range(len(chips)):
            facts = chips.facts(number)
            images.append({"id": number, "file_name": facts["key"], "width": facts["width"], "height": facts["height"]})
            for row in chips.boxes(number):
                left, top, right, bottom = (float(value) for value in row["box"])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": int(row["label"]) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": int(row["crowd"]),
                        "difficult": int(row["difficult"]),
                    }
                )
        categories = [{"id": n, "name": name} for n, name in enumerate(chips.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def predictions_of(image_id: int, boxes: Array, scores: Array, labels: Array) -> list[dict[str, Any]]:
    """A model's answer to one image in COCO's form: boxes (n, 4) left, top, right, bottom; labels from 0 become ids from 1."""
    return [
        {
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": [round(float(v), 3) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": round(float(score), 6),
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def save_predictions(path: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write predictions as a COCO JSON list, one a line.

    Raises:
        WriteError: the disk is full.
    """
    rows = ",\n".join(json.dumps(dict(item)) for item in predictions)
    write_text(path, f"[\n{rows}\n]\n" if rows else "[]\n")


def load_predictions(path: Path) -> list[dict[str, Any]]:
    """Read what :func:`save_predictions` wrote, or any COCO list of results.

    Raises:
        UsageError: it cannot be read as such.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as predictions: {error}") from None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UsageError(f"{path}: should hold a list of predictions")
    return found


def write_scores(scores: Scores, folder: Path) -> None:
    """Write ``scores.json``, ``classes.csv`` and ``curves.csv`` (class, recall, precision, threshold).

    Raises:
        WriteError: the disk is full.
    """
    import pandas as pd

    write_text(
        folder / "scores.json", json.dumps({"metrics": scores.metrics, "classes": scores.classes}, indent=1) + "\n"
    )
    table = pd.DataFrame.from_dict(scores.classes, orient="index")
    write_text(folder / "classes.csv", table.to_csv(index_label="class", float_format="%.6g"))
    parts = []
    for name, curve in scores.curves.items():
        thin = curve.thinned(200)
        columns = {"recall": thin.recall, "precision": thin.precision, "threshold": thin.threshold}
        parts.append(pd.DataFrame({"class": name, **columns}))
    joined = pd.concat(parts) if parts else pd.DataFrame(columns=["class", "recall", "precision", "threshold"])
    write_text(folder / "curves.csv", joined.to_csv(index=False, float_format="%.6g"))
