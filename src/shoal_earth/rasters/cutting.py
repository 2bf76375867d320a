"""Chips from whole scenes or pairs, dealt to training, validation and test by tile (or any other group), sharing no ground.

Chips hold reflectance and indices as 16-bit integers in steps of 1/10,000 (``step`` in the index): half the size of floats, and
as exact as the products themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.ahead import ahead
from shoal_earth.rasters.choosing import CutRules, Layer, meets, windows
from shoal_earth.rasters.grids import Grid, Pixels
from shoal_earth.rasters.labels import FOREGROUND, IGNORE
from shoal_earth.rasters.normalise import Fitter, Scale, step_of
from shoal_earth.rasters.output import WriteError, publish
from shoal_earth.rasters.shards import ShardWriter
from shoal_earth.rasters.split import SPLITS, deal

__all__ = ["COUNTS", "PART", "Cut", "CutRules", "Layer", "cut_layers", "cut_part", "require_chips", "stored_scale"]

PART, COUNTS = "part.json", "counts.npy"
"""Index of the chips of a part of a dataset, and the values that its training chips have, counted."""

_ROWS = 32


@dataclass
class Cut:
    """What was cut: chips by split, skipped chips by reason, and the split of each group."""

    chips: Counter[str]
    skipped: Counter[str]
    splits: dict[str, str]

    def lines(self, *, groups: bool = False) -> list[str]:
        """This in words: a line a split, with its groups if asked for, and a line a reason to skip chips."""
        found = []
        for split, count in sorted(self.chips.items()):
            names = sorted(group for group, given in self.splits.items() if given == split) if groups else []
            found.append(f"{split}: {count} chips" + (f" of {', '.join(names)}" if names else ""))
        return found + [f"skipped: {count} chips with {why}" for why, count in sorted(self.skipped.items())]


def cut_layers(
    layers: Sequence[Layer],
    out: Path,
    rules: CutRules,
    *,
    kind: str,
    foreground: str = "foreground",
    splits: Mapping[str, str] | None = None,
) -> Cut:
    """Cut chips, write them as shards with an index; statistics come from training chips alone.

    A training chip on ground that a validation or test scene shows is left out, also where tiles overlap.

    Args:
        layers: what to cut.
        out: folder for the shards.
        rules: how.
        kind: composite that the sources give, recorded and decisive for how values are stored.
        foreground: name of class 1.
        splits: the split of each group; dealt by ``rules`` where it is not given.

    Raises:
        UsageError: layers differ in bands or resolution, are smaller than a chip, or a split stays empty.
        WriteError: the disk is full.
    """
    if not layers:
        raise UsageError("there is no scene to cut chips from")
    _check(layers, rules)
    given = dict(splits) if splits is not None else _deal(layers, rules)
    with ShardWriter(out) as writer:
        cutting = _Cutting(writer, rules, kind, given)
        cutting.cut(layers, [(layer.source.grid, given.get(layer.group, "")) for layer in layers])
        shares = dict(zip(SPLITS, rules.shares, strict=True))
        require_chips(
            cutting.made, [s for s in SPLITS if (s in given.values() if splits is not None else shares[s] > 0)]
        )
        assert cutting.fitter is not None
        scale = cutting.fitter.fit(rules.normalise)
        times = cutting.dates
        writer.close(
            **cutting.facts(foreground),
            normalise=rules.normalise,
            scale=stored_scale(scale, cutting.fitter.step) * times,
            splits=given,
            skipped=dict(sorted(cutting.made.skipped.items())),
            scenes=_scenes(layers),
        )
    return cutting.made


def cut_part(
    layers: Sequence[Layer],
    out: Path,
    rules: CutRules,
    *,
    kind: str,
    splits: Mapping[str, str],
    held: Sequence[tuple[Grid, str]],
    foreground: str = "foreground",
) -> Cut:
    """Cut some of the layers of a dataset, in a task of its own; :func:`joining.join_parts` makes a dataset of all parts.

    Args:
        layers: those of this part; there may be none.
        out: folder for the shards.
        rules: how; the same for all parts.
        kind: as in :func:`cut_layers`.
        splits: the split of each group.
        held: the ground of all layers of the dataset, also those of other parts, with their split.
        foreground: name of class 1.

    Raises:
        UsageError: layers differ in bands or resolution, or are smaller than a chip.
        WriteError: the disk is full.
    """
    _check(layers, rules)
    with ShardWriter(out, index=PART) as writer:
        cutting = _Cutting(writer, rules, kind, dict(splits))
        cutting.cut(layers, held)
        try:
            if cutting.fitter is not None:
                with publish(out / COUNTS) as path:
                    np.save(path, cutting.fitter.counted())
            else:
                (out / COUNTS).unlink(missing_ok=True)
            facts = cutting.facts(foreground) if layers else {}
            skipped = dict(sorted(cutting.made.skipped.items()))
            writer.close(**facts, splits=dict(splits), skipped=skipped, scenes=_scenes(layers))
        except WriteError:
            (out / COUNTS).unlink(missing_ok=True)
            raise
    return cutting.made


def require_chips(made: Cut, splits: Sequence[str]) -> None:
    """Raise UsageError, with why chips were skipped, unless each of these splits has chips."""
    for split in splits:
        if not made.chips[split]:
            words = ", ".join(f"{count} with {why}" for why, count in sorted(made.skipped.items()))
            raise UsageError(
                f"no chip for {split} was kept: {words or 'there are fewer groups than splits'}",
                hint="More scenes, smaller chips, other rules or another seed make more.",
            )


def stored_scale(scale: Scale, step: float) -> list[dict[str, float]]:
    """The bands of a scale in the numbers that chips hold."""
    return [{**band, "low": band["low"] / step, "high": band["high"] / step} for band in scale.bands]


@dataclass
class _Cutting:
    """Cuts layers into a writer, and counts the values of training chips."""

    writer: ShardWriter
    rules: CutRules
    kind: str
    splits: dict[str, str]

    def __post_init__(self) -> None:
        self.made = Cut(Counter(), Counter(), self.splits)
        self.fitter: Fitter | None = None
        self.shape: tuple[int, ...] = ()
        self.resolution = 0.0

    @property
    def dates(self) -> int:
        return self.shape[0] if len(self.shape) == 2 else 1

    def cut(self, layers: Sequence[Layer], held: Sequence[tuple[Grid, str]]) -> None:
        groups = {layer.group for layer in layers}
        if unknown := groups - self.splits.keys() | (set(self.splits.values()) - set(SPLITS)):
            raise UsageError(f'the split of "{min(unknown)}" is not known')
        for layer in sorted(layers, key=lambda layer: layer.name):
            split = self.splits[layer.group]
            forbidden = _forbidden(layer, split, held)
            step = step_of(self.kind)
            self.resolution = layer.source.grid.resolution
            # The next chips are decoded while these are counted and written.
            with ahead(windows(layer, self.rules, step, split, forbidden, self.made.skipped)) as runs:
                for window, pixels in chain.from_iterable(runs):
                    self.shape = pixels.values.shape[:-2]
                    if split == "train":
                        self.fitter = self.fitter or Fitter(self.kind, self.shape[-1])
                        _count(self.fitter, pixels.values, pixels.valid, self.rules.stride)
                    _write(self.writer, layer, split, window, pixels)
                    self.made.chips[split] += 1

    def facts(self, foreground: str) -> dict[str, Any]:
        """What all parts of a dataset have in common."""
        return {
            "classes": ["background", foreground],
            "ignore": IGNORE,
            "size": self.rules.size,
            "stride": self.rules.stride,
            "resolution": self.resolution,
            "bands": int(np.prod(self.shape)),
            "dates": self.dates,
            "dtype": "int16",
            "step": step_of(self.kind),
            "composite": self.kind,
        }


def _scenes(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    return [
        {
            "name": layer.name,
            "group": layer.group,
            "crs": layer.source.grid.crs_name,
            "transform": list(layer.source.grid.transform)[:6],
            **layer.facts,
        }
        for layer in sorted(layers, key=lambda layer: layer.name)
    ]


def _write(writer: ShardWriter, layer: Layer, split: str, window: Window, pixels: Pixels) -> None:
    rows, columns = window.toslices()
    label = layer.labels[rows, columns]
    if not pixels.valid.all():
        label = np.where(pixels.valid, label, np.uint8(IGNORE))
    row, column = int(window.row_off), int(window.col_off)
    facts = {"scene": layer.name, "group": layer.group, "row": row, "column": column}
    facts["share"] = round(np.count_nonzero(label == FOREGROUND) / label.size, 6)
    image = pixels.values.reshape(-1, *pixels.values.shape[-2:])
    writer.add(split, f"{layer.name}-{row:06d}-{column:06d}", {"image": image, "label": label}, **facts)


def _check(layers: Sequence[Layer], rules: CutRules) -> None:
    for name, count in Counter(layer.name for layer in layers).items():
        if count > 1:
            raise UsageError(f"two scenes are named {name}: chips are named after them", hint="Rename one.")
    for layer in layers:
        grid = layer.source.grid
        if min(grid.height, grid.width) < rules.size:
            raise UsageError(f"{layer.name}: has {grid.width} x {grid.height} pixels, less than a chip of {rules.size}")
        if layer.labels.shape != (grid.height, grid.width):
            raise UsageError(f"{layer.name}: its labels have another size than its pixels")
        if abs(grid.resolution - layers[0].source.grid.resolution) > 1e-6 * grid.resolution:
            raise UsageError(
                f"{layer.name}: has pixels of {grid.resolution:g}, but {layers[0].name} of "
                f"{layers[0].source.grid.resolution:g}",
                hint="Give all the same resolution.",
            )


def _deal(layers: Sequence[Layer], rules: CutRules) -> dict[str, str]:
    weights: dict[str, float] = defaultdict(float)
    for layer in layers:
        # A few rows at a time: room for a comparison of the whole scene costs more than comparing.
        for row in range(0, len(layer.labels), _ROWS):
            weights[layer.group] += float(np.count_nonzero(layer.labels[row : row + _ROWS] == FOREGROUND))
    return deal(weights, rules.shares, rules.seed)


def _forbidden(layer: Layer, split: str, held: Sequence[tuple[Grid, str]]) -> list[Grid]:
    """Grids of a later split that show some of the same ground."""
    later = SPLITS[SPLITS.index(split) + 1 :]
    own = layer.source.grid
    found: dict[tuple[Any, ...], Grid] = {}
    for grid, other in held:
        if other in later and meets(own, own.whole, grid):
            found[(grid.crs_name, *grid.bounds)] = grid
    return list(found.values())


def _count(fitter: Fitter, stored: np.ndarray[Any, Any], valid: np.ndarray[Any, Any], stride: int) -> None:
    """Take each training pixel in at most once: of the corner that the next chips do not have, some rows, evenly spread."""
    corner = min(stride, valid.shape[0])
    # Counting all of a large chip costs as much as reading it, and tells nothing more.
    part = (..., slice(0, corner, max(1, corner // _ROWS)), slice(0, corner))
    for image in stored[part] if stored.ndim == 4 else [stored[part]]:
        fitter.add_steps(image, valid[part])
