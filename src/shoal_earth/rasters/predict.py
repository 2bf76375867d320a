"""A whole scene through a model: overlapping windows, blended, in memory that does not grow with the scene's height.

It serves any application: a model is a function from a batch of inputs to class probabilities, a source anything that reads
windows of one grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, Pixels, in_steps
from shoal_earth.rasters.output import publish, write_cog, write_polygons, write_tiles
from shoal_earth.rasters.polygons import hectares

__all__ = [
    "NOTHING",
    "CompositeSource",
    "PairSource",
    "Prediction",
    "Source",
    "WindowSource",
    "predict_scene",
    "read_steps",
]

NOTHING = 255
"""Pixels of a map that could not be judged."""

Array = np.ndarray[Any, Any]
Model = Callable[[Array], Array]


class Source(Protocol):
    """What :func:`predict_scene` reads: windows of a grid as a model's inputs, shape (..., height, width), with a mask."""

    grid: Grid

    def read(self, window: Window) -> Pixels:
        """The input in a window, and which of its pixels are valid."""
        ...


@dataclass
class CompositeSource:
    """A composite of one scene. ``scale``, if there is one, turns pixels into a model's inputs."""

    scene: Any
    kind: str
    grid: Grid
    scale: Callable[[Pixels], Pixels] | None = None

    def read(self, window: Window) -> Pixels:
        """The composite in a window."""
        from shoal_earth.rasters.composites import composite

        pixels = composite(self.scene, self.kind, window, self.grid)
        return pixels if self.scale is None else self.scale(pixels)

    def read_steps(self, window: Window, step: float) -> Pixels:
        """The same in whole numbers of a step, as chips hold it."""
        from shoal_earth.rasters.composites import composite

        if self.scale is not None:
            pixels = self.read(window)
            return Pixels(in_steps(pixels.values, step), pixels.valid)
        return composite(self.scene, self.kind, window, self.grid, step=step)


@dataclass
class PairSource:
    """Two sources of one grid, for models of change: shape (2, bands, height, width), valid where both are."""

    first: Source
    second: Source

    def __post_init__(self) -> None:
        from shoal_earth.rasters.grids import same_grid

        if differs := same_grid(self.first.grid, self.second.grid):
            raise UsageError(f"the two images of a pair are not on one grid: {differs}")
        self.grid = self.first.grid

    def read(self, window: Window) -> Pixels:
        """Both images in a window."""
        one, other = self.first.read(window), self.second.read(window)
        return Pixels(np.stack([one.values, other.values]), one.valid & other.valid)

    def read_steps(self, window: Window, step: float) -> Pixels:
        """The same in whole numbers of a step, as chips hold it."""
        one, other = read_steps(self.first, window, step), read_steps(self.second, window, step)
        return Pixels(np.stack([one.values, other.values]), one.valid & other.valid)


@dataclass
class WindowSource:
    """A part of another source, as a source of its own."""

    source: Source
    window: Window

    def __post_init__(self) -> None:
        self.source.grid.check(self.window, "the source")
        self.grid = self.source.grid.part(self.window)

    def read(self, window: Window) -> Pixels:
        """A window of the part."""
        return self.source.read(self._outer(window))

    def read_steps(self, window: Window, step: float) -> Pixels:
        """The same in whole numbers of a step, as chips hold it."""
        return read_steps(self.source, self._outer(window), step)

    def _outer(self, window: Window) -> Window:
        row, column = self.window.row_off + window.row_off, self.window.col_off + window.col_off
        return Window(column, row, window.width, window.height)


def read_steps(source: Source, window: Window, step: float) -> Pixels:
    """A window of any source in whole numbers of a step: int16, held to their range."""
    own = getattr(source, "read_steps", None)
    if own is not None:
        pixels: Pixels = own(window, step)
        return pixels
    pixels = source.read(window)
    return Pixels(in_steps(pixels.values, step), pixels.valid)


@dataclass(frozen=True)
class Prediction:
    """What a prediction wrote. ``hectares`` sums the polygons' areas, ``windows`` counts those that a model saw."""

    classes: Path
    probability: Path
    polygons: Path
    count: int
    hectares: float
    windows: int


