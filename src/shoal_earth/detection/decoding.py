"""Source images decoded one after the other, from top to bottom, in parts as large as their cutting needs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal_earth.detection.form import Image
from shoal_earth.detection.imagery import ImageError, Source, options, starts
from shoal_earth.rasters.rooms import Rooms

__all__ = ["Part", "Pixels", "decode"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pixels:
    """What there is to know of an image's pixels before the first of them."""

    bands: list[int]
    count: int
    dtype: str
    nodata: float | None


@dataclass(frozen=True)
class Part:
    """What is decoded in one go.

    Args:
        pixels: of the image.
        strips: first row, and rows (bands, rows, width); of a small image all of them.
        last: whether the image ends here.
    """

    pixels: Pixels
    strips: list[tuple[int, Array]]
    last: bool = False


def decode(
    images: Sequence[Image], size: int, overlap: int, bands: Sequence[int] | None
) -> Generator[Part | ImageError, None, None]:
    """Of each image its parts, up to the last one or to an error.

    Args:
        images: whose files are read, in this order.
        size: rows of a strip.
        overlap: rows that neighbouring strips share.
        bands: see :class:`imagery.Source`.
    """
    rooms = Rooms()
    with options():
        for image in images:
            try:
                with Source(image.path, bands) as source:
                    if (source.width, source.height) != (image.width, image.height):
                        raise ImageError("has another size than when its labels were read")
                    pixels = Pixels(source.bands, source.count, source.dtype, source.nodata)
                    tops = starts(image.height, size, overlap)
                    # A small one as one item, so that the next image is decoded while all of this one is cut.
                    if source.whole:
                        shape = source.count, source.height, source.width
                        strips = list(source.strips(size, tops, into=rooms.array(shape, np.dtype(source.dtype))))
                        yield Part(pixels, strips, last=True)
                        del strips  # its memory is that of a later image
                    else:
                        yield from (Part(pixels, [strip]) for strip in source.strips(size, tops))
                        yield Part(pixels, [], last=True)
            except ImageError as error:
                yield error
