"""Pictures of a detector's answers for the report: the chip, its objects, and what was found, missed and made up."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal_earth.detection.drawing import draw_boxes
from shoal_earth.detection.evaluate import as_truth
from shoal_earth.detection.matching import match
from shoal_earth.detection.shards import DetectionChips
from shoal_earth.pictures import COLOURS, LEGEND, choose
from shoal_earth.rasters.output import write_text

__all__ = ["draw_answers"]

_SIDE = 320
# Difficult objects and crowds: neither hit nor missed.
_IGNORED = (150, 150, 150)
_EXTREMES = {
    "its best image": "the image with the highest F1 of this very model",
    "its median image": "the one in the middle by F1",
    "its worst image": "the one with the lowest F1",
}


def draw_answers(
    folder: Path,
    chips: DetectionChips,
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    *,
    threshold: float,
    count: int = 3,
    max_detections: int = 100,
) -> None:
    """Write ``input``, ``truth`` and ``prediction`` of some chips, and ``pictures.json`` with their F1.

    The first ``count`` chips depend on the chips alone, from many objects to few, so that every model shows the same ones; then
    come the best, the median and the worst of this model among chips with an object.

    Args:
        folder: ``out/pictures``.
        chips: of the split.
        truth: :func:`evaluate.truth_from_chips` of it.
        predictions: in COCO's form.
        threshold: lower scores are not drawn and do not count.
        count: chips that every model shows.
        max_detections: as in the scores.
    """
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, item in enumerate(truth["annotations"], 1):
        objects[int(item["image_id"])].append(as_truth(item, number))
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for item in predictions:
        if item["score"] >= threshold:
            found[int(item["image_id"])].append(item)
    there = [sum(not item["iscrowd"] for item in objects[n]) for n in range(len(chips))]
    f1: dict[int, float] = {}
    for number in range(len(chips)):
        if there[number]:
            hits = int(match(objects[number], found[number], 0.5, max_detections).hits.sum())
            f1[number] = 2 * hits / (there[number] + len(found[number]))
    samples = {str(chips.facts(n)["key"]): n for n in choose([float(c) for c in there], count)}
    captions = {key: f"{there[n]} object{'s' if there[n] != 1 else ''}" for key, n in samples.items()}
    ranked = sorted(f1, key=lambda n: (-f1[n], n))
    if ranked:
        places = dict(zip(_EXTREMES, (0, len(ranked) // 2, len(ranked) - 1), strict=True))
        samples |= {name: ranked[place] for name, place in places.items()}
        captions |= _EXTREMES
    ignored = "#{:02x}{:02x}{:02x}".format(*_IGNORED)
    notes: dict[str, Any] = {"legend": LEGEND | {"difficult or shown in part, counts neither way": ignored}}
    for name, number in samples.items():
        _draw(folder / name.replace(" ", "-"), chips, number, objects[number], found[number], max_detections)
        score = {"score": round(f1[number], 4), "metric": "F1"} if number in f1 else {}
        notes[name.replace(" ", "-")] = {**score, "title": name, "caption": captions[name]}
    write_text(folder / "pictures.json", json.dumps(notes, indent=1, sort_keys=True) + "\n")


def _draw(
    folder: Path,
    chips: DetectionChips,
    number: int,
    objects: list[dict[str, Any]],
    found: list[Mapping[str, Any]],
    max_detections: int,
) -> None:
    facts = chips.facts(number)
    image = chips.image(number)[:, : facts["height"], : facts["width"]]
    scale = max(1, _SIDE // max(image.shape[1:]))
    matched = match(objects, found, 0.5, max_detections)
    hit = {int(place) for place in matched.which[matched.hits]}
    false = {int(place) for place in matched.which[~matched.hits]}
    ignored = [bool(item["iscrowd"]) for item in objects]
    truth = [_IGNORED if flag else COLOURS["truth"] for flag in ignored]
    missed = [n for n, flag in enumerate(ignored) if not flag and n not in matched.found]
    # What was found is drawn last, over what was made up beside it.
    answers = [(found[n]["bbox"], COLOURS["false"]) for n in sorted(false)]
    answers += [(objects[n]["bbox"], COLOURS["missed"]) for n in missed]
    answers += [(found[n]["bbox"], COLOURS["hit"]) for n in sorted(hit)]
    for name, drawn in (
        ("input", []),
        ("truth", list(zip([item["bbox"] for item in objects], truth, strict=True))),
        ("prediction", answers),
    ):
        boxes = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in drawn]).reshape(-1, 4)
        colours = [colour for _, colour in drawn]
        draw_boxes(folder / f"{name}.png", image, boxes, colours, scale=scale)
