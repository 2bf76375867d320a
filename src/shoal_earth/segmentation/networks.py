"""Networks of segmentation_models_pytorch: any of its architectures on any encoder, of any depth and width."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.errors import UsageError
from shoal_earth.training.weights import adapt, read_state

__all__ = ["build_network", "check_encoder", "fill"]


def build_network(
    name: str,
    encoder: str | None,
    *,
    bands: int,
    classes: int,
    weights: str | None = None,
    depth: int | None = None,
    width: int | None = None,
    others: str = "",
) -> nn.Module:
    """A network of one image: images (n, bands, height, width) to logits (n, classes, height, width).

    Args:
        name, encoder, bands, classes, weights, depth, width: as for :func:`shoal_earth.segmentation.models.build_model`.
        others: what to say is there besides, when there is no such architecture.

    Raises:
        UsageError: there is no such architecture, encoder or weight, or they do not go together.
    """
    import segmentation_models_pytorch as smp

    encoder = encoder or "resnet50"
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if name not in architectures:
        raise UsageError(
            f'there is no architecture "{name}"',
            hint=f"Choose one of: {', '.join(sorted(architectures))}{others}.",
        )
    check_encoder(encoder)
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


def check_encoder(name: str) -> None:
    """See to it that there is an encoder of this name.

    Raises:
        UsageError: there is none.
    """
    import difflib

    import segmentation_models_pytorch as smp
    import timm

    known = smp.encoders.get_encoder_names()
    own = name.removeprefix("tu-")
    if name in known or ":" in own or (own != name and timm.is_model(own)):
        return
    near = difflib.get_close_matches(own, [*known, *(f"tu-{one}" for one in timm.list_models())], 3)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(
        f'there is no encoder "{name}"',
        hint=f"Such as resnet50 or efficientnet-b0, or tu- and the name of a model of timm: tu-convnext_tiny.{meant}",
    )


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
    """Read the weights of an encoder from a file; a first layer for other bands is averaged, stages it has not are left out.

    Raises:
        UsageError: it is missing, damaged, or of another encoder.
    """
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file of weights")
    state, own = read_state(file), encoder.state_dict()
    usable = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    first = next((key for key, value in own.items() if value.ndim == 4), "")
    if first in state and first not in usable and (fitted := adapt(state[first], own[first])) is not None:
        usable[first] = fitted
    # More blocks in a stage that it has: of a deeper encoder of the same family.
    stages = {_stage(key) for key in own}
    beside = [key for key in state if key not in own and _stage(key) in stages]
    absent = [key for key in own if key not in usable and not key.endswith("num_batches_tracked")]
    if wrong := sorted([*absent, *beside]):
        raise UsageError(
            f"{file}: are not weights of the encoder {name}: {len(wrong)} tensors do not fit, e.g. {wrong[0]}",
            hint=f"Make such a file with: shoal-earth segmentation weights --encoder {name} --out DIR",
        )
    encoder.load_state_dict(usable, strict=False)


def _stage(key: str) -> str:
    """The part of an encoder that a tensor belongs to: ``layer1`` of ``model.layer1.0.conv1.weight``."""
    return next((part for part in key.split(".") if part != "model"), key)
