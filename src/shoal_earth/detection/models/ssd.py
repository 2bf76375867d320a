"""SSD512 (Liu et al. 2016, arXiv 1512.02325): torchvision's SSD with the published seven maps and default boxes on VGG16."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from shoal_earth.detection.models.anchored import TorchvisionDetector
from shoal_earth.detection.models.detector import Detector
from shoal_earth.training.weights import Weights, timm_model

__all__ = ["VGGMaps", "ssd"]

# Convolutions of each block of VGG16, and the extra layers beyond it: narrow, wide, kernel, stride, padding of the second.
_BLOCKS = (2, 2, 3, 3, 3)
_WIDTHS = (64, 128, 256, 512, 512)
_EXTRAS = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 4, 1, 1))


class VGGMaps(nn.Module):
    """The maps that SSD reads: conv4_3, its length brought to a learnt scale, fc7, and the extra layers.

    Args:
        blocks: convolutions of the five blocks.
        widths: channels of the blocks.
        fc: channels of fc6 and fc7.
        extras: (narrow, wide, kernel, stride, padding) of each.
        norm: batch norm after each convolution, which the published network has not, and a random start needs.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        fc: int,
        extras: Sequence[tuple[int, int, int, int, int]],
        *,
        norm: bool,
    ) -> None:
        super().__init__()
        self.norm = norm
        layers: list[nn.Module] = []
        inputs, taps = 3, []
        for block, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for _ in range(count):
                layers += self._conv(inputs, width, 3, 1, 1)
                inputs = width
            taps.append(len(layers))
            if block < 4:
                # Rounded up in the third: conv4_3 of 300 pixels has 38, not 37.
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=block == 2))
        self.fine = nn.Sequential(*layers[: taps[3]])
        self.scale = nn.Parameter(torch.full((widths[3],), 20.0))
        tail: list[nn.Module] = [nn.MaxPool2d(3, 1, 1)]
        tail += self._conv(widths[4], fc, 3, 1, 6, 6)
        tail += self._conv(fc, fc, 1, 1, 0)
        self.coarse = nn.Sequential(*layers[taps[3] :], *tail)
        self.extras = nn.ModuleList()
        inputs = fc
        for narrow, wide, kernel, stride, pad in extras:
            pair = [*self._conv(inputs, narrow, 1, 1, 0), *self._conv(narrow, wide, kernel, stride, pad)]
            self.extras.append(nn.Sequential(*pair))
            inputs = wide
        self.out_channels = [widths[3], fc, *(wide for _, wide, *_ in extras)]

    def _conv(self, inputs: int, outputs: int, kernel: int, stride: int, pad: int, spread: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, spread, bias=not self.norm)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return [conv, *([nn.BatchNorm2d(outputs)] if self.norm else []), nn.ReLU(inplace=True)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name, finest first."""
        x = self.fine(images)
        maps = [self.scale[:, None, None] * F.normalize(x)]
        x = self.coarse(x)
        maps.append(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        return OrderedDict((str(n), m) for n, m in enumerate(maps))

    def fill(self, vgg: Any) -> None:
        """Take the weights of timm's VGG16; fc6 and fc7 are thinned out of its classifier's, as in section 3 of the paper."""
        theirs = [m for m in vgg.features if isinstance(m, nn.Conv2d)]
        mine = [m for m in (*self.fine, *self.coarse) if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            for own, other in zip(mine[: len(theirs)], theirs, strict=True):
                _copy(own, other.weight, other.bias)
            six, seven = mine[len(theirs) :]
            head = vgg.pre_logits
            _copy(six, head.fc1.weight[::4, :, ::3, ::3], head.fc1.bias[::4])
            _copy(seven, head.fc2.weight[::4, ::4], head.fc2.bias[::4])


def _copy(own: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    own.weight.copy_(weight)
    assert own.bias is not None
    assert bias is not None
    own.bias.copy_(bias)


def ssd(classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """SSD512, or a tiny one for 128 pixels: four maps at strides 8 to 64, with batch norm.

    The default boxes are relative to the image, which is padded to multiples of 512 (tiny: 64).
    """
    if size == "published":
        maps = VGGMaps(_BLOCKS, _WIDTHS, 1024, _EXTRAS, norm=False)
        if weights is not None:
            maps.fill(timm_model("vgg16.tv_in1k", weights))
        boxes = DefaultBoxGenerator(
            [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]],
            scales=[0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06],
            steps=[8, 16, 32, 64, 128, 256, 512],
        )
        side = 512
    else:
        extras = ((32, 64, 3, 2, 1), (32, 64, 3, 2, 1))
        maps = VGGMaps((1, 1, 1, 1, 1), (16, 32, 48, 64, 64), 96, extras, norm=True)
        boxes = DefaultBoxGenerator([[2], [2], [2], [2]], scales=[0.11, 0.22, 0.38, 0.6, 0.8], steps=[8, 16, 32, 64])
        side = 64
    model = SSD(maps, boxes, (side, side), classes + 1, score_thresh=0.01, detections_per_img=300)
    return TorchvisionDetector(model, classes, background=True, multiple=side)
