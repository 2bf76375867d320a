"""Published datasets as chips: read from their own files with the interface of shards, or turned into shards."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from shoal.errors import UsageError
from shoal_earth.change import cabuar
from shoal_earth.change.layouts import Dataset, Entry, find_dataset
from shoal_earth.change.windows import window_of
from shoal_earth.rasters.grids import reason
from shoal_earth.rasters.labels import FOREGROUND, IGNORE
from shoal_earth.rasters.shards import INDEX, ShardReader, ShardWriter
from shoal_earth.rasters.statistics import BandStatistics

__all__ = ["FolderReader", "convert", "open_chips"]

Array = np.ndarray[Any, Any]


def open_chips(folder: Path) -> ShardReader | FolderReader:
    """Chips in shards, or a published dataset in its own layout (see :mod:`shoal_earth.change.layouts`).

    Raises:
        UsageError: it is neither, or damaged.
    """
    if (folder / INDEX).exists():
        return ShardReader(folder)
    return FolderReader(folder)


class FolderReader:
    """A published dataset with the interface of :class:`shoal_earth.rasters.shards.ShardReader`.

    Images larger than a window are cut into windows that do not overlap; what a window has beyond the image is a mirror of it,
    and its label is to be ignored. 8-bit pictures are scaled from 0..255 to -1..1, others by percentiles of the training part.

    Args:
        folder: of the dataset.

    Raises:
        UsageError: it is none, a file is missing or unreadable, or the files of a pair differ in size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset: Dataset = find_dataset(folder)
        if not self.dataset.entries:
            raise UsageError(f"{folder}: the dataset has no images")
        labels = [_read((entry.label,))[0] for entry in self.dataset.entries]
        self._meaning = self.dataset.labels or _meaning(folder, labels)
        side = min(self.dataset.side, max(max(label.shape) for label in labels))
        self.chips: list[dict[str, Any]] = []
        self._places: list[tuple[Entry, int, int]] = []
        scenes = []
        for entry, label in zip(self.dataset.entries, labels, strict=True):
            known = self._relabel(label, entry.label)
            size = _size(entry)
            if size != label.shape:
                raise UsageError(
                    f"{entry.label}: has {label.shape[1]} x {label.shape[0]} pixels, but {entry.dates[0][0]} "
                    f"{size[1]} x {size[0]}"
                )
            area = self.dataset.resolution
            scenes.append({"name": entry.key} | ({"pixel_hectares": area**2 / 10_000} if area else {}))
            for row in range(0, label.shape[0], side):
                for column in range(0, label.shape[1], side):
                    share = round(float((known[row : row + side, column : column + side] == FOREGROUND).mean()), 6)
                    key = f"{entry.key}-{row:06d}-{column:06d}"
                    place = {"scene": entry.key, "group": entry.key, "row": row, "column": column}
                    self.chips.append({"key": key, "split": entry.split, **place, "share": share})
                    self._places.append((entry, row, column))
        sample = self._image(self.dataset.entries[0])
        self.index: dict[str, Any] = {
            "classes": ["background", self.dataset.foreground],
            "ignore": IGNORE,
            "size": side,
            "stride": side,
            "resolution": self.dataset.resolution,
            "bands": len(sample),
            "dates": len(self.dataset.entries[0].dates),
            "dtype": sample.dtype.name,
            "dataset": self.dataset.name,
            "scale": self._scale(sample),
            "scenes": scenes,
        }

    def read(self, position: int, kind: str) -> Array:
        """One array of one chip, e.g. ``read(3, "image")``."""
        entry, row, column = self._places[position]
        side = int(self.index["size"])
        if kind == "label":
            values = self._relabel(_cached((entry.label,))[0], entry.label)
            return window_of(values, row, column, side, IGNORE)
        image = self._image(entry)
        if len(image) != self.index["bands"]:
            raise UsageError(f"{entry.dates[0][0]}: has other bands than {self.dataset.entries[0].dates[0][0]}")
        return window_of(image, row, column, side, None)

    def close(self) -> None:
        """Nothing is kept open."""

    def _image(self, entry: Entry) -> Array:
        dates = [_cached(date) for date in entry.dates]
        if len({date.shape for date in dates}) > 1:
            sizes = " and ".join(f"{d.shape[2]} x {d.shape[1]} of {len(d)} band(s)" for d in dates)
            raise UsageError(f"{entry.dates[1][0]}: differs from {entry.dates[0][0]}: {sizes}")
        return np.concatenate(dates)

    def _relabel(self, label: Array, path: Path) -> Array:
        table = np.full(65_536, -1, np.int16)
        for value, meaning in self._meaning.items():
            table[value % 65_536] = meaning
        result = table[label.astype(np.int64) % 65_536]
        if (result < 0).any():
            odd = int(label[result < 0][0])
            raise UsageError(f"{path}: has the value {odd}, which means nothing in a label of {self.dataset.name}")
        return result.astype(np.uint8)

    def _scale(self, sample: Array) -> list[dict[str, float]]:
        if sample.dtype == np.uint8:
            return [{"low": 0.0, "high": 255.0, "mean": 0.5, "std": 0.5}] * len(sample)
        dates = len(self.dataset.entries[0].dates)
        statistics = BandStatistics(len(sample) // dates, sample.dtype.name)
        for entry in self.dataset.entries:
            if entry.split == "train":
                for date in np.split(self._image(entry), dates):
                    statistics.add(date.reshape(len(date), -1))
        return statistics.scale() * dates


def _meaning(folder: Path, labels: list[Array]) -> dict[int, int]:
    """What the values of labels mean, where a dataset does not say so: 255 is change beside 0 alone, and else to be ignored."""
    found: set[int] = set()
    for label in labels:
        found |= {int(value) for value in np.unique(label)}
    if found <= {0, 255}:
        return {0: 0, 255: FOREGROUND}
    if found <= {0, 1, 2, 255}:
        return {0: 0, 1: FOREGROUND, 2: IGNORE, 255: IGNORE}
    values = ", ".join(map(str, sorted(found)[:6]))
    raise UsageError(
        f"{folder / 'label'}: labels hold the values {values}...",
        hint="They should be 0 and 1 (2 or 255 to ignore), or 0 and 255.",
    )


def _size(entry: Entry) -> tuple[int, int]:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(entry.dates[0][0]) as file:
                return int(file.height), int(file.width)
    except RasterioError as error:
        raise UsageError(f"{entry.dates[0][0]}: cannot be read as an image: {reason(error)}") from None


def _read(files: tuple[Path, ...]) -> Array:
    """All bands of files that lie on each other, (bands, height, width)."""
    import warnings

    parts: list[Array] = []
    for path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(path) as file:
                    parts.append(file.read())
        except RasterioError as error:
            raise UsageError(f"{path}: cannot be read as an image: {reason(error)}") from None
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            raise UsageError(f"{path}: has another size than {files[0]}")
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def _cached(files: tuple[Path, ...]) -> Array:
    return _read(files)


def convert(folder: Path, out: Path) -> Counter[str]:
    """Turn a published dataset into shards, of which a chip is read in a millisecond.

    Returns:
        How many chips each split has.

    Raises:
        UsageError: see :class:`FolderReader`, and :func:`cabuar.convert` for files of HDF5.
    """
    if files := cabuar.files_of(folder):
        return cabuar.convert(files, out)
    reader = FolderReader(folder)
    counts: Counter[str] = Counter()
    with ShardWriter(out) as writer:
        for position, chip in enumerate(reader.chips):
            arrays = {kind: reader.read(position, kind) for kind in ("image", "label")}
            facts = {key: chip[key] for key in ("scene", "group", "row", "column", "share")}
            writer.add(chip["split"], chip["key"], arrays, **facts)
            counts[chip["split"]] += 1
        writer.close(**reader.index)
    return counts
