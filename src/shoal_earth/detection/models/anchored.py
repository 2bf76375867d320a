"""Faster R-CNN, RetinaNet and FCOS: torchvision's detectors on pyramids over timm's backbones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import MultiScaleRoIAlign

from shoal_earth.detection.models.detector import Detector, Target, finish
from shoal_earth.detection.models.pyramid import Maps, Pyramid, ViTPyramid, tiny_maps
from shoal_earth.training.weights import Weights

__all__ = ["TorchvisionDetector", "faster_rcnn", "fcos", "retinanet", "vit_retinanet"]

_MOST = 300


class _AsGiven(nn.Module):
    """Stands in for torchvision's resizing: images come normalised and padded, and keep their size."""

    def __init__(self) -> None:
        super().__init__()
        self.size: tuple[int, int] | None = None

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        size = self.size or (images.shape[-2], images.shape[-1])
        return ImageList(images, [size] * len(images)), targets

    def postprocess(self, result: Any, sizes: Any, originals: Any) -> Any:
        return result


# What boxes are made of. Under autocast torchvision makes and tells them apart in the type of the feature maps, and bf16 has
# only every second pixel from 256 on: boxes would be rounded to it, and where classes or levels are set apart by a distance, for
# doubles to be found in one go, to some dozen pixels.
_GRIDS = (AnchorGenerator, DefaultBoxGenerator)
_HEADS = (RPNHead, FastRCNNPredictor, RetinaNetHead, FCOSHead, SSDHead)


def _single_grid(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Maps of the same shapes in single precision, without any memory: their shapes and type are all that is looked at."""
    images, maps = given
    return images, [m.new_empty((), dtype=torch.float32).expand(m.shape) for m in maps]


def _single(module: nn.Module, given: Any, answer: Any) -> Any:
    """A head's answer, whatever holds it, in single precision."""
    if isinstance(answer, Tensor):
        return answer.float()
    if isinstance(answer, dict):
        return {name: _single(module, given, value) for name, value in answer.items()}
    return type(answer)(_single(module, given, value) for value in answer)


class TorchvisionDetector(Detector):
    """One of torchvision's detectors behind the common interface. Its boxes are in single precision, whatever it runs in.

    Args:
        model: the detector; its own resizing and normalisation are taken out.
        classes: how many.
        background: its class 0 is the background.
        multiple: of pixels that its backbone needs.
    """

    def __init__(self, model: nn.Module, classes: int, *, background: bool, multiple: int = 32) -> None:
        super().__init__(classes, multiple=multiple)
        self.given = _AsGiven()
        model.transform = self.given
        self.model, self.shift = model, int(background)
        for part in model.modules():
            if isinstance(part, _GRIDS):
                part.register_forward_pre_hook(_single_grid)
            elif isinstance(part, _HEADS):
                part.register_forward_hook(_single)

    def compute_losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Torchvision's losses, unweighted, as it sums them."""
        self.given.size = None
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + self.shift} for t in targets]
        parts: dict[str, Tensor] = self.model(images, shifted)
        return {name.removeprefix("loss_"): value for name, value in parts.items()}

    def detect(self, images: Tensor, size: tuple[int, int]) -> list[Target]:
        """Torchvision's detections, labels from 0."""
        self.given.size = size
        found = self.model(images)
        return [
            finish(f["boxes"], f["scores"], f["labels"] - self.shift, size, iou=None, most=_MOST, least=0.0)
            for f in found
        ]


def _anchors(sizes: list[int], scales: int = 1) -> AnchorGenerator:
    """Three ratios and, from each size on, ``scales`` sizes within an octave."""
    own = tuple(tuple(round(size * 2 ** (n / scales)) for n in range(scales)) for size in sizes)
    return AnchorGenerator(own, ((0.5, 1.0, 2.0),) * len(sizes))


