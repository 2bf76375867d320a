"""A small generated world in the true file formats, for tests and smoke runs. Nothing in it was ever seen from space.

Tiles of land cover with seasons; fires and clearings with dates and the polygons that match them; Sentinel-2 Level-2A products
(spacecraft "2Z", which does not exist) before and after, of old and new processing baselines, with clouds, their shadows and
SCL, and edges without data; and a static STAC catalogue of it all.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.transform import from_origin

from shoal.errors import UsageError
from shoal_earth.rasters.grids import Grid
from shoal_earth.rasters.masks import SCL
from shoal_earth.rasters.output import write_polygons, write_text, writing
from shoal_earth.rasters.synthetic_safe import write_item, write_safe, zip_safe

__all__ = ["Weather", "World", "changeable", "make_world"]

Array = np.ndarray[Any, Any]
Weather = Callable[[int, int], tuple[float, bool]]
"""Of an image, given as (tile, date), both from 0: its share of cloud, and whether it ends at the edge of the swath."""

# Reflectance in percent of B01 to B12 (no B10) for each kind of ground; vegetation has a lush and a dry state.
_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_SPECTRA = {
    "forest": (2, 2, 4, 2.5, 7, 20, 26, 30, 31, 31, 14, 6),
    "forest_dry": (2.5, 3, 5, 4.5, 9, 18, 22, 24, 25, 25, 18, 10),
    "grass": (3, 4, 8, 6, 13, 28, 33, 36, 37, 37, 24, 13),
    "grass_dry": (6, 8, 11, 14, 18, 22, 24, 26, 27, 27, 33, 24),
    "water": (6, 5, 4, 2.5, 2, 1.5, 1.5, 1.2, 1, 1, 0.6, 0.4),
    "bare": (9, 11, 15, 20, 23, 25, 26, 28, 29, 29, 36, 31),
    "burnt": (4, 4, 5, 6, 7, 8, 9, 9.5, 10, 10, 20, 22),
}
_CLOUD = np.array((62, 64, 63, 64, 65, 66, 67, 68, 68, 40, 50, 42), np.float32) / 100
_TILES = ("21LXF", "21LYF", "21LXG", "21LYG", "21LZF", "21LZG", "21LXH", "21LYH")
_CRS = "EPSG:32721"


def changeable(tile: int, date: int) -> tuple[float, bool]:
    """From nearly clear to half covered, in turn, each tile starting with another; every third image ends at an edge."""
    return (0.02, 0.10, 0.05, 0.18, 0.5)[(tile + date) % 5], (tile + date) % 3 == 2


@dataclass(frozen=True)
class World:
    """Where everything lies. ``fires`` and ``clearings`` are vector files with columns ``date`` and ``image_date``."""

    folder: Path
    scenes: list[Path]
    fires: Path
    clearings: Path
    catalogue: Path


@dataclass
class _Tile:
    """The ground of one tile: cover by name, events as (date, mask), at 10 m."""

    name: str
    grid: Grid
    cover: dict[str, Array]
    texture: Array
    fires: list[tuple[dt.date, Any, Array]] = field(default_factory=list)
    clearings: list[tuple[dt.date, Any, Array]] = field(default_factory=list)


def make_world(
    folder: Path,
    *,
    tiles: int = 2,
    size: int = 240,
    dates: tuple[str, ...] = ("2019-06-10", "2019-09-18", "2020-06-14", "2020-09-22"),
    fires: int = 3,
    clearings: int = 4,
    seed: int = 0,
    image: str = "jp2",
    gap: int = 0,
    zip_every: int = 0,
    weather: Weather = changeable,
) -> World:
    """Generate a world; the same arguments give the same bytes.

    Args:
        folder: where to; must not hold a world already.
        tiles: how many, at most 8.
        size: side of a tile in pixels of 10 m, a multiple of 6.
        dates: of the images, for every tile; those before 2020 have baseline 02.14, later ones 04.00 with its offset.
        fires: in each tile.
        clearings: in each tile.
        seed: of everything.
        image: ``jp2`` (as Sentinel-2 comes) or ``tif``.
        gap: metres between tiles.
        zip_every: every so many-th product is a zip, and the catalogue offers no single bands of it; 0 for none.
        weather: how cloudy each image is, and whether it is whole.

    Raises:
        UsageError: an argument makes no sense, or the folder is in use.
    """
    if size % 6 or size < 60 or not 1 <= tiles <= len(_TILES) or image not in ("jp2", "tif") or not dates:
        raise UsageError("a synthetic world has 1 to 8 tiles of a multiple of 6 pixels, at least 60, as jp2 or tif")
    if (folder / "catalog.json").exists():
        raise UsageError(f"{folder}: holds a world already", hint="Name another folder, or remove it.")
    with writing(folder, left="It is no whole world: remove it."):
        days = sorted(dt.date.fromisoformat(date) for date in dates)
        scenes, items, all_tiles = [], [], []
        for number in range(tiles):
            rng = np.random.default_rng([seed, number])
            tile = _ground(rng, number, size, gap)
            _events(rng, tile, days, fires, clearings)
            all_tiles.append(tile)
            for index, day in enumerate(days):
                look = np.random.default_rng([seed, number, index])
                cloudiness, edge = weather(number, index)
                bands, classes = _seen(look, tile, day, cloudiness, edge=edge)
                baseline = "02.14" if day.year < 2020 else "04.00"
                path = write_safe(folder / "scenes", tile.name, tile.grid, day, baseline, bands, classes, image)
                if zip_every and (number * len(days) + index) % zip_every == zip_every - 1:
                    path = zip_safe(path)
                scenes.append(path)
                items.append(write_item(folder / "items", path, tile.name, tile.grid, day, baseline, classes))
        paths = {
            name: _vectors(folder / f"{name}.gpkg", all_tiles, name, column)
            for name, column in (("fires", "date"), ("clearings", "image_date"))
        }
        links = [{"rel": "root", "href": "./catalog.json", "type": "application/json"}]
        links += [
            {"rel": "item", "href": f"./{item.relative_to(folder).as_posix()}", "type": "application/geo+json"}
            for item in items
        ]
        catalogue = {
            "type": "Catalog",
            "id": "synthetic-world",
            "stac_version": "1.0.0",
            "description": "Generated scenes of a world that does not exist",
            "links": links,
        }
        write_text(folder / "catalog.json", json.dumps(catalogue, indent=1) + "\n")
        return World(folder, scenes, paths["fires"], paths["clearings"], folder / "catalog.json")


def _noise(rng: np.random.Generator, size: int, smooth: float) -> Array:
    """Smooth noise of zero mean and unit spread."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.standard_normal((size, size)), smooth, mode="wrap")
    result: Array = ((field - field.mean()) / field.std()).astype(np.float32)
    return result


