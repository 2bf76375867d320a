"""Convolutions that the YOLOs are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ConvNorm", "grid", "start_rare"]


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation; padded so that stride 1 keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = act or nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, channels, height, width)."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


def grid(high: int, wide: int, device: torch.device) -> Tensor:
    """The cells of a map, row by row: (high * wide, 2) as x, y."""
    y, x = torch.meshgrid(torch.arange(high, device=device), torch.arange(wide, device=device), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float()


def start_rare(bias: Tensor, share: float = 0.01) -> None:
    """Fill the bias of a sigmoid so that it begins at that share."""
    nn.init.constant_(bias, -math.log((1 - share) / share))
