"""Where chips are cut: the surroundings of fires in each scene, dealt to training, validation and test by groups of fires.

A place is a window of a scene around the fires of one group. No ground of a test place is in a training chip, in whatever scene.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.burned_area.fires import Fires
from shoal_earth.burned_area.labels import LABELS
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.split import SPLITS, deal

__all__ = ["PLACES", "Place", "Places", "deal_places", "load_labels", "load_places"]

PLACES = "places.json"
_FORMAT = 1


@dataclass(frozen=True)
class Place:
    """A window (row, column, height, width) of a scene, and the scene's grid.

    ``part`` is the part of the labels that the scene belongs to, ``burnt`` the pixels of the group's fires that are seen there.
    """

    scene: str
    part: str
    group: str
    window: tuple[int, int, int, int]
    crs: str
    transform: tuple[float, ...]
    height: int
    width: int
    burnt: int

    @property
    def grid(self) -> Grid:
        """The grid of the whole scene."""
        return Grid(CRS.from_user_input(self.crs), Affine(*self.transform), self.height, self.width)

    @property
    def inner(self) -> Window:
        """The place, in the scene."""
        row, column, height, width = self.window
        return Window(column, row, width, height)

    @property
    def ground(self) -> Grid:
        """The grid of the place."""
        return self.grid.part(self.inner)


@dataclass(frozen=True)
class Places:
    """All places of a dataset, and the split of each group."""

    places: list[Place]
    splits: dict[str, str]
    margin: float

    def held(self) -> list[tuple[Grid, str]]:
        """The ground of every place, with its split."""
        return [(place.ground, self.splits[place.group]) for place in self.places]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = {"format": _FORMAT, "margin": self.margin, "splits": self.splits}
        lines = ",\n  ".join(json.dumps(asdict(place)) for place in self.places)
        write_text(path, json.dumps(content, indent=1)[:-2] + f',\n "places": [\n  {lines}\n ]\n}}\n')


def load_places(path: Path) -> Places:
    """Read what :meth:`Places.save` wrote.

    Raises:
        UsageError: it is missing, damaged or of another version.
    """
    path = path / PLACES if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError("it is of another version")
        places = [
            Place(**{**one, "window": tuple(one["window"]), "transform": tuple(one["transform"])})
            for one in content["places"]
        ]
        return Places(places, dict(content["splits"]), float(content["margin"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: cannot be read as places: {error}", hint="Make it with: shoal-earth burned-area split"
        ) from None


def load_labels(folder: Path) -> dict[str, Any]:
    """Read what ``shoal-earth burned-area labels`` wrote.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = folder / LABELS
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["part"], str) or not isinstance(content["scenes"], list):
            raise ValueError("it is something else")
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: cannot be read as labels: {error}", hint="Make it with: shoal-earth burned-area labels"
        ) from None


def deal_places(
    labels: Sequence[Path],
    fires: Fires,
    *,
    margin: float,
    smallest: int,
    shares: tuple[float, float, float],
    by: str = "fire",
    seed: int = 0,
) -> Places:
    """Find the places in all labelled scenes, and deal their groups to the splits by the burnt pixels that are seen.

    A scene that several parts hold counts once, in the first of them.

    Args:
        labels: folders of labels.
        fires: all fires.
        margin: around the fires of a group, in units of the scenes' CRS.
        smallest: pixels that a place has at least on a side: those of a chip.
        shares: of training, validation and test.
        by: ``fire``, or ``tile``: then a place is a whole scene, and its group its tile.
        seed: of the deal.

    Raises:
        UsageError: labels are missing or damaged, or no scene shows a fire.
    """
    if by not in ("fire", "tile"):
        raise UsageError(f'splits are made by fire or by tile, not by "{by}"')
    places: list[Place] = []
    seen: set[str] = set()
    for content in sorted((load_labels(folder) for folder in labels), key=lambda content: str(content["part"])):
        for entry in content["scenes"]:
            if entry["scene"] not in seen:
                seen.add(entry["scene"])
                places += (
                    _by_tile(entry, content["part"])
                    if by == "tile"
                    else _by_fire(entry, content["part"], fires, margin, smallest)
                )
    weights: dict[str, float] = defaultdict(float)
    for place in places:
        weights[place.group] += place.burnt
    if not sum(weights.values()):
        raise UsageError(
            f"none of the {len(seen)} scenes shows a burn: there is nothing to learn from",
            hint="Are the scenes of days after the fires, and were enough of them kept?",
        )
    places.sort(key=lambda place: (place.scene, place.group))
    return Places(places, deal(weights, shares, seed), margin)


def _by_tile(entry: Mapping[str, Any], part: str) -> list[Place]:
    group = str(entry["tile"] or entry["scene"])
    window = (0, 0, int(entry["height"]), int(entry["width"]))
    return [_place(entry, part, group, window, sum(entry["burnt"].values()))]


def _by_fire(entry: Mapping[str, Any], part: str, fires: Fires, margin: float, smallest: int) -> list[Place]:
    """The groups of which a scene shows a burnt pixel, each with the box around those of its fires that the scene meets."""
    grid = Grid(CRS.from_user_input(entry["crs"]), Affine(*entry["transform"]), entry["height"], entry["width"])
    known = fires.frame.set_index("fire")
    burnt: Counter[str] = Counter()
    for fire, pixels in entry["burnt"].items():
        burnt[str(known.loc[fire, "group"])] += pixels
    found = []
    near = known.loc[[*entry["burnt"], *entry["unsure"]]]
    for group in sorted(group for group, pixels in burnt.items() if pixels):
        left, bottom, right, top = near[near["group"] == group].geometry.to_crs(grid.crs).total_bounds
        window = grid.window_of((left - margin, bottom - margin, right + margin, top + margin))
        if window is not None and min(grid.height, grid.width) >= smallest:
            rows = _grown(int(window.row_off), int(window.height), grid.height, smallest)
            columns = _grown(int(window.col_off), int(window.width), grid.width, smallest)
            found.append(_place(entry, part, group, (rows[0], columns[0], rows[1], columns[1]), burnt[group]))
    return found


def _grown(start: int, length: int, available: int, smallest: int) -> tuple[int, int]:
    """A stretch made long enough for a chip, inside of what there is."""
    if length >= smallest:
        return start, length
    start = min(max(0, start - (smallest - length) // 2), available - smallest)
    return start, smallest


def _place(entry: Mapping[str, Any], part: str, group: str, window: tuple[int, int, int, int], burnt: int) -> Place:
    grid = (str(entry["crs"]), tuple(entry["transform"]), int(entry["height"]), int(entry["width"]))
    return Place(str(entry["scene"]), part, group, window, *grid, burnt)


def summary(places: Places) -> list[str]:
    """How many groups and places each split has, and how much burnt ground."""
    lines = []
    for split in SPLITS:
        groups = [group for group, given in places.splits.items() if given == split]
        mine = [place for place in places.places if place.group in groups]
        burnt = sum(place.burnt for place in mine)
        lines.append(f"{split}: {len(groups)} groups of fires, {len(mine)} places, {burnt:,} burnt pixels")
    return lines
