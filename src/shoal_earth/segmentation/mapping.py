"""A trained model and a scene, or a pair, become a map: classes, probabilities, polygons with hectares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rasterio.errors import RasterioError
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.composites import composite, recipe
from shoal_earth.rasters.contact_sheet import check_pair
from shoal_earth.rasters.grids import Grid, Pixels, reason, same_grid
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.predict import PairSource, Prediction, Source, predict_scene
from shoal_earth.rasters.scenes import Scene
from shoal_earth.rasters.statistics import to_input
from shoal_earth.rasters.strips import open_strips
from shoal_earth.segmentation.models import load_model
from shoal_earth.training.checkpoint import find_checkpoint
from shoal_earth.training.distributed import ranks

__all__ = ["map_scene"]


@dataclass
class _Raster:
    """All bands of a raster file, as the chips were cut from one. ``blank`` is what chips hold where there is no data."""

    scene: Any
    scale: list[dict[str, float]]
    blank: float | None
    method: str | None

    def __post_init__(self) -> None:
        self.grid = Grid(self.scene.crs, self.scene.transform, self.scene.height, self.scene.width)

    def read(self, window: Window) -> Pixels:
        try:
            values = self.scene.source.read(window=window)
            valid = self.scene.source.dataset_mask(window=window) > 0
        except RasterioError as error:
            raise UsageError(
                f"{self.scene.path}: cannot be read at row {window.row_off}, column {window.col_off}: {reason(error)}",
                hint="The file is probably truncated: fetch it again.",
            ) from None
        if self.blank is not None:
            values = np.where(valid, values, self.blank)
        return Pixels(to_input(values, self.method, self.scale, valid), valid)


@dataclass
class _Composite:
    """A composite of a satellite scene, made window by window, without a file in between."""

    scene: Scene
    kind: str
    grid: Grid
    scale: list[dict[str, float]]
    blank: float | None
    method: str | None

    def read(self, window: Window) -> Pixels:
        pixels = composite(self.scene, self.kind, window, self.grid)
        # In a composite's file it is NaN, which normalising turns to the middle of the scale.
        blank = np.nan if self.blank is None else self.blank
        values = np.where(pixels.valid, pixels.values, blank)
        return Pixels(to_input(values, self.method, self.scale, pixels.valid), pixels.valid)


def map_scene(
    trial: Path,
    scenes: Path | Sequence[Path],
    out: Path,
    *,
    kind: str | None = None,
    overlap: float = 0.25,
    batch_size: int = 8,
    threshold: float | None = None,
    min_hectares: float = 0.0,
    skip_hidden: bool = False,
    device: str = "auto",
) -> Prediction:
    """Predict a whole scene, or what changed between two, with a trained model.

    Args:
        trial: see :func:`find_checkpoint`.
        scenes: a raster with the bands of the training chips, or with ``kind`` any satellite scene; for a model of change
            two, the earlier first.
        out: folder for the maps.
        kind: composite that the chips were cut from, e.g. ``ngb``; models of chips that were cut from satellite scenes know it.
        overlap: share of a window that neighbours share.
        batch_size: windows at once.
        threshold: see :func:`predict_scene`.
        min_hectares: see :func:`predict_scene`.
        skip_hidden: judge no pixel under cloud or shadow (needs a scene with a classification, and ``kind``).
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: the model or the scene cannot be used, or they do not fit each other.
        WriteError: the disk is full.
    """
    if not 0 <= overlap < 1:
        raise UsageError(f"the overlap is a share of a window, from 0 to less than 1, not {overlap:g}")
    model, meta = load_model(find_checkpoint(trial))
    size, dates = int(meta["size"]), int(meta.get("dates") or 1)
    paths = [scenes] if isinstance(scenes, Path) else list(scenes)
    if len(paths) != dates:
        raise UsageError(
            f"{trial}: the model looks at {dates} scene{'s' if dates > 1 else ''}; given: {len(paths)}",
            hint="A model of change needs the earlier and the later: --scene BEFORE --scene AFTER."
            if dates > 1
            else None,
        )
    known = meta.get("composite")
    if known and kind and kind != known:
        raise UsageError(f"the model was trained on the composite {known}, not on {kind}")
    if known and not all(path.is_file() and path.suffix.lower() in (".tif", ".tiff", ".vrt") for path in paths):
        kind = known
    settings: dict[str, Any] = {
        "size": size,
        "overlap": round(size * overlap),
        "batch": batch_size,
        "name": str(meta["classes"][1]),
        "threshold": threshold,
        "min_hectares": min_hectares,
    }
    with ranks(device) as here, ExitStack() as stack:
        model = model.to(here.device).to(memory_format=torch.channels_last)

        def answer(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            with torch.inference_mode():
                # Both dates of a pair follow each other, as in its chips.
                joined = batch.reshape(len(batch), -1, *batch.shape[-2:])
                inputs = torch.from_numpy(joined).to(here.device, memory_format=torch.channels_last)
                result: np.ndarray[Any, Any] = model(inputs).float().softmax(1).cpu().numpy()
                return result

        sources, visible = _sources(paths, kind, meta, stack)
        if skip_hidden and visible is None:
            raise UsageError("clouds are told by a scene's classification: name a scene and its composite")
        if dates == 2 and (differs := same_grid(sources[0].grid, sources[1].grid)):
            raise UsageError(f"{paths[0]} and {paths[1]} cannot be a pair: {differs}")
        source = sources[0] if dates == 1 else PairSource(*sources)
        return predict_scene(source, answer, out, valid=visible if skip_hidden else None, **settings)


def _sources(
    paths: Sequence[Path], kind: str | None, meta: dict[str, Any], stack: ExitStack
) -> tuple[list[Source], Callable[[Window], np.ndarray[Any, Any]] | None]:
    """A source for each date, normalised as its chips were, and where all of them show the ground."""
    bands = int(meta["bands"]) // len(paths)
    # The chips' numbers may be in steps; a scene's are not.
    step = float(meta.get("step") or 1)
    scale = [{**band, "low": band["low"] * step, "high": band["high"] * step} for band in meta["scale"][:bands]]
    blank = 0.0 if "step" in meta else None
    method = meta.get("normalise")
    if kind is None:
        rasters = [stack.enter_context(open_strips(path, meta["resolution"])) for path in paths]
        for path, raster in zip(paths, rasters, strict=True):
            _fits(path, raster.bands, bands)
        return [_Raster(raster, scale, blank, method) for raster in rasters], None
    names = recipe(kind)
    opened = [stack.enter_context(read_scene(path)) for path in paths]
    if len(opened) == 2:
        check_pair(*opened)
    grid = opened[0].grid(names.bands, meta["resolution"])
    _fits(paths[0], len(names.names), bands)

    def visible(window: Window) -> np.ndarray[Any, Any]:
        seen: np.ndarray[Any, Any] = ~np.any([mask(scene.classes(window, grid), HIDDEN) for scene in opened], 0)
        return seen

    return [_Composite(scene, kind, grid, scale, blank, method) for scene in opened], visible


def _fits(path: Path, here: int, trained: int) -> None:
    if here != trained:
        raise UsageError(
            f"{path}: has {here} band(s), but the model was trained on {trained}",
            hint="Give the raster, or the composite, of the kind that its chips were cut from.",
        )
