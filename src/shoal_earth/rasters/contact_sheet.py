"""A page for a person who chooses: quick-looks of scenes or pairs of them, their figures, and the table to fill in."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import difflib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.composites import composite, recipe
from shoal_earth.rasters.contact_page import Card, Look, render
from shoal_earth.rasters.filters import Figures, measure
from shoal_earth.rasters.grids import same_grid
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.scenes import Scene

__all__ = ["Candidate", "check_pair", "find_pairs", "read_choices", "write_contact_sheet"]

_YES = {"yes", "y", "x", "1", "true"}
_NO = {"", "no", "n", "0", "false"}
_COLUMNS = (
    "id",
    "first",
    "second",
    "tile",
    "first_date",
    "second_date",
    "cloud_first",
    "cloud_second",
    "nodata_first",
    "nodata_second",
    "seen",
    "choose",
)


@dataclass(frozen=True)
class Candidate:
    """A scene, or a pair of one tile, that a person may choose. ``second`` is None for a single scene."""

    id: str
    first: Path
    second: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """One or two."""
        return (self.first,) if self.second is None else (self.first, self.second)


def check_pair(first: Scene, second: Scene) -> None:
    """Raise UsageError unless two scenes are of one grid and in the right order."""
    if first.acquired and second.acquired and first.acquired >= second.acquired:
        raise UsageError(
            f"{first.path} ({first.acquired:%Y-%m-%d}) is not before {second.path} ({second.acquired:%Y-%m-%d}): "
            "the dates are reversed",
            hint="Name the earlier scene first.",
        )
    if differs := same_grid(first.grid(), second.grid()):
        raise UsageError(
            f"{first.path} and {second.path} cannot be a pair: {differs}",
            hint="A pair needs scenes of one tile, on one grid; warp one of them onto the other's first.",
        )


def find_pairs(paths: Iterable[Path], first_year: int | None = None) -> list[Candidate]:
    """All pairs of scenes of one tile, from one year and the next.

    Args:
        paths: scenes.
        first_year: of the first image; by default every year counts.

    Raises:
        UsageError: a scene cannot be read or has no date, or no pair comes out.
    """
    tiles: dict[str, list[tuple[dt.datetime, Path]]] = defaultdict(list)
    for path in paths:
        with read_scene(path) as scene:
            if scene.acquired is None or scene.tile is None:
                missing = "date" if scene.acquired is None else "tile"
                raise UsageError(f"{path}: has no {missing}, so it cannot be paired")
            tiles[scene.tile].append((scene.acquired, path))
    pairs = []
    named: Counter[str] = Counter()
    for tile, dated in sorted(tiles.items()):
        dated.sort()
        for time, path in dated:
            for later, other in dated:
                if later.year == time.year + 1 and first_year in (None, time.year):
                    name = f"{tile}-{time:%Y%m%d}-{later:%Y%m%d}"
                    named[name] += 1
                    # A day may have several scenes: of two satellites, or of one image processed anew.
                    pairs.append(Candidate(f"{name}-{named[name]}" if named[name] > 1 else name, path, other))
    if not pairs:
        raise UsageError("no two of the scenes are of one tile and of two years that follow each other")
    return pairs


def write_contact_sheet(
    candidates: Sequence[Candidate],
    folder: Path,
    *,
    title: str = "Choose",
    kind: str = "rgb",
    side: int = 320,
    after: str = "",
) -> Path:
    """Write ``index.html`` (one file, with its pictures inside) and ``choose.csv`` (to fill in) to a folder.

    A ``choose.csv`` that is there already is kept: it may hold a person's work.

    Args:
        candidates: what can be chosen.
        folder: where to.
        title: of the page.
        kind: composite of the quick-looks.
        side: of a quick-look, in pixels.
        after: what to do with the filled table, in a sentence.

    Returns:
        The page.

    Raises:
        UsageError: there is nothing to choose, a scene is unreadable, or a pair makes no sense.
    """
    if not candidates:
        raise UsageError("there is nothing to choose from")
    if len({candidate.id for candidate in candidates}) != len(candidates):
        raise UsageError("two candidates have the same id")
    known: dict[Path, _Known] = {}
    for candidate in candidates:
        with _Pair(candidate) as scenes:
            if len(scenes) == 2:
                check_pair(scenes[0], scenes[1])
            for path, scene in zip(candidate.paths, scenes, strict=True):
                if path not in known:
                    known[path] = _look(scene, kind, side)
    rows = [_row(candidate, known) for candidate in candidates]
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if not (folder / "choose.csv").exists():
        write_text(folder / "choose.csv", table.getvalue())
    cards = [
        Card(
            candidate.id,
            row["tile"],
            [str(path) for path in candidate.paths],
            f"{float(row['seen']):.0%} of the ground is seen at both dates" if row["second"] and row["seen"] else "",
        )
        for candidate, row in zip(candidates, rows, strict=True)
    ]
    cards.sort(key=lambda card: card.group)
    page = folder / "index.html"
    looks = {str(path): one.look for path, one in known.items()}
    write_text(page, render(title, cards, looks, rows, after))
    return page


class _Pair:
    """The scenes of a candidate, open."""

    def __init__(self, candidate: Candidate) -> None:
        self.scenes: list[Scene] = []
        self.paths = candidate.paths

    def __enter__(self) -> list[Scene]:
        self.scenes = [read_scene(path) for path in self.paths]
        return self.scenes

    def __exit__(self, *error: object) -> None:
        for scene in self.scenes:
            scene.close()


@dataclass(frozen=True)
class _Known:
    """What is known of a scene: for the page, for the table, and where its ground is seen (on the quick-look's pixels)."""

    look: Look
    figures: Figures
    day: str
    tile: str
    clear: np.ndarray[Any, Any] | None


def _look(scene: Scene, kind: str, side: int) -> _Known:
    """A quick-look of a scene and its figures; nothing is drawn where there is no data."""
    from PIL import Image

    grid = scene.grid(recipe(kind).bands)
    left, bottom, right, top = grid.bounds
    grid = grid.resampled(max(right - left, top - bottom) / side)
    pixels = composite(scene, kind, None, grid)
    values = pixels.values if len(pixels.values) == 3 else np.repeat(pixels.values[:1], 3, 0)
    good = values[:, pixels.valid]
    low, high = np.percentile(good, [2, 98]) if good.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255
    alpha = np.where(pixels.valid, 255, 0)[None]
    picture = np.concatenate([scaled, alpha]).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "WEBP", quality=80)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    figures = measure(scene)
    day = f"{scene.acquired:%Y-%m-%d}" if scene.acquired else ""
    cloud = "clouds unknown" if figures.cloud is None else f"{figures.cloud:.0%} cloud"
    words = f"{day} · {cloud} · {figures.nodata:.0%} without data"
    clear = None
    if scene.classification is not None:
        clear = pixels.valid & ~mask(scene.classes(None, grid), HIDDEN)
    return _Known(Look(figures.scene, uri, words), figures, day, scene.tile or "", clear)


