"""Which scenes are worth using: how much of one is no data and how much of the rest is cloud, and the rules that drop it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.masks import CLOUD, SCL, mask
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.scenes import Scene

__all__ = ["Figures", "Rules", "measure", "sift"]


@dataclass(frozen=True)
class Figures:
    """What was measured of a scene. Shares are 0 to 1; ``cloud`` is of the valid pixels, None without a classification."""

    scene: str
    path: str
    nodata: float
    cloud: float | None
    pixels: int
    classes: dict[str, int]


@dataclass(frozen=True)
class Rules:
    """When a scene is dropped.

    Args:
        max_nodata: largest share of pixels without data.
        max_cloud: largest share of cloud among the valid pixels.
        unclassified: keep scenes whose clouds cannot be told.
    """

    max_nodata: float = 0.8
    max_cloud: float = 0.25
    unclassified: bool = False

    def __post_init__(self) -> None:
        for name, share in (("max_nodata", self.max_nodata), ("max_cloud", self.max_cloud)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} is a share from 0 to 1, not {share:g}")

    def verdict(self, figures: Figures) -> str | None:
        """None to keep a scene, else why it is dropped."""
        if figures.nodata > self.max_nodata:
            return f"{figures.nodata:.1%} is no data, more than {self.max_nodata:.0%}"
        if figures.cloud is None:
            return None if self.unclassified else "has no scene classification, so clouds cannot be told"
        if figures.cloud > self.max_cloud:
            return f"{figures.cloud:.1%} of the valid pixels are cloud, more than {self.max_cloud:.0%}"
        return None


def measure(scene: Scene, cloud: Iterable[int] = CLOUD) -> Figures:
    """Measure a scene on the grid of its classification (on that of its coarsest reading where it has none), in windows.

    Where only blocks of a scene were fetched, of these.

    Args:
        scene: any.
        cloud: classes that count as cloud.

    Raises:
        UsageError: a file is unreadable.
    """
    band = scene.band("red").name if _has(scene, "red") else next(iter(scene.bands))
    grid = scene.classes_grid() or scene.grid([band])
    counts: Counter[int] = Counter()
    missing = 0
    for window in grid.windows(2048):
        valid = scene.read([band], window, grid, stored=True).valid
        if scene.classification is not None:
            classes = scene.classes(window, grid)
            valid = valid & (classes != SCL.NODATA)
            numbers, found = np.unique(classes[valid], return_counts=True)
            counts.update(dict(zip(numbers.tolist(), found.tolist(), strict=True)))
        missing += int((~valid).sum())
    total = grid.height * grid.width
    elsewhere = total - round(total * scene.facts.get("fetched", 1.0))
    nodata = max(0, missing - elsewhere) / max(1, total - elsewhere)
    clouded = mask(np.arange(256, dtype=np.uint8), cloud)
    cloudy = sum(count for number, count in counts.items() if clouded[number])
    share = cloudy / (total - missing) if scene.classification is not None and total > missing else None
    if scene.classification is not None and total == missing:
        share = 0.0
    names = {SCL(number).name.lower() if number in set(SCL) else str(number): n for number, n in sorted(counts.items())}
    return Figures(scene.name, scene.path, nodata, share, total, names)


def _has(scene: Scene, band: str) -> bool:
    try:
        scene.band(band)
    except UsageError:
        return False
    return True


def sift(paths: Iterable[Path | str], rules: Rules, record: Path | None = None) -> list[tuple[Figures, str | None]]:
    """Measure scenes and judge each; with ``record``, the figures and verdicts are written there as CSV.

    Returns:
        For each scene its figures, and None where it is kept, else why it is dropped.

    Raises:
        UsageError: a scene cannot be read.
    """
    judged = []
    for path in paths:
        with read_scene(path) as scene:
            # As it was named: a scene of a fetched item calls the item's file its path.
            figures = replace(measure(scene), path=str(path))
        judged.append((figures, rules.verdict(figures)))
    if record is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["scene", "path", "nodata", "cloud", "kept", "reason"])
        for figures, why in judged:
            cloud = "" if figures.cloud is None else f"{figures.cloud:.6f}"
            writer.writerow(
                [figures.scene, figures.path, f"{figures.nodata:.6f}", cloud, "no" if why else "yes", why or ""]
            )
        write_text(record, text.getvalue())
    return judged
