"""Boxes drawn on a chip, to be looked at."""

from __future__ import annotations

import colorsys
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
    labels: Sequence[int],
    names: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    difficult: Sequence[bool] | None = None,
    colours: Sequence[tuple[int, int, int]] | None = None,
    scale: int = 1,
) -> None:
    """Write a PNG of an image with its boxes.

    Args:
        path: where to.
        image: uint8 (3, height, width).
        boxes: (n, 4) left, top, right, bottom.
        labels: class of each, an index into ``names``.
        names: of the classes.
        scores: written beside the class.
        difficult: drawn thin and without a name.
        colours: of each box, which then has no name; without them each class has its own.
        scale: pixels of the picture for one of the image.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    # A report shows a picture as small as 170 pixels: a line must still be one there.
    thick = max(2, round(max(picture.size) / 128))
    for number, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        # Steps of the golden ratio: neighbouring classes get colours far apart.
        red, green, blue = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.9, 1)
        colour = (int(red * 255), int(green * 255), int(blue * 255)) if colours is None else colours[number]
        corners = [float(value) * scale for value in box]
        corners[2], corners[3] = max(corners[2] - 1, corners[0]), max(corners[3] - 1, corners[1])
        faint = difficult is not None and bool(difficult[number])
        draw.rectangle(corners, outline=colour, width=1 if faint else thick)
        if not faint and colours is None:
            text = names[label] if scores is None else f"{names[label]} {scores[number]:.2f}"
            place = (corners[0] + 2, max(corners[1] - 11, 0))
            draw.rectangle(draw.textbbox(place, text), fill=(0, 0, 0))
            draw.text(place, text, fill=colour)
    with publish(path) as temporary:
        picture.save(temporary, format="PNG")
