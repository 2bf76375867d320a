"""Labels of scenes: what had burnt by their day, as GeoTIFFs that a person can look at, and how much of each fire they show."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.burned_area.fires import Fires
from shoal_earth.rasters.dated_labels import scene_labels
from shoal_earth.rasters.filters import Rules, sift
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.labels import FOREGROUND, Polygons
from shoal_earth.rasters.opening import find_scenes, read_scene
from shoal_earth.rasters.output import write_cog, write_text
from shoal_earth.rasters.scenes import Scene

__all__ = ["FIGURES", "LABELS", "filter_scenes", "kept_scenes", "label_scenes"]

FIGURES = "figures.csv"
LABELS = "labels.json"
_BANDS = ("red", "green", "blue")


def filter_scenes(folder: Path, out: Path, rules: Rules) -> list[str]:
    """Measure the scenes of a folder, drop those with too little to see, and write the figures as CSV.

    Returns:
        A line for each scene.
    """
    judged = sift(find_scenes(folder), rules, out / FIGURES)
    return [f"{'drop' if why else 'keep'} {figures.scene}" + (f": {why}" if why else "") for figures, why in judged]


def kept_scenes(folder: Path, figures: Path) -> list[Path]:
    """The scenes of a folder that :func:`filter_scenes` kept.

    Raises:
        UsageError: the figures are missing, damaged, or of other scenes.
    """
    path = figures / FIGURES if figures.is_dir() else figures
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {Path(row["path"]).name: (row["kept"] == "yes", row["cloud"] != "") for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path}: cannot be read as the figures of scenes: {error}",
            hint="Make it with: shoal-earth burned-area filter",
        ) from None
    scenes = find_scenes(folder)
    for scene in scenes:
        if scene.name not in rows:
            raise UsageError(f"{path}: says nothing of {scene.name}", hint="Filter the scenes again.")
        kept, classified = rows[scene.name]
        if kept and classified:
            # Labels without it would call what lies under cloud seen.
            _require_classes(scene)
    return [scene for scene in scenes if rows[scene.name][0]]


def _require_classes(path: Path) -> None:
    with read_scene(path) as scene:
        if scene.classification is None:
            raise UsageError(
                f"{path}: its scene classification was there when its clouds were measured, and is missing now",
                hint="Fetch it again.",
            )


@dataclass(frozen=True)
class _Made:
    entry: dict[str, Any]
    line: str


def label_scenes(
    scenes: Sequence[Path], fires: Fires, out: Path, *, part: str, resolution: float = 10.0, fresh: int | None = 365
) -> list[str]:
    """Burn the fires into a GeoTIFF for each scene: 0 not burnt, 1 burnt, 255 hidden, without data, or not known.

    Args:
        scenes: what to label; there may be none.
        fires: all of them, whatever set the scenes were searched for.
        out: folder for the GeoTIFFs and ``labels.json``, which is written last.
        part: name of this part of the scenes.
        resolution: pixel size, in units of the scenes' CRS.
        fresh: days after a fire for which its burn is known to be seen; see :meth:`Fires.on`.

    Returns:
        A line for each scene.

    Raises:
        UsageError: a scene has no date, or is unreadable.
        WriteError: the disk is full.
    """
    made = []
    for path in scenes:
        with read_scene(path) as scene:
            made.append(_label(scene, path, fires, out, resolution, fresh))
    content = {"part": part, "resolution": resolution, "scenes": [one.entry for one in made]}
    write_text(out / LABELS, json.dumps(content, indent=1) + "\n")
    return [one.line for one in made]


def _label(scene: Scene, path: Path, fires: Fires, out: Path, resolution: float, fresh: int | None) -> _Made:
    if scene.acquired is None:
        raise UsageError(f"{path}: has no date, so it cannot be told what had burnt by then")
    day = scene.acquired.date()
    grid = scene.grid(_BANDS, resolution)
    over, unsure = (_here(polygons, grid) for polygons in fires.on(day, fresh))
    labels = scene_labels(over, scene, grid, unsure=unsure).values
    name = f"{scene.name}.tif"

    def blocks() -> Iterator[tuple[Window, np.ndarray[Any, Any]]]:
        for window in grid.windows(1024):
            yield window, labels[window.toslices()][None]

    tags = {"scene": scene.name, "acquired": scene.acquired.isoformat()}
    write_cog(out / name, grid, blocks(), bands=["burnt"], dtype="uint8", nodata=255, overviews="mode", tags=tags)
    burnt = _pixels(over, labels, grid)
    entry = {
        "scene": scene.name,
        "folder": path.name,
        "file": name,
        "acquired": scene.acquired.isoformat(),
        "tile": scene.tile,
        "crs": grid.crs_name,
        "transform": list(grid.transform)[:6],
        "height": grid.height,
        "width": grid.width,
        "burnt": burnt,
        "classified": scene.classification is not None,
        "unsure": sorted(unsure.table["fire"].tolist()),
    }
    seen = sum(1 for count in burnt.values() if count)
    share = float((labels == FOREGROUND).mean())
    return _Made(entry, f"{scene.name}: {seen} fires seen, {len(unsure.frame)} unsure, {share:.2%} burnt")


def _here(polygons: Polygons, grid: Grid) -> Polygons:
    """The polygons that touch a grid, in its CRS."""
    here = grid.touched(polygons.frame)
    kept = polygons.pick(polygons.frame.index.isin(here.index))
    return replace(kept, frame=here.reset_index(drop=True))


def _pixels(fires: Polygons, labels: np.ndarray[Any, Any], grid: Grid) -> dict[str, int]:
    """How many burnt pixels of each fire can be seen."""
    from rasterio.features import rasterize

    counts = {}
    for fire, shape in zip(fires.table["fire"], fires.frame, strict=True):
        window = grid.window_of(shape.bounds)
        if window is None:
            continue
        part = grid.part(window)
        inside = rasterize([shape], (part.height, part.width), transform=part.transform) == FOREGROUND
        counts[str(fire)] = int((inside & (labels[window.toslices()] == FOREGROUND)).sum())
    return counts
