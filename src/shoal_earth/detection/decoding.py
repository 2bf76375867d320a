"""Source images decoded one after the other, from top to bottom, in parts as large as their cutting needs."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal_earth.detection.form import Image
from shoal_earth.detection.imagery import ImageError, Source, options, starts

__all__ = ["Buffers", "Part", "Pixels", "decode"]

Array = np.ndarray[Any, Any]


class Buffers:
    """Memory of images that have been cut, for those that are decoded next.

    New memory is handed out by the kernel page by page, which takes a tenth of the time of decoding a PNG. One thread may take
    while another gives back.
    """

    def __init__(self) -> None:
        self._free: list[Array] = []

    def take(self, shape: Sequence[int], dtype: str) -> Array:
        """An array with whatever was in it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        held = self._free.pop() if self._free else np.empty(0, np.uint8)
        if held.nbytes < size:
            held = np.empty(size, np.uint8)
        return held[:size].view(dtype).reshape(shape)

    def give(self, array: Array) -> None:
        """What :meth:`take` gave is not needed any more."""
        assert array.base is not None
        self._free.append(array.base)


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
        memory: what is to be given back to :class:`Buffers` when the strips have been used.
    """

    pixels: Pixels
    strips: list[tuple[int, Array]]
    last: bool = False
    memory: Array | None = None


def decode(
    images: Sequence[Image], size: int, overlap: int, bands: Sequence[int] | None, buffers: Buffers
) -> Generator[Part | ImageError, None, None]:
    """Of each image its parts, up to the last one or to an error.

    Args:
        images: whose files are read, in this order.
        size: rows of a strip.
        overlap: rows that neighbouring strips share.
        bands: see :class:`imagery.Source`.
        buffers: where memory is taken from; whoever uses the parts gives it back.
    """
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
                        memory = buffers.take((source.count, source.height, source.width), source.dtype)
                        strips = list(source.strips(size, tops, into=memory))
                        yield Part(pixels, strips, last=True, memory=memory)
                    else:
                        yield from (Part(pixels, [strip]) for strip in source.strips(size, tops))
                        yield Part(pixels, [], last=True)
            except ImageError as error:
                yield error
