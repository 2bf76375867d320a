"""Pictures of chips for the report: the image, the truth, and the prediction with its mistakes in colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shoal_earth.pictures import COLOURS

__all__ = ["save_panels"]

_SIDE = 256


def save_panels(
    folder: Path,
    image: np.ndarray[Any, Any],
    truth: np.ndarray[Any, Any],
    prediction: np.ndarray[Any, Any],
    ignore: int = 255,
    dates: int = 1,
) -> None:
    """Write ``input.png``, ``truth.png`` and ``prediction.png``; of two dates ``before.png`` and ``after.png`` for the first.

    Truth and prediction are drawn over the last date.

    Args:
        folder: of this sample.
        image: (bands, height, width), any scale: the first three bands, or one as grey.
        truth, prediction: class of each pixel (height, width); everything but class 0 is drawn as foreground.
        ignore: label that is drawn dark and counts for nothing.
        dates: whose bands follow each other in the image.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    bases = [_stretched(part) for part in np.split(image, dates)]
    counted = truth != ignore
    is_true, is_predicted = (truth != 0) & counted, (prediction != 0) & counted
    layers: dict[str, dict[str, Any]] = {
        **({"input": {}} if dates == 1 else {"before": {}, "after": {}}),
        "truth": {"truth": is_true},
        "prediction": {
            "hit": is_true & is_predicted,
            "false": ~is_true & is_predicted,
            "missed": is_true & ~is_predicted,
        },
    }

    def enlarge(where: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return where.repeat(factor, 0).repeat(factor, 1)

    factor = max(1, -(-_SIDE // truth.shape[0]))
    # The image is enlarged smoothly, the classes are not: their edges are the pixels that were decided on.
    size = (truth.shape[1] * factor, truth.shape[0] * factor)
    large = [
        np.asarray(Image.fromarray(base.round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC), np.float64)
        for base in bases
    ]
    for panel, parts in layers.items():
        drawn = large[0 if panel == "before" else -1].copy()
        for name, where in parts.items():
            drawn[enlarge(where)] = 0.5 * drawn[enlarge(where)] + 0.5 * np.array(COLOURS[name])
        drawn[enlarge(~counted)] *= 0.3
        Image.fromarray(drawn.round().astype(np.uint8)).save(folder / f"{panel}.png", optimize=True)


def _stretched(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Three bands, or one as grey, as (height, width, 3) from 0 to 255."""
    bands = image[:3] if image.shape[0] >= 3 else image[:1].repeat(3, 0)
    low, high = (np.percentile(bands, q, axis=(1, 2), keepdims=True) for q in (1, 99))
    result: np.ndarray[Any, Any] = np.moveaxis(np.clip((bands - low) / np.maximum(high - low, 1e-6), 0, 1) * 255, 0, -1)
    return result
