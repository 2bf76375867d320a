"""What to cut, and which chips of it are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, Pixels
from shoal_earth.rasters.predict import Source, read_steps

__all__ = ["CutRules", "Layer", "meets", "windows"]

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


def meets(grid: Grid, window: Window, other: Grid) -> bool:
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


def windows(
    layer: Layer, rules: CutRules, step: float, split: str, forbidden: Sequence[Grid], skipped: Counter[str]
) -> Generator[list[tuple[Window, Pixels]], None, None]:
    """The chips of a layer that the rules keep, their values in steps.

    Chips that lie side by side are read at once: a call costs about as much as the decoding of a chip.
    """
    with rasterio.Env():  # one for all reads
        yield from _kept(layer, rules, step, split, forbidden, skipped)


def _kept(
    layer: Layer, rules: CutRules, step: float, split: str, forbidden: Sequence[Grid], skipped: Counter[str]
) -> Iterator[list[tuple[Window, Pixels]]]:
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
        if any(meets(grid, window, other) for other in forbidden):
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
