"""Shards of chips that are written image by image: those of an image that turns out damaged are taken back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from shoal_earth.detection.imagery import to_rgb
from shoal_earth.rasters.shards import ShardReader, ShardWriter

__all__ = ["DetectionChips", "ImageShards"]

Array = np.ndarray[Any, Any]


class ImageShards(ShardWriter):
    """A :class:`ShardWriter` with one step back. A shard is closed between images only.

    Args:
        folder: where to.
        shard_bytes: a shard is closed when the images in it have brought it beyond this.
    """

    def __init__(self, folder: Path, *, shard_bytes: int) -> None:
        super().__init__(folder, shard_bytes=sys.maxsize)
        self._limit = shard_bytes
        self._mark: tuple[int, dict[str, int]] = (0, {})

    def begin(self) -> None:
        """Remember the present state."""
        self._mark = len(self.chips), {split: file.tell() for split, (_, file) in self._open.items()}

    def take_back(self) -> None:
        """Undo all that was added since :meth:`begin`."""
        count, offsets = self._mark
        for split, (name, file) in list(self._open.items()):
            file.truncate(offsets.get(split, 0))
            if split not in offsets:
                file.close()
                (self.folder / f".{name}.part").unlink()
                del self._open[split]
                self._made[split] -= 1
        del self.chips[count:]

    def end(self) -> None:
        """The image is whole: close shards that have grown large."""
        for split, (_, file) in list(self._open.items()):
            if file.tell() > self._limit:
                self._finish(split)


class DetectionChips(ShardReader):
    """Chips as models take them, one read away.

    Args:
        folder: what ``prepare`` wrote.
        split: which chips; all by default.

    Raises:
        UsageError: it is no such folder, or damaged.
    """

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder)
        self.classes: list[str] = self.index["classes"]
        self.images: list[dict[str, Any]] = self.index["images"]
        self.positions = [n for n, chip in enumerate(self.chips) if split is None or chip["split"] == split]

    def __enter__(self) -> DetectionChips:
        return self

    def __len__(self) -> int:
        return len(self.positions)

    def image(self, number: int) -> Array:
        """Colours of a chip, uint8 (3, size, size).

        Pixels of other types are brought from their image's 1st..99th percentile to 0..255; one band becomes grey; what lies
        beyond the image is 0.
        """
        position = self.positions[number]
        chip = self.chips[position]
        own = self.images[chip["image_number"]]
        values = to_rgb(self.read(position, "image"), own["low"], own["high"])
        if own["low"] is not None:
            values[:, chip["height"] :] = 0
            values[:, :, chip["width"] :] = 0
        return values

    def boxes(self, number: int) -> Array:
        """The objects of a chip, of type :data:`chips.BOX`."""
        return self.read(self.positions[number], "boxes")

    def facts(self, number: int) -> dict[str, Any]:
        """Key, image, and place of a chip in its image."""
        chip = self.chips[self.positions[number]]
        return {**chip, "image_name": self.images[chip["image_number"]]["name"]}
