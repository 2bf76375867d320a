"""Pairs of scenes: all that could be compared, and the choice of a person among them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import UsageError
from shoal_earth.rasters.contact_sheet import Candidate, find_pairs, read_choices, write_contact_sheet
from shoal_earth.rasters.opening import find_scenes, read_scene
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.scenes import Scene

__all__ = ["CHOICES", "Chosen", "chosen_pairs", "clearest", "orbit", "propose"]

PAIRS, CHOICES = "pairs.json", "choose.csv"


@dataclass(frozen=True)
class Chosen:
    """A pair to compare. ``group`` is its tile and orbit: what goes to one split."""

    id: str
    group: str
    first: Path
    second: Path


def orbit(scene: Scene) -> str:
    """The relative orbit of a scene (``R067``), or nothing where it is not known."""
    known = scene.facts.get("orbit")
    found = re.search(r"_(R\d{3})_", scene.name)
    return str(known) if known else found.group(1) if found else ""


def propose(folder: Path, out: Path, year: int, *, kind: str = "rgb") -> list[Candidate]:
    """Write the page from which a person chooses pairs: of one tile and orbit, from the year before and the year.

    Args:
        folder: of scenes.
        out: folder for ``index.html``, ``choose.csv`` and ``pairs.json``.
        year: of the second image.
        kind: composite of the quick-looks.

    Raises:
        UsageError: a scene cannot be read, or there is no pair.
    """
    paths = find_scenes(folder)
    orbits = {}
    for path in paths:
        with read_scene(path) as scene:
            orbits[path] = orbit(scene)
    candidates = []
    for candidate in find_pairs(paths, first_year=year - 1):
        first, second = candidate.paths
        if orbits[first] == orbits[second]:
            candidates.append(candidate)
    if not candidates:
        raise UsageError(f"{folder}: no two scenes of one tile, of {year - 1} and {year}, are of the same orbit")
    write_contact_sheet(
        candidates,
        out,
        title=f"Choose pairs: {year - 1} and {year}",
        kind=kind,
        after="Then: shoal approve STUDY choose --file choose.csv.",
    )
    content = [
        {
            "id": candidate.id,
            "group": "-".join(part for part in (candidate.id.partition("-")[0], orbits[candidate.first]) if part),
            "first": candidate.first.name,
            "second": str(candidate.paths[1].name),
        }
        for candidate in candidates
    ]
    write_text(out / PAIRS, json.dumps({"format": 1, "pairs": content}, indent=1) + "\n")
    return candidates


def chosen_pairs(page: Path, choices: Path, scenes: Path) -> list[Chosen]:
    """The pairs that were chosen.

    Args:
        page: folder that :func:`propose` wrote.
        choices: the filled table, or the folder that holds it.
        scenes: folder of the scenes; it may have moved since the page was made.

    Raises:
        UsageError: a file is missing or damaged, nothing is chosen, or a scene is not there.
    """
    known = _known(page)
    candidates = [Candidate(entry["id"], scenes / entry["first"], scenes / entry["second"]) for entry in known]
    path = _table(choices) if choices.is_dir() else choices
    groups = {entry["id"]: entry["group"] for entry in known}
    chosen = []
    for candidate in read_choices(path, candidates):
        first, second = candidate.paths
        for scene in (first, second):
            if not scene.exists():
                raise UsageError(f"{scene}: there is no such scene, but the pair {candidate.id} was chosen")
        chosen.append(Chosen(candidate.id, groups[candidate.id], first, second))
    return chosen


def _table(folder: Path) -> Path:
    """The filled table in a folder, whatever a browser named it that had saved one before: ``choose (1).csv``."""
    found = sorted(folder.glob("*.csv"))
    if len(found) > 1 and not (folder / CHOICES).exists():
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{folder}: holds more than one table: {names}", hint="Approve again with one of them.")
    return found[0] if len(found) == 1 else folder / CHOICES


def clearest(page: Path, out: Path, each: int = 1) -> list[str]:
    """Fill in the table by a rule instead of by a person: of each tile and orbit the pairs of which most is seen.

    Args:
        page: folder that :func:`propose` wrote.
        out: folder for ``choose.csv``.
        each: pairs of a tile and orbit.

    Returns:
        What was chosen.
    """
    groups = {entry["id"]: entry["group"] for entry in _known(page)}
    try:
        with (page / CHOICES).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        best: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: (_unseen(row), row["id"])):
            best[groups[row["id"]]].append(row)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise UsageError(f"{page / CHOICES}: cannot be read as the table of choices: {error}") from None
    chosen = sorted(row["id"] for found in best.values() for row in found[:each])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "choose": "yes" if row["id"] in chosen else ""} for row in rows)
    write_text(out / CHOICES, text.getvalue())
    return chosen


def _unseen(row: dict[str, str]) -> float:
    """The share of a pair that is cloud or no data, summed over its images."""
    return sum(float(row[f"{what}_{which}"] or 1) for what in ("cloud", "nodata") for which in ("first", "second"))


def _known(page: Path) -> Sequence[dict[str, Any]]:
    path = page / PAIRS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != 1 or not all(
            {"id", "group", "first", "second"} <= entry.keys() for entry in content["pairs"]
        ):
            raise ValueError("it is of another version")
        entries: list[dict[str, Any]] = content["pairs"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: cannot be read as a list of pairs: {error}", hint="Make it with: shoal-earth deforestation pairs"
        ) from None
    return entries
