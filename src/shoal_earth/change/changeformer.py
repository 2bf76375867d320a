"""ChangeFormer, version 6: a hierarchical transformer shared by both dates, differences at four scales, an MLP decoder.

W. G. C. Bandara and V. M. Patel, "A transformer-based Siamese network for change detection", IGARSS 2022, arXiv 2201.01293. The
encoder is SegFormer's (arXiv 2105.15203) with other depths and heads. Version 6 is the one the authors published weights of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["TINY", "V6", "ChangeFormer", "Sizes"]

_STEPS = (32, 16, 8, 4)


@dataclass(frozen=True)
class Sizes:
    """Of the four stages: channels, blocks, attention heads, how much keys and values shrink; the decoder's channels."""

    channels: tuple[int, ...] = (64, 128, 320, 512)
    blocks: tuple[int, ...] = (3, 3, 4, 3)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    shrink: tuple[int, ...] = (8, 4, 2, 1)
    embed: int = 256
    drop: float = 0.1


V6 = Sizes()
"""As published: 41.0 million parameters."""

TINY = Sizes((16, 32, 48, 64), (1, 1, 1, 1), (1, 2, 4, 8), (8, 4, 2, 1), 16, 0.0)
"""For a CPU and for tests; the same structure."""


class ChangeFormer(nn.Module):
    """Pairs stacked as (n, 2 x bands, height, width) to logits (n, classes, height, width).

    In training it gives the logits of five scales, coarsest first: 1/32, 1/16, 1/8, 1/4 and 1 of the input's size.

    Args:
        bands: of one image.
        classes: of the labels.
        sizes: of its parts.
    """

    def __init__(self, bands: int, classes: int, sizes: Sizes = V6) -> None:
        super().__init__()
        self.encoder = Encoder(bands, sizes)
        self.decoder = Decoder(sizes.channels, sizes.embed, classes)

    def forward(self, pair: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits; of all scales in training."""
        height, width = pair.shape[-2:]
        # Stages halve the size five times; what does not divide is padded, and cut off again.
        padding = (0, -width % 32, 0, -height % 32)
        if any(padding):
            pair = F.pad(pair, padding, mode="replicate")
        both = torch.cat(pair.chunk(2, 1))
        answers: list[torch.Tensor] = self.decoder([scale.chunk(2) for scale in self.encoder(both)])
        steps = (*_STEPS, 1)
        cut = [a[..., : -(-height // s), : -(-width // s)] for a, s in zip(answers, steps, strict=True)]
        return cut if self.training else cut[-1]


class Encoder(nn.Module):
    """Four stages of transformer blocks, at 1/4 to 1/32 of the image's size."""

    def __init__(self, bands: int, sizes: Sizes) -> None:
        super().__init__()
        # Deeper blocks are skipped more often in training.
        rates = torch.linspace(0, sizes.drop, sum(sizes.blocks)).tolist()
        self.stages = nn.ModuleList()
        before, done = bands, 0
        for number, (channels, blocks, heads, shrink) in enumerate(
            zip(sizes.channels, sizes.blocks, sizes.heads, sizes.shrink, strict=True)
        ):
            skips = rates[done : done + blocks]
            stride = 4 if number == 0 else 2
            self.stages.append(_Stage(before, channels, stride, heads, shrink, skips, sizes.drop))
            before, done = channels, done + blocks
        self.apply(_start)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The features after each stage."""
        found = []
        for stage in self.stages:
            image = stage(image)
            found.append(image)
        return found


class _Stage(nn.Module):
    def __init__(
        self,
        before: int,
        channels: int,
        stride: int,
        heads: int,
        shrink: int,
        skips: Sequence[float],
        drop: float,
    ) -> None:
        super().__init__()
        # Patches of 7 pixels at every stage, where SegFormer has 3 from the second on: the published count tells.
        self.embed = nn.Conv2d(before, channels, 7, stride, 3)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(_Block(channels, heads, shrink, skip, drop) for skip in skips)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.embed(image)
        size = (image.shape[-2], image.shape[-1])
        tokens = self.embed_norm(image.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, size)
        return _as_image(self.norm(tokens), size)


def _as_image(tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


class _Block(nn.Module):
    """Attention and a feed-forward net, each beside a straight way."""

    def __init__(self, channels: int, heads: int, shrink: int, skip: float, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = _Attention(channels, heads, shrink, drop)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.feed = _Feed(channels, 4 * channels, drop)
        self.skip = skip

    def forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        tokens = tokens + self._maybe(self.attention(self.norm1(tokens), size))
        return tokens + self._maybe(self.feed(self.norm2(tokens), size))

    def _maybe(self, branch: torch.Tensor) -> torch.Tensor:
        """Stochastic depth: in training, examples go without the branch now and then."""
        if not self.training or self.skip == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.skip
        return branch * kept.to(branch.dtype) / (1 - self.skip)


class _Attention(nn.Module):
    """Self-attention whose keys and values come from a shrunken image, so that its cost is bearable at 1/4 size."""

    def __init__(self, channels: int, heads: int, shrink: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.shrink = nn.Conv2d(channels, channels, shrink, shrink) if shrink > 1 else None
        self.shrink_norm = nn.LayerNorm(channels) if shrink > 1 else None

    def forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        source = tokens
        if self.shrink is not None and self.shrink_norm is not None:
            source = self.shrink_norm(self.shrink(_as_image(tokens, size)).flatten(2).transpose(1, 2))
        query = self._split(self.query(tokens))
        key, value = (self._split(part) for part in self.key_value(source).chunk(2, -1))
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self.drop if self.training else 0.0)
        return F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.drop, self.training)

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class _Feed(nn.Module):
    """Two layers with a depth-wise convolution between, which is how positions enter."""

    def __init__(self, channels: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.leave = nn.Linear(hidden, channels)
        self.drop = drop

    def forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        mixed = self.mix(_as_image(self.enter(tokens), size)).flatten(2).transpose(1, 2)
        hidden = F.dropout(F.gelu(mixed), self.drop, self.training)
        return F.dropout(self.leave(hidden), self.drop, self.training)


class Decoder(nn.Module):
    """Differences of the two dates at each scale, from coarse to fine, joined and brought back to full size."""

    def __init__(self, channels: Sequence[int], embed: int, classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(width, embed) for width in channels)
        self.differ = nn.ModuleList(_difference(embed) for _ in channels)
        self.predict = nn.ModuleList(_prediction(embed, classes) for _ in channels)
        self.fuse = nn.Sequential(nn.Conv2d(len(channels) * embed, embed, 1), nn.BatchNorm2d(embed))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(embed, embed, 4, 2, 1) for _ in range(2))
        self.refine = nn.ModuleList(_Residual(embed) for _ in range(2))
        self.answer = nn.Conv2d(embed, classes, 3, padding=1)

    def forward(self, scales: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        """Logits of each scale, coarsest first, and at full size."""
        finest = scales[0][0].shape[-2:]
        answers: list[torch.Tensor] = []
        differences: list[torch.Tensor] = []
        below: torch.Tensor | None = None
        for number in reversed(range(len(scales))):
            size = (scales[number][0].shape[-2], scales[number][0].shape[-1])
            both = [_as_image(self.project[number](x.flatten(2).transpose(1, 2)), size) for x in scales[number]]
            difference = self.differ[number](torch.cat(both, 1))
            if below is not None:
                difference = difference + F.interpolate(below, size, mode="bilinear")
            answers.append(self.predict[number](difference))
            differences.append(F.interpolate(difference, finest, mode="bilinear"))
            below = difference
        joined = self.fuse(torch.cat(differences, 1))
        for enlarge, refine in zip(self.enlarge, self.refine, strict=True):
            joined = refine(enlarge(joined))
        return [*answers, self.answer(joined)]


def _difference(embed: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2 * embed, embed, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(embed),
        nn.Conv2d(embed, embed, 3, padding=1),
        nn.ReLU(),
    )


def _prediction(embed: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(embed, classes, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(classes),
        nn.Conv2d(classes, classes, 3, padding=1),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # A tenth, so that the block starts out close to doing nothing.
        added: torch.Tensor = 0.1 * self.second(F.relu(self.first(image)))
        return image + added


def _start(module: nn.Module) -> None:
    """The encoder's random start: SegFormer's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, (2 / fan) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
