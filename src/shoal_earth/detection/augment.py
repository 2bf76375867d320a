"""Varied training examples: flips and turns, scale and crop, colour, Mosaic and MixUp, on torchvision's transforms v2.

Everything random is drawn from one generator that the caller seeds, so an example depends on seed, epoch and index alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from shoal.errors import UsageError

__all__ = ["AUGMENTATIONS", "Augmentation", "Sample", "augmentation"]

# A piece of a box that shows less than this of it is no object any more, nor one with a shorter side (pixels).
_VISIBLE, _SIDE = 0.3, 2.0


@dataclass(frozen=True)
class Sample:
    """An image, uint8 (3, size, size), with ``boxes`` (n, 4) float32 left, top, right, bottom and ``labels`` (n,) from 0."""

    image: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor

    def take(self, which: torch.Tensor) -> Sample:
        """With some of the boxes, by mask."""
        return Sample(self.image, self.boxes[which], self.labels[which])


@dataclass(frozen=True)
class Augmentation:
    """What is varied.

    Args:
        turns: mirror and turn by quarters; overhead images have no up.
        scale: range of a factor on the size of objects, with a random window of the image (what lies beyond it is 0).
        colour: brightness, contrast, saturation and hue.
        ssd: zoom out, and crops that keep a least overlap with some object, as Liu et al., "SSD", 2016, section 2.2.
        mosaic: chance of four images in one.
        mixup: chance that another such image is laid over it, half and half.
    """

    turns: bool = True
    scale: tuple[float, float] | None = None
    colour: bool = False
    ssd: bool = False
    mosaic: float = 0.0
    mixup: float = 0.0

    def plain(self) -> Augmentation:
        """Without Mosaic and MixUp, as YOLOX trains its last epochs."""
        return replace(self, mosaic=0.0, mixup=0.0)

    def __call__(self, load: Callable[[int], Sample], index: int, count: int, rng: np.random.Generator) -> Sample:
        """The varied example.

        Args:
            load: gives the example of an index as it is.
            index: which one.
            count: how many there are, for Mosaic and MixUp.
            rng: where everything random comes from.
        """
        with _seeded(rng):
            sample = self._one(load, index, count, rng)
            if self.mixup and rng.random() < self.mixup:
                other = self._one(load, int(rng.integers(count)), count, rng)
                # Ge et al., "YOLOX", 2021, mix with a fixed share of one half, and keep the boxes of both.
                image = ((sample.image.to(torch.int16) + other.image) // 2).to(torch.uint8)
                boxes, labels = torch.cat([sample.boxes, other.boxes]), torch.cat([sample.labels, other.labels])
                sample = Sample(image, boxes, labels)
            return _coloured(sample) if self.colour else sample

    def _one(self, load: Callable[[int], Sample], index: int, count: int, rng: np.random.Generator) -> Sample:
        if self.mosaic and rng.random() < self.mosaic:
            others = [int(number) for number in rng.integers(count, size=3)]
            return _mosaic([self._turned(load(number), rng) for number in (index, *others)], rng, self.scale or (1, 1))
        sample = self._turned(load(index), rng)
        if self.ssd:
            return _ssd(sample)
        return _scaled(sample, self.scale, rng) if self.scale else sample

    def _turned(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return _turned(sample, *(bool(flag) for flag in rng.integers(2, size=3))) if self.turns else sample


AUGMENTATIONS = {
    "none": Augmentation(turns=False),
    "flips": Augmentation(),
    "jitter": Augmentation(scale=(0.7, 1.4), colour=True),
    "ssd": Augmentation(ssd=True, colour=True),
    "mosaic": Augmentation(scale=(0.5, 1.5), colour=True, mosaic=1.0, mixup=0.5),
}
"""By name. ``mosaic`` is YOLOX's, with quarter turns instead of rotations and shears of a few degrees."""


