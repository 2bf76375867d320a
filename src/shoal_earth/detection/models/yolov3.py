"""YOLOv3 (Redmon and Farhadi 2018, arXiv 1804.02767), written from the paper, on timm's DarkNet-53."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from shoal_earth.detection.models.blocks import ConvNorm, grid, start_rare
from shoal_earth.detection.models.detector import Detector, Target, finish_pairs
from shoal_earth.detection.models.pyramid import Maps, tiny_maps
from shoal_earth.training.weights import Weights

__all__ = ["ANCHORS", "YOLOv3", "decode", "encode", "yolov3"]

ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Widths and heights in pixels at strides 8, 16 and 32: the paper's nine clusters on COCO."""

_TINY_ANCHORS = (((12, 10), (10, 15), (20, 20)), ((34, 24), (24, 34), (36, 36)), ((52, 36), (38, 54), (66, 66)))
_STRIDES = (8, 16, 32)
IGNORE = 0.5


def decode(raw: Tensor, cells: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Boxes from what the network says (section 2.1 of the paper).

    Args:
        raw: (..., 4): logits of the centre's place in its cell; log of width and height in anchors.
        cells: (..., 2) x, y of the cell.
        anchors: (..., 2) width, height in pixels.
        strides: (..., 1) pixels of a cell.

    Returns:
        (..., 4) left, top, right, bottom in pixels.
    """
    centre = (raw[..., :2].sigmoid() + cells) * strides
    # Beyond e^8 anchors there is no box, but there are overflows.
    half = raw[..., 2:4].clamp(max=8).exp() * anchors / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: Tensor, cells: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """The place in the cell, 0..1, and the logs of width and height in anchors: :func:`decode` of its logits gives the boxes."""
    own = box_convert(boxes, "xyxy", "cxcywh")
    return torch.cat([own[..., :2] / strides - cells, (own[..., 2:] / anchors).log()], -1)


class YOLOv3(Detector):
    """YOLOv3.

    Args:
        maps: the backbone, with maps at strides 8, 16 and 32.
        classes: how many.
        widths: of the three heads, finest first; twice that where they answer.
        anchors: three a level, finest first.
    """

    anchors: Tensor

    def __init__(
        self,
        maps: Maps,
        classes: int,
        widths: tuple[int, int, int],
        anchors: tuple[tuple[tuple[int, int], ...], ...] = ANCHORS,
    ) -> None:
        super().__init__(classes)
        self.backbone = maps
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.each = len(anchors[0])
        self.necks, self.heads, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        from_above = 0
        # From coarse to fine: what a level found is enlarged and joins the next.
        for channels, width in zip(reversed(maps.channels), reversed(widths), strict=True):
            self.necks.append(_five(channels + from_above, width))
            out = nn.Conv2d(2 * width, self.each * (5 + classes), 1)
            self.heads.append(nn.Sequential(_conv(width, 2 * width, 3), out))
            with torch.no_grad():
                bias = out.bias.view(self.each, 5 + classes)  # type: ignore[union-attr]
                start_rare(bias[:, 4:])
            from_above = width // 2
            self.ups.append(_conv(width, from_above, 1))
        del self.ups[-1]

    def _answers(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw answers (n, places, 5 + classes), and of each place its cell, anchor and stride; finest level first."""
        maps = self.backbone(images)
        raw: list[Tensor] = []
        carried: Tensor | None = None
        for step, m in enumerate(reversed(maps)):
            joined = m if carried is None else torch.cat([F.interpolate(carried, scale_factor=2), m], 1)
            x = self.necks[step](joined)
            answer = self.heads[step](x).float()
            if step < len(self.ups):
                carried = self.ups[step](x)
            n, _, high, wide = answer.shape
            answer = answer.view(n, self.each, 5 + self.classes, high * wide)
            raw.append(answer.permute(0, 3, 1, 2).reshape(n, high * wide * self.each, 5 + self.classes))
        cells, anchors, strides = [], [], []
        for level, stride in enumerate(_STRIDES):
            own = grid(images.shape[-2] // stride, images.shape[-1] // stride, images.device)
            cells.append(own.repeat_interleave(self.each, 0))
            anchors.append(self.anchors[level].repeat(len(own), 1))
            strides.append(own.new_full((len(own) * self.each, 1), float(stride)))
        return torch.cat(raw[::-1], 1), torch.cat(cells), torch.cat(anchors), torch.cat(strides)

    def compute_losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Sums over places, as DarkNet's, a mean over images: see :func:`place_losses`."""
        raw, cells, anchors, strides = self._answers(images)
        area = float(images.shape[-1] * images.shape[-2])
        each = [
            place_losses(r, cells, anchors, strides, t["boxes"], t["labels"], area)
            for r, t in zip(raw, targets, strict=True)
        ]
        return {name: torch.stack([e[name] for e in each]).mean() for name in each[0]}

    def detect(self, images: Tensor, size: tuple[int, int]) -> list[Target]:
        """Every class of every place whose score, objectness times class, is above 0.01, without doubles."""
        raw, cells, anchors, strides = self._answers(images)
        boxes = decode(raw[..., :4], cells, anchors, strides)
        scores = raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()
        return [
            finish_pairs(b, s, size, candidates=1000, iou=0.45, most=300, least=0.01)
            for b, s in zip(boxes, scores, strict=True)
        ]


def place_losses(
    raw: Tensor, cells: Tensor, anchors: Tensor, strides: Tensor, truth: Tensor, labels: Tensor, area: float
) -> dict[str, Tensor]:
    """The losses of one image.

    Each object is answered for by one place: the cell of its centre, with the anchor whose shape overlaps it best. That
    place learns box, objectness 1 and classes. Other places learn objectness 0, unless their anchor overlaps an object by
    more than 0.5. Centres are learnt by cross-entropy, sizes by squared error, small objects weigh more (as in DarkNet, 2
    minus the share of the image); objectness and classes by cross-entropy.

    Args:
        raw: (places, 5 + classes): centre, size, objectness, classes.
        cells: (places, 2).
        anchors: (places, 2).
        strides: (places, 1).
        truth: (objects, 4) in pixels.
        labels: (objects,).
        area: of the image, in pixels.
    """
    wanted = torch.zeros(len(raw), device=raw.device)
    counted = torch.ones_like(wanted)
    entropy = F.binary_cross_entropy_with_logits
    place = _places(cells, anchors, strides, truth)
    if len(truth):
        middle = (cells + 0.5) * strides
        priors = torch.cat([middle - anchors / 2, middle + anchors / 2], 1)
        counted[(box_iou(priors, truth) > IGNORE).any(1)] = 0
        wanted[place] = 1
        counted[place] = 1
    answer, at = raw[place], (cells[place], anchors[place], strides[place])
    goal = encode(truth, *at)
    sides = truth[:, 2:] - truth[:, :2]
    weight = (2 - sides.prod(1) / area)[:, None]
    classes = F.one_hot(labels, raw.shape[1] - 5).float()
    return {
        "centre": (weight * entropy(answer[:, :2], goal[:, :2], reduction="none")).sum(),
        "size": (weight * (answer[:, 2:4] - goal[:, 2:]) ** 2 / 2).sum(),
        "objectness": (counted * entropy(raw[:, 4], wanted, reduction="none")).sum(),
        "classes": entropy(answer[:, 5:], classes, reduction="sum"),
    }


def _places(cells: Tensor, anchors: Tensor, strides: Tensor, truth: Tensor) -> Tensor:
    """The index of the place that answers for each object."""
    if not len(truth):
        return torch.zeros(0, dtype=torch.long, device=truth.device)
    middle, sides = (truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]
    common = torch.minimum(sides[:, None], anchors[None]).prod(-1)
    shape = common / (sides.prod(1)[:, None] + anchors.prod(1)[None] - common)
    own = ((middle[:, None] / strides[None]).floor() == cells[None]).all(-1)
    # An object has its own cell at every level; of the places there, the one with the best anchor.
    return shape.masked_fill(~own, -1).argmax(1)


def _conv(inputs: int, outputs: int, kernel: int) -> ConvNorm:
    return ConvNorm(inputs, outputs, kernel, act=nn.LeakyReLU(0.1, inplace=True))


def _five(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, width, 1),
        _conv(width, 2 * width, 3),
        _conv(2 * width, width, 1),
        _conv(width, 2 * width, 3),
        _conv(2 * width, width, 1),
    )


def yolov3(classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """YOLOv3 on DarkNet-53, or a tiny one."""
    if size == "published":
        return YOLOv3(Maps("darknet53.c2ns_in1k", (3, 4, 5), weights), classes, (128, 256, 512))
    return YOLOv3(tiny_maps(weights), classes, (32, 48, 64), _TINY_ANCHORS)
