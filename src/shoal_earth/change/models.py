"""Models of change by name, each for pairs stacked as (n, 2 x bands, height, width)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from shoal.errors import UsageError
from shoal_earth.change.changeformer import TINY, V6, ChangeFormer
from shoal_earth.change.published import to_our_names
from shoal_earth.change.siamese import BIT, FCSiam, Siamese
from shoal_earth.segmentation.networks import build_network
from shoal_earth.training.weights import adapt, read_state

__all__ = ["CHANGE_MODELS", "build_change_model", "default_encoder", "is_change_model"]

CHANGE_MODELS = ("changeformer", "changeformer-tiny", "fc-siam-conc", "fc-siam-diff", "bit")
"""By name; besides these, ``siam-`` and any architecture of segmentation_models_pytorch, such as ``siam-unet``."""

_ENCODERS = {"bit": "tu-resnet18", "siam": "resnet34"}


def is_change_model(name: str) -> bool:
    """Whether a model of this name takes pairs."""
    return name in CHANGE_MODELS or name.startswith("siam-")


def build_change_model(
    name: str,
    encoder: str | None,
    *,
    bands: int,
    classes: int,
    weights: str | None = None,
    depth: int | None = None,
    width: int | None = None,
) -> nn.Module:
    """A model of change.

    Args:
        name: one of :data:`CHANGE_MODELS`, or ``siam-`` and an architecture.
        encoder: of ``bit`` (any of timm's convolutional ones that can be dilated) and ``siam-...`` (as for segmentation); others
            have their own.
        bands: of one image.
        classes: of the labels.
        weights: None for a random start; ``imagenet`` or the like for the encoder of ``bit`` and ``siam-...``, from its hub; or
            a file or folder: of a training here, or as published with ChangeFormer, for the whole model or its encoder.
        depth: stages of the encoder of ``siam-...``.
        width: channels of the decoder (``changeformer``: 256, ``fc-siam-...``: of its first level, 16, ``bit``: of its tokens,
            32, ``siam-...``: at its widest).

    Raises:
        UsageError: there is no such model or weight, or they do not go together.
    """
    if not is_change_model(name):
        raise UsageError(
            f'there is no model of change "{name}"',
            hint=f"Choose one of: {', '.join(CHANGE_MODELS)}; or siam-unet, siam-fpn and the like.",
        )
    place = Path(weights) if weights and _is_place(weights) else None
    hub = weights if weights and place is None else None
    siamese = name.startswith("siam-")
    if (encoder and not siamese and name != "bit") or (depth and not siamese):
        raise UsageError(f"{name} has no choice of {'encoder' if encoder else 'depth'}", hint="Leave that option out.")
    if hub and not siamese and name != "bit":
        raise UsageError(
            f'there are no weights "{hub}" for {name} in any library\'s hub',
            hint="Fetch those its authors published, or use a training of your own, and name the file: --weights FILE.pt. "
            "Or start from random weights: --weights none.",
        )
    model: nn.Module
    if siamese:
        size: dict[str, Any] = {"depth": depth, "width": width}
        model = Siamese(
            build_network(
                name.removeprefix("siam-"),
                encoder or _ENCODERS["siam"],
                bands=bands,
                classes=classes,
                weights=hub,
                **size,
            )
        )
    elif name == "bit":
        model = _bit(encoder or _ENCODERS["bit"], bands, classes, hub, width)
    elif name.startswith("fc-siam"):
        model = FCSiam(bands, classes, difference=name.endswith("diff"), width=width or 16)
    else:
        sizes = TINY if name.endswith("tiny") else V6
        model = ChangeFormer(bands, classes, sizes if width is None else replace(sizes, embed=width))
    if place is not None:
        _fill(model, place, name)
    return model


def default_encoder(name: str) -> str | None:
    """The encoder of a model of change that has a choice and was given none."""
    return _ENCODERS.get(name.partition("-")[0])


def _is_place(weights: str) -> bool:
    return Path(weights).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors") or "/" in weights


def _bit(encoder: str, bands: int, classes: int, hub: str | None, width: int | None) -> BIT:
    import timm

    from shoal_earth.training.weights import missing

    name = encoder.removeprefix("tu-")
    try:
        # To the stage at 1/16 without the last one, dilated so that it is at 1/8.
        net = timm.create_model(
            name, pretrained=hub is not None, features_only=True, in_chans=bands, output_stride=8, out_indices=(3,)
        )
    except Exception as error:  # of network, hub, cache, and encoders that are not made for this
        if hub:
            raise missing(name, f"timm/{name}", error) from None
        text = str(error).strip().strip("'\"").splitlines() or [type(error).__name__]
        raise UsageError(f"bit with encoder {encoder} cannot be built: {text[0][:300]}") from None
    info: Any = net.feature_info
    return BIT(net, info.channels()[-1], classes, width=width or 32)


def _fill(model: nn.Module, place: Path, name: str) -> None:
    """Load what fits: all of the model, or all of its encoder; layers for other bands or classes are adapted or left."""
    if place.is_dir():
        found = [place / file for file in ("best.pt", "model.safetensors", "pytorch_model.bin")]
        place = next((file for file in found if file.is_file()), place / found[0].name)
    if not place.is_file():
        raise UsageError(
            f"{place}: there is no such file of weights",
            hint="Name a checkpoint of a training here (best.pt), or weights that were published for this model.",
        )
    state = to_our_names(read_state(place))
    own = model.state_dict()
    if not own.keys() & state.keys():
        # The encoder alone, as libraries keep it.
        within = "network.encoder." if isinstance(model, Siamese) else "encoder."
        state = {within + (key if within + key in own else key.removeprefix("model.")): v for key, v in state.items()}
    fitting = {key: adapt(value, own[key]) for key, value in state.items() if key in own}
    usable = {key: value for key, value in fitting.items() if value is not None}
    encoder = {key for key in own if key.startswith(("encoder.", "network.encoder.", "down."))}
    if absent := sorted(key for key in encoder - usable.keys() if not key.endswith("num_batches_tracked")):
        raise UsageError(
            f"{place}: are not weights of {name}: {len(absent)} of its encoder's {len(encoder)} tensors are not there or have "
            f"another shape, e.g. {absent[0]}",
            hint="Was the file made for another model, or another width or depth?",
        )
    model.load_state_dict(usable, strict=False)