def faster_rcnn(backbone: str, classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017).

    Published: ConvNeXt-T or Swin-T, pyramid of 256 channels at strides 4 to 64, anchors of 32 to 512 pixels.
    Tiny: three levels at strides 8 to 32 with anchors of 16 to 64 pixels.
    """
    swin = backbone == "swin"
    if size == "published":
        name = "swin_tiny_patch4_window7_224.ms_in1k" if swin else "convnext_tiny.fb_in1k"
        options: dict[str, Any] = (
            {"img_size": image_size, "strict_img_size": False, "drop_path_rate": 0.2} if swin else {}
        )
        options = options or {"drop_path_rate": 0.4}
        maps = Maps(name, (0, 1, 2, 3), weights, norm=True, options=options)
        model = FasterRCNN(
            Pyramid(maps, extra="pool"),
            classes + 1,
            rpn_anchor_generator=_anchors([32, 64, 128, 256, 512]),
            box_detections_per_img=_MOST,
        )
        return TorchvisionDetector(model, classes, background=True)
    if swin:
        name = "swin_tiny_patch4_window7_224"
        options = {
            "img_size": image_size,
            "strict_img_size": False,
            "embed_dim": 32,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 4, 8),
            "window_size": 4,
            "drop_path_rate": 0.0,
        }
    else:
        name, options = "convnext_atto", {"depths": (1, 1, 2, 1), "dims": (24, 48, 96, 128), "drop_path_rate": 0.0}
    maps = Maps(name, (1, 2, 3), weights, norm=True, options=options)
    pool = MultiScaleRoIAlign(["0", "1"], output_size=5, sampling_ratio=1)
    wide = 64
    model = FasterRCNN(
        Pyramid(maps, wide),
        None,
        rpn_anchor_generator=_anchors([16, 32, 64]),
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=64,
        box_roi_pool=pool,
        box_head=TwoMLPHead(wide * 25, 128),
        box_predictor=FastRCNNPredictor(128, classes + 1),
        box_detections_per_img=100,
    )
    return TorchvisionDetector(model, classes, background=True)


def retinanet(classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """RetinaNet (Lin et al. 2017): focal loss, nine anchors a place. Published on ResNeXt-101 64x4d, strides 8 to 128."""
    if size == "published":
        maps = Maps("resnext101_64x4d.tv_in1k", (2, 3, 4), weights)
        return _retinanet(Pyramid(maps, extra="input"), classes, [32, 64, 128, 256, 512])
    return _retinanet(Pyramid(tiny_maps(weights), 64), classes, [16, 32, 64], norm=True)


def vit_retinanet(classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """RetinaNet on a plain ViT-B/16 with the simple feature pyramid of ViTDet."""
    if size == "published":
        name = "vit_base_patch16_224.augreg_in21k_ft_in1k"
        pyramid = ViTPyramid(name, weights, image_size=image_size, options={"drop_path_rate": 0.1})
        return _retinanet(pyramid, classes, [32, 64, 128, 256, 512])
    options = {"patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3}
    pyramid = ViTPyramid(
        "vit_tiny_patch16_224",
        weights,
        channels=64,
        image_size=image_size,
        scales=(1, 0.5, 0.25),
        extra=False,
        options=options,
    )
    # Early convolutions (Xiao et al. 2021, arXiv 2106.14881) learn in minutes what patches alone need days for.
    pyramid.body.patch_embed.proj = nn.Sequential(
        *_half(3, 24), *_half(24, 48), *_half(48, 96), nn.Conv2d(96, options["embed_dim"], 1)
    )
    return _retinanet(pyramid, classes, [16, 32, 64], norm=True)


def _half(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _retinanet(pyramid: Pyramid | ViTPyramid, classes: int, sizes: list[int], *, norm: bool = False) -> Detector:
    """RetinaNet on a pyramid; with group norm in its heads, as FCOS has, it learns from a random start far sooner."""
    anchors = _anchors(sizes, 3)
    group = partial(nn.GroupNorm, 8) if norm else None
    head = RetinaNetHead(pyramid.out_channels, anchors.num_anchors_per_location()[0], classes, norm_layer=group)
    model = RetinaNet(
        pyramid, classes, anchor_generator=anchors, head=head, detections_per_img=_MOST, score_thresh=0.05
    )
    return TorchvisionDetector(model, classes, background=False)


def fcos(classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """FCOS (Tian et al. 2019): no anchors, centre-ness, heads with group norm. Published on ResNeXt-101 64x4d."""
    if size == "published":
        maps = Maps("resnext101_64x4d.tv_in1k", (2, 3, 4), weights)
        pyramid, strides = Pyramid(maps, extra="output"), [8, 16, 32, 64, 128]
    else:
        pyramid, strides = Pyramid(tiny_maps(weights), 64), [8, 16, 32]
    model = FCOS(
        pyramid,
        classes,
        anchor_generator=AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides)),
        score_thresh=0.05,
        detections_per_img=_MOST,
    )
    return TorchvisionDetector(model, classes, background=False)
