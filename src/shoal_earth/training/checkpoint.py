"""Checkpoints: written whole or not at all, and read without running anything that is in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from shoal.errors import UsageError

__all__ = ["FORMAT", "find_checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to ``path`` so that a reader, now or after a crash, sees the old file or the new one.

    One process at a time may write a path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what a kill left behind is overwritten, not collected.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a file that :func:`save_checkpoint` wrote.

    Raises:
        UsageError: there is no such file, it is damaged, or something other than Shoal wrote it.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such checkpoint") from None
    except pickle.UnpicklingError:  # torch's own words advise to run what is in the file
        raise UsageError(
            f"{path}: cannot be read as a checkpoint: it is no file of PyTorch, or holds more than tensors and plain values",
            hint="Name a checkpoint of a training here, such as best.pt.",
        ) from None
    except Exception as error:  # torch raises a dozen kinds for a damaged or foreign file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"{path}: cannot be read as a checkpoint: {reason[:200]}",
            hint="It is damaged or not a file of shoal-earth: train again, or name another file.",
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path}: is not a checkpoint of this version of shoal-earth")
    return content


def find_checkpoint(trial: Path) -> Path:
    """The checkpoint that ``trial`` means: a file, or ``best.pt`` in the folder of a trial or of its output.

    Raises:
        UsageError: there is none.
    """
    if trial.is_file():
        return trial
    for candidate in (trial / "best.pt", trial / "out" / "best.pt"):
        if candidate.is_file():
            return candidate
    raise UsageError(
        f"{trial}: is neither a checkpoint nor the folder of a trial with best.pt",
        hint="Name a file such as out/best.pt, or the folder of a finished training task.",
    )
