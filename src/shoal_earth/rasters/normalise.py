"""Scales that bring pixels to a common range, fitted on training scenes alone, in one pass and bounded memory.

Methods:

* ``iqr``: the burned-area paper's. Whiskers of each band (quartiles, 1.5 inter-quartile ranges beyond them, no further than the
  data), the lowest and the highest of all bands: one shared scale, which keeps the bands' relation to each other.
* ``percentile``: each band between two percentiles of its own.
* ``reflectance``: fixed, 0 to 1 of reflectance, whatever the scenes.
* ``chip``: the deforestation paper's. Each band of each chip between two percentiles of its own; what is fitted here is the
  ``percentile`` scale, for whoever shows the chips.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Pixels, in_steps
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.statistics import BandStatistics

__all__ = ["METHODS", "Fitter", "Scale", "step_of"]

METHODS = ("iqr", "percentile", "reflectance", "chip")
# Reflectance is counted in steps of 1/10,000, the products' own: exact, and small whatever the number of scenes.
_STEPS = 10_000
_FILE_FORMAT = 1


@dataclass(frozen=True)
class Scale:
    """How to bring values to 0..1 (``low`` to ``high`` of each band), and their mean and spread after that.

    ``scenes`` are those that it was fitted on. ``bands`` is in the form that :func:`statistics.normalise` takes.
    """

    method: str
    kind: str
    bands: list[dict[str, float]]
    scenes: list[str]

    def unit(self, pixels: Pixels) -> Pixels:
        """Values brought to 0..1 and clipped, float32; 0 where invalid."""
        low, high = (np.array([b[k] for b in self.bands], np.float32)[:, None, None] for k in ("low", "high"))
        if len(low) != len(pixels.values):
            raise UsageError(f"the scale is for {len(low)} band(s), but {len(pixels.values)} were given")
        values = np.clip((pixels.values.astype(np.float32) - low) / (high - low), 0, 1)
        return Pixels(np.where(pixels.valid, values, np.float32(0)), pixels.valid)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps({"format": _FILE_FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Scale:
        """Read what :meth:`save` wrote.

        Raises:
            UsageError: the file is missing, damaged or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FILE_FORMAT:
                raise ValueError("it is of another version")
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: cannot be read as a scale: {error}", hint="Fit it again.") from None


def step_of(kind: str) -> float:
    """In what steps the values of a composite are counted and stored."""
    return 1.0 if kind == "tci" else 1 / _STEPS


class Fitter:
    """Take in pixels of training scenes, then fit a scale.

    Args:
        kind: composite that the pixels are of; decides how finely values are counted.
        bands: how many.
    """

    def __init__(self, kind: str, bands: int) -> None:
        self.kind = kind
        self.step = step_of(kind)
        self.statistics = BandStatistics(bands, "int16")
        self.scenes: list[str] = []

    def add(self, pixels: Pixels) -> None:
        """Take in the valid pixels of a window."""
        self.add_steps(in_steps(pixels.values, self.step), pixels.valid)

    def add_steps(self, values: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> None:
        """Take in what :func:`in_steps` made of values (bands, height, width), where ``valid``."""
        chosen = values.reshape(len(values), -1) if valid.all() else values[:, valid]
        self.statistics.add(chosen)

    def counted(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """What was taken in, as rows of (band, value in steps, how often)."""
        bands, places = np.nonzero(self.statistics.counts)
        return np.stack([bands, places + self.statistics.lowest, self.statistics.counts[bands, places]], axis=1)

    def add_counted(self, rows: np.ndarray[Any, Any]) -> None:
        """Take in what another fitter of the same composite has :meth:`counted`."""
        np.add.at(self.statistics.counts, (rows[:, 0], rows[:, 1] - self.statistics.lowest), rows[:, 2])

    def fit(self, method: str = "iqr", low: float = 1.0, high: float = 99.0) -> Scale:
        """The scale.

        Args:
            method: one of :data:`METHODS`.
            low: percentile of ``percentile``'s lower end.
            high: and of its upper.

        Raises:
            UsageError: there is no such method, or no valid pixel was taken in.
        """
        if method not in METHODS:
            raise UsageError(f'there is no way to normalise named "{method}"', hint=f"There are: {', '.join(METHODS)}.")
        if method == "reflectance":
            ends = [(0.0, 255.0 * self.step if self.kind == "tci" else 1.0)] * self.statistics.bands
        elif method in ("percentile", "chip"):
            ends = [(b["low"] * self.step, b["high"] * self.step) for b in self.statistics.scale(low, high)]
        else:
            ends = self._shared()
        bands = [self._moments(number, bottom, top) for number, (bottom, top) in enumerate(ends)]
        return Scale(method, self.kind, bands, list(self.scenes))

    def _shared(self) -> list[tuple[float, float]]:
        quarters, ends = self.statistics.scale(25, 75), self.statistics.scale(0, 100)
        bottoms, tops = [], []
        for quarter, end in zip(quarters, ends, strict=True):
            reach = 1.5 * (quarter["high"] - quarter["low"])
            bottoms.append(max(quarter["low"] - reach, end["low"]))
            tops.append(min(quarter["high"] + reach, end["high"]))
        bottom, top = min(bottoms) * self.step, max(tops) * self.step
        return [(bottom, top if top > bottom else bottom + self.step)] * len(quarters)

    def _moments(self, band: int, bottom: float, top: float) -> dict[str, float]:
        used = np.flatnonzero(self.statistics.counts[band])
        if not len(used):
            raise UsageError("the training scenes have no valid pixel to take statistics from")
        counts = self.statistics.counts[band][used]
        unit = np.clip(((used + self.statistics.lowest) * self.step - bottom) / (top - bottom), 0, 1)
        mean = float(np.average(unit, weights=counts))
        spread = float(np.sqrt(np.average((unit - mean) ** 2, weights=counts)))
        return {"low": float(bottom), "high": float(top), "mean": mean, "std": max(spread, 1e-6)}
