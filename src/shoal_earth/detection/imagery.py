"""Source images of any size and type, decoded once from top to bottom in strips.

Which bands: the colours red, green and blue where the file says which they are, else its first three; of fewer than three the
first. Transparency is no band, palettes become colours. Pixels keep their type; :func:`to_rgb` turns them into 8-bit colours.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.grids import reason

__all__ = ["EXTENSIONS", "ImageError", "Probe", "Source", "on_map", "options", "probe", "quiet", "starts", "to_rgb"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".jp2", ".bmp")
# By what a file begins with, since names lie. All hold their pixels themselves; a VRT, say, could name files elsewhere.
_DRIVERS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"BM": "BMP",
}
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    # By default a JPEG that ends early is filled with grey.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,
    "GDAL_CACHEMAX": 128 * 2**20,
    "GDAL_PAM_ENABLED": "NO",
}
WHOLE_BYTES = 64 * 2**20
"""Larger images are decoded strip by strip."""
STRIP_BYTES = 2**31
"""An image too wide for this is refused: a header can promise anything."""
Array = np.ndarray[Any, Any]


class ImageError(Exception):
    """An image cannot be opened or decoded; the text says why."""


def options() -> Any:
    """GDAL's options for images; they hold for one thread."""
    return rasterio.Env(**_OPTIONS)


def starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of the windows that cover a length; the last is moved back to end with it."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


@contextmanager
def quiet() -> Iterator[None]:
    """GDAL's options for images, set once around many of them, and no warnings about images without a place on earth."""
    with options(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)
        yield


@dataclass(frozen=True)
class Probe:
    """What a file says about itself without being decoded."""

    width: int
    height: int
    bands: int
    dtype: str
    crs: str | None
    transform: tuple[float, ...] | None


def probe(path: Path) -> Probe:
    """Size, type and place of an image.

    Raises:
        ImageError: it cannot be opened.
    """
    with _open(path) as dataset:
        own = dataset.transform
        return Probe(
            dataset.width,
            dataset.height,
            dataset.count,
            str(dataset.dtypes[0]),
            _crs(dataset),
            None if own.is_identity else tuple(own)[:6],
        )


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            begin = file.read(8)
        driver = next((driver for magic, driver in _DRIVERS.items() if begin.startswith(magic)), None)
        if driver is None:
            raise ImageError("is empty" if not begin else "is no PNG, JPEG, TIFF, JPEG 2000 or BMP")
        return rasterio.open(path, driver=driver)
    except (RasterioError, OSError) as error:
        raise ImageError(reason(error).replace(str(path), path.name)) from None


def _png_is_whole(path: Path) -> bool:
    """Whether a PNG reaches its end mark, from chunk to chunk. GDAL fills what is missing of a cut one, and says nothing."""
    with path.open("rb", buffering=0) as file:
        at = 8
        while len(head := os.pread(file.fileno(), 8, at)) == 8:
            if head[4:] == b"IEND":
                return True
            # Contents, and their checksum, which GDAL looks at.
            at += 8 + int.from_bytes(head[:4], "big") + 4
    return False


def _crs(dataset: Any) -> str | None:
    if dataset.crs is None:
        return None
    try:
        code = dataset.crs.to_epsg()
    except CRSError:
        code = None
    return f"EPSG:{code}" if code else str(dataset.crs.to_wkt())


