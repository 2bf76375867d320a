"""DETR and those that followed it, from transformers, built from their configurations.

What the library leaves out when a model starts at random is put right here: batch norms that learn, DETR's weights that start
as its authors', the initial bias and zero boxes of the heads, heads of their own for each layer where boxes are refined, and the
loss of Deformable DETR's first stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from shoal_earth.detection.models.blocks import start_rare
from shoal_earth.detection.models.detector import Detector, Target, finish_pairs
from shoal_earth.detection.models.detr_sizes import CONFIGS, configuration
from shoal_earth.detection.models.pyramid import hold_batch_norm
from shoal_earth.training.weights import Weights, missing

__all__ = ["TransformersDetector", "build"]

_MOST = 300
_CLASS_HEADS = ("class_embed", "enc_score_head", "enc_out_class_embed")
_BOX_HEADS = ("bbox_predictor", "bbox_embed", "enc_bbox_head", "enc_out_bbox_embed", "pre_bbox_head")


@dataclass(frozen=True)
class _Kind:
    """What differs between them.

    Args:
        model: class of transformers.
        hub: published checkpoint of the whole detector.
        softmax: classes exclude each other, the last is "nothing"; otherwise each has a sigmoid of its own.
    """

    model: str
    hub: str
    softmax: bool = False


KINDS = {
    "detr": _Kind("DetrForObjectDetection", "facebook/detr-resnet-50", softmax=True),
    "deformable-detr": _Kind("DeformableDetrForObjectDetection", "SenseTime/deformable-detr-with-box-refine-two-stage"),
    "rtdetrv2": _Kind("RTDetrV2ForObjectDetection", "PekingU/rtdetr_v2_r50vd"),
    "dfine": _Kind("DFineForObjectDetection", "ustc-community/dfine-large-coco"),
    "rfdetr": _Kind("RfDetrForObjectDetection", "Roboflow/rf-detr-base"),
}


class TransformersDetector(Detector):
    """One of transformers' detectors behind the common interface.

    Args:
        model: the detector.
        classes: how many.
        softmax: see :class:`_Kind`.
        multiple: of pixels that it needs.
        pretrained: its backbone's batch norms keep their statistics.
        content: (queries, channels) with which the queries begin; zeros by default, as in DETR.
    """

    def __init__(
        self,
        model: Any,
        classes: int,
        *,
        softmax: bool,
        multiple: int,
        pretrained: bool,
        content: Tensor | None = None,
    ) -> None:
        super().__init__(classes, multiple=multiple)
        self.content = None if content is None else nn.Parameter(content)
        model.loss_function = _in_float(model.loss_function)
        self.model, self.softmax, self.pretrained = model, softmax, pretrained
        self.train()

    def train(self, mode: bool = True) -> TransformersDetector:
        """As any module, but a pretrained backbone's batch norms keep their statistics."""
        super().train(mode)
        if self.pretrained:
            hold_batch_norm(self.model.model.backbone)
        return self

    def compute_losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The matched losses, weighted, each summed over layers, denoising and the first stage."""
        high, wide = images.shape[-2:]
        size = images.new_tensor([wide, high, wide, high], dtype=torch.float32)
        labels = [
            {"class_labels": t["labels"], "boxes": box_convert(t["boxes"], "xyxy", "cxcywh") / size} for t in targets
        ]
        output = self._answer(images, labels=labels)
        config = self.model.config
        weights = {
            word: getattr(config, f"{key}_loss_coefficient", 1.0)
            for word, key in (("ce", "class"), ("bbox", "bbox"), ("giou", "giou"))
        }
        found = dict(output.loss_dict)
        if getattr(config, "two_stage", False):
            found |= _first_stage(output, labels, config)
        parts: dict[str, Tensor] = {}
        for name, value in found.items():
            if name.startswith("loss_"):
                word = name.split("_")[1]
                value = value.float() * weights.get(word, 1.0)
                parts[word] = parts[word] + value if word in parts else value
        unused = getattr(self.model.model, "denoising_class_embed", None)
        if unused is not None and "ce" not in parts:
            # Without boxes there is nothing to denoise, but DistributedDataParallel waits for every gradient.
            parts["vfl"] = parts["vfl"] + 0.0 * unused.weight.sum()
        return parts

    def _answer(self, images: Tensor, **given: Any) -> Any:
        if self.content is not None:
            given["decoder_inputs_embeds"] = self.content.expand(len(images), -1, -1)
        return self.model(pixel_values=images, **given)

    def detect(self, images: Tensor, size: tuple[int, int]) -> list[Target]:
        """The best pairs of query and class."""
        output = self._answer(images)
        high, wide = images.shape[-2:]
        boxes = box_convert(output.pred_boxes.float(), "cxcywh", "xyxy")
        boxes = boxes * boxes.new_tensor([wide, high, wide, high])
        logits = output.logits.float()
        scores = logits.softmax(-1)[..., :-1] if self.softmax else logits.sigmoid()
        scores = scores[..., : self.classes]
        return [
            finish_pairs(b, s, size, candidates=_MOST, iou=None, most=_MOST, least=0.001)
            for b, s in zip(boxes, scores, strict=True)
        ]


def _in_float(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Costs and losses in single precision, whatever the network runs in."""

    def call(*args: Any, **kwargs: Any) -> Any:
        def up(value: Any) -> Any:
            return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

        device = next(a.device for a in args if isinstance(a, Tensor))
        with torch.autocast(device.type, enabled=False):
            return loss(*(up(a) for a in args), **{k: up(v) for k, v in kwargs.items()})

    return call


