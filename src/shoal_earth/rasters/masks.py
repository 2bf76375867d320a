"""The scene classification: its classes by name, which of them hide the ground, and Landsat's quality bits in its terms."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np

__all__ = ["CLOUD", "HIDDEN", "SCL", "landsat_to_scl", "mask"]


class SCL(IntEnum):
    """Sentinel-2's scene classification."""

    NODATA = 0
    SATURATED = 1
    DARK = 2
    SHADOW = 3
    VEGETATION = 4
    BARE = 5
    WATER = 6
    UNCLASSIFIED = 7
    CLOUD_MEDIUM = 8
    CLOUD_HIGH = 9
    CIRRUS = 10
    SNOW = 11


CLOUD = (SCL.CLOUD_MEDIUM, SCL.CLOUD_HIGH, SCL.CIRRUS)
"""Clouds themselves: what a scene's cloud share counts."""

HIDDEN = (SCL.SHADOW, SCL.UNCLASSIFIED, SCL.CLOUD_MEDIUM, SCL.CLOUD_HIGH, SCL.CIRRUS)
"""Where the ground is not seen as it is: what labels ignore (3, 7, 8, 9, 10)."""


def mask(classes: np.ndarray[Any, Any], which: Iterable[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a classification (in SCL's numbers) is one of these classes."""
    # A comparison for each class is several times as fast as a look-up for each pixel.
    found = np.zeros(classes.shape, np.bool_)
    for number in which:
        found |= classes == int(number)
    return found


def landsat_to_scl(quality: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Landsat Collection 2's ``QA_PIXEL`` in SCL's numbers.

    Clear land becomes BARE: these bits do not tell vegetation from bare ground. Where several bits are set, the one that hides
    most wins: fill, cloud, dilated cloud, cirrus, shadow, snow, water.
    """
    bits = quality.astype(np.uint16)
    result = np.full(bits.shape, SCL.BARE, np.uint8)
    # From the weakest claim to the strongest: later lines overwrite earlier ones.
    for bit, number in (
        (7, SCL.WATER),
        (5, SCL.SNOW),
        (4, SCL.SHADOW),
        (2, SCL.CIRRUS),
        (1, SCL.CLOUD_MEDIUM),
        (3, SCL.CLOUD_HIGH),
        (0, SCL.NODATA),
    ):
        result[(bits >> bit) & 1 == 1] = number
    return result