class Source:
    """An open image; use it in a ``with`` block, inside :func:`quiet`.

    Args:
        path: the file.
        bands: which to read, from 1; by the rule of this module by default.

    Raises:
        ImageError: it cannot be opened, or is of complex numbers.
        UsageError: it has no such band.
    """

    def __init__(self, path: Path, bands: Sequence[int] | None = None) -> None:
        self.path = path
        self._file = _open(path)
        # Looked at after the first read. Before it, chips of the last image are still cut in another thread, and each of the many
        # small reads would wait for the interpreter.
        self._may_be_cut = self._file.driver == "PNG"
        self.width, self.height = int(self._file.width), int(self._file.height)
        self.nodata = self._file.nodata
        self._palette: Array | None = None
        kinds = self._file.colorinterp
        if np.dtype(self._file.dtypes[0]).kind == "c":
            self._file.close()
            raise ImageError("its pixels are complex numbers")
        if bands is not None:
            if max(bands) > self._file.count or min(bands) < 1 or len(bands) not in (1, 3):
                count = self._file.count
                self._file.close()
                raise UsageError(
                    f"{path}: has {count} band(s), so bands {','.join(map(str, bands))} cannot be read",
                    hint="Name one band or three, counted from 1.",
                )
            self.bands = list(bands)
        elif kinds[0] == ColorInterp.palette:
            self.bands = [1]
            table = np.zeros((256, 3), np.uint8)
            for value, colour in self._file.colormap(1).items():
                if value < 256:
                    table[value] = colour[:3]
            self._palette = table
        else:
            plain = [number for number, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
            colours = [kinds.index(c) + 1 for c in (ColorInterp.red, ColorInterp.green, ColorInterp.blue) if c in kinds]
            plain = plain or [1]
            self.bands = colours if len(colours) == 3 else plain[:3] if len(plain) >= 3 else plain[:1]
        self.count = 3 if self._palette is not None else len(self.bands)
        self.dtype = str(np.dtype("uint8") if self._palette is not None else np.dtype(self._file.dtypes[0]))

    def rows(self, top: int, bottom: int, into: Array | None = None) -> Array:
        """Rows ``top`` to ``bottom - 1``, shape (bands, rows, width); written to ``into`` if that is given.

        Raises:
            ImageError: the file is damaged or ends there.
        """
        return self.window(0, top, self.width, bottom - top, into)

    def window(self, left: int, top: int, width: int, height: int, into: Array | None = None) -> Array:
        """A window, shape (bands, height, width); see :meth:`rows`."""
        out = into if self._palette is None else None
        try:
            values: Array = self._file.read(self.bands, window=Window(left, top, width, height), out=out)
        except (RasterioError, OSError) as error:
            raise ImageError(reason(error).replace(str(self.path), self.path.name)) from None
        if self._may_be_cut and not _png_is_whole(self.path):
            raise ImageError("the file ends early")
        self._may_be_cut = False
        if self._palette is None:
            return values
        coloured: Array = self._palette[values[0]].transpose(2, 0, 1)
        return coloured

    @property
    def whole(self) -> bool:
        """Whether it is small enough to be read in one go."""
        return self.width * self.height * self.count * np.dtype(self.dtype).itemsize <= WHOLE_BYTES

    def strips(self, size: int, tops: Sequence[int], into: Array | None = None) -> Iterator[tuple[int, Array]]:
        """From each of ``tops`` on ``size`` rows (fewer if the image has fewer); every row is read once, all of them in the end.

        An image of up to ``WHOLE_BYTES`` is read in one go, which some formats decode much faster, and into memory that is
        given, if it is; of a larger one no more than two strips are held.
        """
        row = self.width * self.count * np.dtype(self.dtype).itemsize
        if row * min(size, self.height) > STRIP_BYTES:
            raise ImageError(f"is {self.width} pixels wide: {size} rows of it would take {row * size / 2**30:.0f} GiB")
        if self.whole:
            whole = self.rows(0, self.height, into)
            yield from ((top, whole[:, top : top + size]) for top in tops)
            return
        held = np.empty((self.count, 0, self.width), self.dtype)
        bottom = 0
        for top in tops:
            end = min(top + size, self.height)
            if end > bottom:
                more = self.rows(bottom, end)
                keep = max(0, bottom - top)
                held = np.concatenate([held[:, held.shape[1] - keep :], more], 1) if keep else more
                bottom = end
            yield top, held[:, -(end - top) :]
        if bottom < self.height:
            self.rows(bottom, self.height)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def on_map(transform: Sequence[float], columns: Array, rows: Array) -> tuple[Array, Array]:
    """Where pixels lie by the six coefficients of an affine transform: x, y."""
    a, b, c, d, e, f = transform[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f


def to_rgb(values: Array, low: float | None = None, high: float | None = None) -> Array:
    """Pixels (1 or 3, height, width) as 8-bit colours (3, height, width).

    8-bit pixels stay as they are; others are brought from ``low``..``high`` to 0..255 and clipped, NaN becomes 0. A single band
    becomes grey.
    """
    if values.dtype != np.uint8 or low is not None:
        bottom = 0.0 if low is None else low
        top = (float(np.iinfo(values.dtype).max) if values.dtype.kind in "ui" else 1.0) if high is None else high
        scaled = (values.astype(np.float32) - np.float32(bottom)) * np.float32(255 / max(top - bottom, 1e-12))
        values = np.rint(np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255)).astype(np.uint8)
    return np.repeat(values, 3, 0) if len(values) == 1 else values
