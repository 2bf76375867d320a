"""One dataset of chips from the parts that tasks of their own cut: the same bytes, however the scenes were dealt to the parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.cutting import COUNTS, PART, Cut, require_chips, stored_scale
from shoal_earth.rasters.normalise import Fitter
from shoal_earth.rasters.output import WriteError
from shoal_earth.rasters.shards import ShardReader, ShardWriter
from shoal_earth.rasters.split import SPLITS

__all__ = ["join_parts"]

_COMMON = ("classes", "ignore", "size", "stride", "resolution", "bands", "dates", "dtype", "step", "composite")


def join_parts(parts: Sequence[Path], out: Path, *, normalise: str = "iqr") -> Cut:
    """Join parts of :func:`cutting.cut_part`: all chips in order of their names, one scale from the training chips of all.

    Args:
        parts: folders; those without a chip are no mistake.
        out: folder for the dataset; the scale is also written there as ``scale.json``.
        normalise: see :data:`normalise.METHODS`.

    Raises:
        UsageError: parts are missing, damaged, differ, hold the same chip, or a split stays empty.
        WriteError: the disk is full.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(ShardReader(part, index=PART)) for part in parts]
        filled = [reader for reader in readers if reader.chips]
        common = _common(filled)
        made = Cut(Counter(), Counter(), {})
        for reader in readers:
            made.skipped.update(reader.index["skipped"])
            made.splits.update(reader.index["splits"])
        places = sorted((chip["key"], number, at) for number, r in enumerate(filled) for at, chip in enumerate(r.chips))
        for (key, one, _), (following, other, _) in pairwise(places):
            if key == following:
                raise UsageError(f"{filled[one].folder} and {filled[other].folder} both hold the chip {key}")
        for _, number, at in places:
            made.chips[filled[number].chips[at]["split"]] += 1
        require_chips(made, [split for split in SPLITS if split in made.splits.values()])
        fitter = _fitter(filled, common)
        scale = fitter.fit(normalise)
        writer = stack.enter_context(ShardWriter(out))
        for key, number, at in places:
            reader = filled[number]
            facts = {k: v for k, v in reader.chips[at].items() if k not in ("key", "split", "shard", "image", "label")}
            arrays = {kind: reader.read(at, kind) for kind in ("image", "label")}
            writer.add(reader.chips[at]["split"], key, arrays, **facts)
        scenes = sorted((scene for reader in filled for scene in reader.index["scenes"]), key=lambda s: str(s["name"]))
        used = {chip["scene"] for chip in writer.chips}
        scale.scenes.extend(sorted({str(chip["scene"]) for chip in writer.chips if chip["split"] == "train"}))
        scale.save(out / "scale.json")
        try:
            writer.close(
                **common,
                normalise=normalise,
                scale=stored_scale(scale, fitter.step) * int(common["dates"]),
                splits=dict(sorted(made.splits.items())),
                skipped=dict(sorted(made.skipped.items())),
                scenes=[scene for scene in scenes if scene["name"] in used],
            )
        except WriteError:
            (out / "scale.json").unlink(missing_ok=True)
            raise
    return made


def _common(filled: Sequence[ShardReader]) -> dict[str, Any]:
    if not filled:
        raise UsageError("none of the parts holds a chip", hint="Look at why scenes and chips were dropped.")
    first = filled[0]
    common = {key: first.index[key] for key in _COMMON}
    for reader in filled[1:]:
        for key in _COMMON:
            if reader.index[key] != common[key]:
                raise UsageError(
                    f"{reader.folder}: has {key} {reader.index[key]}, but {first.folder} has {common[key]}",
                    hint="Parts of a dataset are cut with the same settings.",
                )
    return common


def _fitter(filled: Sequence[ShardReader], common: dict[str, Any]) -> Fitter:
    fitter = Fitter(str(common["composite"]), int(common["bands"]) // int(common["dates"]))
    for reader in filled:
        if not any(chip["split"] == "train" for chip in reader.chips):
            continue
        path = reader.folder / COUNTS
        try:
            fitter.add_counted(np.load(path, allow_pickle=False))
        except (OSError, ValueError, IndexError) as error:
            raise UsageError(f"{path}: cannot be read: {error}", hint="Cut this part again.") from None
    return fitter
