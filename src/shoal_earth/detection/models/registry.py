"""The detectors by name, and how one is built. Nothing heavy is imported before that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import UsageError

if TYPE_CHECKING:
    from shoal_earth.detection.models.detector import Detector

__all__ = ["DETECTORS", "PAPER", "SIZES", "Entry", "build_detector"]

SIZES = ("published", "tiny")
"""``tiny`` is for a CPU and chips of about 128 pixels; its weights always start at random."""

PAPER = ("convnext", "deformable-detr", "detr", "fcos", "retinanet", "ssd", "swin", "vit", "yolov3", "yolox")
"""The ten of arXiv 2411.12038."""


@dataclass(frozen=True)
class Entry:
    """A detector of the registry.

    Args:
        title: in words.
        family: ``cnn`` or ``transformer``.
        builder: ``module:function`` below this package, called with ``given``, classes, size, image size and weights.
        pretrained: what its published pretrained weights are, and where they come from.
        given: first arguments of the function.
    """

    title: str
    family: str
    builder: str
    pretrained: str
    given: tuple[Any, ...] = ()


DETECTORS: dict[str, Entry] = {
    "convnext": Entry(
        "ConvNeXt-T Faster R-CNN",
        "cnn",
        "anchored:faster_rcnn",
        "backbone on ImageNet-1k: timm/convnext_tiny.fb_in1k",
        ("convnext",),
    ),
    "swin": Entry(
        "Swin-T Faster R-CNN",
        "transformer",
        "anchored:faster_rcnn",
        "backbone on ImageNet-1k: timm/swin_tiny_patch4_window7_224.ms_in1k",
        ("swin",),
    ),
    "vit": Entry(
        "ViT-B/16 RetinaNet",
        "transformer",
        "anchored:vit_retinanet",
        "backbone on ImageNet-21k, then 1k: timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    ),
    "fcos": Entry(
        "FCOS ResNeXt-101 64x4d",
        "cnn",
        "anchored:fcos",
        "backbone on ImageNet-1k: timm/resnext101_64x4d.tv_in1k",
    ),
    "retinanet": Entry(
        "RetinaNet ResNeXt-101 64x4d",
        "cnn",
        "anchored:retinanet",
        "backbone on ImageNet-1k: timm/resnext101_64x4d.tv_in1k",
    ),
    "detr": Entry(
        "DETR R50",
        "transformer",
        "detr:build",
        "whole detector on COCO: transformers/facebook/detr-resnet-50; the class head starts at random",
        ("detr",),
    ),
    "deformable-detr": Entry(
        "Deformable DETR R50, two stages, refined boxes",
        "transformer",
        "detr:build",
        "whole detector on COCO: transformers/SenseTime/deformable-detr-with-box-refine-two-stage; class heads start at random",
        ("deformable-detr",),
    ),
    "rtdetrv2": Entry(
        "RT-DETRv2 R50",
        "transformer",
        "detr:build",
        "whole detector on COCO: transformers/PekingU/rtdetr_v2_r50vd; class heads start at random",
        ("rtdetrv2",),
    ),
    "dfine": Entry(
        "D-FINE L",
        "transformer",
        "detr:build",
        "whole detector on COCO: transformers/ustc-community/dfine-large-coco; class heads start at random",
        ("dfine",),
    ),
    "rfdetr": Entry(
        "RF-DETR base",
        "transformer",
        "detr:build",
        "whole detector on COCO: transformers/Roboflow/rf-detr-base; class heads start at random",
        ("rfdetr",),
    ),
    "ssd": Entry(
        "SSD512 VGG16",
        "cnn",
        "ssd:ssd",
        "backbone on ImageNet-1k: timm/vgg16.tv_in1k, fc6 and fc7 thinned out",
    ),
    "yolov3": Entry(
        "YOLOv3 DarkNet-53",
        "cnn",
        "yolov3:yolov3",
        "backbone on ImageNet-1k: timm/darknet53.c2ns_in1k",
    ),
    "yolox": Entry(
        "YOLOX-X",
        "cnn",
        "yolox:yolox",
        "whole detector on COCO: yolox_x.pth of its authors, through torch.hub; class heads start at random",
    ),
}
"""By name."""


def build_detector(
    name: str,
    classes: int,
    *,
    size: str = "published",
    image_size: int = 512,
    pretrained: str | Path | None = None,
) -> Detector:
    """A detector.

    Args:
        name: of :data:`DETECTORS`.
        classes: how many, without background.
        size: ``published`` or ``tiny``.
        image_size: side of the images it will mostly see, in pixels; others work as well.
        pretrained: ``"auto"`` for the published weights through the libraries' hubs (the whole detector where there is a
            checkpoint that fits, else its backbone: see ``Entry.pretrained``); a folder that holds them, to do without
            a network; None for a random start, which touches no network.

    Returns:
        An ``nn.Module``: see :class:`~shoal_earth.detection.models.detector.Detector`.

    Raises:
        UsageError: there is no such detector or size, or the weights cannot be had. It never starts at random instead.
    """
    entry = _entry(name)
    if size not in SIZES:
        raise UsageError(f'there is no size "{size}" of {name}', hint=f"Choose one of: {', '.join(SIZES)}.")
    if image_size < 64:
        raise UsageError(f"images of a detector have at least 64 pixels on a side, not {image_size}")
    if pretrained is not None and size != "published":
        raise UsageError(
            f"there are no pretrained weights of {name} in the size {size}", hint="Say --pretrained none with it."
        )
    weights = None
    if pretrained is not None:
        from shoal_earth.training.weights import Weights

        weights = Weights(None if pretrained == "auto" else Path(pretrained))
    module, _, function = entry.builder.partition(":")
    build: Callable[..., Detector] = getattr(import_module(f"shoal_earth.detection.models.{module}"), function)
    return build(*entry.given, classes, size, image_size, weights)


def _entry(name: str) -> Entry:
    if name not in DETECTORS:
        raise UsageError(f'there is no detector "{name}"', hint=f"Choose one of: {', '.join(DETECTORS)}.")
    return DETECTORS[name]
