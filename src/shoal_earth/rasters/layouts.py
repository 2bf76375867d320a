"""Chips as files that other programs read: GeoTIFF in folders, or the ``A/ B/ label/ list/`` layout of change detection."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

from shoal.errors import UsageError
from shoal_earth.rasters.output import publish, write_text
from shoal_earth.rasters.shards import ShardReader

__all__ = ["LAYOUTS", "export_chips"]

LAYOUTS = ("geotiff", "change")


def export_chips(chips: Path, out: Path, layout: str, *, ignore: int | None = None) -> int:
    """Write the chips of shards as files.

    ``geotiff``: ``<split>/<chip>.tif`` and ``<split>/<chip>.label.tif``, with their place on the ground. ``change`` (pairs only):
    ``A/<chip>.png`` and ``B/<chip>.png`` (8 bits, scaled by the training chips' statistics), ``label/<chip>.png`` and
    ``list/<split>.txt``, written last.

    Args:
        chips: folder of shards.
        out: folder for the files.
        layout: one of :data:`LAYOUTS`.
        ignore: number for pixels to ignore in labels; by default 255, and 2 for ``change``, where 255 often means change.

    Returns:
        How many chips were written.

    Raises:
        UsageError: there is no such layout, or the chips are no pairs.
        WriteError: the disk is full.
    """
    if layout not in LAYOUTS:
        raise UsageError(f'there is no layout "{layout}"', hint=f"There are: {', '.join(LAYOUTS)}.")
    with ShardReader(chips) as reader:
        if layout == "change":
            return _change(reader, out, 2 if ignore is None else ignore)
        return _geotiff(reader, out, 255 if ignore is None else ignore)


def _geotiff(reader: ShardReader, out: Path, ignore: int) -> int:
    scenes = {scene["name"]: scene for scene in reader.index["scenes"]}
    for position, chip in enumerate(reader.chips):
        scene = scenes[chip["scene"]]
        own = Affine(*scene["transform"])
        corner = Affine(own.a, 0, own.c + chip["column"] * own.a, 0, own.e, own.f + chip["row"] * own.e)
        for kind, suffix in (("image", ""), ("label", ".label")):
            values = reader.read(position, kind)
            values = values if values.ndim == 3 else _relabel(values, reader.index["ignore"], ignore)[None]
            profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
            profile |= {"dtype": values.dtype.name, "crs": scene["crs"], "transform": corner, "compress": "DEFLATE"}
            with publish(out / chip["split"] / f"{chip['key']}{suffix}.tif") as path:
                with rasterio.open(path, "w", nodata=ignore if kind == "label" else None, **profile) as file:
                    file.write(values)
    return len(reader.chips)


def _change(reader: ShardReader, out: Path, ignore: int) -> int:
    from PIL import Image

    index = reader.index
    bands = int(index["bands"]) // 2
    if index.get("dates") != 2 or bands not in (1, 3):
        raise UsageError(
            f"{reader.folder}: holds no pairs of 1 or 3 bands, which the layout A/ B/ label/ list/ is for",
            hint="Cut chips from pairs, or export as geotiff.",
        )
    scale = index["scale"]
    low, high = (np.array([band[key] for band in scale], np.float32)[:, None, None] for key in ("low", "high"))
    lists: dict[str, list[str]] = defaultdict(list)
    for position, chip in enumerate(reader.chips):
        name = f"{chip['key']}.png"
        unit = np.clip((reader.read(position, "image").astype(np.float32) - low) / (high - low), 0, 1)
        picture = np.rint(unit * 255).astype(np.uint8)
        parts: dict[str, Any] = {"A": picture[:bands], "B": picture[bands:]}
        for folder, values in parts.items():
            three = np.repeat(values, 3, 0) if bands == 1 else values
            _png(out / folder / name, Image.fromarray(np.ascontiguousarray(three.transpose(1, 2, 0))))
        label = _relabel(reader.read(position, "label"), index["ignore"], ignore)
        _png(out / "label" / name, Image.fromarray(label))
        lists[chip["split"]].append(name)
    for split, names in sorted(lists.items()):
        write_text(out / "list" / f"{split}.txt", "\n".join(names) + "\n")
    return len(reader.chips)


def _relabel(label: np.ndarray[Any, Any], old: int, new: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.where(label == old, new, label).astype(np.uint8)


def _png(path: Path, image: Any) -> None:
    with publish(path) as temporary:
        image.save(temporary, "PNG")
