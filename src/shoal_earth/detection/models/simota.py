"""SimOTA, the assignment of YOLOX: each object gets as many places as its best candidates are good."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["Assignment", "simota"]

_FAR = 1e5


@dataclass(frozen=True)
class Assignment:
    """Which places answer for which object.

    Args:
        positive: (places,) bool.
        matched: (positives,) index of the object, in order of places.
        quality: (positives,) overlap of the predicted box with it.
    """

    positive: Tensor
    matched: Tensor
    quality: Tensor


@torch.no_grad()
def simota(
    boxes: Tensor,
    classes: Tensor,
    objectness: Tensor,
    cells: Tensor,
    strides: Tensor,
    truth: Tensor,
    labels: Tensor,
    *,
    radius: float = 2.5,
    best: int = 10,
) -> Assignment:
    """Assign the places of one image (section 2.1 of arXiv 2107.08430).

    A place is a candidate for an object if its centre is in the object's box or within ``radius`` cells of the box's centre. The
    cost is the class's cross-entropy plus three times minus the logarithm of the overlap, far higher unless both hold. An object
    gets the cheapest places, as many as the overlaps of its ``best`` candidates sum to; a place wanted by several goes to the one
    for which it costs least.

    Args:
        boxes: (places, 4) predicted, in pixels.
        classes: (places, classes) logits.
        objectness: (places,) logits.
        cells: (places, 2).
        strides: (places, 1).
        truth: (objects, 4) in pixels.
        labels: (objects,).
        radius: in cells.
        best: how many candidates are summed.
    """
    positive = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if not len(truth):
        return Assignment(positive, labels.new_zeros(0), boxes.new_zeros(0))
    centres = (cells + 0.5) * strides
    inside = _within(centres, truth)
    middle = (truth[:, :2] + truth[:, 2:]) / 2
    reach = radius * strides
    near = ((centres[:, None] - middle[None]).abs() < reach[:, None]).all(-1)
    candidate = (inside | near).any(1)
    at = candidate.nonzero()[:, 0]
    if not len(at):
        return Assignment(positive, labels.new_zeros(0), boxes.new_zeros(0))
    overlap = box_iou(truth, boxes[at].float())
    odds = (classes[at].float().sigmoid() * objectness[at].float().sigmoid()[:, None]).sqrt()
    wanted = F.one_hot(labels, classes.shape[1]).float()
    # Of each object (rows) and candidate (columns): the sum over classes, written as a product of matrices.
    yes, no = odds.clamp(min=1e-12).log().clamp(min=-100), (1 - odds).clamp(min=1e-12).log().clamp(min=-100)
    # Costs are compared, so not in half precision, whatever the network runs in.
    with torch.autocast(boxes.device.type, enabled=False):
        entropy = -(wanted @ yes.T + (1 - wanted) @ no.T)
    both = (inside & near)[at].T
    cost = entropy - 3 * (overlap + 1e-8).log() + _FAR * ~both
    most = min(best, len(at))
    counts = overlap.topk(most, 1).values.sum(1).int().clamp(min=1)
    taken = torch.zeros_like(cost, dtype=torch.bool)
    order = cost.topk(most, 1, largest=False).indices
    rank = torch.arange(order.shape[1], device=cost.device)
    taken.scatter_(1, order, rank[None] < counts[:, None])
    several = taken.sum(0) > 1
    if several.any():
        cheapest = cost[:, several].argmin(0)
        taken[:, several] = F.one_hot(cheapest, len(truth)).T.bool()
    used = taken.any(0)
    matched = taken[:, used].int().argmax(0)
    positive[at[used]] = True
    return Assignment(positive, matched, overlap[:, used].gather(0, matched[None])[0])


def _within(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points (p, 2) are in which boxes (b, 4): (p, b)."""
    low, far = points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]
    return torch.cat([low, far], -1).amin(-1) > 0
