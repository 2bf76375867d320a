"""Files written whole or not at all: rasters as cloud-optimised GeoTIFF, polygons as GeoPackage, text."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from shoal.errors import ShoalError
from shoal_earth.rasters.grids import Grid, reason

__all__ = [
    "WriteError",
    "publish",
    "write_cog",
    "write_error",
    "write_polygons",
    "write_text",
    "write_tiles",
    "writing",
]

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file may not grow further",
}


class WriteError(ShoalError):
    """A file could not be written; what was begun has been removed."""


def write_error(path: Path, error: BaseException, left: str = "Nothing was left there.") -> WriteError:
    """Why ``path`` could not be written, in words; ``left`` says what is there now."""
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    text = _FULL.get(number) or (error.strerror if isinstance(error, OSError) and error.strerror else reason(error))
    # GDAL, libtiff and SQLite each have words of their own for it.
    if "disk is full" in str(error) and number not in _FULL:
        text = _FULL[errno.ENOSPC]
    elif number not in _FULL and _is_full(path):
        text = f"{_FULL[errno.ENOSPC]} ({text})"
    elif "rite error" in text:
        text = f"{text} (probably the disk is full)"
    return WriteError(f"{path}: cannot be written: {text}", hint=f"{left} Make room, then run it again.")


def _is_full(path: Path) -> bool:
    """Whether the disk of a file, or of the nearest folder above it that exists, has less than a block or two left."""
    there = next((place for place in (path, *path.absolute().parents) if place.exists()), None)
    return there is not None and shutil.disk_usage(there).free < 2**16


@cache
def _hush() -> None:
    """Take libtiff's own voice: whatever GDAL is told, it prints a line for each failed write, beside the error that is raised.

    It is asked in the library that is loaded, where the system tells which (Linux); elsewhere the lines stay.
    """
    with suppress(OSError, AttributeError):
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libtiff" in line}
        for path in loaded:
            silence = ctypes.CDLL(path).TIFFSetErrorHandler
            silence.argtypes, silence.restype = [ctypes.c_void_p], ctypes.c_void_p
            silence(None)


@contextmanager
def writing(path: Path, left: str = "Nothing was left there.") -> Iterator[None]:
    """Raise what goes wrong in the block as WriteError about ``path``; ``left`` says what is there then."""
    _hush()
    try:
        # Outside of an environment of rasterio GDAL prints what went wrong, line by line, beside the message raised here.
        with rasterio.Env():
            yield
    except (OSError, RasterioError, CPLE_BaseError) as error:  # closing and copying raise GDAL's own errors as they are
        raise write_error(path, error, left) from None


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which becomes ``path`` when the block ends well and is removed when it does not.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    # The suffix stays last, since drivers go by it.
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    for suffix in ("", ".aux.xml", ".ovr", ".msk", ".ovr.tmp", ".msk.ovr.tmp", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_cog(
    path: Path,
    grid: Grid,
    blocks: Iterable[tuple[Window, np.ndarray[Any, Any]]],
    *,
    bands: Sequence[str],
    dtype: str,
    nodata: float | None,
    overviews: str = "average",
    tags: dict[str, str] | None = None,
) -> None:
    """Write a cloud-optimised GeoTIFF block by block; memory does not grow with the raster.

    What was written is read back and compared before the file gets its name, since a full disk does not always raise an error.

    Args:
        path: where to.
        grid: of the raster.
        blocks: windows that cover the grid, with values of shape (bands, height, width).
        bands: their names.
        dtype: of the values.
        nodata: value that means nothing.
        overviews: how smaller pictures are made: ``average``, or ``mode`` for classes.
        tags: facts to store in the file.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    with publish(path) as temporary:
        plain = temporary.with_name(f".{path.stem}.tiles.part{path.suffix}")
        try:
            written = write_tiles(plain, grid, blocks, bands=bands, dtype=dtype, nodata=nodata, tags=tags)
            rasterio.shutil.copy(
                plain,
                temporary,
                driver="COG",
                compress="DEFLATE",
                level="1",
                predictor="YES",
                blocksize="512",
                overview_resampling=overviews,
                bigtiff="IF_SAFER",
            )
            with rasterio.open(temporary) as copy:
                if any(_crc(copy.read(window=window)) != crc for window, crc in written):
                    raise OSError(errno.EIO, "what was read back is not what was written; the disk is probably full")
        finally:
            _remove(plain)


def write_tiles(
    path: Path,
    grid: Grid,
    blocks: Iterable[tuple[Window, np.ndarray[Any, Any]]],
    *,
    bands: Sequence[str],
    dtype: str,
    nodata: float | None,
    tags: dict[str, str] | None = None,
) -> list[tuple[Window, int]]:
    """Write a plain tiled GeoTIFF that is only a step to something else; it gets its name at once.

    Returns:
        The windows with the checksum of what they should hold.

    Raises:
        OSError: the disk has no room for it, which is known before anything is written.
    """
    profile = {
        "driver": "GTiff",
        "count": len(bands),
        "height": grid.height,
        "width": grid.width,
        "dtype": dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "bigtiff": "IF_SAFER",
    }
    # Better told now than after an hour of predictions.
    if shutil.disk_usage(path.parent).free < grid.height * grid.width * len(bands) * np.dtype(dtype).itemsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    written: list[tuple[Window, int]] = []
    with rasterio.open(path, "w", **profile) as target:
        for number, name in enumerate(bands, 1):
            target.set_band_description(number, name)
        target.update_tags(**(tags or {}))
        for window, values in blocks:
            target.write(values, window=window)
            written.append((window, _crc(values)))
    return written


def _crc(values: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def write_polygons(path: Path, frame: Any) -> None:
    """Write a GeoDataFrame as GeoPackage, the same bytes for the same polygons.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    import pyogrio  # type: ignore[import-untyped]

    with publish(path) as temporary:
        # GeoPackages record when they were written.
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"})
        try:
            frame.to_file(temporary, driver="GPKG", layer=path.stem, engine="pyogrio")
        except (OSError, RuntimeError) as error:
            raise write_error(path, error) from None
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