class _Single:
    """A head of boxes in single precision, whatever the network runs in: bf16 has every second pixel of a chip's right half."""

    def forward(self, *given: Tensor) -> Tensor:
        with torch.autocast(given[0].device.type, enabled=False):
            answer: Tensor = super().forward(*(value.float() for value in given))  # type: ignore[misc]
            return answer


def _single_boxes(model: nn.Module) -> None:
    """Let the heads of boxes be :class:`_Single` ones. Another class, so that names of parameters and copies stay right."""
    for path, part in model.named_modules():
        if not isinstance(part, nn.ModuleList) and any(word in _BOX_HEADS for word in path.split(".")[-2:]):
            part.__class__ = type(type(part).__name__, (_Single, type(part)), {})


def _first_stage(output: Any, labels: list[dict[str, Tensor]], config: Any) -> dict[str, Tensor]:
    """The loss of Deformable DETR's proposals (appendix A.4 of arXiv 2010.04159): any object against nothing."""
    from transformers.loss import loss_deformable_detr

    library: Any = loss_deformable_detr
    matcher = library.DeformableDetrHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    criterion = library.DeformableDetrImageLoss(matcher, config.num_labels, config.focal_alpha, ["labels", "boxes"])
    objects = [{**label, "class_labels": torch.zeros_like(label["class_labels"])} for label in labels]
    logits, boxes = output.enc_outputs_class.float(), output.enc_outputs_coord_logits.float().sigmoid()
    with torch.autocast(logits.device.type, enabled=False):
        found: dict[str, Tensor] = criterion({"logits": logits, "pred_boxes": boxes}, objects)
    return {f"{name}_proposals": value for name, value in found.items()}


def build(name: str, classes: int, size: str, image_size: int, weights: Weights | None) -> Detector:
    """A detector of :data:`KINDS`."""
    import transformers

    kind = KINDS[name]
    model_class = getattr(transformers, kind.model)
    quiet: Any = transformers.utils.logging
    before = quiet.get_verbosity()
    quiet.set_verbosity_error()
    try:
        if weights is None:
            model = model_class(configuration(name, classes, size, image_size))
            _wake(model, name)
        else:
            model = _published(model_class, name, kind, classes, image_size, weights)
    finally:
        quiet.set_verbosity(before)
    for part, parameter in model.named_parameters():
        # Never used in detection: it would keep DistributedDataParallel waiting.
        if part.endswith("mask_token"):
            parameter.requires_grad_(False)
    content = _to_places(model) if name == "detr" and size == "tiny" else None
    _single_boxes(model)
    multiple = CONFIGS[name].multiple if size == "published" else CONFIGS[name].tiny_multiple
    return TransformersDetector(
        model,
        classes,
        softmax=kind.softmax,
        multiple=multiple,
        pretrained=weights is not None,
        content=content,
    )


def _published(model_class: Any, name: str, kind: _Kind, classes: int, image_size: int, weights: Weights) -> Any:
    """The checkpoint with heads for our classes; these, and only these, start at random."""
    own = configuration(name, classes, "published", image_size)
    source: Any = kind.hub
    if weights.folder is not None:
        source = weights.find(name, kind.hub.replace("/", "--"), kind.hub.rpartition("/")[2])
    try:
        model, report = model_class.from_pretrained(
            source, config=own, ignore_mismatched_sizes=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # of network, hub, cache and file formats: a dozen kinds
        raise missing(name, str(source), error) from None
    absent = _own_heads(model, set(report["missing_keys"]))
    heads = (*_CLASS_HEADS, "class_labels_classifier", "denoising_class_embed")
    wrong = [
        key for key in [*absent, *(key for key, *_ in report["mismatched_keys"])] if not any(h in key for h in heads)
    ]
    if wrong := [key for key in wrong if not key.endswith("num_batches_tracked")]:
        raise missing(name, str(source), ValueError(f"it does not fit the model: {sorted(wrong)[0]}"))
    _thaw(model.model.backbone)
    _start_classes(model)
    return model


def _wake(model: Any, name: str) -> None:
    """Put right what would keep a randomly started model from learning."""
    _own_heads(model)
    _thaw(model.model.backbone)
    for part in model.modules():
        # Some are started near zero, for checkpoints to overwrite.
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    for parameter in model.model.backbone.parameters():
        parameter.requires_grad_(True)
    if name == "detr":
        _widen(model)
    _start_classes(model)
    if name == "deformable-detr":
        for head in model.bbox_embed:
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)


