"""CaBuAr, burned areas of California, as chips of pairs.

D. Rege Cambrin, L. Colomba, P. Garza, "CaBuAr: California Burned Areas dataset for delineation", IEEE Geoscience and Remote
Sensing Magazine, 2023: Sentinel-2 L2A at 20 m, twelve bands (B01 to B12 without B10), before and after a fire, with a mask of
what burnt, in HDF5 with BZip2. A fire is a group with ``post_fire`` and, of most fires, ``pre_fire`` (height, width, 12) and
``mask``.

* Whole images (``california_*.hdf5``): fires of 5490 x 5490 pixels in groups named by their fold, 0 to 4; the mask has two axes.
* Patches of 512 pixels (``512x512.hdf5``): groups named by fire and patch, with their fold as an attribute; the mask has a third
  axis of one.
* The hidden test of the ChaBuD challenge (``chabud_test.h5``): as the patches, of the fold "chabud".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.change.windows import window_of
from shoal_earth.rasters.labels import FOREGROUND, IGNORE
from shoal_earth.rasters.shards import ShardWriter
from shoal_earth.rasters.statistics import BandStatistics

__all__ = ["convert", "files_of"]

_SIDE = 512
_BANDS = 12
_METRES = 20.0
_CHALLENGE = "chabud"
# As the authors' first experiment has it; and as the challenge, whose test is a file of its own.
_SPLITS = {"0": "test", "1": "val", "2": "train", "3": "train", "4": "train"}
_CHALLENGE_SPLITS = {_CHALLENGE: "test", "0": "val", "1": "train", "2": "train", "3": "train", "4": "train"}
Array = np.ndarray[Any, Any]


def files_of(path: Path) -> list[Path]:
    """The HDF5 files that a path names: it, or those in it; none where it is something else."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.suffix.lower() in (".hdf5", ".h5")]


def convert(files: list[Path], out: Path) -> Counter[str]:
    """Turn fires with images of both dates into shards, in windows of 512 pixels that have burnt ground; others are left out.

    Fold 0 is the test, fold 1 for validation; with the file of the challenge, that is the test, and fold 0 for validation. Pixels
    without data at either date, and what a window has beyond its image, are to be ignored. Held in memory: 512 rows of both
    images.

    Returns:
        How many chips each split has.

    Raises:
        UsageError: h5py or hdf5plugin is not installed, or a file is damaged or of another form.
        WriteError: the disk is full.
    """
    h5py = _library()
    counts: Counter[str] = Counter()
    statistics: BandStatistics | None = None
    scenes: list[dict[str, Any]] = []
    challenge = any(path.name.startswith(_CHALLENGE) for path in files)
    splits = _CHALLENGE_SPLITS if challenge else _SPLITS
    with ShardWriter(out) as writer:
        for path in files:
            try:
                with h5py.File(path, "r") as file:
                    for name, fold, fire in _fires(path, file, splits):
                        _check(path, name, fire)
                        dtype = fire["post_fire"].dtype.name
                        statistics = statistics or BandStatistics(_BANDS, dtype)
                        if statistics.dtype.name != dtype:
                            raise UsageError(f"{path}: {name} is of type {dtype}, others of {statistics.dtype.name}")
                        scenes.append({"name": name, "pixel_hectares": _METRES**2 / 10_000})
                        split = splits[fold]
                        for row, column, image, label in _burnt(fire):
                            if split == "train":
                                good = label != IGNORE
                                for date in np.split(image, 2):
                                    statistics.add(date[:, good])
                            facts = {"scene": name, "group": name, "row": row, "column": column}
                            facts["share"] = round(float((label == FOREGROUND).mean()), 6)
                            key = f"{name}-{row:06d}-{column:06d}"
                            writer.add(split, key, {"image": image, "label": label}, **facts)
                            counts[split] += 1
            except (OSError, KeyError, ValueError) as error:
                raise UsageError(
                    f"{path}: cannot be read as CaBuAr: {error}", hint="It is probably truncated: fetch it again."
                ) from None
        if statistics is None or not counts["train"]:
            raise UsageError(f"{files[0]}: no fire for training has images of both dates and burnt ground")
        writer.close(
            classes=["background", "burnt"],
            ignore=IGNORE,
            size=_SIDE,
            stride=_SIDE,
            resolution=_METRES,
            bands=2 * _BANDS,
            dates=2,
            dtype=statistics.dtype.name,
            dataset="CaBuAr",
            scale=statistics.scale() * 2,
            scenes=scenes,
        )
    return counts


def _library() -> Any:
    try:
        import h5py  # type: ignore[import-untyped]
        import hdf5plugin  # noqa: F401  (it teaches h5py BZip2)
    except ImportError as error:
        raise UsageError(f"CaBuAr comes as HDF5: {error}", hint="Install it: pip install h5py hdf5plugin") from None
    return h5py


def _fires(path: Path, file: Any, splits: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Each fire that has images of both dates: its name, fold and group."""
    for key, group in file.items():
        inner = (
            [(key, group.attrs.get("fold"), group)] if "post_fire" in group else [(n, key, f) for n, f in group.items()]
        )
        for name, fold, fire in inner:
            fold = fold.decode() if isinstance(fold, bytes) else str(fold)
            if fold not in splits:
                raise UsageError(f"{path}: {name} is of fold {fold}; folds are {', '.join(sorted(splits))}")
            if "pre_fire" in fire:
                yield str(name), fold, fire


def _check(path: Path, name: str, fire: Any) -> None:
    shape = fire["mask"].shape[:2]
    for date in ("pre_fire", "post_fire"):
        if fire[date].shape != (*shape, _BANDS):
            raise UsageError(
                f"{path}: {date} of {name} has shape {fire[date].shape}, but the mask {fire['mask'].shape}; "
                f"expected are (height, width, {_BANDS}) and (height, width)"
            )


def _burnt(fire: Any) -> Iterator[tuple[int, int, Array, Array]]:
    """Windows with burnt ground: row, column, image (24, 512, 512), label (512, 512)."""
    height, width = fire["mask"].shape[:2]
    for row in range(0, height, _SIDE):
        rows = slice(row, min(row + _SIDE, height))
        mask = fire["mask"][rows].reshape(-1, width)
        if not mask.any():
            continue
        dates = [np.moveaxis(fire[date][rows], -1, 0) for date in ("pre_fire", "post_fire")]
        label = np.where(mask > 0, np.uint8(FOREGROUND), np.uint8(0))
        label[~np.all([date.any(0) for date in dates], 0)] = IGNORE
        image = np.concatenate(dates)
        for column in range(0, width, _SIDE):
            own = window_of(label, 0, column, _SIDE, IGNORE)
            if (own == FOREGROUND).any():
                yield row, column, window_of(image, 0, column, _SIDE, None), own
