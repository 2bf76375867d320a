"""Segmentation models by name: networks of one image, and models of change for pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from shoal.errors import UsageError
from shoal_earth.change.models import CHANGE_MODELS, build_change_model, is_change_model
from shoal_earth.segmentation.networks import build_network
from shoal_earth.training.checkpoint import load_checkpoint

__all__ = ["build_model", "load_model"]


def build_model(
    name: str,
    encoder: str | None,
    *,
    bands: int,
    classes: int,
    dates: int = 1,
    weights: str | None = None,
    depth: int | None = None,
    width: int | None = None,
) -> nn.Module:
    """A segmentation model: images (n, bands, height, width) to logits (n, classes, height, width).

    Of two dates, an image is both, one after the other; models of change know that (see :mod:`shoal_earth.change.models`), and
    others take the pair for an image of twice the bands.

    Args:
        name: architecture, e.g. ``unet``, ``unetplusplus``, ``fpn``, ``linknet``, ``deeplabv3plus``, ``segformer``.
        encoder: of segmentation_models_pytorch, or ``tu-`` and the name of a timm model, e.g. ``tu-resnet10t``; by default
            ResNet-50, or what a model of change is made for.
        bands, classes: of the images (of both dates together) and of the labels.
        dates: that an image shows.
        weights: ``None`` for a random start; a name such as ``imagenet``, fetched from the model hub or its local cache; or a
            file with the encoder's state.
        depth: stages of the encoder; fewer are faster and see less far.
        width: channels of the decoder at its widest; the library's default is meant for a GPU.

    Raises:
        UsageError: there is no such architecture, encoder or weight, or they do not go together.
    """
    if is_change_model(name):
        if dates != 2:
            raise UsageError(f"{name} compares two dates, but the chips show {dates}", hint="Cut chips from pairs.")
        size: dict[str, Any] = {"weights": weights, "depth": depth, "width": width}
        return build_change_model(name, encoder, bands=bands // 2, classes=classes, **size)
    others = f"; or of change: {', '.join(CHANGE_MODELS)}, siam-unet"
    return build_network(
        name, encoder, bands=bands, classes=classes, weights=weights, depth=depth, width=width, others=others
    )


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in a checkpoint of ``shoal-earth segmentation train``, ready to predict, and its ``meta``.

    With ``metrics`` among it: what validation said of this state.

    Raises:
        UsageError: the file is missing, damaged, or holds another kind of model.
    """
    state = load_checkpoint(path)
    meta = state.get("meta") or {}
    if meta.get("kind") != "segmentation":
        raise UsageError(f"{path}: holds a {meta.get('kind') or 'foreign'} model, not a segmentation model")
    size = {"bands": meta["bands"], "classes": len(meta["classes"]), "depth": meta["depth"], "width": meta["width"]}
    model = build_model(meta["model"], meta["encoder"], dates=meta.get("dates", 1), **size)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise UsageError(f"{path}: its weights do not fit the model that it names: {reason}") from None
    return model.eval(), {**meta, "metrics": state.get("metrics") or {}}
