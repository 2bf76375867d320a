"""Chips from whole scenes or pairs, dealt to training, validation and test by tile (or any other group), sharing no ground.

Chips hold reflectance and indices as 16-bit integers in steps of 1/10,000 (``step`` in the index): half the size of floats, and
as exact as the products themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.ahead import ahead
from shoal_earth.rasters.grids import Grid, Pixels
from shoal_earth.rasters.labels import FOREGROUND, IGNORE
from shoal_earth.rasters.normalise import Fitter, step_of
from shoal_earth.rasters.predict import Source, read_steps
from shoal_earth.rasters.shards import ShardWriter
from shoal_earth.rasters.split import SPLITS, assign

__all__ = ["Cut", "CutRules", "Layer", "cut_layers"]

_LONGEST = 4096


@dataclass(frozen=True)
class Layer:
    """A scene or a pair to cut.

    Args:
        name: of the scene; chips are named after it.
        group: all layers of a group (a tile, a fire) go to the same split.
        source: of pixels: (bands, height, width), or (2, bands, height, width) for a pair.
        labels: on the source's grid.
        hidden: pixels of a window that are under cloud or shadow.
        facts: recorded with the scene.
    """

    name: str
    group: str
    source: Source
    labels: np.ndarray[Any, np.dtype[np.uint8]]
    hidden: Callable[[Window], np.ndarray[Any, Any]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CutRules:
    """How to cut, and which chips to keep.

    Args:
        size: pixels on a side.
        stride: pixels from one training chip to the next; those for validation and test never overlap.
        shares: of training, validation and test, of the foreground.
        seed: of the deal.
        min_valid: smallest share of valid pixels.
        max_hidden: largest share under cloud or shadow.
        present: classes of which a training chip must have at least a pixel.
        present_always: ask that of chips for validation and test too (as the deforestation paper did; scores then say nothing
            of places where nothing happened).
        normalise: see :data:`normalise.METHODS`.
    """

    size: int = 256
    stride: int = 256
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0
    min_valid: float = 1.0
    max_hidden: float = 0.1
    present: tuple[int, ...] = ()
    present_always: bool = False
    normalise: str = "percentile"

    def __post_init__(self) -> None:
        if self.size < 8 or not self.stride >= 1:
            raise UsageError("a chip has at least 8 pixels on a side, and the stride is at least 1")
        if len(self.shares) != 3 or min(self.shares) < 0 or self.shares[0] <= 0:
            raise UsageError("the split needs three shares (training, validation, test), and training must have one")


@dataclass
class Cut:
    """What was cut: chips by split, skipped chips by reason, and the split of each group."""

    chips: Counter[str]
    skipped: Counter[str]
    splits: dict[str, str]


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
    _check(layers, rules)
    given = dict(splits) if splits is not None else _deal(layers, rules)
    if unknown := {layer.group for layer in layers} - given.keys() | (set(given.values()) - set(SPLITS)):
        raise UsageError(f'the split of "{min(unknown)}" is not known')
    writer = ShardWriter(out)
    cut = Cut(Counter(), Counter(), given)
    fitter: Fitter | None = None
    shape: tuple[int, ...] = ()
    for layer in sorted(layers, key=lambda layer: layer.name):
        split = given[layer.group]
        forbidden = _forbidden(layer, split, layers, given)
        # The next chips are decoded while these are counted and written.
        with ahead(_windows(layer, rules, step_of(kind), split, forbidden, cut.skipped)) as runs:
            for window, part in chain.from_iterable(runs):
                pixels = Pixels(np.ascontiguousarray(part.values), part.valid)
                shape = pixels.values.shape[:-2]
                fitter = fitter or Fitter(kind, shape[-1])
                if split == "train":
                    _count(fitter, pixels.values, pixels.valid, rules.stride)
                _write(writer, layer, split, window, pixels)
                cut.chips[split] += 1
    for split, share in zip(SPLITS, rules.shares, strict=True):
        wanted = split in given.values() if splits is not None else share > 0
        if wanted and not cut.chips[split]:
            words = ", ".join(f"{count} with {why}" for why, count in sorted(cut.skipped.items()))
            raise UsageError(
                f"no chip for {split} was kept: {words or 'there are fewer groups than splits'}",
                hint="More scenes, smaller chips, other rules or another seed make more.",
            )
    assert fitter is not None
    times = shape[0] if len(shape) == 2 else 1
    scale = fitter.fit(rules.normalise)
    stored_scale = [
        {**band, "low": band["low"] / fitter.step, "high": band["high"] / fitter.step} for band in scale.bands
    ]
    grids = {layer.name: layer.source.grid for layer in layers}
    writer.close(
        classes=["background", foreground],
        ignore=IGNORE,
        size=rules.size,
        stride=rules.stride,
        resolution=layers[0].source.grid.resolution,
        bands=times * shape[-1],
        dates=times,
        dtype="int16",
        step=fitter.step,
        composite=kind,
        normalise=rules.normalise,
        scale=stored_scale * times,
        splits=given,
        skipped=dict(sorted(cut.skipped.items())),
        scenes=[
            {
                "name": layer.name,
                "group": layer.group,
                "crs": grids[layer.name].crs_name,
                "transform": list(grids[layer.name].transform)[:6],
                **layer.facts,
            }
            for layer in sorted(layers, key=lambda layer: layer.name)
        ],
    )
    return cut


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
    if not layers:
        raise UsageError("there is no scene to cut chips from")
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
        weights[layer.group] += float((layer.labels == FOREGROUND).sum())
    groups = sorted(weights)
    shares = dict(zip(SPLITS, rules.shares, strict=True))
    given = dict(zip(groups, assign([weights[group] for group in groups], shares, rules.seed), strict=True))
    # With few groups a small share may round to none: the split that has most gives its lightest.
    for split in (name for name, share in shares.items() if share > 0 and name not in given.values()):
        counts = Counter(given.values())
        largest = max(SPLITS, key=lambda name: counts[name])
        if counts[largest] > 1:
            given[min((weights[group], group) for group in groups if given[group] == largest)[1]] = split
    return given


def _forbidden(layer: Layer, split: str, layers: Sequence[Layer], given: Mapping[str, str]) -> list[Grid]:
    """Grids of scenes kept for a later split that show some of the same ground."""
    later = SPLITS[SPLITS.index(split) + 1 :]
    own = layer.source.grid
    found: dict[tuple[Any, ...], Grid] = {}
    for other in layers:
        grid = other.source.grid
        if given[other.group] in later and _meets(own, own.whole, grid):
            found[(grid.crs_name, *grid.bounds)] = grid
    return list(found.values())


def _meets(grid: Grid, window: Window, other: Grid) -> bool:
    """Whether a window of one grid covers ground of another; touching edges do not count."""
    left, bottom, right, top = grid.part(window).bounds
    if grid.crs != other.crs:
        left, bottom, right, top = transform_bounds(grid.crs, other.crs, left, bottom, right, top, densify_pts=21)
        if not np.isfinite([left, bottom, right, top]).all() or left > right:
            return False
    slack = 1e-6 * other.resolution
    west, south, east, north = other.bounds
    return bool(left < east - slack and right > west + slack and bottom < north - slack and top > south + slack)


@dataclass
class _Chip:
    """A chip that the rules may keep."""

    window: Window
    label: np.ndarray[Any, Any]

    @property
    def left(self) -> int:
        return int(self.window.col_off)


def _windows(
    layer: Layer, rules: CutRules, step: float, split: str, forbidden: Sequence[Grid], skipped: Counter[str]
) -> Generator[list[tuple[Window, Pixels]], None, None]:
    """The chips of a layer that the rules keep, their values in steps.

    Chips that lie side by side are read at once: a call costs about as much as the decoding of a chip.
    """
    grid, size = layer.source.grid, rules.size
    stride = rules.stride if split == "train" else size
    for row in range(0, grid.height - size + 1, stride):
        chips = list(_wanted(layer, rules, row, split, forbidden, skipped))
        if layer.hidden is not None:
            chips = list(_seen(layer.hidden, rules, chips, skipped))
        for together in _runs(chips, size):
            first = together[0].left
            pixels = read_steps(layer.source, Window(first, row, together[-1].left + size - first, size), step)
            whole = bool(pixels.valid.all())
            kept = []
            for chip in together:
                columns = slice(chip.left - first, chip.left - first + size)
                valid = pixels.valid[:, columns]
                if not whole and np.count_nonzero(valid) / valid.size < rules.min_valid:
                    skipped[f"less than {rules.min_valid:.0%} valid"] += 1
                else:
                    kept.append((chip.window, Pixels(pixels.values[..., columns], valid)))
            yield kept


def _wanted(
    layer: Layer, rules: CutRules, row: int, split: str, forbidden: Sequence[Grid], skipped: Counter[str]
) -> Iterator[_Chip]:
    """The chips of a row that may be kept for what is known without reading a pixel."""
    grid, size = layer.source.grid, rules.size
    stride = rules.stride if split == "train" else size
    present = rules.present if split == "train" or rules.present_always else ()
    for column in range(0, grid.width - size + 1, stride):
        window = Window(column, row, size, size)
        label = layer.labels[row : row + size, column : column + size]
        if any(_meets(grid, window, other) for other in forbidden):
            skipped["ground of a later split"] += 1
        elif missing := [number for number in present if not (label == number).any()]:
            skipped[f"no pixel of class {missing[0]}"] += 1
        else:
            yield _Chip(window, label)


def _seen(
    hidden: Callable[[Window], np.ndarray[Any, Any]], rules: CutRules, chips: list[_Chip], skipped: Counter[str]
) -> Iterator[_Chip]:
    """The chips of a row of which enough is seen."""
    size = rules.size
    for together in _runs(chips, size):
        first, row = together[0].left, together[0].window.row_off
        mask = hidden(Window(first, row, together[-1].left + size - first, size))
        for chip in together:
            here = mask[:, chip.left - first : chip.left - first + size]
            if np.count_nonzero(here) / here.size > rules.max_hidden:
                skipped[f"more than {rules.max_hidden:.0%} hidden"] += 1
            else:
                yield chip


def _runs(chips: list[_Chip], size: int) -> Iterator[list[_Chip]]:
    """Chips of a row that touch, so that they are read together; none longer than :data:`_LONGEST` pixels."""
    run: list[_Chip] = []
    for chip in chips:
        if run and (chip.left > run[-1].left + size or chip.left + size - run[0].left > max(_LONGEST, size)):
            yield run
            run = []
        run.append(chip)
    if run:
        yield run


def _count(fitter: Fitter, stored: np.ndarray[Any, Any], valid: np.ndarray[Any, Any], stride: int) -> None:
    """Take each training pixel in once: the corner of a chip that the next chips do not have."""
    corner = (..., slice(0, stride), slice(0, stride))
    for image in stored[corner] if stored.ndim == 4 else [stored[corner]]:
        fitter.add_steps(image, valid[corner])
