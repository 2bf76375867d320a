"""Chips as examples for a detector: read at random, varied reproducibly, put into batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from shoal.errors import UsageError
from shoal_earth.detection.augment import Augmentation, Sample, augmentation
from shoal_earth.detection.shards import DetectionChips

__all__ = ["ChipDetections", "collate", "pixels"]

Target = dict[str, torch.Tensor]


class ChipDetections:
    """The chips of one split with their objects.

    An example is ``(image, target)``: uint8 (3, size, size), and ``boxes`` float32 (n, 4) left, top, right, bottom in pixels
    with ``labels`` int64 (n,) from 0. Crowds are no objects to train on; what is marked difficult is. Both are left out of
    account when a model is scored.

    Args:
        folder: what ``shoal-earth detection prepare`` wrote.
        split: ``train``, ``val`` or ``test``.
        augment: how examples are varied, by name (see :data:`augment.AUGMENTATIONS`).
        keep_empty: take chips without an object too.
        plain_from: epoch from which Mosaic and MixUp are off; never by default.

    Raises:
        UsageError: there are no such chips, or there is no such augmentation.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        augment: str | Augmentation = "none",
        keep_empty: bool = True,
        plain_from: int | None = None,
    ) -> None:
        self.chips = DetectionChips(folder, split)
        self.folder, self.split = folder, split
        self.augment = augmentation(augment) if isinstance(augment, str) else augment
        self.plain_from = plain_from
        self.numbers = [n for n in range(len(self.chips)) if keep_empty or self.chips.facts(n)["objects"]]
        if not self.numbers:
            raise UsageError(
                f"{folder}: holds no chips of the split {split}{'' if keep_empty else ' with an object'}",
                hint="Prepare it from more images, or with other shares (--split).",
            )

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.chips.classes

    @property
    def size(self) -> int:
        """Pixels on a side of a chip."""
        return int(self.chips.index["size"])

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, epoch: int) -> ChipDetections:
        """The examples as they are in an epoch (see :class:`~shoal_earth.training.data.Batches`)."""
        if self.plain_from is None or epoch < self.plain_from:
            return self
        other = object.__new__(ChipDetections)
        other.__dict__.update(self.__dict__, augment=self.augment.plain(), plain_from=None)
        return other

    def get(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, Target]:
        """One example, varied with ``rng``."""
        sample = self.augment(self.load, index, len(self), rng)
        return sample.image.contiguous(), {"boxes": sample.boxes, "labels": sample.labels}

    def load(self, index: int) -> Sample:
        """One example as it is."""
        number = self.numbers[index]
        rows = self.chips.boxes(number)
        rows = rows[~rows["crowd"]]
        return Sample(
            torch.from_numpy(self.chips.image(number)),
            torch.from_numpy(np.ascontiguousarray(rows["box"], np.float32).reshape(-1, 4)),
            torch.from_numpy(rows["label"].astype(np.int64)),
        )

    def batches(self, size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Every chip once and in order, as it is, dealt among ranks: images and their positions in the split."""
        mine = self.numbers[rank::world]
        for start in range(0, len(mine), size):
            numbers = mine[start : start + size]
            yield torch.from_numpy(np.stack([self.chips.image(number) for number in numbers])), numbers


def collate(examples: list[tuple[torch.Tensor, Target]]) -> tuple[torch.Tensor, list[Target]]:
    """Examples to a batch: images (n, 3, size, size), and the target of each."""
    images, targets = zip(*examples, strict=True)
    return torch.stack(images), list(targets)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Images of 8 bits as models take them, float32 0..1; done where the model is, so that a quarter of the bytes travels."""
    return images.to(torch.float32).div_(255)
