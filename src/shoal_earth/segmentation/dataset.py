"""Chips as examples for a segmentation model, of one date or of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from shoal.errors import UsageError
from shoal_earth.change.folders import open_chips
from shoal_earth.rasters.statistics import to_input

__all__ = ["AUGMENTATIONS", "ChipExamples"]

AUGMENTATIONS = ("none", "turns", "flips", "full")


class ChipExamples:
    """The chips of one split: normalised image (bands, size, size) and label (size, size).

    Of two dates, the image is both, one after the other: (2 x bands, size, size).

    Args:
        folder: chips in shards, or a published dataset (see :func:`shoal_earth.change.folders.open_chips`).
        split: ``train``, ``val`` or ``test``.
        augment: ``none``; ``turns`` (by 0, 90 or 180 degrees); ``flips`` (the
            eight flips and quarter turns); ``full`` (these, and brightness and contrast).
        scale: statistics to normalise with; those beside the chips by default.
    """

    def __init__(
        self, folder: Path, split: str, *, augment: str = "none", scale: list[dict[str, float]] | None = None
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise UsageError(
                f'there is no augmentation "{augment}"', hint=f"Choose one of: {', '.join(AUGMENTATIONS)}."
            )
        self.reader = open_chips(folder)
        self.index = self.reader.index
        self.positions = [i for i, chip in enumerate(self.reader.chips) if chip["split"] == split]
        if not self.positions:
            raise UsageError(f"{folder}: holds no chips of the split {split}")
        self.augment, self.scale = augment, scale or self.index["scale"]

    def __len__(self) -> int:
        return len(self.positions)

    def chip(self, index: int) -> dict[str, Any]:
        """What the index says about a chip."""
        return self.reader.chips[self.positions[index]]

    def get(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """One example, varied with ``rng``."""
        image, label = self._load(index)
        if self.augment == "turns":
            turns = int(rng.integers(3))
            image, label = np.rot90(image, turns, (1, 2)), np.rot90(label, turns)
        elif self.augment != "none":
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            image, label = np.rot90(image, turns, (1, 2)), np.rot90(label, turns)
            if flip:
                image, label = image[:, :, ::-1], label[:, ::-1]
        if self.augment == "full":
            image = image * np.float32(rng.uniform(0.7, 1.3)) + np.float32(rng.uniform(-0.4, 0.4))
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(label.astype(np.int64))

    def batches(self, size: int, rank: int = 0, world: int = 1) -> Any:
        """Every example once and in order, not varied: batches of ``(image, label, indices)``, dealt among ranks."""
        mine = range(rank, len(self), world)
        for start in range(0, len(mine), size):
            indices = list(mine[start : start + size])
            images, labels = zip(*(self._load(i) for i in indices), strict=True)
            yield torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels).astype(np.int64)), indices

    def _load(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        place = self.positions[index]
        image = to_input(self.reader.read(place, "image"), self.index.get("normalise"), self.scale)
        return image, self.reader.read(place, "label")
