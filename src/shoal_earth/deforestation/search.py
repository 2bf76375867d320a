"""Candidate scenes for pairs: of the places and seasons of the clearings, of two years, by tile and orbit."""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import UsageError
from shoal_earth.deforestation.prodes import read_clearings
from shoal_earth.rasters.items import item_orbit, item_tile, item_time
from shoal_earth.rasters.stac import Query, search

__all__ = ["find_candidates"]

_log = logging.getLogger(__name__)


def find_candidates(
    units: Path,
    catalogue: str,
    year: int,
    *,
    margin: int = 30,
    cloud: float = 20.0,
    each: int = 5,
    collections: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Scenes for pairs: of ``year`` and the year before, within ``margin`` days of the unit's first and last clearing.

    Of the earlier year the same days count, so that both images show the same season. Only scenes remain whose tile and orbit
    have some of both years, and of these the clearest. A unit whose clearings were all seen in the year before is left out, with
    a warning in the log.

    Args:
        units: folder that :func:`prodes.save_units` wrote.
        catalogue: see :func:`stac.search`.
        year: of the second image.
        margin: days before the first and after the last clearing.
        cloud: largest cloud cover in percent.
        each: most scenes of a tile, orbit and year.
        collections: of the catalogue.

    Raises:
        UsageError: no tile and orbit has scenes of both years.
        CatalogueError: the catalogue is down, slow, or none.
    """
    clearings = read_clearings(units)
    found: dict[str, dict[str, Any]] = {}
    for unit, own in clearings.groupby("unit"):
        days = [dt.date.fromisoformat(str(day)[:10]) for day in own["image_date"]]
        area = own.to_crs(4326).geometry.union_all()
        for shift in (0, 1):
            first, last = (_years_before(day, shift) for day in (min(days), max(days)))
            # The clearings of a PRODES year may date from the calendar year before.
            first = max(first - dt.timedelta(days=margin), dt.date(year - shift, 1, 1))
            last = min(last + dt.timedelta(days=margin), dt.date(year - shift, 12, 31))
            if first <= last:
                for item in search(catalogue, Query(area, first, last, cloud, collections)):
                    found[str(item["id"])] = item
            elif not shift:
                _log.warning(
                    "%s: its last clearing is of %s, so no scene of %d is looked for; more days (--margin) find some",
                    unit,
                    max(days),
                    year,
                )
                break
    groups: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for item in found.values():
        time = item_time(item)
        if time is not None and item_tile(item):
            groups[str(item_tile(item)), item_orbit(item) or ""][time.year].append(item)
    chosen = [
        item
        for years in groups.values()
        if years[year] and years[year - 1]
        for items in (years[year - 1], years[year])
        for item in sorted(items, key=_clearest)[:each]
    ]
    if not chosen:
        raise UsageError(
            f"{catalogue}: of {len(found)} scenes that show a clearing, no tile and orbit has some of both {year - 1} and {year}",
            hint="More cloud (--cloud), more days (--margin) or another collection find more.",
        )
    return sorted(
        chosen, key=lambda item: (str(item_tile(item)), str(item_orbit(item)), str(item_time(item)), str(item["id"]))
    )


def _years_before(day: dt.date, years: int) -> dt.date:
    try:
        return day.replace(year=day.year - years)
    except ValueError:  # the 29th of February
        return day.replace(year=day.year - years, day=28)


def _clearest(item: Mapping[str, Any]) -> tuple[float, str]:
    cloud = (item.get("properties") or {}).get("eo:cloud_cover")
    return (float(cloud) if isinstance(cloud, (int, float)) else 100.0), str(item["id"])