def _row(candidate: Candidate, known: dict[Path, _Known]) -> dict[str, str]:
    one = known[candidate.first]
    other = known[candidate.second] if candidate.second else None

    def cloud(scene: _Known | None) -> str:
        return "" if scene is None or scene.figures.cloud is None else f"{scene.figures.cloud:.4f}"

    seen = [scene.clear for scene in (one, other) if scene is not None]
    clear = [pixels for pixels in seen if pixels is not None]
    return {
        "id": candidate.id,
        "first": str(candidate.first),
        "second": str(candidate.second or ""),
        "tile": one.tile,
        "first_date": one.day,
        "second_date": other.day if other else "",
        "cloud_first": cloud(one),
        "cloud_second": cloud(other),
        "nodata_first": f"{one.figures.nodata:.4f}",
        "nodata_second": f"{other.figures.nodata:.4f}" if other else "",
        "seen": f"{np.logical_and.reduce(clear).mean():.4f}" if len(clear) == len(seen) else "",
        "choose": "",
    }


def read_choices(path: Path, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that a person chose in the table.

    Raises:
        UsageError: the table is missing, damaged, names something unknown, or chooses nothing.
    """
    hint = "Fill in the choose.csv of the page, or let the page save one."
    try:
        # Spreadsheets put a mark at the start of the file, and some use semicolons or tabs.
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as the table of choices: {error}", hint=hint) from None
    if not text.strip():
        raise UsageError(f"{path}: the table of choices is empty", hint=hint)
    if not {"id", "choose"} <= set(columns):
        raise UsageError(f'{path}: has no columns "id" and "choose"', hint=hint)
    known = {candidate.id: candidate for candidate in candidates}
    marks: dict[str, bool] = {}
    for number, row in enumerate(rows, 2):
        name, mark = (row.get("id") or "").strip(), (row.get("choose") or "").strip().lower()
        if mark not in _YES | _NO:
            raise UsageError(f'{path}:{number}: "{mark}" in column choose is neither yes nor no')
        if not name and mark in _YES:
            raise UsageError(
                f"{path}:{number}: a row without an id is chosen", hint="The id says which candidate it is."
            )
        if name and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f'Did you mean "{near[0]}"?' if near else "Is the table of another page?"
            raise UsageError(f'{path}:{number}: there is no candidate "{name}"', hint=meant)
        if name and marks.setdefault(name, mark in _YES) != (mark in _YES):
            raise UsageError(f'{path}:{number}: "{name}" is chosen in one row and not in another')
    chosen = [known[name] for name, yes in marks.items() if yes]
    if not chosen:
        raise UsageError(f"{path}: nothing is chosen", hint='Write "yes" in column choose of the rows you want.')
    return chosen
