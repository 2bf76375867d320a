"""Fires as agencies publish them: polygons with the columns of NBAC, CNFDB, EFFIS and others, in one table.

NBAC is Canada's National Burned Area Composite, CNFDB its National Fire Database, EFFIS the European Forest Fire Information
System. A fire has a first and a last day: an image of a day between them shows no more than a part of the burn.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.labels import Polygons, read_polygons
from shoal_earth.rasters.output import write_polygons
from shoal_earth.rasters.polygons import NoDates, hectares, in_degrees, polygon_dates

__all__ = ["END", "IDS", "START", "Fires", "gather", "load_fires", "save_fires"]

IDS = ("gid", "nfireid", "fire_id", "fireid", "id")
SCOPES = ("src_agency", "admin_area", "agency", "year")
START = ("ag_sdate", "afsdate", "hs_sdate", "sdate", "rep_date", "firedate", "start_date", "date")
END = ("ag_edate", "afedate", "hs_edate", "edate", "out_date", "finaldate", "end_date")
"""Columns, in any case, first choice first. NBAC has the agency's days (``AG_SDATE``; ``AFSDATE`` before 2022) and those of hot
spots (``HS_SDATE``), CNFDB the days of report and of extinction, EFFIS the first and the last day. Names are given anew by each
agency and in each year: in files that hold several, ``SCOPES`` tell fires of one name apart."""

_METRES = 111_320.0  # of a degree of latitude


@dataclass(frozen=True)
class Fires:
    """Fires, one row each: columns ``fire``, ``set``, ``start``, ``end`` (dates, NaT where unknown), ``group``, ``hectares``.

    Fires of one ``group`` are so near to each other that chips of one may show another: they always go to the same split.
    """

    path: Path
    frame: Any

    def __len__(self) -> int:
        return len(self.frame)

    def on(self, day: dt.date, fresh: int | None = None) -> tuple[Polygons, Polygons]:
        """The fires that a scene of a day shows burnt, and those of which that is not known: burning, ending that day, undated,
        or out for more than ``fresh`` days, so that the ground may be green again.
        """
        import pandas as pd

        when = pd.Timestamp(day)
        start, end = self.frame["start"], self.frame["end"]
        over = end < when
        if fresh is not None:
            over &= end >= when - pd.Timedelta(days=fresh)
        later = start > when
        return self._polygons(over.to_numpy()), self._polygons((~over & ~later).to_numpy())

    def _polygons(self, chosen: np.ndarray[Any, Any]) -> Polygons:
        part = self.frame[chosen].reset_index(drop=True)
        return Polygons(self.path, part.geometry, len(part), 0, 0, 0, part.drop(columns=part.geometry.name))


def gather(paths: Sequence[Path], *, margin: float = 2560.0) -> tuple[Fires, list[str]]:
    """Read sets of fires and bring them into one table.

    Args:
        paths: vector files, a set each, named after the file; a folder means all shapefiles, GeoPackages and GeoJSONs in it.
        margin: fires whose surroundings of this many metres meet are one group.

    Returns:
        The fires, and what was found, a line for each set.

    Raises:
        UsageError: a file is missing, unreadable, has no polygon or no dates; or two sets have one name.
    """
    import geopandas
    import pandas as pd

    files = [file for path in paths for file in _files(path)]
    names = [file.stem for file in files]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f'two sets of fires are named "{twice[0]}"', hint="Rename one of the files.")
    tables, lines = [], []
    for file in files:
        table, line = _set(file)
        tables.append(table)
        lines.append(line)
    frame = geopandas.GeoDataFrame(pd.concat(tables, ignore_index=True), crs="EPSG:4326")
    frame["hectares"] = np.round(hectares(frame), 2)
    frame["group"] = _groups(frame, margin)
    return Fires(files[0].parent, frame), lines


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in (".shp", ".gpkg", ".geojson"))
    if not found:
        raise UsageError(f"{path}: holds no shapefile, GeoPackage or GeoJSON")
    return found


def _set(path: Path) -> tuple[Any, str]:
    import geopandas

    polygons = read_polygons(path)
    shapes = in_degrees(polygons.frame)
    start, end = _days(polygons, START), _days(polygons, END)
    year = polygons.column("year")
    if start is None and year is None:
        raise UsageError(
            f"{path}: has no column with the day of a fire",
            hint=f"Looked for: {', '.join(name.upper() for name in START)}, YEAR.",
        )
    start, end = _filled(start, end, None if year is None else _days(polygons, (year,)))
    reversed_ = int((end < start).sum())
    end = end.where(~(end < start), start)
    table = {"fire": [f"{path.stem}/{name}" for name in _names(polygons)], "set": path.stem, "start": start, "end": end}
    # Parts of one fire are one row, so that a fire's pixels are counted together.
    frame = geopandas.GeoDataFrame(table, geometry=shapes.to_numpy(), crs=4326)
    ends = {"set": "first", "start": "min", "end": "max"}
    frame = frame.dissolve(by="fire", aggfunc=ends, sort=True).reset_index()
    undated = int(frame["start"].isna().sum())
    line = (
        f"{path.name}: {polygons.found} features, {len(frame)} fires; {polygons.mended} mended, {undated} without a day"
    )
    if polygons.empty or polygons.other:
        line += f", {polygons.empty} empty, {polygons.other} of another kind"
    return frame, line + (f", {reversed_} with reversed days" if reversed_ else "")


def _filled(start: Any, end: Any, year: Any) -> tuple[Any, Any]:
    """First and last days: of a fire that has neither, those of its year, in which it burnt somewhen."""
    import pandas as pd

    known = next(days for days in (start, end, year) if days is not None)
    nothing = pd.Series(pd.NaT, index=known.index, dtype=known.dtype)
    start, end = nothing if start is None else start, nothing if end is None else end
    if year is not None:
        bare = start.isna() & end.isna()
        start = start.where(~bare, year.dt.to_period("Y").dt.start_time)
        end = end.where(~bare, year)
    return start, end.fillna(start)


def _names(polygons: Polygons) -> list[str]:
    """The name of each polygon's fire; with agency and year behind it where fires of several have the same."""
    columns = [column for name in IDS if (column := polygons.column(name))]
    named = next((column for column in columns if polygons.table[column].notna().all()), None)
    if named is None:
        return [str(number) for number in range(len(polygons.table))]
    names = polygons.table[named].astype(str)
    scopes = [column for name in SCOPES if (column := polygons.column(name))]
    if not scopes:
        return list(names)
    scope = polygons.table[scopes].astype(str).agg("-".join, axis=1)
    shared = scope.groupby(names).transform("nunique") > 1
    return list(names.where(~shared, names + "-" + scope))


