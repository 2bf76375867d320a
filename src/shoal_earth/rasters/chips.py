"""Chips from rasters and polygons: one pass over each scene, labels burnt once, splits that share no pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.labels import FOREGROUND, IGNORE, Polygons, burn, read_polygons
from shoal_earth.rasters.shards import ShardWriter
from shoal_earth.rasters.split import SPLITS, assign
from shoal_earth.rasters.statistics import BandStatistics
from shoal_earth.rasters.strips import Strips, open_strips

__all__ = ["ChipRules", "Made", "make_chips"]


@dataclass(frozen=True)
class ChipRules:
    """How to cut.

    Args:
        size: pixels on a side.
        stride: pixels from one training chip to the next; chips for validation and test never overlap, so that every
            pixel counts once.
        resolution: pixel size to resample to, in units of the raster's CRS; None keeps each raster's own.
        shares: of training, validation and test.
        region: the side of the square regions that are dealt to the splits, in chips.
        seed: of that deal.
        min_valid: smallest share of valid pixels in a chip.
        keep_empty: whether training chips without foreground are kept.
        foreground: name of the class that polygons stand for.
    """

    size: int = 256
    stride: int = 256
    resolution: float | None = None
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25)
    region: int = 1
    seed: int = 0
    min_valid: float = 0.5
    keep_empty: bool = True
    foreground: str = "foreground"

    def __post_init__(self) -> None:
        if self.size < 8 or self.stride < 1 or self.region < 1:
            raise UsageError("a chip has at least 8 pixels on a side, and stride and region are at least 1")
        if self.resolution is not None and not self.resolution > 0:
            raise UsageError(f"the resolution must be above 0, not {self.resolution}")
        if len(self.shares) != 3 or min(self.shares) < 0 or self.shares[0] <= 0:
            raise UsageError("the split needs three shares (training, validation, test), and training must have one")


@dataclass
class Made:
    """What was found, cut and skipped. ``lines`` say it in words; ``counts`` hold the numbers."""

    lines: list[str] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)


def make_chips(rasters: list[Path], polygons: list[Path], out: Path, rules: ChipRules) -> Made:
    """Cut chips from rasters, label them with polygons and write them as shards.

    Args:
        rasters: scenes; polygons are laid over each that they touch.
        polygons: vector files.
        out: folder for the shards and the index.
        rules: how to cut.

    Returns:
        What was found, skipped and why.

    Raises:
        UsageError: an input cannot be used, or no chip comes out of it.
    """
    made = Made()
    files = [read_polygons(path) for path in polygons]
    names = [path.stem for path in rasters]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"two rasters are named {twice[0]}: chips are named after them", hint="Rename one.")
    masks, kinds = {}, set()
    touched: list[set[int]] = [set() for _ in files]
    for path in rasters:
        with open_strips(path, rules.resolution) as scene:
            if min(scene.height, scene.width) < rules.size:
                raise UsageError(
                    f"{path}: has {scene.width} x {scene.height} pixels, less than one chip of {rules.size}"
                )
            masks[path], touching = burn(files, scene)
            for all_of_file, here in zip(touched, touching, strict=True):
                all_of_file |= here
            kinds.add((scene.bands, scene.dtype))
            made.lines.append(
                f"{path.name}: {scene.width} x {scene.height} pixels of {scene.resolution:g}, "
                f"{scene.bands} band(s) {scene.dtype}, {_crs(scene)}; {sum(map(len, touching))} polygons touch it, "
                f"{(masks[path] > 0).mean():.2%} of it {rules.foreground}"
            )
    if len(kinds) > 1:
        raise UsageError(f"the rasters differ in bands or type: {', '.join(f'{b} x {t}' for b, t in sorted(kinds))}")
    for file, all_of_file in zip(files, touched, strict=True):
        _report(made, file, len(all_of_file), rasters)
    regions = _deal(masks, rules)
    bands, dtype = kinds.pop()
    statistics = BandStatistics(bands, dtype)
    skipped: Counter[str] = Counter()
    scenes = []
    with ShardWriter(out) as writer:
        for path in rasters:
            with open_strips(path, rules.resolution) as scene:
                scenes.append({"name": scene.name, "crs": _crs(scene), "transform": list(scene.transform)[:6]})
                _cut(scene, masks.pop(path), regions[path], rules, writer, statistics, skipped)
        split_counts = Counter(chip["split"] for chip in writer.chips)
        for split, share in zip(SPLITS, rules.shares, strict=True):
            if share > 0 and not split_counts[split]:
                why = _words(skipped) or "too few regions"
                raise UsageError(
                    f"no chip for {split} came out of {', '.join(path.name for path in rasters)}: {why}",
                    hint="Smaller chips or regions, or other shares, make more.",
                )
        writer.close(
            classes=["background", rules.foreground],
            ignore=IGNORE,
            size=rules.size,
            stride=rules.stride,
            resolution=rules.resolution,
            bands=bands,
            dtype=dtype,
            scale=statistics.scale(),
            scenes=scenes,
        )
    for split in SPLITS:
        of_split = [chip for chip in writer.chips if chip["split"] == split]
        share = float(np.mean([chip["share"] for chip in of_split])) if of_split else 0.0
        made.lines.append(f"{split}: {len(of_split)} chips, {share:.2%} {rules.foreground}")
        made.counts[f"chips/{split}"] = len(of_split)
    made.lines.append(f"skipped: {_words(skipped) or 'none'}")
    made.counts["chips/skipped"] = sum(skipped.values())
    return made


def _report(made: Made, file: Polygons, touching: int, rasters: list[Path]) -> None:
    if touching == 0:
        raise UsageError(
            f"{file.path}: none of its {len(file.frame)} polygons touches {', '.join(p.name for p in rasters)}",
            hint="Are they of another place, or is the CRS of one of the files wrong?",
        )
    made.lines.append(
        f"{file.path.name}: {file.found} features, {len(file.frame)} polygons; {file.mended} mended, {file.empty} empty, "
        f"{file.other} of another kind, {len(file.frame) - touching} outside"
    )
    made.counts["polygons/used"] = made.counts.get("polygons/used", 0) + touching
    made.counts["polygons/mended"] = made.counts.get("polygons/mended", 0) + file.mended


def _deal(masks: dict[Path, np.ndarray[Any, Any]], rules: ChipRules) -> dict[Path, np.ndarray[Any, Any]]:
    """The split of each region of each scene, as a grid of indices into ``SPLITS``; -1 beyond the last whole chip."""
    side = rules.size * rules.region
    keys, weights = [], []
    for path, mask in masks.items():
        for row in range(0, mask.shape[0] // rules.size * rules.size, side):
            for column in range(0, mask.shape[1] // rules.size * rules.size, side):
                keys.append((path, row // side, column // side))
                weights.append(float((mask[row : row + side, column : column + side] == FOREGROUND).sum()))
    given = assign(weights, dict(zip(SPLITS, rules.shares, strict=True)), rules.seed)
    grids = {}
    for path, mask in masks.items():
        rows, columns = -(-mask.shape[0] // side), -(-mask.shape[1] // side)
        grids[path] = np.full((rows, columns), -1, np.int8)
    for (path, row, column), split in zip(keys, given, strict=True):
        grids[path][row, column] = SPLITS.index(split)
    return grids


def _cut(
    scene: Strips,
    mask: np.ndarray[Any, Any],
    regions: np.ndarray[Any, Any],
    rules: ChipRules,
    writer: ShardWriter,
    statistics: BandStatistics,
    skipped: Counter[str],
) -> None:
    """Cut one scene: each row of pixels is read once, and only as many are held as a chip is high."""
    side, size = rules.size * rules.region, rules.size
    places = sorted(_places(scene.height, scene.width, regions, rules))
    values = np.empty((scene.bands, 0, scene.width), scene.dtype)
    valid = np.empty((0, scene.width), bool)
    bottom = 0
    for row, column, split in places:
        if row + size > bottom:
            more, more_valid = scene.rows(bottom, row + size)
            for line in range(bottom, row + size):
                if line // side < regions.shape[0]:
                    training = np.repeat(regions[line // side] == 0, side)[: scene.width]
                    training = training & more_valid[line - bottom, : len(training)]
                    statistics.add(more[:, line - bottom, : len(training)][:, training])
            values = np.concatenate([values, more], 1)[:, -size:]
            valid = np.concatenate([valid, more_valid])[-size:]
            bottom = row + size
        across = slice(column, column + size)
        image, good = values[..., across], valid[:, across]
        label = np.where(good, mask[row : row + size, across], IGNORE).astype(np.uint8)
        share = float((label == FOREGROUND).mean())
        if good.mean() < rules.min_valid:
            skipped[f"less than {rules.min_valid:.0%} valid"] += 1
        elif split == "train" and not rules.keep_empty and share == 0:
            skipped[f"no {rules.foreground}"] += 1
        else:
            key = f"{scene.name}-{row:06d}-{column:06d}"
            facts = {"scene": scene.name, "row": row, "column": column, "share": round(share, 6)}
            writer.add(split, key, {"image": image, "label": label}, **facts)


def _places(height: int, width: int, regions: np.ndarray[Any, Any], rules: ChipRules) -> Iterator[tuple[int, int, str]]:
    """Corners of chips that lie wholly in regions of one split."""
    side, size = rules.size * rules.region, rules.size
    steps = {split: rules.stride if split == "train" else size for split in SPLITS}
    for split, step in steps.items():
        number = SPLITS.index(split)
        for row in range(0, height - size + 1, step):
            for column in range(0, width - size + 1, step):
                under = regions[
                    row // side : (row + size - 1) // side + 1, column // side : (column + size - 1) // side + 1
                ]
                if (under == number).all():
                    yield row, column, split


def _crs(scene: Strips) -> str:
    code = scene.crs.to_epsg()
    return f"EPSG:{code}" if code else str(scene.crs.to_wkt())


def _words(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} chips with {reason}" for reason, count in sorted(skipped.items()))
