"""Labels of what was cleared between two images, and chips of pairs, split by tile and orbit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.deforestation.composites import BANDS, composite_path, read_composite
from shoal_earth.deforestation.pairs import Chosen
from shoal_earth.deforestation.prodes import DATE, read_prodes
from shoal_earth.rasters.contact_sheet import check_pair
from shoal_earth.rasters.cutting import Cut, CutRules, Layer, cut_layers
from shoal_earth.rasters.dated_labels import change_labels, read_labels
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.labels import FOREGROUND, IGNORE
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.output import write_cog
from shoal_earth.rasters.predict import CompositeSource, PairSource
from shoal_earth.rasters.scenes import Scene

__all__ = ["CLEARED", "cut_pairs", "label_pairs"]

CLEARED = "deforested"
"""Name of the class."""

Array = np.ndarray[Any, Any]


def label_pairs(
    pairs: Sequence[Chosen], composites: Path, prodes: Path, out: Path, *, smooth: int = 5, whole_year: bool = True
) -> list[str]:
    """Write a label for each pair: cleared after the first image and up to the end of the second's year 1, else 0; hidden at
    either date, or without data, 255.

    Args:
        pairs: chosen ones.
        composites: folder of their composites.
        prodes: polygons, also those outside of the protected areas: a clearing beyond the border is one too.
        out: folder for a GeoTIFF for each.
        smooth: side of the median filter, in pixels.
        whole_year: up to the end of the second image's year; else up to its day.

    Returns:
        A line for each pair.

    Raises:
        UsageError: a file is missing, unreadable or without dates, the dates are reversed, or no pair shows a clearing.
        WriteError: the disk is full.
    """
    polygons = read_prodes(prodes)
    lines, cleared = [], 0
    for pair in pairs:
        with _composite(composites, pair.first) as first, _composite(composites, pair.second) as second:
            check_pair(first, second)
            grid = first.grid(BANDS)
            made = change_labels(polygons, first, second, grid, column=DATE, whole_year=whole_year, smooth=smooth)
            here = int((made.values == FOREGROUND).sum())
            cleared += here
            window = grid.whole
            tags = {"pair": pair.id, "first": first.name, "second": second.name}
            write_cog(
                _label_path(out, pair),
                grid,
                [(window, made.values[None])],
                bands=[CLEARED],
                dtype="uint8",
                nodata=IGNORE,
                overviews="mode",
                tags=tags,
            )
        hectares = here * grid.resolution**2 / 10_000
        ignored = float((made.values == IGNORE).mean())
        lines.append(f"{pair.id}: {made.polygons} clearings, {hectares:,.1f} ha, {ignored:.1%} of the pixels to ignore")
    if not cleared:
        raise UsageError(
            f"{prodes}: none of its {len(polygons.frame)} clearings is seen in a pair, of {', '.join(p.id for p in pairs)}",
            hint="Are they of the same place and years, and is the CRS of the file right?",
        )
    return lines


def _composite(folder: Path, scene: Path) -> Scene:
    return read_composite(composite_path(folder, scene))


def _label_path(folder: Path, pair: Chosen) -> Path:
    return folder / f"{pair.id}.tif"


def cut_pairs(pairs: Sequence[Chosen], composites: Path, labels: Path, out: Path, rules: CutRules, *, kind: str) -> Cut:
    """Cut the chips of pairs; pairs of one tile and orbit go to the same split.

    Args:
        pairs: chosen ones.
        composites: folder of their composites.
        labels: folder that :func:`label_pairs` wrote.
        out: folder for the shards.
        rules: how to cut.
        kind: ``ngb``, ``ndvi``, ``evi``, or bands joined by ``+``.

    Raises:
        UsageError: a file is missing or unreadable, or a split stays empty.
        WriteError: the disk is full.
    """
    with ExitStack() as stack:
        layers = []
        for pair in pairs:
            first, second = (stack.enter_context(_composite(composites, path)) for path in (pair.first, pair.second))
            check_pair(first, second)
            grid = first.grid(BANDS)
            source = PairSource(CompositeSource(first, kind, grid), CompositeSource(second, kind, grid))
            facts = {
                "first": first.name,
                "second": second.name,
                "acquired": [str(scene.acquired) for scene in (first, second)],
            }
            values = read_labels(_label_path(labels, pair), grid, command="shoal-earth deforestation labels")
            layers.append(Layer(pair.id, pair.group, source, values, _hidden([first, second], grid), facts))
        return cut_layers(layers, out, rules, kind=kind, foreground=CLEARED)


def _hidden(scenes: Sequence[Scene], grid: Grid) -> Callable[[Window], Array]:
    """Where either scene does not show the ground."""

    def hidden(window: Window) -> Array:
        parts = [mask(scene.classes(window, grid), HIDDEN) for scene in scenes]
        either: Array = np.logical_or.reduce(parts)
        return either

    return hidden
