"""Where pretrained weights come from: the libraries' hubs, or a folder of files that were fetched where there is network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.errors import UsageError

__all__ = ["Weights", "adapt", "fill", "missing", "read_state", "timm_model"]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Weights:
    """A place of pretrained weights.

    Args:
        folder: with files or folders of weights; None asks the libraries' hubs and their local caches.
    """

    folder: Path | None = None

    def find(self, *names: str) -> Path:
        """The file, or folder, of one of these names (without suffix) in the folder.

        Raises:
            UsageError: there is none; says what should be there.
        """
        assert self.folder is not None
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder}: there is no such folder of weights")
        for name in names:
            for path in (self.folder / name, *(self.folder / f"{name}{suffix}" for suffix in _SUFFIXES)):
                if path.exists():
                    return path
        raise UsageError(
            f"{self.folder}: has no weights named {' or '.join(names)}",
            hint=f"Put {names[0]}.safetensors (or {', '.join(_SUFFIXES[1:])}) there; "
            "the guides say where each comes from. Or train from a random start: --pretrained none.",
        )


def missing(what: str, source: str, error: BaseException) -> UsageError:
    """The error for weights that a hub did not give."""
    text = str(error).strip()
    reason = text.splitlines()[0][:200] if text else type(error).__name__
    return UsageError(
        f"the pretrained weights of {what} ({source}) cannot be had: {reason}",
        hint="Run once where there is network (they stay in the cache), name a folder that holds them (--pretrained DIR), "
        "or train from a random start (--pretrained none).",
    )


def timm_model(name: str, weights: Weights | None, **options: Any) -> Any:
    """A model of timm with weights from its hub or, by its full name (``swin_tiny_patch4_window7_224.ms_in1k``), from the folder.

    Raises:
        UsageError: the weights cannot be had.
    """
    import timm

    if weights is None:
        return timm.create_model(name.partition(".")[0], pretrained=False, **options)
    if weights.folder is not None:
        path = weights.find(name, name.partition(".")[0])
        if path.is_dir():
            path = Weights(path).find("model", "pytorch_model")
        options["pretrained_cfg_overlay"] = {"file": str(path)}
    try:
        return timm.create_model(name, pretrained=True, **options)
    except UsageError:
        raise
    except Exception as error:  # of network, hub, cache and file formats: a dozen kinds
        raise missing(name, f"timm/{name}", error) from None


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of weights, whatever wraps them.

    Raises:
        UsageError: it cannot be read as weights.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error).strip()
        reason = text.splitlines()[0][:200] if text else type(error).__name__
        raise UsageError(f"{path}: cannot be read as weights: {reason}") from None
    for key in ("state_dict", "model", "ema"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UsageError(f"{path}: holds no state of a model")
    return dict(content)


def adapt(value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """A tensor as a model needs it in place of its ``own``; None where it does not fit.

    A first layer for other bands is averaged over its own, so that as much comes out of it as before.
    """
    if value.shape == own.shape:
        return value
    if value.ndim == own.ndim == 4 and value.shape[0] == own.shape[0] and value.shape[2:] == own.shape[2:]:
        mean = value.float().mean(1, keepdim=True).expand_as(own)
        return (mean * value.shape[1] / own.shape[1]).to(own.dtype)
    return None


def fill(
    module: nn.Module, state: Mapping[str, torch.Tensor], origin: str, *, renew: tuple[str, ...] = ()
) -> list[str]:
    """Load a published state into a module, apart from layers made for another number of classes.

    Args:
        module: what to fill.
        state: by name.
        origin: of the state, for errors.
        renew: parts of names that may differ in shape or be absent; these keep their random start.

    Returns:
        The names that were left as they are.

    Raises:
        UsageError: anything else does not fit.
    """
    own = module.state_dict()
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    left = sorted(own.keys() - fits.keys())
    wrong = [n for n in left if not any(part in n for part in renew) and not n.endswith("num_batches_tracked")]
    if wrong:
        raise UsageError(f"{origin}: does not fit the model: {len(wrong)} of {len(own)} tensors, first {wrong[0]}")
    module.load_state_dict(fits, strict=False)
    return left
