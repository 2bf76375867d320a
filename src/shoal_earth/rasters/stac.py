"""Search catalogues of scenes: a STAC API, or a static catalogue in files or on a server, by area, dates and cloud."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from shoal.errors import ShoalError, UsageError
from shoal_earth.rasters.items import item_baseline, item_tile, item_time
from shoal_earth.rasters.output import write_text

__all__ = [
    "CATALOGUES",
    "CatalogueError",
    "Query",
    "batch",
    "collections_of",
    "footprint",
    "load_items",
    "read_area",
    "save_items",
    "search",
]

CATALOGUES = {
    "earth-search": "https://earth-search.aws.element84.com/v1",
    "planetary-computer": "https://planetarycomputer.microsoft.com/api/stac/v1",
    "copernicus": "https://stac.dataspace.copernicus.eu/v1",
}
"""Words for well-known catalogues; any other URL or path of a catalogue does too."""

_TOO_MANY = 100_000
_CORNERS = 300
_MAX_DOCUMENT = 256 * 2**20


class CatalogueError(ShoalError):
    """A catalogue is down, slow, or does not answer as one."""


@dataclass(frozen=True)
class Query:
    """What to look for.

    Args:
        area: a shape in longitude and latitude (shapely); None for everywhere.
        first: first day.
        last: last day, included.
        cloud: largest cloud cover in percent, as the catalogue states it; items that state none are kept.
        collections: names of the catalogue's collections; needed by an API.
        tiles: MGRS tiles or Landsat paths and rows; all by default.
        limit: most items; all by default.
    """

    area: Any = None
    first: dt.date | None = None
    last: dt.date | None = None
    cloud: float | None = None
    collections: tuple[str, ...] = ()
    tiles: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.first and self.last and self.first > self.last:
            raise UsageError(
                f"the dates are reversed: {self.first} is after {self.last}", hint="Give the earlier day first."
            )
        if self.cloud is not None and not 0 <= self.cloud <= 100:
            raise UsageError(f"cloud cover is in percent, from 0 to 100, not {self.cloud:g}")


def collections_of(catalogue: str, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """The collections to look in: those asked for; else Sentinel-2 L2A of a well-known catalogue, all of any other."""
    return tuple(asked or (["sentinel-2-l2a"] if catalogue in CATALOGUES else []))


def read_area(text: str) -> Any:
    """An area from ``west,south,east,north`` in degrees (west may be larger, across the antimeridian) or from a vector file.

    Raises:
        UsageError: it is neither.
    """
    from shapely import MultiPolygon, box

    numbers = text.split(",")
    if len(numbers) == 4:
        try:
            west, south, east, north = (float(number) for number in numbers)
        except ValueError:
            raise UsageError(f'"{text}" is no area: four numbers are needed, west,south,east,north') from None
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
            raise UsageError(f'"{text}" is no area in degrees: west,south,east,north, with south below north')
        if west > east:
            return MultiPolygon([box(west, south, 180, north), box(-180, south, east, north)])
        return box(west, south, east, north)
    from shoal_earth.rasters.labels import read_polygons
    from shoal_earth.rasters.polygons import in_degrees

    return in_degrees(read_polygons(Path(text)).frame).union_all()


def search(
    catalogue: str,
    query: Query,
    *,
    keep: Callable[[Mapping[str, Any]], bool] | None = None,
    timeout: float = 60.0,
    retries: int = 5,
) -> list[dict[str, Any]]:
    """Find scenes, sorted by tile, time and name, with absolute links. Of an image that was processed anew, the newest counts.

    Args:
        catalogue: a word of :data:`CATALOGUES`, a URL (of an API or a static catalogue), or a local file.
        query: what to look for.
        keep: whether an item that fits is wanted; others count for nothing, and are not held.
        timeout: seconds to wait for the server at any point.
        retries: of a request that failed.

    Raises:
        CatalogueError: it is down, slow, no catalogue, or has far more items than can be held.
    """
    from shapely import prepare

    where = CATALOGUES.get(catalogue, catalogue)
    remote = re.match(r"https?://", where) is not None
    reader = _Reader(timeout, retries)
    root = reader.read(where) if remote or Path(where).is_file() else None
    if root is None:
        raise CatalogueError(
            f"{where}: there is no such catalogue",
            hint=f"Give a path, a URL, or one of: {', '.join(CATALOGUES)}.",
        )
    found: dict[str, dict[str, Any]] = {}
    if query.area is not None:
        prepare(query.area)
    for item in _api(where, query, timeout, retries) if _is_api(root) else _walk(where, root, reader):
        if _fits(item, query) and (keep is None or keep(item)):
            found[str(item["id"])] = item
        if query.limit is not None and len(found) >= query.limit:
            break
        if len(found) > _TOO_MANY:
            raise CatalogueError(
                f"{where}: more than {_TOO_MANY:,} items fit", hint="Ask for a smaller area or fewer days at a time."
            )
    return sorted(_newest(list(found.values())), key=_order)


def _newest(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items without those of which the same image is there with a newer processing baseline."""
    best: dict[Any, str] = {}
    baselines = [item_baseline(item) or "" for item in items]
    images = [(item_tile(item) or item["id"], item_time(item), item.get("collection")) for item in items]
    for image, baseline in zip(images, baselines, strict=True):
        best[image] = max(best.get(image, ""), baseline)
    return [items[place] for place, image in enumerate(images) if baselines[place] == best[image]]


