"""Backbones of timm that give feature maps, and the pyramids on top of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from shoal_earth.training.weights import Weights

__all__ = ["Maps", "Pyramid", "ViTPyramid", "hold_batch_norm", "tiny_maps"]


class Maps(nn.Module):
    """Feature maps of a timm model, channels first, finest first.

    Args:
        name: of timm.
        indices: which of its stages.
        weights: where pretrained weights come from, None for a random start.
        norm: a layer norm on each map, which transformers and ConvNeXts are published with when they serve detectors.
        options: of the timm model.
    """

    def __init__(
        self,
        name: str,
        indices: Sequence[int],
        weights: Weights | None = None,
        *,
        norm: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from timm.layers.norm import LayerNorm2d

        from shoal_earth.training.weights import timm_model

        self.body = timm_model(name, weights, features_only=True, out_indices=tuple(indices), **(options or {}))
        self.channels: list[int] = self.body.feature_info.channels()
        self.strides: list[int] = self.body.feature_info.reduction()
        self.last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.norms = nn.ModuleList([LayerNorm2d(c) if norm else nn.Identity() for c in self.channels])
        self.pretrained = weights is not None
        self.train()

    def train(self, mode: bool = True) -> Maps:
        """As any module, but a pretrained backbone's batch norms keep their statistics."""
        super().train(mode)
        if self.pretrained:
            hold_batch_norm(self.body)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (n, channels, height / stride, width / stride)."""
        maps = self.body(images)
        if self.last:
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return [norm(m) for norm, m in zip(self.norms, maps, strict=True)]


def tiny_maps(weights: Weights | None) -> Maps:
    """The backbone of tiny detectors: a ResNet of ten layers, with maps at strides 8, 16 and 32."""
    return Maps("resnet10t", (2, 3, 4), weights, options={"channels": (24, 48, 96, 128), "stem_width": 16})


def hold_batch_norm(module: nn.Module) -> None:
    """Keep the statistics of batch norms as they were pretrained: the batches of detectors are too small to renew them."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


class Pyramid(nn.Module):
    """A feature pyramid in torchvision's form: an ordered dict of maps, all with ``out_channels``.

    Args:
        maps: the backbone.
        channels: of each map.
        extra: coarser maps beyond the last: ``pool`` (one, for Faster R-CNN's proposals), ``input`` (two by strided
            convolutions on the backbone's last map, as RetinaNet), ``output`` (the same on the pyramid's last, as FCOS), or None.
    """

    def __init__(self, maps: Maps, channels: int = 256, *, extra: str | None = None) -> None:
        super().__init__()
        blocks = {
            None: lambda: None,
            "pool": LastLevelMaxPool,
            "input": lambda: LastLevelP6P7(maps.channels[-1], channels),
            "output": lambda: LastLevelP6P7(channels, channels),
        }
        self.body = maps
        self.fpn = FeaturePyramidNetwork(maps.channels, channels, extra_blocks=blocks[extra]())
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name, finest first."""
        maps = self.body(images)
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(n), m) for n, m in enumerate(maps)))
        return levels


class ViTPyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527): all levels from a plain transformer's last map.

    Args:
        name: of a timm vision transformer.
        weights: where pretrained weights come from.
        channels: of each level.
        image_size: side of the images that positions are made for; others are interpolated.
        scales: of the levels against the last map: 2 (a transposed convolution), 1, 0.5, 0.25 (pooling).
        extra: two coarser levels, as RetinaNet's.
        options: of the timm model.
    """

    def __init__(
        self,
        name: str,
        weights: Weights | None,
        *,
        channels: int = 256,
        image_size: int = 512,
        scales: Sequence[float] = (2, 1, 0.5),
        extra: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from timm.layers.norm import LayerNorm2d

        from shoal_earth.training.weights import timm_model

        given: dict[str, Any] = {"img_size": image_size, "dynamic_img_size": True, "num_classes": 0, "global_pool": ""}
        self.body = timm_model(name, weights, **given | dict(options or {}))
        wide = int(self.body.embed_dim)
        steps: dict[float, tuple[nn.Module, int]] = {
            2: (nn.ConvTranspose2d(wide, wide // 2, 2, 2), wide // 2),
            1: (nn.Identity(), wide),
            0.5: (nn.MaxPool2d(2), wide),
            0.25: (nn.MaxPool2d(4), wide),
        }
        self.levels = nn.ModuleList(
            nn.Sequential(
                steps[scale][0],
                nn.Conv2d(steps[scale][1], channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for scale in scales
        )
        self.extra = LastLevelP6P7(channels, channels) if extra else None
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name, finest first."""
        tokens = self.body.forward_features(images)[:, self.body.num_prefix_tokens :]
        high, wide = (side // self.body.patch_embed.patch_size[0] for side in images.shape[-2:])
        last = tokens.transpose(1, 2).reshape(len(images), -1, high, wide)
        levels = [level(last) for level in self.levels]
        if self.extra is not None:
            six = self.extra.p6(levels[-1])
            levels += [six, self.extra.p7(F.relu(six))]
        return OrderedDict((str(n), m) for n, m in enumerate(levels))
