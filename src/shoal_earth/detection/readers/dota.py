"""DOTA v1 (and later versions' labels): a text file beside each image, a line for each quad.

Layout: ``images/`` and ``labelTxt/`` (or ``labelTxt-v1.0`` and the like), in the folder itself or in ``train/``, ``val/`` and
``test/``.
Terms: academic use only; imagery of Google Earth, GF-2 and JL-1. Xia et al., "DOTA: A Large-scale Dataset for Object Detection in
Aerial Images", CVPR 2018.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.readers.base import Collector, find_images, number, text_lines

__all__ = ["CLASSES", "read_dota"]

CLASSES = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
"""The 15 of version 1."""

_HEAD = re.compile(r"(imagesource|gsd)\s*:\s*(.*)", re.IGNORECASE)


def read_dota(folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read DOTA; quads become the axis-aligned boxes around them.

    Args:
        folder: the dataset's.
        only: read these classes alone; later versions' classes are among the unknown ones unless they are named here.

    Raises:
        UsageError: there is no such layout.
    """
    take = Collector("dota", folder, None if only else CLASSES, only)
    parts = [(folder, None), *((folder / name, name) for name in ("train", "val", "test"))]
    found = 0
    for part, split in parts:
        labels = sorted(p for p in part.glob("labelTxt*") if p.is_dir()) if part.is_dir() else []
        if not labels:
            continue
        if len(labels) > 1:
            raise UsageError(
                f"{part}: has more than one folder of labels: {', '.join(p.name for p in labels)}",
                hint="Leave the one to be used, and move the others elsewhere.",
            )
        found += 1
        # As unpacked from labelTxt-v1.0/labelTxt.zip.
        inner = labels[0] / "labelTxt"
        _read_part(take, part / "images", inner if inner.is_dir() else labels[0], split)
    if not found:
        raise UsageError(
            f"{folder}: has no folder labelTxt, nor have its train, val and test",
            hint="DOTA's layout is images/*.png and labelTxt/*.txt, in the folder itself or in train/, val/ and test/.",
        )
    return take.finish()


def _read_part(take: Collector, images: Path, labels: Path, split: str | None) -> None:
    files = find_images(images)
    by_stem: dict[str, Path] = {path.stem: path for path in files}
    for path in sorted(labels.glob("*.txt")):
        name = take.below(path)
        lines = text_lines(path, take.findings, name)
        take.findings.read("label files")
        own = by_stem.get(path.stem)
        if own is None:
            rows = [at for at, line in enumerate(lines, 1) if line.strip() and not _HEAD.fullmatch(line.strip())]
            take.findings.skip("label files", "no image", name, f"{len(rows)} labels")
            for at in rows:
                take.label(None, None, None, (name, at))
            continue
        take.findings.keep("label files")
        image = take.image(own, name, name, split=split)
        for at, line in enumerate(lines, 1):
            line = line.strip()
            if ":" in line and (head := _HEAD.fullmatch(line)):
                if image is not None and head[1].lower() == "gsd" and number(head[2]) > 0:
                    image.gsd = number(head[2])
            elif line:
                words = line.split()
                # Eight numbers, the class, and whether it is difficult, which some files leave out.
                if len(words) not in (9, 10) or (len(words) == 10 and not words[9].isdigit()):
                    take.label(image, None, None, (name, at))
                    continue
                difficult = len(words) == 10 and words[9] != "0"
                take.label(image, _box(words[:8]), words[8], (name, at), difficult=difficult)
    take.unlabelled(files)


def _box(words: list[str]) -> list[float] | list[str]:
    """The box around a quad; or the word that is no number, four times, so that it is named."""
    corners = list(map(number, words))
    # min and max would pass over a NaN, a sum does not.
    if math.isnan(sum(corners)) and (bad := [w for w, value in zip(words, corners, strict=True) if math.isnan(value)]):
        return bad[:1] * 4
    across, down = corners[::2], corners[1::2]
    return [min(across), min(down), max(across), max(down)]
