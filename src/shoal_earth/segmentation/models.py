"""Segmentation models by name: any architecture and encoder of segmentation_models_pytorch."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.errors import UsageError
from shoal_earth.training.checkpoint import load_checkpoint

__all__ = ["build_model", "fill", "load_model"]


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
    from shoal_earth.change.models import CHANGE_MODELS, build_change_model, is_change_model

    if is_change_model(name):
        if dates != 2:
            raise UsageError(f"{name} compares two dates, but the chips show {dates}", hint="Cut chips from pairs.")
        size: dict[str, Any] = {"weights": weights, "depth": depth, "width": width}
        return build_change_model(name, encoder, bands=bands // 2, classes=classes, **size)
    import segmentation_models_pytorch as smp

    encoder = encoder or "resnet50"
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if name not in architectures:
        raise UsageError(
            f'there is no architecture "{name}"',
            hint=f"Choose one of: {', '.join(sorted(architectures))}; or of change: {', '.join(CHANGE_MODELS)}, siam-unet.",
        )
    accepted = inspect.signature(architectures[name]).parameters
    options: dict[str, Any] = {}
    if depth is not None:
        if "encoder_depth" not in accepted:
            raise UsageError(f"{name} has no choice of encoder depth")
        options["encoder_depth"] = depth
    stages = (
        int(options.get("encoder_depth") or accepted["encoder_depth"].default) if "encoder_depth" in accepted else 5
    )
    options |= _decoder(name, accepted, stages, width)
    file = Path(weights) if weights and Path(weights).suffix in (".pt", ".pth", ".safetensors") else None
    try:
        model: nn.Module = smp.create_model(
            name, encoder, encoder_weights=None if file else weights, in_channels=bands, classes=classes, **options
        )
    except Exception as error:
        reason = str(error).strip().strip("'\"").splitlines()[0][:300]
        if weights and not file:
            raise UsageError(
                f'the weights "{weights}" of {encoder} cannot be had: {reason}',
                hint="They come from the model hub or its cache: fetch them once where there is network, name a local file "
                "(--weights FILE.pth), or start from random weights (--weights none).",
            ) from None
        raise UsageError(f"{name} with encoder {encoder} cannot be built: {reason}") from None
    if depth is not None:
        _same_size(model, name, depth, bands)
    if file:
        fill(model.get_submodule("encoder"), file, encoder)
    return model


def _same_size(model: nn.Module, name: str, depth: int, bands: int) -> None:
    """Some decoders enlarge by a fixed factor that is right for the usual depth alone."""
    with torch.no_grad():
        answer = model.eval()(torch.zeros(1, bands, 64, 64))
    model.train()
    if answer.shape[-2:] != (64, 64):
        raise UsageError(
            f"{name} with an encoder of {depth} stages answers at {answer.shape[-1] / 64:g} times the image's size",
            hint="Leave --depth out for this model.",
        )


def _decoder(name: str, accepted: Any, stages: int, width: int | None) -> dict[str, Any]:
    """The options that give the decoder its width, whatever the architecture calls them."""
    default = accepted["decoder_channels"].default if "decoder_channels" in accepted else None
    if isinstance(default, (tuple, list)):
        if width is None and stages == len(default):
            return {}
        widest = width or default[0]
        return {"decoder_channels": tuple(max(16, widest // 2**stage) for stage in range(stages))}
    if width is None:
        return {}
    if default is not None:
        return {"decoder_channels": width}
    if "decoder_pyramid_channels" in accepted:
        return {"decoder_pyramid_channels": width, "decoder_segmentation_channels": max(32, width // 2)}
    if "decoder_segmentation_channels" in accepted:
        return {"decoder_segmentation_channels": width}
    raise UsageError(f"the width of {name}'s decoder cannot be chosen", hint="Leave --width out for this model.")


def fill(encoder: nn.Module, file: Path, name: str) -> None:
    """Read the weights of an encoder from a file.

    Raises:
        UsageError: it is missing, damaged, or of another encoder.
    """
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        read: Any = load_file
    else:
        read = lambda path: torch.load(path, map_location="cpu", weights_only=True)  # noqa: E731
    try:
        state = read(file)
        encoder.load_state_dict(state)
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such file of weights") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UsageError(f"{file}: are not weights of the encoder {name}: {reason}") from None


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in a checkpoint of ``shoal-earth segmentation train``, ready to predict, and its ``meta``.

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
    return model.eval(), meta
