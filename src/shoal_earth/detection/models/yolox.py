"""YOLOX (Ge et al. 2021, arXiv 2107.08430), written from the paper: no anchors, a decoupled head, SimOTA.

Parts are named as in the published checkpoints, so that these can be loaded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from shoal_earth.detection.models.blocks import ConvNorm, grid, start_rare
from shoal_earth.detection.models.detector import Detector, Target, finish_pairs
from shoal_earth.detection.models.simota import simota
from shoal_earth.training.weights import Weights, fill, missing, read_state

__all__ = ["YOLOX", "decode", "encode", "yolox"]

STRIDES = (8, 16, 32)
URL = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_x.pth"
"""The published YOLOX-X, which torch.hub fetches and keeps in its cache."""


def decode(raw: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Boxes from what the network says.

    Args:
        raw: (..., 4): centre, in cells from the cell's corner; log of width and height in cells.
        cells: (..., 2) x, y of the cell.
        strides: (..., 1) pixels of a cell.

    Returns:
        (..., 4) left, top, right, bottom in pixels.
    """
    centre = (raw[..., :2] + cells) * strides
    half = raw[..., 2:].exp() * strides / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """The inverse of :func:`decode`."""
    own = box_convert(boxes, "xyxy", "cxcywh")
    return torch.cat([own[..., :2] / strides - cells, (own[..., 2:] / strides).clamp(min=1e-8).log()], -1)


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 1)
        self.conv2 = ConvNorm(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class _CSP(nn.Module):
    """Half of the channels pass through bottlenecks, the other half goes around (Wang et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, count: int, *, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = ConvNorm(inputs, half, 1)
        self.conv2 = ConvNorm(inputs, half, 1)
        self.conv3 = ConvNorm(2 * half, outputs, 1)
        self.m = nn.Sequential(*(_Bottleneck(half, shortcut=shortcut) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], 1))
        return y


class _Focus(nn.Module):
    """Every second pixel of rows and columns becomes a channel."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvNorm(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        y: Tensor = self.conv(torch.cat(parts, 1))
        return y


class _Pools(nn.Module):
    """Spatial pyramid pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels // 2, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.conv2 = ConvNorm(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))
        return y


class _Darknet(nn.Module):
    def __init__(self, depth: float, width: float) -> None:
        super().__init__()
        base, few = int(width * 64), max(round(depth * 3), 1)
        self.stem = _Focus(base)
        self.dark2 = nn.Sequential(ConvNorm(base, base * 2, 3, 2), _CSP(base * 2, base * 2, few))
        self.dark3 = nn.Sequential(ConvNorm(base * 2, base * 4, 3, 2), _CSP(base * 4, base * 4, few * 3))
        self.dark4 = nn.Sequential(ConvNorm(base * 4, base * 8, 3, 2), _CSP(base * 8, base * 8, few * 3))
        last = base * 16
        self.dark5 = nn.Sequential(ConvNorm(base * 8, last, 3, 2), _Pools(last), _CSP(last, last, few, shortcut=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eight = self.dark3(self.dark2(self.stem(x)))
        sixteen = self.dark4(eight)
        return eight, sixteen, self.dark5(sixteen)


class _Neck(nn.Module):
    """The path down from coarse to fine and up again (PANet, Liu et al. 2018)."""

    def __init__(self, depth: float, width: float) -> None:
        super().__init__()
        c3, c4, c5 = (int(c * width) for c in (256, 512, 1024))
        few = round(3 * depth)
        self.backbone = _Darknet(depth, width)
        self.lateral_conv0 = ConvNorm(c5, c4, 1)
        self.C3_p4 = _CSP(2 * c4, c4, few, shortcut=False)
        self.reduce_conv1 = ConvNorm(c4, c3, 1)
        self.C3_p3 = _CSP(2 * c3, c3, few, shortcut=False)
        self.bu_conv2 = ConvNorm(c3, c3, 3, 2)
        self.C3_n3 = _CSP(2 * c3, c4, few, shortcut=False)
        self.bu_conv1 = ConvNorm(c4, c4, 3, 2)
        self.C3_n4 = _CSP(2 * c4, c5, few, shortcut=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        eight, sixteen, last = self.backbone(x)
        top = self.lateral_conv0(last)
        middle = self.reduce_conv1(self.C3_p4(torch.cat([F.interpolate(top, scale_factor=2), sixteen], 1)))
        fine = self.C3_p3(torch.cat([F.interpolate(middle, scale_factor=2), eight], 1))
        half = self.C3_n3(torch.cat([self.bu_conv2(fine), middle], 1))
        return [fine, half, self.C3_n4(torch.cat([self.bu_conv1(half), top], 1))]


class _Head(nn.Module):
    """Classes and boxes from branches of their own."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        wide = int(256 * width)
        pairs = [nn.Sequential(ConvNorm(wide, wide, 3), ConvNorm(wide, wide, 3)) for _ in range(2 * len(STRIDES))]
        self.stems = nn.ModuleList(ConvNorm(int(c * width), wide, 1) for c in (256, 512, 1024))
        self.cls_convs = nn.ModuleList(pairs[: len(STRIDES)])
        self.reg_convs = nn.ModuleList(pairs[len(STRIDES) :])
        self.cls_preds = nn.ModuleList(nn.Conv2d(wide, classes, 1) for _ in STRIDES)
        self.reg_preds = nn.ModuleList(nn.Conv2d(wide, 4, 1) for _ in STRIDES)
        self.obj_preds = nn.ModuleList(nn.Conv2d(wide, 1, 1) for _ in STRIDES)
        self.start()

    def start(self) -> None:
        """Objects are rare at first."""
        for convolution in (*self.cls_preds, *self.obj_preds):
            assert isinstance(convolution.bias, Tensor)
            start_rare(convolution.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """For each level (n, height * width, 5 + classes): box, objectness, classes."""
        levels = []
        for n, m in enumerate(maps):
            x = self.stems[n](m)
            boxes = self.reg_convs[n](x)
            parts = [self.reg_preds[n](boxes), self.obj_preds[n](boxes), self.cls_preds[n](self.cls_convs[n](x))]
            levels.append(torch.cat(parts, 1).flatten(2).transpose(1, 2).float())
        return levels


class YOLOX(Detector):
    """YOLOX.

    Args:
        classes: how many.
        depth: factor on the number of bottlenecks; 1.33 is X.
        width: factor on channels; 1.25 is X.
    """

    def __init__(self, classes: int, depth: float, width: float) -> None:
        super().__init__(classes)
        self.backbone = _Neck(depth, width)
        self.head = _Head(classes, width)

    def normalise(self, images: Tensor) -> Tensor:
        """As its checkpoints were trained: 0..255, blue first, padded with grey."""
        high, wide = images.shape[-2:]
        images = images.flip(1) * 255
        return F.pad(images, (0, -wide % self.multiple, 0, -high % self.multiple), value=114.0)

    def _answers(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw answers (n, places, 5 + classes), cells (places, 2) and strides (places, 1)."""
        high, wide = images.shape[-2:]
        raw = torch.cat(self.head(self.backbone(images)), 1)
        cells = [grid(high // s, wide // s, images.device) for s in STRIDES]
        strides = torch.cat([c.new_full((len(c), 1), float(s)) for c, s in zip(cells, STRIDES, strict=True)])
        return raw, torch.cat(cells), strides

    def compute_losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """IoU (times 5), objectness and class losses over the number of positives; L1 as well without strong augmentation."""
        raw, cells, strides = self._answers(images)
        boxes = decode(raw[..., :4], cells, strides)
        found = [
            simota(b.detach(), r[:, 5:].detach(), r[:, 4].detach(), cells, strides, t["boxes"], t["labels"])
            for b, r, t in zip(boxes, raw, targets, strict=True)
        ]
        positive = torch.stack([f.positive for f in found])
        own = torch.cat([t["boxes"][f.matched] for t, f in zip(targets, found, strict=True)])
        labels = torch.cat([t["labels"][f.matched] for t, f in zip(targets, found, strict=True)])
        quality = torch.cat([f.quality for f in found])
        count = positive.sum().clamp(min=1).float()
        chosen = raw[positive]
        classes = F.one_hot(labels, self.classes).float() * quality[:, None]
        entropy = F.binary_cross_entropy_with_logits
        parts = {
            "iou": 5.0 * (1 - _iou(boxes[positive], own) ** 2).sum() / count,
            "objectness": entropy(raw[..., 4], positive.float(), reduction="sum") / count,
            "classes": entropy(chosen[:, 5:], classes, reduction="sum") / count,
        }
        if not self.strong_augmentation:
            at = positive.nonzero()[:, 1]
            parts["l1"] = (chosen[:, :4] - encode(own, cells[at], strides[at])).abs().sum() / count
        return parts

    def detect(self, images: Tensor, size: tuple[int, int]) -> list[Target]:
        """Every class of every place whose score, objectness times class, is above 0.01, without doubles."""
        raw, cells, strides = self._answers(images)
        boxes = decode(raw[..., :4], cells, strides)
        scores = raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()
        return [
            finish_pairs(b, s, size, candidates=1000, iou=0.65, most=300, least=0.01)
            for b, s in zip(boxes, scores, strict=True)
        ]


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """Of boxes (n, 4) with their partners (n, 4)."""
    low, far = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    common = (far - low).clamp(min=0).prod(1)
    areas = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1)
    return common / (areas - common).clamp(min=1e-9)


def yolox(classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """YOLOX-X, or a tiny one."""
    model = YOLOX(classes, 1.33, 1.25) if size == "published" else YOLOX(classes, 0.33, 0.25)
    if weights is not None:
        state, origin = _published(weights)
        fill(model, state, origin, renew=("cls_preds",))
        # Heads for other classes were left at random; say "rare" again.
        for convolution in model.head.cls_preds:
            assert isinstance(convolution.bias, Tensor)
            start_rare(convolution.bias)
    return model


def _published(weights: Weights) -> tuple[dict[str, Tensor], str]:
    if weights.folder is not None:
        path = weights.find("yolox_x", "yolox")
        return read_state(path), str(path)
    try:
        found = torch.hub.load_state_dict_from_url(URL, map_location="cpu", progress=False, weights_only=True)
    except Exception as error:  # of network, cache and file formats: a dozen kinds
        raise missing("yolox", URL, error) from None
    return dict(found["model"]), URL
