"""Which files of a catalogue's item hold the bands that are wanted, under which link, and what they are called on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from shoal_earth.rasters.items import asset_bands, asset_resolution, is_archive, quality_kind
from shoal_earth.rasters.parts import FetchError

__all__ = ["ITEM", "Asset", "choose_assets", "plan_assets"]

ITEM = "item.json"
"""Written last into the folder of a scene: with it the scene is whole."""


@dataclass(frozen=True)
class Asset:
    """One file of an item: its key and link there, its name on disk, and what the catalogue promises of it."""

    key: str
    href: str
    name: str
    size: int | None
    checksum: str | None


def choose_assets(item: Mapping[str, Any], bands: Sequence[str], resolution: float | None = None) -> list[str]:
    """The assets that hold these bands, one each: the finest, or the coarsest that is no coarser than ``resolution``.

    Where there is none for a band but the whole product as a zip, that alone.

    Args:
        item: a STAC item.
        bands: names (``B08``), common names (``nir``), ``scl`` (or Landsat's ``qa_pixel``), ``visual``, or keys of assets.
        resolution: pixel size that is enough, in metres.

    Raises:
        FetchError: there is no asset for one of them.
    """
    assets = item.get("assets") or {}
    chosen = []
    for wanted in bands:
        found = [key for key, asset in assets.items() if wanted.lower() in _answers_to(item, key, asset)]
        if not found and wanted.lower() == "nir":  # a sensor without the broad band has the narrow one
            found = [key for key, asset in assets.items() if "nir08" in _answers_to(item, key, asset)]
        if wanted in assets:
            found = [wanted]
        archives = [] if found else [key for key, asset in assets.items() if is_archive(asset)]
        if len(archives) == 1:
            return archives  # the catalogue offers the product as a whole
        if not found:
            raise FetchError(
                f'{item.get("id")}: the catalogue lists no asset for "{wanted}"', hint=f"It lists: {', '.join(assets)}."
            )
        sized = sorted(found, key=lambda key: (asset_resolution(key, assets[key]) or 0, key))
        enough = [k for k in sized if resolution and (asset_resolution(k, assets[k]) or 0) <= resolution]
        key = enough[-1] if enough else sized[0]
        if key not in chosen:
            chosen.append(key)
    return chosen


def _answers_to(item: Mapping[str, Any], key: str, asset: Mapping[str, Any]) -> set[str]:
    roles = asset.get("roles") or []
    if any(role in roles for role in ("thumbnail", "overview", "metadata", "archive")):
        return set()
    if kind := quality_kind(key):
        return {kind.lower(), "scl"}
    if re.match(r"^(visual|tci)(?:[._-]\d+m)?$", key, re.IGNORECASE):
        return {"visual", "tci"}
    names = asset_bands(str(item.get("id") or ""), key, asset)
    if len(names) != 1:
        return set()
    return {name.lower() for name in names[0] if name}


def plan_assets(item: Mapping[str, Any], keys: Sequence[str]) -> list[Asset]:
    """Assets of an item as files in the folder of its scene, each with a name of its own."""
    # Over all assets, so that a file's name does not depend on which others are fetched with it.
    names = Counter(_base(asset) for asset in item["assets"].values())
    planned: list[Asset] = []
    for key in keys:
        asset = item["assets"][key]
        name = _base(asset)
        if name == ITEM or names[name] > 1:
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', key)}-{name}"
        size, checksum = asset.get("file:size"), asset.get("file:checksum") or asset.get("checksum:multihash")
        size = size if isinstance(size, int) and size > 0 else None
        planned.append(Asset(key, _link(asset), name, size, str(checksum) if checksum else None))
    return planned


def _base(asset: Mapping[str, Any]) -> str:
    """A plain file name for an asset: nothing in it leaves the folder or hides the file."""
    path = str(asset.get("file:local_path") or "") or urlsplit(_link(asset)).path
    return re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(unquote(path)).name).lstrip(".") or "file"


def _link(asset: Mapping[str, Any]) -> str:
    """The asset's link; an alternate one where the first is of a bucket that needs an account."""
    links = [str(asset.get("href") or "")]
    links += [str(other.get("href") or "") for other in (asset.get("alternate") or {}).values()]
    usable = [link for link in links if re.match(r"(https?|file)://", link) or "://" not in link]
    return next(iter(usable), links[0])
