"""Windows of images, of one size wherever the image ends."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["window_of"]

Array = np.ndarray[Any, Any]


def window_of(values: Array, row: int, column: int, side: int, fill: int | None) -> Array:
    """A square of ``side`` pixels; what it has beyond the image is ``fill``, or a mirror of the image where that is None."""
    part = values[..., row : row + side, column : column + side]
    missing = side - part.shape[-2], side - part.shape[-1]
    if not any(missing):
        return np.ascontiguousarray(part)
    pad = [(0, 0)] * (part.ndim - 2) + [(0, missing[0]), (0, missing[1])]
    if fill is not None:
        return np.pad(part, pad, constant_values=fill)
    return np.pad(part, pad, mode="symmetric")