def predict_scene(
    source: Source,
    model: Model,
    out: Path,
    *,
    size: int = 256,
    overlap: int = 64,
    batch: int = 8,
    foreground: int = 1,
    name: str = "foreground",
    threshold: float | None = None,
    min_hectares: float = 0.0,
    valid: Callable[[Window], Array] | None = None,
) -> Prediction:
    """Predict a scene; write ``classes.tif`` and ``probability.tif`` (COG) and ``<name>.gpkg`` with hectares.

    Args:
        source: what to read.
        model: from float32 inputs (n, ..., size, size) to probabilities (n, classes, size, size).
        out: folder to write to.
        size: side of a window in pixels, as the model was trained.
        overlap: pixels that neighbours share; there their answers are blended.
        batch: windows at once.
        foreground: the class that becomes polygons and whose probability is written.
        name: of that class.
        threshold: smallest probability of the foreground; by default a pixel goes to its likeliest class.
        min_hectares: smaller polygons are left out of the GeoPackage (and of memory, which holds all others).
        valid: pixels of a window that may be judged, beyond those that are valid (e.g. not under cloud).

    Raises:
        UsageError: the settings, or the model's answers, make no sense; the scene is unreadable.
        WriteError: the disk is full.
    """
    if not 0 <= overlap < size:
        raise UsageError(f"the overlap must be at least 0 and less than the window of {size} pixels, not {overlap}")
    if batch < 1 or (threshold is not None and not 0 < threshold < 1):
        raise UsageError("a batch has at least one window, and a threshold lies between 0 and 1")
    grid, run = source.grid, _Run(source, model, size, overlap, batch, foreground + 2)
    paths = out / "classes.tif", out / "probability.tif", out / f"{name}.gpkg"
    # Both rasters come from one pass: the second is the first's second band until then.
    both = out / ".both.tif"

    def blocks() -> Iterator[tuple[Window, Array]]:
        for window, probabilities, seen in run.rows():
            if foreground >= len(probabilities):
                raise UsageError(f"the model knows {len(probabilities)} classes, so there is no class {foreground}")
            if valid is not None:
                seen = seen & valid(window)
            chance = probabilities[foreground]
            winner = probabilities.argmax(0)
            if threshold is not None:
                others = np.delete(probabilities, foreground, 0)
                second = others.argmax(0)
                second += second >= foreground
                winner = np.where(chance >= threshold, foreground, second)
            answer = np.stack([winner, np.rint(chance * 250)]).astype(np.uint8)
            answer[:, ~seen] = NOTHING
            yield window, answer

    with publish(both) as step:
        write_tiles(step, grid, blocks(), bands=[name, "probability"], dtype="uint8", nodata=NOTHING)
        with rasterio.open(step) as made:
            for number, path in enumerate(paths[:2], 1):
                strips = ((window, made.read([number], window=window)) for window in grid.windows(1024))
                label = ["class"] if number == 1 else [f"probability of {name}, times 250"]
                write_cog(
                    path,
                    grid,
                    strips,
                    bands=label,
                    dtype="uint8",
                    nodata=NOTHING,
                    overviews="mode" if number == 1 else "average",
                )
        frame = _polygons(paths[0], paths[1], foreground, name, min_hectares)
        write_polygons(paths[2], frame)
    both.unlink(missing_ok=True)
    return Prediction(*paths, len(frame), float(frame["hectares"].sum()), run.windows)