def _days(polygons: Polygons, names: Sequence[str]) -> Any:
    """For each polygon the first of these columns that has a day; None where no column has any."""
    days = None
    for name in names:
        if not (column := polygons.column(name)):
            continue
        try:
            here = polygon_dates(polygons, column).dt.normalize()
        except NoDates:  # the column is there, but agencies leave it empty
            continue
        days = here if days is None else days.fillna(here)
    return days


def _groups(frame: Any, margin: float) -> list[str]:
    """The group of each fire, named after its first fire: fires are joined as long as their surroundings meet."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from shapely import STRtree, box

    # What is cut at the antimeridian has a box on either side.
    parts = frame.geometry.explode(index_parts=False)
    rows = parts.index.to_numpy()
    west, south, east, north = parts.bounds.to_numpy().T
    down = margin / _METRES
    # Degrees of longitude are shortest at the end nearer to a pole.
    poleward = np.minimum(np.maximum(np.abs(south), np.abs(north)) + down, 89.0)
    across = down / np.cos(np.radians(poleward))
    around = box(west - across, south - down, east + across, north + down)
    turned = box(west - across + 360, south - down, east + across + 360, north + down)
    tree = STRtree(around)
    pairs = [tree.query(boxes, predicate="intersects") for boxes in (around, turned)]
    one, other = (rows[found] for found in np.concatenate(pairs, 1))
    links = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(len(frame), len(frame)))
    _, numbers = connected_components(links, directed=False)
    first: dict[int, int] = {}
    for row, number in enumerate(numbers):
        first.setdefault(int(number), row)
    return [f"g{first[int(number)]:05d}" for number in numbers]


def save_fires(fires: Fires, path: Path) -> None:
    """Write the table as a GeoPackage."""
    frame = fires.frame.copy()
    for column in ("start", "end"):
        frame[column] = frame[column].dt.strftime("%Y-%m-%d")
    write_polygons(path, frame)


def load_fires(path: Path) -> Fires:
    """Read what :func:`save_fires` wrote.

    Raises:
        UsageError: it is missing, unreadable or something else.
    """
    import pandas as pd

    polygons = read_polygons(path)
    missing = {"fire", "set", "start", "end", "group"} - set(polygons.table.columns)
    if missing:
        raise UsageError(
            f'{path}: has no column "{min(missing)}", so it is no table of fires',
            hint="Make it from fire polygons with: shoal-earth burned-area fires POLYGONS --out DIR",
        )
    frame = polygons.frame.to_frame("geometry").set_geometry("geometry", crs=polygons.frame.crs)
    for column in polygons.table.columns:
        frame[column] = polygons.table[column]
    for column in ("start", "end"):
        frame[column] = pd.to_datetime(frame[column])
    return Fires(path, frame.dissolve(by="fire", sort=True).reset_index())
