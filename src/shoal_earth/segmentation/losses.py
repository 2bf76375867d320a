"""Losses for segmentation and change, with an ignore label: cross-entropy, Dice, focal, Lovász, soft mean IoU, and sums.

Each takes logits (n, classes, height, width) and labels (n, height, width) of whole numbers, and returns one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from shoal.errors import UsageError

__all__ = ["LOSSES", "SCALE_WEIGHTS", "build_loss", "cross_entropy", "dice", "focal", "lovasz", "miou"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SCALE_WEIGHTS = (0.5, 0.5, 0.5, 0.8, 1.0)
"""What each of ChangeFormer's five scales counts for, coarsest first (the settings published with arXiv 2201.01293). Of fewer
scales, the last ones count."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255) -> torch.Tensor:
    """Mean cross-entropy over pixels that are not ignored; 0 if all are.

    Args:
        logits: (n, classes, height, width).
        labels: (n, height, width), integers.
        ignore: label of pixels that do not count.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="sum")
    return total / (labels != ignore).sum().clamp(min=1)


def dice(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255) -> torch.Tensor:
    """One minus the soft Dice coefficient of the whole batch, mean over the foreground classes (arXiv 1606.04797).

    A class that is in no label of the batch has nothing to overlap with and is left out.
    """
    truth, probabilities = _hot(logits, labels, ignore)
    overlap = (probabilities * truth).sum((0, 2, 3))[1:]
    size = (probabilities + truth).sum((0, 2, 3))[1:]
    present = (truth.sum((0, 2, 3))[1:] > 0).float()
    losses = 1 - 2 * overlap / size.clamp(min=1e-6)
    return (losses * present).sum() / present.sum().clamp(min=1)


def focal(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255, gamma: float = 2.0) -> torch.Tensor:
    """Mean focal loss: cross-entropy times ``(1 - p) ** gamma``, so that easy pixels count less (arXiv 1708.02002)."""
    each = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="none")
    weight = (1 - torch.exp(-each)) ** gamma
    return (weight * each).sum() / (labels != ignore).sum().clamp(min=1)


def lovasz(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255) -> torch.Tensor:
    """The Lovász-softmax loss over all pixels of the batch, mean over the classes in its labels (arXiv 1705.08790).

    It is the convex surrogate of one minus IoU: errors in order from the worst, each weighted by what it costs in IoU.
    """
    counted = labels != ignore
    truth = labels[counted]
    probabilities = logits.float().softmax(1).movedim(1, -1)[counted]
    losses = []
    for number in torch.unique(truth):
        here = (truth == number).float()
        errors, order = (here - probabilities[:, number]).abs().sort(descending=True)
        here = here[order]
        size = here.sum()
        iou = 1 - (size - here.cumsum(0)) / (size + (1 - here).cumsum(0))
        steps = torch.cat([iou[:1], iou[1:] - iou[:-1]])
        losses.append(errors @ steps)
    # Nothing to learn from, but the graph stays whole.
    return torch.stack(losses).mean() if losses else logits.float().sum() * 0


def miou(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255) -> torch.Tensor:
    """One minus the soft IoU of the whole batch, mean over all classes in its labels, background included."""
    truth, probabilities = _hot(logits, labels, ignore)
    overlap = (probabilities * truth).sum((0, 2, 3))
    union = (probabilities + truth - probabilities * truth).sum((0, 2, 3))
    present = (truth.sum((0, 2, 3)) > 0).float()
    losses = 1 - overlap / union.clamp(min=1e-6)
    return (losses * present).sum() / present.sum().clamp(min=1)


def _hot(logits: torch.Tensor, labels: torch.Tensor, ignore: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The truth, one plane a class, and the probabilities; both are 0 where a pixel is ignored."""
    counted = (labels != ignore).unsqueeze(1)
    truth = F.one_hot(labels.where(labels != ignore, 0), logits.shape[1]).movedim(-1, 1) * counted
    return truth, logits.float().softmax(1) * counted


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dice": dice, "focal": focal, "lovasz": lovasz, "miou": miou}


def build_loss(name: str) -> Callable[[torch.Tensor | Sequence[torch.Tensor], torch.Tensor], torch.Tensor]:
    """A loss by name: one of :data:`LOSSES`, or a sum such as ``ce+dice``.

    The function takes logits and labels. A list of logits, coarsest first, is a model's answer at several scales: labels are
    shrunk to each (nearest pixel) and the losses summed with :data:`SCALE_WEIGHTS`.

    Raises:
        UsageError: there is no such loss.
    """
    parts = name.split("+")
    if unknown := [part for part in parts if part not in LOSSES]:
        raise UsageError(
            f'there is no loss "{unknown[0]}"', hint=f"Choose {', '.join(LOSSES)}, or a sum such as ce+dice."
        )
    functions = [LOSSES[part] for part in parts]

    def one(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if logits.shape[-2:] != labels.shape[-2:]:
            labels = F.interpolate(labels[:, None].float(), logits.shape[-2:], mode="nearest")[:, 0].to(labels.dtype)
        return torch.stack([function(logits, labels) for function in functions]).sum()

    def loss(logits: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        if isinstance(logits, torch.Tensor):
            return one(logits, labels)
        weights = SCALE_WEIGHTS[-len(logits) :]
        return torch.stack([w * one(answer, labels) for w, answer in zip(weights, logits, strict=True)]).sum()

    return loss