def augmentation(name: str) -> Augmentation:
    """An augmentation by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(f'there is no augmentation "{name}"', hint=f"Choose one of: {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[name]


@contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """torchvision draws from PyTorch's own generator: it is seeded here, and put back, so that no model notices."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(rng.integers(2**62)))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _turned(sample: Sample, across: bool, down: bool, swapped: bool) -> Sample:
    """Mirrored left to right, top to bottom, and along the diagonal: all eight ways to lay a square chip."""
    image, (high, wide) = sample.image, sample.image.shape[-2:]
    left, top, right, bottom = sample.boxes.unbind(1)
    if across:
        image, (left, right) = v2.functional.horizontal_flip(image), (wide - right, wide - left)
    if down:
        image, (top, bottom) = v2.functional.vertical_flip(image), (high - bottom, high - top)
    if swapped and high == wide:
        image, (left, top, right, bottom) = image.transpose(1, 2), (top, left, bottom, right)
    return Sample(image, torch.stack([left, top, right, bottom], 1), sample.labels)


def _shown(sample: Sample, side: int) -> Sample:
    """Boxes cut to a square that begins at 0, 0; those of which too little is left are dropped."""
    inner = sample.boxes.clamp(0, side)
    before, after = (b[:, 2:] - b[:, :2] for b in (sample.boxes, inner))
    enough = after.prod(1) >= _VISIBLE * before.prod(1)
    return Sample(sample.image, inner, sample.labels).take(enough & (after >= _SIDE).all(1))


def _window(sample: Sample, left: int, top: int, side: int, size: int) -> Sample:
    """A square window of an image, brought to ``size`` pixels."""
    image = v2.functional.resized_crop(sample.image, top, left, side, side, [size, size], antialias=True)
    factor = size / side
    boxes = (sample.boxes - torch.tensor([left, top, left, top], dtype=torch.float32)) * factor
    return _shown(Sample(image, boxes, sample.labels), size)


def _scaled(sample: Sample, scale: tuple[float, float], rng: np.random.Generator) -> Sample:
    size = sample.image.shape[-1]
    side = max(8, round(size / rng.uniform(*scale)))
    room = size - side
    left, top = (int(number) for number in rng.integers(min(room, 0), max(room, 0) + 1, size=2))
    return _window(sample, left, top, side, size)


def _mosaic(parts: list[Sample], rng: np.random.Generator, scale: tuple[float, float]) -> Sample:
    """Four images that meet in a random point of a field of twice their size, and a window of it, moved by up to a tenth."""
    size = parts[0].image.shape[-1]
    field = torch.zeros(3, 2 * size, 2 * size, dtype=torch.uint8)
    x, y = (int(number) for number in rng.integers(size // 2, size + size // 2 + 1, size=2))
    boxes = []
    for part, (left, top) in zip(parts, ((x - size, y - size), (x, y - size), (x - size, y), (x, y)), strict=True):
        rows, columns = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        inside = field[:, rows, columns]
        inside.copy_(part.image[:, max(-top, 0) :, max(-left, 0) :][:, : inside.shape[1], : inside.shape[2]])
        boxes.append(part.boxes + torch.tensor([left, top, left, top], dtype=torch.float32))
    whole = _shown(Sample(field, torch.cat(boxes), torch.cat([part.labels for part in parts])), 2 * size)
    side = max(8, round(size / rng.uniform(*scale)))
    moved = [round(size - side / 2 + size * float(shift)) for shift in rng.uniform(-0.1, 0.1, 2)]
    return _window(whole, moved[0], moved[1], side, size)


def _ssd(sample: Sample) -> Sample:
    size = sample.image.shape[-1]
    steps: list[v2.Transform] = [v2.RandomZoomOut(side_range=(1.0, 3.0), p=0.5)]
    if len(sample.boxes):
        # Overhead objects are small beside any crop: an overlap of more than a tenth is hardly ever found.
        steps.append(v2.RandomIoUCrop(sampler_options=[0.0, 0.1, 1.0], trials=10))
    steps.append(v2.Resize((size, size), antialias=True))
    canvas = (sample.image.shape[-2], sample.image.shape[-1])
    given = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=canvas)
    image, boxes, labels = v2.Compose(steps)(tv_tensors.Image(sample.image), given, sample.labels)
    found = boxes.as_subclass(torch.Tensor).clamp(0, size)
    # The crop empties the boxes whose centre it cuts off.
    large = ((found[:, 2:] - found[:, :2]) >= _SIDE).all(1)
    return Sample(image.as_subclass(torch.Tensor), found, labels).take(large)


_COLOURS = v2.ColorJitter(brightness=0.2, contrast=0.3, saturation=0.3, hue=0.02)


def _coloured(sample: Sample) -> Sample:
    return Sample(_COLOURS(sample.image), sample.boxes, sample.labels)