class _Run:
    """Blends windows row by row: only as many rows of probabilities are held as a window is high."""

    def __init__(self, source: Source, model: Model, size: int, overlap: int, batch: int, least: int) -> None:
        self.source, self.model, self.size, self.batch = source, model, size, batch
        self.grid = source.grid
        self.step, self.least = size - overlap, least
        distance = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1))
        ramp: Array = np.minimum(distance / max(overlap, 1), 1).astype(np.float32)
        self.weight: Array = ramp[:, None] * ramp[None, :]
        self.windows = 0

    def rows(self) -> Iterator[tuple[Window, Array, Array]]:
        """Strips from top to bottom that together are the scene: window, probabilities, and where they mean something."""
        height, width, size = self.grid.height, self.grid.width, self.size
        tops, lefts = self._starts(height), self._starts(width)
        total: Array | None = None
        weight = np.zeros((size, width), np.float32)
        seen = np.zeros((size, width), np.bool_)
        done = 0
        for position, top in enumerate(tops):
            for left, answer, good in self._row(top, lefts):
                if total is None:
                    total = np.zeros((len(answer), size, width), np.float32)
                rows, columns = good.shape
                across = slice(left, left + columns)
                total[:, :rows, across] += answer[:, :rows, :columns] * self.weight[:rows, :columns]
                weight[:rows, across] += self.weight[:rows, :columns]
                seen[:rows, across] |= good
            bottom = min(height, tops[position + 1] if position + 1 < len(tops) else height)
            ready = bottom - done
            probabilities: Array
            if total is None:  # nothing valid up to here: how many classes there are is not known yet
                probabilities = np.zeros((self.least, ready, width), np.float32)
            else:
                probabilities = total[:, :ready] / np.maximum(weight[:ready], np.float32(1e-12))
            yield Window(0, done, width, ready), probabilities, seen[:ready].copy()
            for held in (total, weight, seen):
                if held is not None:
                    held[..., : size - ready, :] = held[..., ready:, :]
                    held[..., size - ready :, :] = 0
            done = bottom

    def _starts(self, length: int) -> list[int]:
        """Windows' first pixels; the last one is moved back to end with the scene."""
        if length <= self.size:
            return [0]
        starts = list(range(0, length - self.size, self.step))
        return [*starts, length - self.size]

    def _row(self, top: int, lefts: list[int]) -> Iterator[tuple[int, Array, Array]]:
        size, waiting = self.size, []
        for left in lefts:
            window = Window(left, top, min(size, self.grid.width - left), min(size, self.grid.height - top))
            pixels = self.source.read(window)
            if not pixels.valid.any():
                continue
            values = pixels.values.astype(np.float32, copy=False)
            rows, columns = pixels.valid.shape
            if (rows, columns) != (size, size):
                pad = [(0, 0)] * (values.ndim - 2) + [(0, size - rows), (0, size - columns)]
                values = np.pad(values, pad, mode="symmetric")
            waiting.append((left, values, pixels.valid))
            if len(waiting) == self.batch:
                yield from self._ask(waiting)
                waiting = []
        if waiting:
            yield from self._ask(waiting)

    def _ask(self, waiting: list[tuple[int, Array, Array]]) -> Iterator[tuple[int, Array, Array]]:
        answers = np.asarray(self.model(np.stack([values for _, values, _ in waiting])), np.float32)
        if answers.ndim != 4 or answers.shape[0] != len(waiting) or answers.shape[2:] != (self.size, self.size):
            raise UsageError(
                f"the model answered with shape {answers.shape} to {len(waiting)} windows of {self.size} pixels; "
                f"expected ({len(waiting)}, classes, {self.size}, {self.size})"
            )
        if not np.isfinite(answers).all():
            raise UsageError(f"{self._where()}: the model answered with numbers that are not finite")
        self.windows += len(waiting)
        for (left, _, good), answer in zip(waiting, answers, strict=True):
            yield left, answer, good

    def _where(self) -> str:
        return str(getattr(getattr(self.source, "scene", None), "path", "the scene"))


def _polygons(classes: Path, probability: Path, foreground: int, name: str, smallest: float) -> Any:
    """Connected pixels of a class (by their sides) as polygons, with hectares and mean probability."""
    import geopandas
    from rasterio.features import rasterize, shapes
    from shapely.geometry import shape

    found = []
    with rasterio.open(classes) as made:
        band = rasterio.band(made, 1)
        # Specks by the million would fill the memory: those far below the smallest are not kept until areas are exact.
        metres = made.crs.linear_units_factor[1] if made.crs.is_projected else 0.0
        least = 0.5 * smallest * 10_000 / metres**2 if metres else 0.0
        outlines = (shape(outline) for outline, value in shapes(band, transform=made.transform) if value == foreground)
        found = [outline for outline in outlines if outline.area >= least]
        frame = geopandas.GeoDataFrame({"class": [name] * len(found)}, geometry=found, crs=made.crs)
    frame["hectares"] = hectares(frame)
    frame = frame[frame["hectares"] >= smallest].sort_values("hectares", ascending=False, kind="stable")
    frame = frame.reset_index(drop=True)
    means = []
    with rasterio.open(probability) as made:
        grid = Grid.of(made, probability)
        for outline in frame.geometry:
            total, count = 0, 0
            # Some reach over the whole scene, so a strip at a time.
            for window in _strips(grid.window_of(outline.bounds) or grid.whole):
                here = grid.part(window)
                inside = np.zeros((here.height, here.width), np.uint8)
                rasterize([outline], out=inside, transform=here.transform)
                total += int(made.read(1, window=window)[inside == 1].sum(dtype=np.int64))
                count += int(np.count_nonzero(inside))
            means.append(total / count / 250)
    frame["probability"] = np.round(means, 4) if means else np.zeros(0)
    return frame


def _strips(window: Window, rows: int = 512) -> Iterator[Window]:
    """A window in parts of some rows, from the top."""
    for row in range(0, int(window.height), rows):
        yield Window(window.col_off, window.row_off + row, window.width, min(rows, window.height - row))
