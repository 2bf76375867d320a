"""A published dataset to chips, in one go: what was found, skipped and why, in words and as JSON beside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ShoalError
from shoal_earth.detection.chips import ChipRules, cut_chips
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.readers import read_dataset
from shoal_earth.detection.splits import SplitRules
from shoal_earth.rasters.output import publish, write_text
from shoal_earth.rasters.split import SPLITS

__all__ = ["ANNOTATIONS", "FINDINGS", "Prepared", "coco_of", "prepare", "write_coco"]

FINDINGS = "findings.json"
ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class Prepared:
    """What came out: ``lines`` say it in words, ``counts`` hold the numbers that a study may compare."""

    dataset: Dataset
    lines: list[str]
    counts: dict[str, float]


def prepare(
    kind: str,
    source: Path,
    out: Path,
    rules: ChipRules,
    split: SplitRules,
    *,
    only: Sequence[str] | None = None,
) -> Prepared:
    """Read a dataset, cut it into chips, write them, and ``annotations.json`` (COCO, whole images) and ``findings.json``.

    The same input gives the same bytes. The index of the chips comes last: without it nothing counts as written.

    Args:
        kind: format, one of :data:`readers.READERS`.
        source: folder of the dataset.
        out: folder to write to.
        rules: how to cut.
        split: how to split.
        only: classes to take, in this order; all by default.

    Raises:
        UsageError: the dataset cannot be read, or gives no training chip.
        WriteError: the disk is full.
    """
    dataset = read_dataset(kind, source, only=only)
    findings = dataset.findings
    made = cut_chips(
        dataset,
        out,
        rules,
        split,
        meanwhile=lambda: write_coco(dataset, out / ANNOTATIONS),
        finish=lambda: _write_findings(dataset, out, rules, split),
    )
    told = (
        _number(len(dataset.images), "image"),
        _number(dataset.box_count, "box"),
        _number(len(dataset.classes), "class"),
    )
    lines = [f"{kind}: {told[0]}, {told[1]} of {told[2]}"]
    lines += findings.lines()
    counts: dict[str, float] = {}
    for name in SPLITS:
        own = made[name]
        lines.append(f"{name}: " + ", ".join(_number(own[f"{what}s"], what) for what in ("image", "chip", "object")))
        if not own["chips"] and split.shares[SPLITS.index(name)] > 0:
            lines.append(f"  there is no chip for {name}: more images, or other shares, make some")
        counts |= {f"{what}/{name}": number for what, number in own.items()}
    there = [label for label in dataset.classes if any(made["classes"][name][label] for name in SPLITS)]
    for label in there:
        lines.append(f"  {label}: " + ", ".join(f"{made['classes'][name][label]} {name}" for name in SPLITS))
    lines += [f"  no object of the class {label}, which was asked for" for label in only or () if label not in there]
    if only is None and len(there) < len(dataset.classes):
        lines.append(f"  {_number(len(dataset.classes) - len(there), 'more class')} without an object")
    for kind_of, count in findings.counts.items():
        counts[f"skipped/{kind_of.replace(' ', '-')}"] = count.read - count.kept
    return Prepared(dataset, lines, counts)


def _number(count: int, what: str) -> str:
    """``1 box``, ``2 boxes``."""
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith(('s', 'x')) else 's'}"


def _write_findings(dataset: Dataset, out: Path, rules: ChipRules, split: SplitRules) -> None:
    _hand_over(dataset)
    facts = {"dataset": dataset.name, "chips": asdict(rules), "split": asdict(split)}
    write_text(out / FINDINGS, dataset.findings.to_json(**facts))


def _hand_over(dataset: Dataset) -> None:
    """What the reader kept is what the chips were given: nothing is lost between the two."""
    counts = dataset.findings.counts
    dataset.findings.check()
    for given, taken in (("labels", "boxes"), ("images", "decoded images")):
        if counts[given].kept != counts[taken].read:
            raise ShoalError(
                f"{counts[given].kept} {given} were kept, but {counts[taken].read} {taken} were taken on",
                hint="This is a fault of Shoal: please report it.",
            )


def write_coco(dataset: Dataset, path: Path) -> None:
    """Write a dataset's images and boxes as COCO JSON, one item a line; each annotation names its source line."""
    encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make one for each item
    with publish(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, (name, items) in enumerate(coco_of(dataset).items()):
            file.write(("{" if not number else "\n ],") + f'\n "{name}": [')
            for position, item in enumerate(items):
                file.write(("," if position else "") + "\n  " + encode(item))
        file.write("\n ]\n}\n")


def coco_of(dataset: Dataset) -> dict[str, Iterator[dict[str, Any]]]:
    """A dataset's lists in COCO's form. Ids of categories count from 1, others from 0 as in the chips' index."""
    return {
        "categories": ({"id": n, "name": name} for n, name in enumerate(dataset.classes, 1)),
        "images": (
            {"id": n, "file_name": image.name, "width": image.width, "height": image.height}
            for n, image in enumerate(dataset.images)
        ),
        "annotations": _annotations(dataset),
    }


def _annotations(dataset: Dataset) -> Iterator[dict[str, Any]]:
    own = 0
    for number, image in enumerate(dataset.images):
        boxes = image.boxes
        columns = (boxes.xyxy, boxes.classes, boxes.crowd, boxes.difficult)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for box, ((left, top, right, bottom), label, crowd, difficult) in enumerate(rows):
            yield {
                "id": own,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(crowd),
                "difficult": int(difficult),
                "source": image.where(box),
            }
            own += 1
