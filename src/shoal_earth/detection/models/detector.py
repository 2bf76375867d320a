"""What all detectors share: how they are called, what they return, and how images are normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.errors import UsageError

__all__ = ["MEAN", "STD", "Detector", "Target", "finish", "finish_pairs"]

Target = dict[str, Tensor]
"""``boxes`` (n, 4), float, left, top, right, bottom in pixels; ``labels`` (n,), int64, from 0."""

# Of ImageNet, as published with the weights of torchvision and timm.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Detector(nn.Module, ABC):
    """A detector, called as torchvision's are: losses while training, detections otherwise.

    Args:
        classes: how many, without background.
        multiple: images are padded at the right and bottom (with the mean colour) so that their sides are multiples of this.
    """

    # Whether it takes strong augmentation away towards the end of training, and behaves differently then.
    strong_augmentation: bool = True
    mean: Tensor
    std: Tensor

    def __init__(self, classes: int, *, multiple: int = 32) -> None:
        super().__init__()
        if classes < 1:
            raise UsageError(f"a detector needs at least one class, not {classes}")
        self.classes, self.multiple = classes, multiple
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Any:
        """Losses (see :meth:`losses`) in training mode, detections (see :meth:`predict`) otherwise.

        Training goes through here, so that the hooks of ``DistributedDataParallel`` see it.
        """
        if not self.training:
            return self.predict(images)
        if targets is None:
            raise UsageError("a detector that trains needs targets")
        return self.losses(images, targets)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of a batch; their sum, weighted as the detector's authors do, is ``loss``.

        Args:
            images: (n, 3, height, width), 0..1.
            targets: one an image; images without boxes are fine. Boxes are cut to the image, and kept at least a pixel
                wide and high.
        """
        if not self.training:
            raise UsageError("losses are those of a detector in training mode: call train() first")
        high, wide = images.shape[-2:]
        clean = [_clean(target, high, wide) for target in targets]
        parts = self.compute_losses(self.normalise(images), clean)
        return {"loss": torch.stack([value.float() for value in parts.values()]).sum(), **parts}

    def predict(self, images: Tensor) -> list[Target]:
        """Detections, best first.

        Args:
            images: (n, 3, height, width), 0..1.

        Returns:
            For each image ``boxes`` (m, 4) in pixels, inside of the image; ``scores`` (m,) 0..1; ``labels`` (m,) from 0.
        """
        high, wide = images.shape[-2:]
        return self.detect(self.normalise(images), (high, wide))

    def normalise(self, images: Tensor) -> Tensor:
        """Minus mean, by spread, padded to the multiple that the network needs."""
        high, wide = images.shape[-2:]
        pad = (-wide % self.multiple, -high % self.multiple)
        images = (images - self.mean) / self.std
        return F.pad(images, (0, pad[0], 0, pad[1])) if any(pad) else images

    @abstractmethod
    def compute_losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The weighted losses of normalised images, by name; their sum is the total."""

    @abstractmethod
    def detect(self, images: Tensor, size: tuple[int, int]) -> list[Target]:
        """Detections in normalised, padded images whose own height and width are ``size``."""


def _clean(target: Target, high: int, wide: int) -> Target:
    boxes = target["boxes"].float().reshape(-1, 4)
    limit = boxes.new_tensor([wide, high])
    # Half a pixel off the far edge at most, so that even a box beyond it keeps a pixel inside.
    low = torch.minimum(boxes[:, :2].clamp(min=0), limit - 1)
    far = torch.maximum(torch.minimum(boxes[:, 2:], limit), low + 1)
    return {"boxes": torch.cat([low, far], 1), "labels": target["labels"].long().reshape(-1)}


def finish(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], *, iou: float | None, most: int, least: float
) -> Target:
    """The detections of one image: cut to it, without doubles, best first.

    Args:
        boxes: (m, 4) in pixels; scores: (m,); labels: (m,).
        scores: (m,).
        labels: (m,).
        size: height and width of the image.
        iou: of two of a class that overlap more, the better one stays; None keeps all.
        most: detections to keep.
        least: score of a detection.
    """
    from torchvision.ops import batched_nms

    boxes, scores = boxes.float(), scores.float()
    kept = scores > least
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    far = boxes.new_tensor([size[1], size[0]]).repeat(2)
    boxes = torch.minimum(boxes.clamp(min=0), far)
    whole = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    boxes, scores, labels = boxes[whole], scores[whole], labels[whole]
    order = batched_nms(boxes, scores, labels, iou) if iou is not None else scores.argsort(descending=True, stable=True)
    order = order[:most]
    return {"boxes": boxes[order], "scores": scores[order], "labels": labels[order]}


def finish_pairs(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], *, candidates: int, iou: float | None, most: int, least: float
) -> Target:
    """The detections of one image whose places each have a score for every class: see :func:`finish`.

    Args:
        boxes: (places, 4) in pixels.
        scores: (places, classes).
        size: height and width of the image.
        candidates: the best pairs of place and class that are looked at.
        iou: of two of a class that overlap more, the better one stays; None keeps all.
        most: detections to keep.
        least: score of a detection.
    """
    classes = scores.shape[1]
    best, at = scores.flatten().topk(min(candidates, scores.numel()))
    return finish(boxes[at // classes], best, at % classes, size, iou=iou, most=most, least=least)
