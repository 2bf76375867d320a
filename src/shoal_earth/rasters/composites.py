"""Composites of bands: colours and vegetation indices as signed floats of reflectance, no-data apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid, Pixels, in_steps
from shoal_earth.rasters.output import write_cog
from shoal_earth.rasters.scenes import Scene

__all__ = ["COMPOSITES", "Composite", "composite", "recipe", "write_composite"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Composite:
    """What a composite is made of: the bands it reads, what it makes of their reflectance, and names for the result."""

    bands: tuple[str, ...]
    names: tuple[str, ...]
    make: Callable[[Array], tuple[Array, Array]] | None = None


def _ratio(above: Array, below: Array) -> tuple[Array, Array]:
    """A quotient within -1..1, and where it has a meaning: not where the divisor is (nearly) zero or negative."""
    good = below > 1e-6
    quotient = np.divide(above, below, out=np.zeros_like(above), where=good)
    return np.clip(quotient, -1, 1)[None], good


def _ndvi(values: Array) -> tuple[Array, Array]:
    red, nir = values
    return _ratio(nir - red, nir + red)


def _evi(values: Array) -> tuple[Array, Array]:
    blue, red, nir = values
    return _ratio(2.5 * (nir - red), nir + 6 * red - 7.5 * blue + 1)


COMPOSITES = {
    "rgb": Composite(("red", "green", "blue"), ("red", "green", "blue")),
    "ngb": Composite(("nir", "green", "blue"), ("nir", "green", "blue")),
    "ndvi": Composite(("red", "nir"), ("ndvi",), _ndvi),
    "evi": Composite(("blue", "red", "nir"), ("evi",), _evi),
    "tci": Composite(("visual",), ("red", "green", "blue")),
}
"""By name. NDVI is ``(nir - red) / (nir + red)``; EVI is ``2.5 (nir - red) / (nir + 6 red - 7.5 blue + 1)``, both held to -1..1.
``tci`` is the product's own true-colour picture (0..255)."""


def composite(
    scene: Scene, kind: str, window: Window | None = None, grid: Grid | None = None, *, step: float | None = None
) -> Pixels:
    """A composite of a scene in a window of a grid, as float32.

    Args:
        scene: with the bands it needs.
        kind: one of :data:`COMPOSITES`, or bands joined by ``+`` such as ``swir22+nir+red``.
        window: all of the grid by default.
        grid: that of the finest band by default.
        step: give whole numbers of this step (int16) instead of floats.

    Raises:
        UsageError: there is no such composite, or a band is missing or unreadable.
    """
    chosen = recipe(kind)
    if chosen.make is None and step is not None:
        return scene.read(chosen.bands, window, grid, step=step)
    pixels = scene.read(chosen.bands, window, grid)
    if chosen.make is None:
        return Pixels(pixels.values.astype(np.float32, copy=False), pixels.valid)
    values, good = chosen.make(pixels.values.astype(np.float32, copy=False))
    valid = pixels.valid & good
    made = np.where(valid, values, 0).astype(np.float32)
    return Pixels(made if step is None else in_steps(made, step), valid)


def recipe(kind: str) -> Composite:
    """A composite by name, or of bands joined by ``+``.

    Raises:
        UsageError: there is none.
    """
    if "+" in kind:
        bands = tuple(part.strip() for part in kind.split("+"))
        return Composite(bands, bands)
    if kind.lower() not in COMPOSITES:
        raise UsageError(
            f'there is no composite "{kind}"',
            hint=f"There are: {', '.join(COMPOSITES)}; or name bands: swir22+nir+red.",
        )
    return COMPOSITES[kind.lower()]


def write_composite(
    scene: Scene, kind: str, path: Path, *, grid: Grid | None = None, resolution: float | None = None
) -> Grid:
    """Write a composite as float32 COG (true colour as uint8), no-data as NaN (0), in windows.

    Args:
        scene: with the bands it needs.
        kind: as in :func:`composite`.
        path: where to.
        grid: that of the finest band by default.
        resolution: pixel size to resample to.

    Returns:
        The grid it was written on.

    Raises:
        UsageError: a band is missing or unreadable.
        WriteError: the disk is full.
    """
    chosen = recipe(kind)
    grid = grid or scene.grid(chosen.bands, resolution)
    picture = kind.lower() == "tci"

    def blocks() -> Iterator[tuple[Window, Array]]:
        for window in grid.windows(1024):
            pixels = composite(scene, kind, window, grid)
            if picture:
                # 0 is no data, so black that is there becomes nearly black.
                values = np.clip(np.rint(pixels.values), 1, 255).astype(np.uint8)
                yield window, np.where(pixels.valid, values, np.uint8(0))
            else:
                yield window, np.where(pixels.valid, pixels.values, np.float32(np.nan))

    tags = {"scene": scene.name, "composite": kind}
    if scene.acquired:
        tags["acquired"] = scene.acquired.isoformat()
    write_cog(
        path,
        grid,
        blocks(),
        bands=chosen.names,
        dtype="uint8" if picture else "float32",
        nodata=0 if picture else float("nan"),
        tags=tags,
    )
    return grid
