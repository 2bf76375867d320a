"""Find the scenes that show fires: of the right place, and of days soon after them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from shoal.errors import UsageError
from shoal_earth.burned_area.fires import Fires
from shoal_earth.rasters.items import item_time
from shoal_earth.rasters.stac import Query, footprint, search

__all__ = ["find_items"]


def find_items(
    fires: Fires,
    catalogue: str,
    *,
    after: int = 60,
    before: int = 0,
    cloud: float | None = None,
    collections: tuple[str, ...] = (),
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Scenes that show at least one fire on a day from ``before`` days before its first to ``after`` days after its last.

    Args:
        fires: of one set or of all.
        catalogue: see :func:`stac.search`.
        after: days after a fire's end; burns fade within months.
        before: days before a fire's start.
        cloud: largest cloud cover in percent, as the catalogue states it.
        collections: of the catalogue.
        limit: most scenes; all by default.

    Raises:
        UsageError: no fire has a day, or no scene shows one.
        CatalogueError: the catalogue is down, slow, or none.
    """
    import pandas as pd
    from shapely import STRtree

    # Of some fires agencies know only when they were out.
    start = fires.frame["start"].fillna(fires.frame["end"])
    dated = fires.frame.assign(start=start)[start.notna()]
    if not len(dated):
        raise UsageError(f"{fires.path}: none of the {len(fires)} fires has a day")
    first = dated["start"] - pd.Timedelta(days=before)
    last = dated["end"] + pd.Timedelta(days=after)
    area = dated.to_crs(4326).geometry
    query = Query(area.union_all(), first.min().date(), last.max().date(), cloud, collections, (), limit)
    tree = STRtree(area.to_numpy())
    starts, ends = list(first.dt.date), list(last.dt.date)

    def shows(item: Mapping[str, Any]) -> bool:
        when, outline = item_time(item), footprint(item)
        if when is None or outline is None:
            return False
        day: dt.date = when.date()
        near = tree.query(outline, predicate="intersects")
        return any(starts[number] <= day <= ends[number] for number in near)

    found = search(catalogue, query, keep=shows)
    if not found:
        raise UsageError(
            f"{catalogue}: no scene shows any of the {len(dated)} fires of {fires.path.name} from "
            f"{before} days before to {after} days after them",
            hint="Is it the right collection? More days, or more cloud, find more.",
        )
    return found
