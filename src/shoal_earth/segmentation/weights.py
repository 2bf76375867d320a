"""Pretrained weights of encoders: from the model hub, or from a folder where they were put before."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import UsageError
from shoal_earth.rasters.output import publish
from shoal_earth.segmentation.networks import check_encoder, fill

__all__ = ["choose_weights", "save_encoder"]

_SUFFIXES = (".safetensors", ".pth", ".pt")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def choose_weights(
    encoder: str | None, weights: str = "none", pretrained: str = "false", folder: Path | None = None
) -> str | None:
    """What an encoder starts from: None for random weights, the name of weights on the hub, or a file.

    Args:
        encoder: name; by default ResNet-50.
        weights: ``none``, a name such as ``imagenet``, or a file.
        pretrained: ``true`` or ``false``, as an axis of a study has it; true is the same as ``imagenet``.
        folder: where the weights of encoders lie as ``<encoder>.safetensors``; without it named weights come from the hub or
            its cache.

    Raises:
        UsageError: weights were asked for that are not there. A random start never stands in for them.
    """
    if pretrained.lower() not in _WORDS:
        raise UsageError(f'--pretrained is true or false, not "{pretrained}"')
    if _WORDS[pretrained.lower()] and weights == "none":
        weights = "imagenet"
    if weights == "none":
        return None
    if Path(weights).suffix in _SUFFIXES or folder is None:
        return weights
    name = encoder or "resnet50"
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return str(folder / f"{name}{suffix}")
    raise UsageError(
        f"{folder}: has no weights of the encoder {name} ({name}.safetensors)",
        hint=f"Where there is network: shoal-earth segmentation weights --encoder {name} --out DIR; then copy the file there.",
    )


def save_encoder(encoder: str, folder: Path, *, source: str = "imagenet", seed: int = 0) -> Path:
    """Write the weights of an encoder for images of three bands to ``<folder>/<encoder>.safetensors``.

    Args:
        encoder: of segmentation_models_pytorch, or ``tu-`` and a timm model.
        folder: where to.
        source: name of weights on the hub; a file of the encoder's weights; or ``random``: no knowledge at all, only to try a
            study out.
        seed: of random weights.

    Raises:
        UsageError: there is no such encoder, or its weights cannot be fetched.
        WriteError: the disk is full.
    """
    import segmentation_models_pytorch as smp
    import torch
    from safetensors.torch import save_file

    check_encoder(encoder)
    torch.manual_seed(seed)
    file = Path(source) if Path(source).suffix in _SUFFIXES else None
    try:
        model = smp.encoders.get_encoder(encoder, in_channels=3, weights=None if file or source == "random" else source)
    except Exception as error:
        reason = str(error).strip().strip("'\"").splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UsageError(
            f'the weights "{source}" of {encoder} cannot be had: {reason}',
            hint="They come from the model hub or its cache: run this where there is network, or name a file of them.",
        ) from None
    if file:
        fill(model, file, encoder)
    path = folder / f"{encoder}.safetensors"
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with publish(path) as temporary:
        save_file(state, str(temporary), metadata={"encoder": encoder, "source": source})
    return path
