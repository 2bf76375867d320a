"""Per-band statistics of training pixels, gathered in strips: exact for integers, from an even sample for floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.errors import UsageError

__all__ = ["BandStatistics", "normalise", "to_input"]

_SAMPLE = 2_000_000
_TOGETHER = 2**16


class BandStatistics:
    """Counts the values of each band and turns them into a scale.

    Args:
        bands: how many.
        dtype: type of the values.
    """

    def __init__(self, bands: int, dtype: str) -> None:
        self.bands, self.dtype = bands, np.dtype(dtype)
        self.exact = self.dtype.kind in "ui" and self.dtype.itemsize <= 2
        self.lowest = int(np.iinfo(self.dtype).min) if self.exact else 0
        size = 2 ** (8 * self.dtype.itemsize) if self.exact else 0
        self._counts = np.zeros((bands, size), np.int64)
        self._waiting: list[np.ndarray[Any, Any]] = []
        self._pixels = 0
        self.sample: list[np.ndarray[Any, Any]] = []
        self.kept, self.every = 0, 1

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Take in pixels, shape (bands, ...)."""
        if self.exact and values.size:
            # A call costs as much as counting some thousand pixels, so those of several chips are counted together.
            self._waiting.append(np.array(values).reshape(self.bands, -1))
            self._pixels += self._waiting[-1].shape[1]
            if self._pixels >= _TOGETHER:
                self._count()
        if self.exact:
            return
        finite = values[:, np.isfinite(values).all(0)][:, :: self.every].astype(np.float64)
        self.sample.append(finite)
        self.kept += finite.shape[1]
        while self.kept > _SAMPLE:
            self.sample = [part[:, ::2] for part in self.sample]
            self.kept = sum(part.shape[1] for part in self.sample)
            self.every *= 2

    @property
    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How often each band has each value, from ``lowest`` on, if values are exact."""
        self._count()
        return self._counts

    def _count(self) -> None:
        if not self._pixels:
            return
        for band, pixels in enumerate(np.concatenate(self._waiting, 1)):
            # Counted from the smallest on: a histogram of the whole range costs four times as much as the counting.
            least = int(pixels.min())
            counts = np.bincount((pixels - pixels.dtype.type(least)).view(f"u{self.dtype.itemsize}"))
            start = least - self.lowest
            self._counts[band, start : start + len(counts)] += counts
        self._waiting, self._pixels = [], 0

    def scale(self, low: float = 1.0, high: float = 99.0) -> list[dict[str, float]]:
        """For each band ``low`` and ``high`` (the values at these percentiles) and ``mean`` and ``std`` after clipping to
        them and scaling to 0..1: what :func:`normalise` needs.
        """
        result = []
        for band in range(self.bands):
            values: np.ndarray[Any, Any]
            if self.exact:
                used = np.flatnonzero(self.counts[band])
                values, counts = (used + self.lowest).astype(np.float64), self.counts[band][used]
            else:
                values = np.sort(np.concatenate([part[band] for part in self.sample] or [np.empty(0)]))
                counts = np.ones(len(values), np.int64)
            if not len(values):
                raise UsageError("the training split has no valid pixel to take statistics from")
            reached = np.cumsum(counts) / counts.sum()
            bottom = float(values[np.searchsorted(reached, low / 100)])
            top = float(values[min(int(np.searchsorted(reached, high / 100)), len(values) - 1)])
            top = top if top > bottom else bottom + 1.0
            scaled = np.clip((values - bottom) / (top - bottom), 0, 1)
            mean = float(np.average(scaled, weights=counts))
            std = float(np.sqrt(np.average((scaled - mean) ** 2, weights=counts)))
            result.append({"low": bottom, "high": top, "mean": mean, "std": max(std, 1e-6)})
        return result


def normalise(values: np.ndarray[Any, Any], scale: list[dict[str, float]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values (bands, height, width) to zero mean and unit spread on the training pixels, outliers clipped, as float32."""
    low, high, mean, std = (
        np.array([band[key] for band in scale], np.float32)[:, None, None] for key in ("low", "high", "mean", "std")
    )
    unit = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    result: np.ndarray[Any, np.dtype[np.float32]] = np.nan_to_num((unit - mean) / std)
    return result


def to_input(
    values: np.ndarray[Any, Any],
    method: str | None,
    scale: list[dict[str, float]],
    valid: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a model sees of a chip (bands, height, width): by its own percentiles, -1 to 1, if it is normalised by ``chip``, else
    :func:`normalise`.

    Args:
        values: of the chip.
        method: how its dataset is normalised, as its index says.
        scale: the dataset's.
        valid: pixels that count for percentiles, (height, width); all by default. Others become 0, the middle.
    """
    if method != "chip":
        return normalise(values, scale)
    result = np.zeros(values.shape, np.float32)
    good = slice(None) if valid is None or valid.all() else valid
    for band, own in enumerate(values):
        seen = own.ravel() if isinstance(good, slice) else own[good]
        if seen.size:
            low, high = np.percentile(seen, [1, 99])
            unit = (own.astype(np.float32) - np.float32(low)) / np.float32(float(high - low) or 1.0)
            result[band] = 2 * np.clip(np.nan_to_num(unit, nan=0.5), 0, 1) - 1
    if not isinstance(good, slice):
        result[:, ~good] = 0
    return result