def _order(item: Mapping[str, Any]) -> tuple[str, str, str]:
    time = item_time(item)
    return item_tile(item) or "", time.isoformat() if time else "", str(item["id"])


def _is_api(root: Mapping[str, Any]) -> bool:
    return any(link.get("rel") == "search" for link in root.get("links") or [] if isinstance(link, Mapping))


def _api(where: str, query: Query, timeout: float, retries: int) -> Iterator[dict[str, Any]]:
    """Items from a STAC API, page by page."""
    import requests
    from pystac import STACError
    from pystac_client import Client
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    again = Retry(total=retries, backoff_factor=0.3, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=None)
    span = [f"{query.first}T00:00:00Z" if query.first else "..", f"{query.last}T23:59:59Z" if query.last else ".."]
    try:
        client = Client.open(where, stac_io=StacApiIO(timeout=timeout, max_retries=again))
        found = client.search(
            collections=list(query.collections) or None,
            intersects=_outline(query.area) if query.area is not None else None,
            datetime="/".join(span) if query.first or query.last else None,
            query={"eo:cloud_cover": {"lte": query.cloud}} if query.cloud is not None and _filters(client) else None,
        )
        for item in found.items_as_dicts():
            yield _absolute(item, where)
    except (APIError, STACError, requests.RequestException, ValueError, KeyError, NotImplementedError) as error:
        raise CatalogueError(
            f"{where}: the search failed: {_short(error)}", hint="Try again later, or ask for less at a time."
        ) from None


def _filters(client: Any) -> bool:
    return bool(client.conforms_to("QUERY"))


def _outline(area: Any) -> Any:
    """A shape that a server accepts in a request: of an area with too many corners, the cells of a grid that it touches, as fine
    as may be. What is found there and not in the area is dropped here.
    """
    from shapely import get_num_coordinates, make_valid
    from shapely.geometry import mapping

    shape = make_valid(area)
    west, south, east, north = shape.bounds
    cell = max(0.25, (east - west) / 256, (north - south) / 256)
    while get_num_coordinates(shape) > _CORNERS:
        shape = _cells(area, cell)
        cell *= 2
    return mapping(shape)


def _cells(area: Any, size: float) -> Any:
    """The cells of this many degrees that an area touches, as one shape."""
    import numpy as np
    from shapely import STRtree, box, get_parts, union_all

    west, south, east, north = area.bounds
    x, y = (
        grid.ravel() for grid in np.meshgrid(np.arange(west, east + size, size), np.arange(south, north + size, size))
    )
    cells = box(x, y, np.minimum(x + size, 180), np.minimum(y + size, 90))
    touched = np.unique(STRtree(cells).query(get_parts(area), predicate="intersects")[1])
    return union_all(cells[touched]).simplify(0)


class _Reader:
    """Reads JSON documents from files and servers."""

    def __init__(self, timeout: float, retries: int) -> None:
        self.timeout, self.retries = timeout, retries
        self.session: Any = None

    def read(self, where: str) -> dict[str, Any]:
        try:
            text = self._get(where) if re.match(r"https?://", where) else Path(where).read_bytes()
            content = json.loads(text)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise CatalogueError(
                f"{where}: cannot be read as a catalogue: {_short(error)}",
                hint="Is the address right, and the server up? Try again later.",
            ) from None
        if not isinstance(content, dict):
            raise CatalogueError(f"{where}: is JSON, but no STAC catalogue")
        return content

    def _get(self, where: str) -> bytes:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        if self.session is None:
            self.session = requests.Session()
            again = Retry(total=self.retries, backoff_factor=0.3, status_forcelist=[429, 500, 502, 503, 504])
            for scheme in ("http://", "https://"):
                self.session.mount(scheme, HTTPAdapter(max_retries=again))
        for _ in range(self.retries):
            # What breaks on its way is not asked again by the adapter.
            with suppress(requests.exceptions.ChunkedEncodingError):
                return self._once(where)
        return self._once(where)

    def _once(self, where: str) -> bytes:
        with self.session.get(where, timeout=self.timeout, stream=True) as answer:
            answer.raise_for_status()
            parts, size = [], 0
            for part in answer.iter_content(2**16):
                parts.append(part)
                size += len(part)
                if size > _MAX_DOCUMENT:
                    raise OSError("the document does not end")
            return b"".join(parts)


