"""Boxes drawn on a chip, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal_earth.rasters.output import publish

__all__ = ["draw_boxes"]


def draw_boxes(
    path: Path,
    image: np.ndarray[Any, Any],
    boxes: np.ndarray[Any, Any],
    colours: Sequence[tuple[int, int, int]],
    *,
    scale: int = 1,
) -> None:
    """Write a PNG of an image with its boxes, the last ones on top.

    Args:
        path: where to.
        image: uint8 (3, height, width).
        boxes: (n, 4) left, top, right, bottom.
        colours: of each box.
        scale: pixels of the picture for one of the image.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    # A report shows a picture as small as 170 pixels: a line must still be one there.
    thick = max(2, round(max(picture.size) / 128))
    for box, colour in zip(boxes, colours, strict=True):
        corners = [float(value) * scale for value in box]
        corners[2], corners[3] = max(corners[2] - 1, corners[0]), max(corners[3] - 1, corners[1])
        draw.rectangle(corners, outline=colour, width=thick)
    with publish(path) as temporary:
        picture.save(temporary, format="PNG")
