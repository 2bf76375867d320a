"""Fetch scenes that a search found: whole files, or only the blocks of them that some places need."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from shoal.errors import UsageError
from shoal_earth.rasters.assets import ITEM, Asset, choose_assets, plan_assets
from shoal_earth.rasters.download import Access, Download, FetchError, download_all
from shoal_earth.rasters.files import REMOTE
from shoal_earth.rasters.grids import Grid, reason
from shoal_earth.rasters.items import BLOCKS, is_archive
from shoal_earth.rasters.output import publish, write_text

__all__ = ["access_from_environment", "fetch_items", "fetch_windows", "planetary_computer"]

DEFAULT_BANDS = ("blue", "green", "red", "nir", "scl")
_BLOCK = 512


def access_from_environment(**settings: Any) -> Access:
    """Access with the token in ``SHOAL_EARTH_TOKEN``, if there is one (Copernicus Data Space and others ask for it)."""
    token = os.environ.get("SHOAL_EARTH_TOKEN")
    return Access(headers={"Authorization": f"Bearer {token}"} if token else {}, **settings)


def planetary_computer(service: str = "https://planetarycomputer.microsoft.com/api/sas/v1/sign") -> Any:
    """A function that signs links for the Planetary Computer's storage; other links stay as they are."""
    import requests

    def sign(url: str) -> str:
        host = urlsplit(url).hostname or ""
        if not host.endswith(".blob.core.windows.net") or "sig=" in url:
            return url
        try:
            answer = requests.get(service, params={"href": url}, timeout=30)
            answer.raise_for_status()
            return str(answer.json()["href"])
        except (requests.RequestException, ValueError, KeyError) as error:
            raise FetchError(f"{service}: cannot sign {url}: {type(error).__name__}") from None

    return sign


def fetch_items(
    items: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    bands: Sequence[str] = DEFAULT_BANDS,
    resolution: float | None = None,
    access: Access | None = None,
) -> dict[str, int]:
    """Fetch scenes into ``out/<item>/``; a scene is whole once its ``item.json`` is there, and then is not fetched again.

    Args:
        items: as a search gives them, with absolute links.
        out: folder.
        bands: see :func:`choose_assets`.
        resolution: see :func:`choose_assets`.
        access: how to speak to servers.

    Returns:
        Counts: ``fetched`` and ``there`` (files), ``bytes`` received, ``scenes``.

    Raises:
        FetchError: something could not be fetched; the rest was.
        WriteError: the disk is full.
    """
    access = access or access_from_environment()
    plans = []
    for item in items:
        folder = _folder(out, item)
        assets = plan_assets(item, choose_assets(item, bands, resolution))
        plans.append((item, folder, assets))
        for key, asset in _fetched(folder).items():
            if BLOCKS in asset and any(key == planned.key for planned in assets):
                (folder / str(asset["href"])).unlink()
    files = [
        Download(asset.href, folder / asset.name, asset.size, asset.checksum)
        for _, folder, assets in plans
        for asset in assets
    ]
    error: FetchError | None = None
    try:
        counts = download_all(files, access)
    except FetchError as raised:
        error, counts = raised, {}
    for item, folder, assets in plans:
        if all((folder / asset.name).is_file() for asset in assets):
            _finish(item, folder, {asset.key: {"href": f"./{asset.name}"} for asset in assets})
    if error is not None:
        raise error
    return {**counts, "scenes": len(plans)}


def fetch_windows(
    items: Sequence[Mapping[str, Any]],
    places: Any,
    out: Path,
    *,
    bands: Sequence[str] = DEFAULT_BANDS,
    resolution: float | None = None,
    margin: float = 0.0,
    access: Access | None = None,
) -> dict[str, int]:
    """Fetch only the blocks of scenes that places touch, over HTTP ranges of their COGs.

    The files have the scenes' own grids; blocks that were not fetched are no data and take no room. Fetched again for the same
    places, or after whole scenes, what is there stays.

    Args:
        items: as a search gives them.
        places: shapes with a CRS (a GeoSeries or GeoDataFrame).
        out: folder.
        bands: see :func:`choose_assets`.
        resolution: see :func:`choose_assets`.
        margin: around the places, in units of the scene's CRS.
        access: how to speak to servers.

    Returns:
        Counts: ``scenes``, those ``outside`` all places, ``pixels`` read and pixels in ``all``.

    Raises:
        FetchError: a file could not be read.
        UsageError: no place touches any scene, or a scene is offered as one archive.
        WriteError: the disk is full.
    """
    access = access or access_from_environment()
    for item in items:
        if any(is_archive(item["assets"][key]) for key in choose_assets(item, bands, resolution)):
            raise UsageError(
                f"{item.get('id')}: the catalogue offers it as one archive, of which no windows can be fetched",
                hint="Fetch whole scenes: leave --places out.",
            )
    counts = {"scenes": 0, "outside": 0, "there": 0, "pixels": 0, "all": 0}
    mark = _mark(places, margin)
    for item in items:
        folder = _folder(out, item)
        assets = plan_assets(item, choose_assets(item, bands, resolution))
        there = {
            key for key, asset in _fetched(folder).items() if asset.get(BLOCKS, {"places": mark})["places"] == mark
        }
        missing = [asset for asset in assets if asset.key not in there]
        if not missing:
            counts["there"] += 1
            continue
        with ThreadPoolExecutor(max_workers=max(1, access.parallel)) as pool:
            parts = list(
                pool.map(partial(_blocks, folder=folder, places=places, margin=margin, access=access), missing)
            )
        if not any(read for read, _ in parts):
            counts["outside"] += 1
            continue
        counts["scenes"] += 1
        counts["pixels"] += sum(read for read, _ in parts)
        counts["all"] += sum(whole for _, whole in parts)
        got = {}
        for asset, (read, whole) in zip(missing, parts, strict=True):
            if read:
                blocks = {"places": mark, "share": round(read / whole, 6)}
                got[asset.key] = {"href": f"./{PurePosixPath(asset.name).stem}.tif", BLOCKS: blocks}
        _finish(item, folder, got)
    if items and counts["outside"] == len(items):
        raise UsageError(
            f"none of the places touches any of the {len(items)} scenes",
            hint="Are they of another place, or is their CRS wrong?",
        )
    return counts


