"""Small generated pairs: what changed is brighter at the second date, and the seasons differ everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shoal_earth.rasters.shards import ShardWriter
from shoal_earth.rasters.statistics import BandStatistics


def pair(rng: np.random.Generator, side: int = 32, bands: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Both dates (2 x bands, side, side) as reflectance in steps of 1/10,000, and the label with a strip to ignore."""
    ground = rng.normal(0, 120, (bands, side, side)) + 900
    season = rng.uniform(0.8, 1.2)
    after = ground * season + rng.normal(0, 40, ground.shape)
    label = np.zeros((side, side), np.uint8)
    for _ in range(2):
        row, column, size = int(rng.integers(side - 12)), int(rng.integers(side - 12)), int(rng.integers(7, 12))
        label[row : row + size, column : column + size] = 1
    after[:, label == 1] += 1200
    label[:, -2:] = 255
    return np.concatenate([ground, after]).clip(1, 10_000).astype(np.int16), label


def write_pairs(folder: Path, *, train: int = 10, val: int = 2, test: int = 4, side: int = 32, bands: int = 3) -> Path:
    """Chips of pairs in shards, as the pipeline writes them."""
    rng = np.random.default_rng(7)
    writer, statistics = ShardWriter(folder), BandStatistics(bands, "int16")
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            image, label = pair(rng, side, bands)
            if split == "train":
                for date in np.split(image, 2):
                    statistics.add(date.reshape(bands, -1))
            facts = {"scene": split, "row": number * side, "column": 0, "share": float((label == 1).mean())}
            writer.add(split, f"{split}-{number:02d}", {"image": image, "label": label}, **facts)
    scenes = [
        {"name": name, "crs": "EPSG:32721", "transform": [10, 0, 6e5, 0, -10, 88e5]}
        for name in ("train", "val", "test")
    ]
    facts = {"classes": ["background", "deforested"], "ignore": 255, "size": side, "stride": side, "resolution": 10.0}
    facts |= {
        "bands": 2 * bands,
        "dates": 2,
        "dtype": "int16",
        "step": 1e-4,
        "normalise": "percentile",
        "scenes": scenes,
    }
    writer.close(**facts, scale=statistics.scale() * 2)
    return folder
