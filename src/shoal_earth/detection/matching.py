"""Which detections hit an object, by COCO's rules at one IoU, and what follows for every threshold of the score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Curve", "Matched", "match", "sweep"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Matched:
    """Detections that count (those of ignored objects do not): scores, classes, and whether each hit; objects by class.

    ``which`` are their positions among the predictions that were given, ``found`` those of the objects that were hit among the
    truth.
    """

    scores: Array
    classes: Array
    hits: Array
    by_class: dict[int, int]
    which: Array
    found: frozenset[int] = frozenset()

    @property
    def objects(self) -> int:
        """Objects that count."""
        return sum(self.by_class.values())

    def of_class(self, number: int) -> Matched:
        """Those of one class."""
        own = self.classes == number
        objects = {number: self.by_class.get(number, 0)}
        return Matched(self.scores[own], self.classes[own], self.hits[own], objects, self.which[own])


@dataclass(frozen=True)
class Curve:
    """Precision, recall and F1 of all detections that score at least ``threshold``, from the highest score down."""

    precision: Array
    recall: Array
    f1: Array
    threshold: Array
    objects: int

    def thinned(self, points: int) -> Curve:
        """At most about so many points, evenly spread over the recall; the first and the last stay."""
        if len(self.recall) <= points:
            return self
        wanted = np.searchsorted(self.recall, np.linspace(self.recall[0], self.recall[-1], points - 1))
        kept = np.unique([*wanted, len(self.recall) - 1])
        return Curve(self.precision[kept], self.recall[kept], self.f1[kept], self.threshold[kept], self.objects)


def match(
    truth: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]], iou: float, max_detections: int
) -> Matched:
    """Match detections to objects, image by image and class by class.

    From the highest score down, each detection takes the free object that it overlaps most, at least by ``iou``; only if there is
    none may it fall to an ignored object (``iscrowd``), and then it does not count.

    Args:
        truth: annotations with ``image_id``, ``category_id``, ``bbox``, ``iscrowd``.
        predictions: results with ``image_id``, ``category_id``, ``bbox``, ``score``.
        iou: smallest overlap of a hit.
        max_detections: highest-scoring detections of an image and class that are looked at.
    """
    objects: dict[tuple[Any, int], list[int]] = defaultdict(list)
    by_class: dict[int, int] = defaultdict(int)
    for place, item in enumerate(truth):
        objects[item["image_id"], item["category_id"]].append(place)
        by_class[item["category_id"]] += not item["iscrowd"]
    given: dict[tuple[Any, int], list[int]] = defaultdict(list)
    for place, item in enumerate(predictions):
        given[item["image_id"], item["category_id"]].append(place)
    scores, classes, hits = list[float](), list[int](), list[bool]()
    which, found = list[int](), set[int]()
    for key, places in given.items():
        places = sorted(places, key=lambda place: -float(predictions[place]["score"]))[:max_detections]
        # Ignored ones come last: they are only for what is left.
        known = sorted(objects.get(key, ()), key=lambda place: bool(truth[place]["iscrowd"]))
        there = [truth[place] for place in known]
        for place, at in zip(places, _takes([predictions[n] for n in places], there, iou), strict=True):
            if at is not None and there[at]["iscrowd"]:
                continue
            if at is not None:
                found.add(known[at])
            which.append(place)
            scores.append(float(predictions[place]["score"]))
            classes.append(key[1])
            hits.append(at is not None)
    return Matched(
        np.array(scores),
        np.array(classes, np.int64),
        np.array(hits, np.bool_),
        dict(by_class),
        np.array(which, np.int64),
        frozenset(found),
    )


def _takes(
    detections: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]], iou: float
) -> list[int | None]:
    """Which object each detection takes, if any: detections of one image and class from the highest score down, and the objects,
    ignored ones last.
    """
    from faster_coco_eval.core.mask import iou as overlaps  # type: ignore[import-untyped]

    if not objects:
        return [None] * len(detections)
    boxes = [np.array([item["bbox"] for item in items], np.float64) for items in (detections, objects)]
    ignored = [bool(item["iscrowd"]) for item in objects]
    taken = [False] * len(objects)
    answers: list[int | None] = []
    for row in np.asarray(overlaps(*boxes, [int(flag) for flag in ignored])):
        best, at = min(iou, 1 - 1e-10), None
        for number, overlap in enumerate(row):
            if taken[number] and not ignored[number]:
                continue
            if at is not None and not ignored[at] and ignored[number]:
                break
            if overlap >= best:
                best, at = float(overlap), number
        if at is not None:
            taken[at] = True
        answers.append(at)
    return answers


def sweep(scores: Array, hits: Array, objects: int) -> Curve:
    """Precision, recall and F1 at every score that occurs."""
    order = np.argsort(-scores, kind="stable")
    score, hit = scores[order], hits[order]
    # Detections of the same score stand or fall together.
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.empty(0, np.int64)
    right = np.cumsum(hit)[last].astype(np.float64)
    all_of_them = (last + 1).astype(np.float64)
    precision = right / all_of_them
    recall = right / max(objects, 1)
    f1 = 2 * right / (all_of_them + max(objects, 1))
    return Curve(precision, recall, f1, score[last], objects)