def _mark(places: Any, margin: float) -> str:
    """What tells places from others."""
    digest = hashlib.sha256(f"{places.crs} {margin}".encode())
    for shape in places.geometry.to_wkb():
        digest.update(shape)
    return digest.hexdigest()[:16]


def _blocks(asset: Asset, folder: Path, places: Any, margin: float, access: Access) -> tuple[int, int]:
    url = access.sign(asset.href) if access.sign else asset.href
    options = dict(REMOTE)
    if access.headers:
        options["GDAL_HTTP_HEADERS"] = "\r\n".join(f"{key}: {value}" for key, value in access.headers.items())
    path = folder / (PurePosixPath(asset.name).stem + ".tif")
    try:
        with rasterio.Env(**options), rasterio.open(url) as source:
            grid = Grid.of(source, asset.href)
            needed = _needed(grid, places, margin)
            if not needed:
                return 0, 0
            profile = {
                "driver": "GTiff",
                "count": source.count,
                "height": grid.height,
                "width": grid.width,
                "dtype": source.dtypes[0],
                "crs": grid.crs,
                "transform": grid.transform,
                "nodata": source.nodata if source.nodata is not None else 0,
                "tiled": True,
                "blockxsize": _BLOCK,
                "blockysize": _BLOCK,
                "compress": "DEFLATE",
                "predictor": 2 if np.dtype(source.dtypes[0]).kind in "ui" else 3,
                "sparse_ok": True,
            }
            pixels = 0
            with publish(path) as temporary:
                with rasterio.open(temporary, "w", **profile) as target:
                    for window in needed:
                        try:
                            values = source.read(window=window)
                        except RasterioError as error:
                            raise FetchError(
                                f"{asset.href}: cannot be read at row {window.row_off}, column {window.col_off}: {reason(error)}",
                                hint="Run it again: scenes that are whole are not fetched again.",
                            ) from None
                        target.write(values, window=window)
                        pixels += values.size
            return pixels, grid.height * grid.width * source.count
    except RasterioError as error:
        raise FetchError(
            f"{asset.href}: cannot be opened: {reason(error)}", hint="Is the catalogue's link up to date?"
        ) from None


def _needed(grid: Grid, places: Any, margin: float) -> list[Window]:
    from shapely import STRtree, box

    tree = STRtree(list(grid.touched(places.geometry, margin)))
    return [w for w in grid.windows(_BLOCK) if len(tree.query(box(*grid.part(w).bounds), predicate="intersects"))]


def _folder(out: Path, item: Mapping[str, Any]) -> Path:
    name = str(item.get("id") or "")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name):
        raise FetchError(f'the catalogue lists a scene named "{name[:80]}", which cannot be the name of a folder')
    return out / name


def _finish(item: Mapping[str, Any], folder: Path, got: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the item beside its files, with links to them; scenes are read from it. What came before stays in it."""
    kept = dict(_fetched(folder))
    for key, facts in got.items():
        kept[key] = {**item["assets"][key], **facts}
        for promise in ("alternate", "file:size", "file:checksum", "file:local_path"):
            kept[key].pop(promise, None)
    links = [link for link in item.get("links") or [] if link.get("rel") == "self"]
    content = json.dumps({**item, "assets": dict(sorted(kept.items())), "links": links}, indent=1) + "\n"
    if not (folder / ITEM).is_file() or (folder / ITEM).read_text(encoding="utf-8") != content:
        write_text(folder / ITEM, content)


def _fetched(folder: Path) -> dict[str, Any]:
    """The assets that an earlier run fetched into a folder."""
    try:
        assets: dict[str, Any] = json.loads((folder / ITEM).read_text(encoding="utf-8"))["assets"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {key: asset for key, asset in assets.items() if (folder / str(asset.get("href") or "?")).is_file()}