def _walk(where: str, root: dict[str, Any], reader: _Reader) -> Iterator[dict[str, Any]]:
    """Items of a static catalogue, depth first, each document once."""
    waiting, seen = [(where, root)], {where}
    while waiting:
        here, content = waiting.pop()
        kind = content.get("type")
        if kind == "FeatureCollection":
            yield from (_absolute(item, here) for item in content.get("features") or [])
        elif kind == "Feature":
            yield _absolute(content, here)
        elif kind in ("Catalog", "Collection") or "links" in content:
            links = [link for link in content.get("links") or [] if isinstance(link, Mapping)]
            below = [str(link.get("href")) for link in links if link.get("rel") in ("child", "item", "items")]
            for href in reversed(below):
                target = _join(here, href)
                if target not in seen:
                    seen.add(target)
                    waiting.append((target, {"type": "link"}))
        elif kind == "link":
            waiting.append((here, _document(reader.read(here), here)))
        else:
            raise CatalogueError(f"{here}: is JSON, but no STAC catalogue, collection or item")


def _document(content: dict[str, Any], here: str) -> dict[str, Any]:
    if content.get("type") == "link":
        raise CatalogueError(f"{here}: is JSON, but no STAC catalogue, collection or item")
    return content


def _join(here: str, href: str) -> str:
    if re.match(r"[a-z][a-z0-9+]*://", href):
        return href
    if re.match(r"https?://", here):
        return urljoin(here, href)
    return str((Path(here).parent / href).resolve())


def _absolute(item: Any, here: str) -> dict[str, Any]:
    """The item with absolute links to its assets."""
    if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("assets"), dict):
        raise CatalogueError(f"{here}: lists an item without an id or assets")
    own = [str(link.get("href")) for link in item.get("links") or [] if link.get("rel") == "self"]
    self_link = next((href for href in own if "://" in href), None)
    base = self_link if self_link and re.match(r"https?://", here) else here
    assets = {
        key: {**asset, "href": _join(base, str(asset["href"]))}
        for key, asset in item["assets"].items()
        if isinstance(asset, Mapping) and asset.get("href")
    }
    return {**item, "assets": assets}


def _fits(item: Mapping[str, Any], query: Query) -> bool:
    properties = item.get("properties") or {}
    if query.collections and item.get("collection") and item["collection"] not in query.collections:
        return False
    if query.tiles and item_tile(item) not in {tile.removeprefix("T").zfill(5) for tile in query.tiles}:
        return False
    time = item_time(item)
    if (query.first or query.last) and time is None:
        return False
    if time is not None and ((query.first and time.date() < query.first) or (query.last and time.date() > query.last)):
        return False
    cloud = properties.get("eo:cloud_cover")
    if query.cloud is not None and isinstance(cloud, (int, float)) and cloud > query.cloud:
        return False
    if query.area is not None:
        outline = footprint(item)
        if outline is None or not outline.intersects(query.area):
            return False
    return True


def footprint(item: Mapping[str, Any]) -> Any:
    """The ground of an item in degrees, as a shape; None where it has none. Some catalogues do not cut it at the antimeridian."""
    from shapely import make_valid
    from shapely.geometry import shape

    from shoal_earth.rasters.polygons import cut_at_antimeridian

    return make_valid(cut_at_antimeridian(shape(item["geometry"]))) if item.get("geometry") else None


def batch(items: Sequence[dict[str, Any]], number: int, of: int) -> list[dict[str, Any]]:
    """One of several batches of nearly equal size: ``batch(items, 1, 187)`` is the first.

    Raises:
        UsageError: there is no such batch.
    """
    if of < 1 or not 1 <= number <= of:
        raise UsageError(f"there is no batch {number} of {of}: they are counted from 1")
    return list(items[(number - 1) * len(items) // of : number * len(items) // of])


def save_items(items: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write found items as one GeoJSON file, which GIS programs show as a map of footprints."""
    write_text(path, json.dumps({"type": "FeatureCollection", "features": list(items)}, indent=1) + "\n")


def load_items(path: Path) -> list[dict[str, Any]]:
    """Read what :func:`save_items` wrote, or any item collection.

    Raises:
        CatalogueError: it is none.
    """
    content = _Reader(0, 0).read(str(path))
    if content.get("type") != "FeatureCollection":
        raise CatalogueError(
            f"{path}: is JSON, but no collection of items", hint="Make it with: shoal-earth scenes search"
        )
    return [_absolute(item, str(path)) for item in content.get("features") or []]


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    name = type(error).__name__
    if "Timeout" in name or "timed out" in str(error):
        return "the server did not answer in time"
    if "IncompleteRead" in str(error):
        return "the connection broke before the document was whole"
    if "Connection" in name or "MaxRetry" in str(error) or name == "RetryError":
        return "the server cannot be reached, or keeps failing"
    return text[0][:200] if text else name
