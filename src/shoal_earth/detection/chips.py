"""Chips of images with boxes: each image decoded once, cut into overlapping squares, written as shards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.ahead import ahead
from shoal_earth.detection.decoding import Part, Pixels, decode
from shoal_earth.detection.findings import Findings
from shoal_earth.detection.form import Dataset, Image
from shoal_earth.detection.imagery import ImageError, quiet, starts
from shoal_earth.detection.shards import ImageShards
from shoal_earth.detection.splits import SplitRules, split_images
from shoal_earth.rasters.output import write_error
from shoal_earth.rasters.split import SPLITS
from shoal_earth.rasters.statistics import BandStatistics

__all__ = ["BOX", "ChipRules", "add_valid", "cut_chips", "pixel_range"]

Array = np.ndarray[Any, Any]

BOX = np.dtype(
    [
        ("box", "<f4", (4,)),
        ("visible", "<f4"),
        ("label", "<i4"),
        ("object", "<i4"),
        ("difficult", "?"),
        ("crowd", "?"),
    ]
)
"""A box in a chip: left, top, right, bottom in the chip's pixels; the share of it that the chip shows; class; number of the
object (the id in annotations.json); flags."""


@dataclass(frozen=True)
class ChipRules:
    """How to cut.

    Args:
        size: pixels on a side.
        overlap: pixels that neighbours share. The last row and column are moved back to end with the image.
        min_visible: smallest share of a box's area that makes its piece an object of the chip.
        clear_visible: pieces that show less are marked difficult, which evaluation leaves out of account.
        min_side: shortest side of a piece, in pixels.
        keep_empty: keep chips without an object.
        bands: which bands to read (one or three, from 1); by the rule of :mod:`imagery` by default.
        shard_mib: a shard is closed once an image has brought it beyond this.
    """

    size: int = 512
    overlap: int = 64
    min_visible: float = 0.3
    clear_visible: float = 0.5
    min_side: float = 1.0
    keep_empty: bool = False
    bands: tuple[int, ...] | None = None
    shard_mib: int = 512

    def __post_init__(self) -> None:
        if self.size < 8 or not 0 <= self.overlap < self.size:
            raise UsageError("a chip has at least 8 pixels on a side, and the overlap is at least 0 and less than that")
        if not 0 < self.min_visible <= 1 or not 0 <= self.clear_visible <= 1 or self.min_side < 0 or self.shard_mib < 1:
            raise UsageError(
                "the visible shares lie between 0 and 1, the smallest side is not negative, a shard has a MiB"
            )


@dataclass
class _Cut:
    """An image while it is cut, and what became of its boxes.

    ``first``: number of its first object; ``best``: of each box 0 for no piece, 1 for too small everywhere, 2 for kept;
    ``by_class``: pieces that are objects of a chip; ``counts``: chips and pieces by what became of them.
    """

    image: Image
    number: int
    split: str
    first: int
    best: Array
    by_class: Array
    counts: Counter[str]


def cut_chips(
    dataset: Dataset,
    out: Path,
    rules: ChipRules,
    split: SplitRules,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    finish: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Cut a dataset's images into chips and write them as shards with an index; findings are added to the dataset's.

    Args:
        dataset: what a reader gave.
        out: folder to write to.
        rules: how to cut.
        split: how to split.
        meanwhile: called while the first image is decoded, which would only be waited for.
        finish: called when all chips are cut, before the index is written.

    Returns:
        Counts by split: ``images``, ``chips`` and ``objects`` (pieces), and objects by class.

    Raises:
        UsageError: no training chip comes out.
        WriteError: the disk is full.
    """
    try:
        return _cut_all(dataset, out, rules, split, meanwhile, finish)
    except OSError as error:
        raise write_error(out, error) from None


