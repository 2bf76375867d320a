"""Chips of one part of the scenes: labels and pixels around the fires, cut for the splits that were dealt for all parts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.burned_area.places import Place, Places, load_labels
from shoal_earth.rasters.composites import recipe
from shoal_earth.rasters.cutting import Cut, CutRules, Layer, cut_part
from shoal_earth.rasters.dated_labels import read_labels
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.opening import find_scenes, read_scene
from shoal_earth.rasters.predict import CompositeSource, WindowSource
from shoal_earth.rasters.scenes import Scene

__all__ = ["BURNT", "IMAGERY", "cut_chips"]

BURNT = "burnt"
"""Name of the class."""

IMAGERY = {"img": "rgb", "tci": "tci"}
"""The paper's two kinds of input: bands (reflectance, normalised when it is used), and the product's true-colour picture."""


def cut_chips(scenes: Path, labels: Path, places: Places, out: Path, rules: CutRules, *, imagery: str) -> Cut:
    """Cut the chips of one part.

    Args:
        scenes: folder of its scenes.
        labels: folder of its labels.
        places: of all parts.
        out: folder for the chips; :func:`joining.join_parts` makes a dataset of all.
        rules: how to cut.
        imagery: one of :data:`IMAGERY`, or any composite, such as ``swir22+nir+red``.

    Raises:
        UsageError: scenes or labels are missing, unreadable, or do not fit each other.
        WriteError: the disk is full.
    """
    kind = IMAGERY.get(imagery, imagery)
    recipe(kind)
    content = load_labels(labels)
    entries = {entry["scene"]: entry for entry in content["scenes"]}
    mine = [place for place in places.places if place.part == content["part"]]
    if missing := {place.scene for place in mine} - entries.keys():
        raise UsageError(f"{labels}: has no labels of {min(missing)}", hint="Make labels and places again.")
    folders = {path.name: path for path in find_scenes(scenes)}
    with ExitStack() as stack:
        opened: dict[str, Scene] = {}
        layers = []
        for place in mine:
            entry = entries[place.scene]
            if place.scene not in opened:
                if entry["folder"] not in folders:
                    raise UsageError(f"{scenes}: the scene {entry['folder']} is not there", hint="Fetch it again.")
                opened[place.scene] = stack.enter_context(read_scene(folders[entry["folder"]]))
            layers.append(_layer(opened[place.scene], place, labels / entry["file"], kind, entry))
        return cut_part(layers, out, rules, kind=kind, splits=places.splits, held=places.held(), foreground=BURNT)


def _layer(scene: Scene, place: Place, labels: Path, kind: str, entry: dict[str, Any]) -> Layer:
    grid, inner = place.grid, place.inner
    own = scene.grid(recipe(kind).bands, grid.resolution)
    if own != grid:
        raise UsageError(f"{scene.path}: its grid is not the one that its labels have", hint="Label the scenes again.")

    if scene.classification is None and entry.get("classified"):
        raise UsageError(
            f"{scene.path}: its scene classification was there when it was labelled, and is missing now",
            hint="Fetch it again.",
        )

    def hidden(window: Window) -> np.ndarray[Any, Any]:
        moved = Window(inner.col_off + window.col_off, inner.row_off + window.row_off, window.width, window.height)
        found: np.ndarray[Any, Any] = mask(scene.classes(moved, grid), HIDDEN)
        return found

    source = WindowSource(CompositeSource(scene, kind, grid), inner)
    facts = {"product": place.scene, "acquired": entry["acquired"], "tile": entry["tile"]}
    name = f"{place.scene}-{place.group}"
    seen = hidden if scene.classification is not None else None
    return Layer(
        name,
        place.group,
        source,
        read_labels(labels, grid, inner, command="shoal-earth burned-area labels"),
        seen,
        facts,
    )
