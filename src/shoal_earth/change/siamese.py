"""Convolutional models of pairs: the three that most papers compare with, and any segmentation network made Siamese.

* FC-Siam-conc and FC-Siam-diff: R. C. Daudt, B. Le Saux, A. Boulch, "Fully convolutional Siamese networks for change detection",
  ICIP 2018, arXiv 1810.08462.
* BIT: H. Chen, Z. Qi, Z. Shi, "Remote sensing image change detection with transformers", TGRS 2021, arXiv 2103.00208.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["BIT", "FCSiam", "Siamese"]


class FCSiam(nn.Module):
    """A small U-Net whose contracting half sees each date, and whose expanding half sees both, or their difference.

    Args:
        bands: of one image.
        classes: of the labels.
        difference: join skips as their absolute difference; else next to each other.
        width: channels of the first level; the paper's is 16.
    """

    _CONVOLUTIONS = (2, 2, 3, 3)

    def __init__(self, bands: int, classes: int, *, difference: bool, width: int = 16) -> None:
        super().__init__()
        self.difference = difference
        levels = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList()
        before = bands
        for channels, count in zip(levels, self._CONVOLUTIONS, strict=True):
            self.down.append(_convolutions([before] + [channels] * count))
            before = channels
        self.enlarge, self.up = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(4)):
            channels = levels[level]
            self.enlarge.append(nn.ConvTranspose2d(before, channels, 3, 2, 1, output_padding=1))
            joined = channels * (2 if difference else 3)
            middle = [channels] * (self._CONVOLUTIONS[level] - 1)
            before = levels[level - 1] if level else classes
            self.up.append(_convolutions([joined, *middle, before], last=level > 0))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Pairs stacked as (n, 2 x bands, height, width) to logits."""
        size = pair.shape[-2:]
        padding = (0, -size[1] % 16, 0, -size[0] % 16)
        if any(padding):
            pair = F.pad(pair, padding, mode="replicate")
        here = torch.cat(pair.chunk(2, 1))
        skips = []
        for block in self.down:
            here = block(here)
            skips.append(here.chunk(2))
            here = F.max_pool2d(here, 2)
        # As in the paper, the expanding half starts from the second date.
        here = here.chunk(2)[1]
        for enlarge, block, (first, second) in zip(self.enlarge, self.up, reversed(skips), strict=True):
            joined = [(first - second).abs()] if self.difference else [first, second]
            here = block(torch.cat([enlarge(here), *joined], 1))
        return here[..., : size[0], : size[1]]


def _convolutions(channels: list[int], *, last: bool = True) -> nn.Sequential:
    """3 x 3 convolutions; without ``last`` the final one gives bare logits."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(channels), 1):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        if last or number < len(channels) - 1:
            layers += [nn.BatchNorm2d(after), nn.ReLU(), nn.Dropout2d(0.2)]
    return nn.Sequential(*layers)


class Siamese(nn.Module):
    """Any network of segmentation_models_pytorch, whose encoder sees each date and whose decoder sees the absolute difference.

    Args:
        network: with ``encoder``, ``decoder`` and ``segmentation_head``, for the bands of one image.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Pairs stacked as (n, 2 x bands, height, width) to logits."""
        scales = self.network.encoder(torch.cat(pair.chunk(2, 1)))
        differences = [(first - second).abs() for first, second in (scale.chunk(2) for scale in scales)]
        logits: torch.Tensor = self.network.segmentation_head(self.network.decoder(differences))
        return logits


class BIT(nn.Module):
    """Bitemporal image transformer: each image is summed up in a few tokens, these look at each other, pixels look at them.

    Args:
        encoder: of segmentation_models_pytorch, with features at 1/4 of the image's size (the paper: ResNet-18 to its fourth
            stage, dilated to 1/8, enlarged to 1/4).
        channels: of these features.
        classes: of the labels.
        width: of tokens and pixels.
        tokens: for each image.
        layers: that pixels look at tokens.
        head: channels of an attention head.
    """

    def __init__(
        self,
        encoder: Any,
        channels: int,
        classes: int,
        *,
        width: int = 32,
        tokens: int = 4,
        layers: int = 8,
        head: int = 64,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.reduce = nn.Conv2d(channels, width, 3, padding=1)
        self.gather = nn.Conv2d(width, tokens, 1, bias=False)
        self.place = nn.Parameter(torch.randn(1, 2 * tokens, width))
        self.among = _Look(width, head)
        self.at = nn.ModuleList(_Look(width, head) for _ in range(layers))
        self.answer = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, classes, 3, padding=1),
        )

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Pairs stacked as (n, 2 x bands, height, width) to logits."""
        size = pair.shape[-2:]
        padding = (0, -size[1] % 8, 0, -size[0] % 8)
        if any(padding):
            pair = F.pad(pair, padding, mode="replicate")
        deep = self.encoder(torch.cat(pair.chunk(2, 1)))[-1]
        here = self.reduce(F.interpolate(deep, (pair.shape[-2] // 4, pair.shape[-1] // 4)))
        pixels = here.flatten(2).transpose(1, 2)
        tokens = self.gather(here).flatten(2).softmax(-1) @ pixels
        # Both dates' tokens in one sequence, then each date's pixels look at its own.
        joined = torch.cat(tokens.chunk(2), 1) + self.place
        tokens = torch.cat(self.among(joined, None).chunk(2, 1))
        for look in self.at:
            pixels = look(pixels, tokens)
        first, second = pixels.transpose(1, 2).reshape(here.shape).chunk(2)
        answer: torch.Tensor = self.answer(F.interpolate((first - second).abs(), scale_factor=4, mode="bilinear"))
        return answer[..., : size[0], : size[1]]


class _Look(nn.Module):
    """One transformer layer: look at a memory (at oneself without one), then a feed-forward net."""

    _HEADS = 8

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        inner = self._HEADS * head
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, here: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        query = self.norm(here)
        source = query if memory is None else self.norm(memory)
        parts = (self.query(query), self.key(source), self.value(source))
        heads = [part.reshape(*part.shape[:2], self._HEADS, -1).transpose(1, 2) for part in parts]
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        here = here + self.out(mixed.transpose(1, 2).flatten(2))
        result: torch.Tensor = here + self.feed(here)
        return result