def _cut_all(
    dataset: Dataset,
    out: Path,
    rules: ChipRules,
    split: SplitRules,
    meanwhile: Callable[[], None],
    finish: Callable[[], None],
) -> dict[str, Any]:
    findings = dataset.findings
    splits = split_images(dataset.images, split, findings)
    writer = ImageShards(out, shard_bytes=rules.shard_mib * 2**20)
    facts: list[dict[str, Any]] = []
    tally = {name: {"images": 0, "chips": 0, "objects": 0} for name in SPLITS}
    classes = {name: np.zeros(len(dataset.classes), np.int64) for name in SPLITS}
    # Decoding goes ahead in a thread while chips are written.
    decoding = decode(dataset.images, rules.size, rules.overlap, rules.bands)
    with quiet(), ahead(decoding) as decoded:
        meanwhile()
        cutter = _Cutter(rules, len(dataset.classes), decoded, writer)
        for number, (image, name) in enumerate(zip(dataset.images, splits, strict=True)):
            findings.read("decoded images")
            findings.read("boxes", len(image.boxes))
            before = len(writer.chips)
            writer.begin()
            try:
                shown, own = cutter.cut(image, number, name)
            except ImageError as error:
                writer.take_back()
                _lost(findings, image, str(error), rules)
                facts.append({"name": image.name, "split": None, **_facts(image)})
            else:
                _account(findings, own, len(writer.chips) - before)
                tally[name]["images"] += 1
                tally[name]["chips"] += len(writer.chips) - before
                tally[name]["objects"] += int(own.by_class.sum())
                classes[name] += own.by_class
                writer.end()
                facts.append({"name": image.name, "split": name, **_facts(image), **shown})
    findings.check()
    if not tally["train"]["chips"]:
        told = "\n".join(findings.lines())
        raise UsageError(f"no training chip came out of {len(dataset.images)} images", hint=told)
    finish()
    by_class = {name: dict(zip(dataset.classes, map(int, classes[name]), strict=True)) for name in SPLITS}
    writer.close(
        dataset=dataset.name,
        classes=list(dataset.classes),
        size=rules.size,
        overlap=rules.overlap,
        min_visible=rules.min_visible,
        clear_visible=rules.clear_visible,
        objects=by_class,
        images=facts,
    )
    return {**tally, "classes": by_class}


class _Cutter:
    """Cuts images in the order in which they are decoded.

    Args:
        rules: how.
        classes: how many there are.
        decoded: parts of the images, see :func:`decoding.decode`.
        writer: takes the chips.
    """

    def __init__(
        self,
        rules: ChipRules,
        classes: int,
        decoded: Iterator[Part | ImageError],
        writer: ImageShards,
    ) -> None:
        self.rules, self.classes, self.decoded, self.writer = rules, classes, decoded, writer
        self._objects = 0  # of the images before

    def cut(self, image: Image, number: int, split: str) -> tuple[dict[str, Any], _Cut]:
        """Cut the next image; gives what there is to say of its pixels, and what became of its boxes.

        Raises:
            ImageError: it cannot be decoded to its end.
        """
        empty = np.zeros(len(image.boxes), np.int8), np.zeros(self.classes, np.int64), Counter[str]()
        own = _Cut(image, number, split, self._objects, *empty)
        self._objects += len(image.boxes)
        pixels: Pixels | None = None
        statistics, seen = None, 0
        for part in self.decoded:
            if isinstance(part, ImageError):
                raise part
            if pixels is None:
                pixels = part.pixels
                statistics = None if pixels.dtype == "uint8" else BandStatistics(pixels.count, pixels.dtype)
            for top, strip in part.strips:
                if statistics is not None:
                    add_valid(statistics, strip[:, max(seen - top, 0) :], pixels.nodata)
                    seen = top + strip.shape[1]
                self._cut_strip(own, top, strip)
            if part.last:
                break
        assert pixels is not None
        low, high = pixel_range(statistics)
        return {"bands": pixels.bands, "dtype": pixels.dtype, "low": low, "high": high}, own

    def _cut_strip(self, own: _Cut, top: int, strip: Array) -> None:
        """A row of chips."""
        rules, size, boxes = self.rules, self.rules.size, own.image.boxes.xyxy
        near = np.flatnonzero((boxes[:, 1] < top + size) & (boxes[:, 3] > top))
        for left in starts(own.image.width, size, rules.overlap):
            own.counts["chips"] += 1
            rows = _pieces(own, near, left, top, rules)
            if not len(rows) and not rules.keep_empty:
                own.counts["empty"] += 1
                continue
            shown = strip[:, :, left : left + size]
            high, wide = shown.shape[1:]
            if (high, wide) != (size, size):
                shown = np.pad(shown, ((0, 0), (0, size - high), (0, size - wide)))
            place = {"image_number": own.number, "row": top, "column": left, "height": high, "width": wide}
            key = f"{own.number:06d}-{_stem(own.image.name)}-{top:06d}-{left:06d}"
            self.writer.add(own.split, key, {"image": shown, "boxes": rows}, **place, objects=len(rows))
            own.by_class += np.bincount(rows["label"], minlength=self.classes)