def _ground(rng: np.random.Generator, number: int, size: int, gap: int) -> _Tile:
    side = size * 10 + gap
    left, top = 600_000 + (number % 2) * side, 8_800_020 - (number // 2) * side
    from rasterio.crs import CRS

    grid = Grid(CRS.from_string(_CRS), from_origin(left, top, 10, 10), size, size)
    height, wet = _noise(rng, size, size / 8), _noise(rng, size, size / 12)
    water = wet > 1.9
    bare = (height < -1.6) & ~water
    grass = (height < -0.6) & ~water & ~bare
    cover = {"water": water, "bare": bare, "grass": grass, "forest": ~(water | bare | grass)}
    return _Tile(_TILES[number], grid, cover, _noise(rng, size, 1.5))


def _blob(rng: np.random.Generator, grid: Grid, radius: float, corners: int, rough: float) -> Any:
    """A closed shape around a random place, wholly inside the tile."""
    from shapely.geometry import Polygon

    left, bottom, right, top = grid.bounds
    reach = radius * (1 + 2 * rough) + 20
    x, y = rng.uniform(left + reach, right - reach), rng.uniform(bottom + reach, top - reach)
    angles = np.sort(rng.uniform(0, 2 * np.pi / corners, corners) + np.arange(corners) * 2 * np.pi / corners)
    lengths = radius * np.clip(1 + rough * rng.standard_normal(corners), 0.5, 1 + 2 * rough)
    return Polygon(zip(x + lengths * np.cos(angles), y + lengths * np.sin(angles), strict=True)).buffer(0)


def _events(rng: np.random.Generator, tile: _Tile, days: list[dt.date], fires: int, clearings: int) -> None:
    from rasterio.features import rasterize

    span = max(2, (days[-1] - days[0]).days)
    for kind, count, radius, corners, rough in (
        (tile.fires, fires, 0.09, 24, 0.2),
        (tile.clearings, clearings, 0.06, 5, 0.1),
    ):
        for number in range(count):
            shape = _blob(rng, tile.grid, radius * tile.grid.width * 10 * rng.uniform(0.6, 1.3), corners, rough)
            # Spread over the time between the first image and the last, and never on the day of one.
            day = days[0] + dt.timedelta(days=1 + int((number + rng.uniform(0.1, 0.9)) / max(count, 1) * (span - 2)))
            while day in days:
                day += dt.timedelta(days=1)
            size = (tile.grid.height, tile.grid.width)
            kind.append((day, shape, rasterize([shape], size, transform=tile.grid.transform).astype(bool)))


def _seen(
    rng: np.random.Generator, tile: _Tile, day: dt.date, cloudiness: float, *, edge: bool
) -> tuple[dict[str, Array], Array]:
    """Reflectance by band (10 m) and the scene classification, both with 0 where there is no data."""
    size = tile.grid.width
    lush = 0.5 + 0.5 * np.cos(2 * np.pi * (day.timetuple().tm_yday - 100) / 365)
    cube = np.zeros((len(_BANDS), size, size), np.float32)
    classes = np.full((size, size), SCL.BARE, np.uint8)
    for name, where in tile.cover.items():
        spectrum = np.array(_SPECTRA[name], np.float32)
        if f"{name}_dry" in _SPECTRA:
            dry = np.array(_SPECTRA[f"{name}_dry"], np.float32)
            spectrum = dry + np.float32(lush) * (spectrum - dry)
            classes[where] = SCL.VEGETATION
        cube[:, where] = spectrum[:, None] / 100
    classes[tile.cover["water"]] = SCL.WATER
    land = ~tile.cover["water"]
    for events, name in ((tile.clearings, "bare"), (tile.fires, "burnt")):
        for happened, _, mask in events:
            if happened < day:
                fresh = np.float32(0.9 * np.exp(-(day - happened).days / 900))
                where = mask & land
                after: Array = np.array(_SPECTRA[name], np.float32)[:, None] / 100
                cube[:, where] = (1 - fresh) * cube[:, where] + fresh * after
                classes[where] = SCL.BARE
    cube *= 1 + 0.08 * tile.texture + 0.03 * rng.standard_normal(cube.shape, dtype=np.float32)
    _cover_with_clouds(rng, cube, classes, cloudiness)
    cube = np.clip(cube, 0.001, 1.2)
    if edge:
        rows, columns = np.mgrid[:size, :size]
        outside = columns + 0.25 * rows > 0.85 * size
        cube[:, outside] = 0
        classes[outside] = SCL.NODATA
    return dict(zip(_BANDS, cube, strict=True)), classes


def _cover_with_clouds(rng: np.random.Generator, cube: Array, classes: Array, share: float) -> None:
    size = len(classes)
    thick = _noise(rng, size, size / 14)
    cut = float(np.quantile(thick, 1 - share))
    cloud, halo = thick > cut, thick > cut - 0.12
    shadow = np.roll(cloud, (size // 20, size // 30), (0, 1)) & ~halo
    cube[:, shadow] *= 0.45
    classes[shadow & (classes != SCL.WATER)] = SCL.SHADOW
    cover = np.clip((thick - cut + 0.12) / 0.4, 0, 1) * halo
    cube[:] = (1 - cover) * cube + cover * _CLOUD[:, None, None]
    classes[halo] = SCL.CLOUD_MEDIUM
    classes[cloud] = SCL.CLOUD_HIGH


def _vectors(path: Path, tiles: list[_Tile], kind: str, column: str) -> Path:
    import geopandas

    rows = [(tile.name, day, shape) for tile in tiles for day, shape, _ in getattr(tile, kind)]
    table = {
        "id": [f"synthetic-{kind}-{number}" for number in range(len(rows))],
        "tile": [name for name, _, _ in rows],
        column: [day.isoformat() for _, day, _ in rows],
        "year": [day.year for _, day, _ in rows],
    }
    frame = geopandas.GeoDataFrame(table, geometry=[shape for _, _, shape in rows], crs=_CRS).to_crs(4326)
    write_polygons(path, frame)
    return path
