"""What a detector costs: parameters and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal_earth.detection.models.detector import Detector

__all__ = ["Cost", "cost"]


@dataclass(frozen=True)
class Cost:
    """What a detector costs.

    Args:
        parameters: how many numbers it learns, frozen ones included.
        flops: floating-point operations to detect in one image, a multiply-add counted as two; only matrix products, convolutions
            and attention count, as in the papers.
    """

    parameters: int
    flops: int


def cost(model: Detector, image_size: int) -> Cost:
    """Parameters and operations of a detector for a square image of that side; the model is left as it was.

    One forward pass is run where the model is: on a CPU the published sizes take a few seconds.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in model.parameters())
    training = model.training
    first = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=first.device, dtype=first.dtype)
    model.eval()
    # A view of a parameter asks for gradients even where none are computed, and the counter stumbles on it.
    learnt = [p for p in model.parameters() if p.requires_grad]
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(training)
        for parameter in learnt:
            parameter.requires_grad_(True)
    return Cost(parameters, int(counter.get_total_flops()))