def _stem(name: str) -> str:
    """An image's name as part of a key, without what WebDataset or a file system could take amiss."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(name).stem)[:48]


def _pieces(own: _Cut, near: Array, left: int, top: int, rules: ChipRules) -> Array:
    """The objects of one chip, of the boxes that may touch it."""
    image, size, counts = own.image, rules.size, own.counts
    boxes = image.boxes.xyxy[near]
    corner = np.array([left, top, left, top], np.float64)
    inner = np.clip(boxes - corner, 0, size)
    wide, high = inner[:, 2] - inner[:, 0], inner[:, 3] - inner[:, 1]
    touched = (wide > 0) & (high > 0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    share = wide * high / area
    # A box that is wholly inside must count as such whatever its numbers are rounded to.
    visible = touched & (share >= rules.min_visible - 1e-9)
    kept = visible & (np.minimum(wide, high) >= rules.min_side)
    counts["pieces"] += int(touched.sum())
    counts["kept"] += int(kept.sum())
    counts["cut"] += int((touched & ~visible).sum())
    counts["too small"] += int((visible & ~kept).sum())
    unclear = kept & (share < rules.clear_visible - 1e-9)
    counts["unclear"] += int(unclear.sum())
    own.best[near[visible]] = np.maximum(own.best[near[visible]], 1)
    own.best[near[kept]] = 2
    chosen = near[kept]
    rows = np.zeros(len(chosen), BOX)
    rows["box"], rows["visible"] = inner[kept], np.minimum(share[kept], 1)
    rows["label"], rows["object"] = image.boxes.classes[chosen], own.first + chosen
    rows["difficult"], rows["crowd"] = image.boxes.difficult[chosen] | unclear[kept], image.boxes.crowd[chosen]
    return rows


def _account(findings: Findings, own: _Cut, chips: int) -> None:
    image, counts = own.image, own.counts
    findings.keep("decoded images")
    findings.read("chips", counts["chips"])
    findings.keep("chips", chips)
    findings.count_skip("chips", "empty", counts["empty"])
    findings.read("pieces", counts["pieces"])
    findings.keep("pieces", counts["kept"])
    for reason in ("cut", "too small"):
        findings.count_skip("pieces", reason, counts[reason])
    findings.note("pieces", "shown in part", number=counts["unclear"])
    findings.keep("boxes", int((own.best == 2).sum()))
    for code, reason in ((0, "cut everywhere"), (1, "too small")):
        for box in np.flatnonzero(own.best == code):
            left, top, right, bottom = image.boxes.xyxy[box]
            findings.skip(
                "boxes", reason, image.where(int(box)), f"{image.name}: {right - left:g} x {bottom - top:g} pixels"
            )
    assert counts["kept"] == int(own.by_class.sum())


def _lost(findings: Findings, image: Image, why: str, rules: ChipRules) -> None:
    findings.skip("decoded images", "unreadable", image.name, why)
    findings.skip("boxes", "image unreadable", image.label_file, image.name, len(image.boxes))
    chips = [len(starts(length, rules.size, rules.overlap)) for length in (image.height, image.width)]
    findings.read("chips", chips[0] * chips[1])
    findings.skip("chips", "image unreadable", image.name, "", chips[0] * chips[1])


def add_valid(statistics: BandStatistics, values: Array, nodata: float | None) -> None:
    """Take in pixels (bands, rows, columns), apart from those without data."""
    flat = values.reshape(len(values), -1)
    if nodata is not None and nodata == nodata:
        flat = flat[:, (flat != nodata).any(0)]
    statistics.add(flat)


def pixel_range(statistics: BandStatistics | None) -> tuple[float | None, float | None]:
    """From the lowest 1st to the highest 99th percentile of the bands: one range for all, so that colours keep their relation."""
    if statistics is None:
        return None, None
    try:
        bands = statistics.scale(1, 99)
    except UsageError:  # nothing but no-data
        return 0.0, 1.0
    return min(b["low"] for b in bands), max(b["high"] for b in bands)


def _facts(image: Image) -> dict[str, Any]:
    facts: dict[str, Any] = {"width": image.width, "height": image.height, "group": image.group}
    facts["crs"], facts["transform"] = image.crs, list(image.transform) if image.transform else None
    return {**facts, "gsd": image.gsd}


def rules_from(size: int, overlap: int | None, bands: Sequence[int] | None, **rest: Any) -> ChipRules:
    """Rules with an eighth of the size as overlap where none is given."""
    return ChipRules(size, size // 8 if overlap is None else overlap, bands=tuple(bands) if bands else None, **rest)