def _own_heads(model: Any, absent: set[str] | frozenset[str] = frozenset()) -> set[str]:
    """Where boxes are refined each layer has heads of its own (arXiv 2010.04159, A.4), which decoder and model share.

    Args:
        model: of transformers.
        absent: names that a checkpoint lacked. It may hold shared heads under either name.

    Returns:
        The names that are still absent.
    """
    decoder = getattr(model.model, "decoder", None)
    for heads in ("class_embed", "bbox_embed"):
        if not isinstance(getattr(decoder, heads, None), nn.ModuleList):
            continue
        outer, inner = f"{heads}.", f"model.decoder.{heads}."
        if any(key.startswith(outer) for key in absent) and not any(key.startswith(inner) for key in absent):
            setattr(model, heads, getattr(decoder, heads))
            absent = {key for key in absent if not key.startswith(outer)}
        else:
            setattr(decoder, heads, getattr(model, heads))
            absent = {key for key in absent if not key.startswith(inner)}
    return set(absent)


def _widen(model: Any) -> None:
    """Start DETR's weights as its authors do (arXiv 2005.12872): Xavier in the transformer, PyTorch's own start elsewhere.

    The library starts all of them with a spread of 0.02, whatever their width. With 64 channels that is so little that what a
    query reads off the image is three hundredths of what it is, and for many epochs nothing of the image reaches the heads.
    """
    inner = model.model
    for part in (inner.encoder, inner.decoder):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
    for part in (inner.input_projection, inner.query_position_embeddings, model.class_labels_classifier):
        part.reset_parameters()
    for layer in model.bbox_predictor.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def _to_places(model: Any) -> Tensor:
    """Start DETR's queries at the places of a grid, where they look at first.

    From nowhere, they need hundreds of epochs to find out that attention can be a matter of place, and that the place of which a
    query speaks should be the one where it looks. So positions are coded finely enough for maps of some cells, and queries begin
    as the codes of these cells, in their first content too; queries and keys are compared alike, so that each sees a few cells
    around its own; and boxes are told from there (see :class:`_FromPlaces`). All of that is learnt further.

    Returns:
        The queries' first content, (queries, channels).
    """
    inner = model.model
    channels, count = inner.config.d_model, inner.config.num_queries
    side = math.isqrt(count)
    assert side * side == count
    coding = inner.position_embedding
    coding.temperature, coding.scale = 20, 3 * 2 * math.pi
    cells = torch.Size((1, channels, side, side))
    codes: Tensor = coding(shape=cells, device="cpu", dtype=torch.float32)[0].flatten(1).T.contiguous()
    with torch.no_grad():
        inner.query_position_embeddings.weight.copy_(codes)
        for layer in inner.decoder.layers:
            attention = layer.encoder_attn
            nn.init.orthogonal_(attention.q_proj.weight, gain=1.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
    model.bbox_predictor = _FromPlaces(model.bbox_predictor, side)
    return codes.clone()


class _FromPlaces(nn.Module):
    """A head of boxes in which each query has a bias of its own, at first the middle of its cell and two cells' size.

    Args:
        head: gives (..., queries, 4), before the sigmoid.
        side: of the grid of queries.
    """

    def __init__(self, head: Any, side: int) -> None:
        super().__init__()
        self.head = head
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
        line = (torch.arange(side) + 0.5) / side
        middles = torch.stack([line.repeat(side), line.repeat_interleave(side)], 1)
        self.places = nn.Parameter(torch.cat([middles, torch.full_like(middles, 2 / side)], 1).logit())

    def forward(self, states: Tensor) -> Tensor:
        """Boxes before the sigmoid: centre, width and height as shares of the image."""
        boxes: Tensor = self.head(states) + self.places
        return boxes


def _start_classes(model: Any) -> None:
    """Sigmoid heads begin by saying that an object is rare: one in a hundred."""
    for path, part in model.named_modules():
        words = path.split(".")
        if isinstance(part, nn.Linear) and any(w in _CLASS_HEADS for w in words[-2:]):
            start_rare(part.bias)


def _thaw(module: nn.Module) -> None:
    """Ordinary batch norms in place of the library's frozen ones, with their numbers."""
    for name, child in module.named_children():
        if type(child).__name__.endswith("FrozenBatchNorm2d"):
            frozen = dict(child.named_buffers())
            norm = nn.BatchNorm2d(len(frozen["weight"]), device=frozen["weight"].device)
            with torch.no_grad():
                for part in ("weight", "bias", "running_mean", "running_var"):
                    getattr(norm, part).copy_(frozen[part])
            setattr(module, name, norm)
        else:
            _thaw(child)
