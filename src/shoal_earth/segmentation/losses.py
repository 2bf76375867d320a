"""Losses for segmentation, with an ignore label: cross-entropy, soft Dice, focal, and sums of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from shoal.errors import UsageError

__all__ = ["LOSSES", "build_loss", "cross_entropy", "dice", "focal"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
    """One minus the soft Dice coefficient of the whole batch, mean over the foreground classes (all but class 0).

    A class that is in no label of the batch has nothing to overlap with and is left out.
    """
    classes = logits.shape[1]
    counted = (labels != ignore).unsqueeze(1)
    probabilities = logits.float().softmax(1) * counted
    truth = F.one_hot(labels.where(labels != ignore, 0), classes).movedim(-1, 1) * counted
    overlap = (probabilities * truth).sum((0, 2, 3))[1:]
    size = (probabilities + truth).sum((0, 2, 3))[1:]
    present = (truth.sum((0, 2, 3))[1:] > 0).float()
    losses = 1 - 2 * overlap / size.clamp(min=1e-6)
    return (losses * present).sum() / present.sum().clamp(min=1)


def focal(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255, gamma: float = 2.0) -> torch.Tensor:
    """Mean focal loss: cross-entropy times ``(1 - p) ** gamma``, so that easy pixels count less."""
    each = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="none")
    weight = (1 - torch.exp(-each)) ** gamma
    return (weight * each).sum() / (labels != ignore).sum().clamp(min=1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dice": dice, "focal": focal}


def build_loss(name: str) -> Loss:
    """A loss by name: ``ce``, ``dice``, ``focal``, or a sum such as ``ce+dice``."""
    parts = name.split("+")
    if unknown := [part for part in parts if part not in LOSSES]:
        raise UsageError(
            f'there is no loss "{unknown[0]}"', hint=f"Choose {', '.join(LOSSES)}, or a sum such as ce+dice."
        )
    functions = [LOSSES[part] for part in parts]

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.stack([function(logits, labels) for function in functions]).sum()

    return loss
