"""``shoal-earth scenes ...``: look at scenes, find and fetch them, filter them, make composites, let a person choose."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from shoal.errors import UsageError
from shoal_earth.options import Catalogue, Cloud, Collections, MaxCloud, MaxNodata, TileSize, Unclassified, WorldSeed

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Satellite scenes. Search, fetch, filter, composites, contact sheets.")

Scenes = Annotated[list[Path], typer.Argument(help="Scenes: .SAFE folders or zips, Landsat folders, items, rasters.")]
Bands = Annotated[
    str, typer.Option(help="Bands to fetch, by name or common name, or keys of assets; separated by commas.")
]


@app.command("info")
def info_command(
    scene: Annotated[str, typer.Argument(help="A scene, or the URL of a raster.")],
    figures: Annotated[bool, typer.Option(help="Also measure no-data and cloud (reads the scene).")] = False,
) -> None:
    """Say what a scene is: sensor, date, grid, bands, offsets."""
    from shoal_earth.rasters.filters import measure
    from shoal_earth.rasters.opening import read_scene

    with read_scene(scene) as found:
        grid = found.grid()
        typer.echo(f"{found.name}: {found.sensor}" + (f", baseline {found.baseline}" if found.baseline else ""))
        when = f"{found.acquired:%Y-%m-%d %H:%M} UTC" if found.acquired else "unknown"
        typer.echo(f"acquired {when}, tile {found.tile or 'unknown'}")
        typer.echo(f"{grid.width} x {grid.height} pixels of {grid.resolution:g}, {grid.crs_name}")
        for band in found.bands.values():
            common = f" {band.common}" if band.common else ""
            sizes = "/".join(f"{f.resolution:g}" for f in band.files if f.resolution)
            sizes = f" at {sizes} m" if sizes else ""
            value = (
                "" if (band.scale, band.offset) == (1, 0) else f", value = {band.scale:g} x stored + {band.offset:g}"
            )
            typer.echo(f"  {band.name}{common}{sizes}{value}")
        typer.echo(f"classification: {found.classification.band.name if found.classification else 'none'}")
        if figures:
            measured = measure(found)
            cloud = "unknown" if measured.cloud is None else f"{measured.cloud:.1%} of the rest"
            typer.echo(f"no data: {measured.nodata:.1%}; cloud: {cloud}")


@app.command("search")
def search_command(
    out: Annotated[Path, typer.Option(help="GeoJSON file for the items found.")],
    catalogue: Catalogue = "earth-search",
    area: Annotated[str | None, typer.Option(help="west,south,east,north in degrees, or a vector file.")] = None,
    dates: Annotated[
        str | None, typer.Option(help="First and last day: 2019-05-01/2019-10-31; either may be missing.")
    ] = None,
    cloud: Cloud = None,
    collection: Collections = None,
    tile: Annotated[list[str] | None, typer.Option(help="Tile such as 35MNM; give it again for more.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most items; all by default.")] = None,
) -> None:
    """Find scenes in a catalogue."""
    from shoal_earth.rasters.items import item_tile
    from shoal_earth.rasters.stac import Query, collections_of, read_area, save_items, search

    first, last = _dates(dates)
    collections = collections_of(catalogue, collection)
    query = Query(read_area(area) if area else None, first, last, cloud, collections, tuple(tile or ()), limit)
    items = search(catalogue, query)
    save_items(items, out)
    typer.echo(f"{len(items)} items of {len({item_tile(item) for item in items})} tiles: {out}")


@app.command("fetch")
def fetch_command(
    items: Annotated[Path, typer.Argument(help="What `search` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the scenes.")],
    bands: Bands = "blue,green,red,nir,scl",
    resolution: Annotated[float | None, typer.Option(help="Pixel size in metres that is enough.")] = None,
    part: Annotated[str | None, typer.Option("--batch", help="One of several batches: 3/187.")] = None,
    places: Annotated[
        Path | None, typer.Option(help="Vector file: fetch only the blocks that its shapes touch.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Around these shapes, in units of the scene's CRS.")] = 0.0,
    parallel: Annotated[int, typer.Option(help="Downloads at once.")] = 4,
    sign: Annotated[str, typer.Option(help="How links become usable: none or planetary-computer.")] = "none",
) -> None:
    """Fetch scenes; run again, it goes on where it stopped. A token is read from SHOAL_EARTH_TOKEN."""
    from shoal_earth.rasters.fetch import access_from_environment, fetch_items, fetch_windows, planetary_computer
    from shoal_earth.rasters.stac import batch, load_items

    if sign not in ("none", "planetary-computer"):
        raise UsageError(f'--sign is none or planetary-computer, not "{sign}"')
    wanted = load_items(items)
    if part:
        number, _, of = part.partition("/")
        if not (number.isdigit() and of.isdigit()):
            raise UsageError(f'--batch is a number and how many there are, such as 3/187, not "{part}"')
        wanted = batch(wanted, int(number), int(of))
    access = access_from_environment(parallel=parallel, sign=planetary_computer() if sign != "none" else None)
    names = [name.strip() for name in bands.split(",") if name.strip()]
    if places is None:
        counts = fetch_items(wanted, out, bands=names, resolution=resolution, access=access)
        typer.echo(
            f"{counts['scenes']} scenes: {counts['fetched']} files fetched ({counts['bytes']:,} bytes), "
            f"{counts['there']} were there"
        )
        return
    from shoal_earth.rasters.labels import read_polygons

    shapes = read_polygons(places).frame
    counts = fetch_windows(wanted, shapes, out, bands=names, resolution=resolution, margin=margin, access=access)
    share = counts["pixels"] / counts["all"] if counts["all"] else 0
    typer.echo(
        f"{counts['scenes']} scenes: {share:.1%} of their pixels fetched; {counts['there']} were there, "
        f"{counts['outside']} outside"
    )


@app.command("filter")
def filter_command(
    scenes: Scenes,
    out: Annotated[Path, typer.Option(help="CSV file for the figures and verdicts.")],
    max_nodata: MaxNodata = 0.8,
    max_cloud: MaxCloud = 0.25,
    unclassified: Unclassified = False,
) -> None:
    """Measure scenes and drop those with too little to see."""
    from shoal_earth.rasters.filters import Rules, sift

    judged = sift(scenes, Rules(max_nodata, max_cloud, unclassified), out)
    for figures, why in judged:
        typer.echo(f"{'drop' if why else 'keep'} {figures.scene}" + (f": {why}" if why else ""))
    kept = sum(why is None for _, why in judged)
    typer.echo(f"{kept} of {len(judged)} kept: {out}")


@app.command("composite")
def composite_command(
    scenes: Scenes,
    out: Annotated[Path, typer.Option(help="Folder for the GeoTIFFs.")],
    kind: Annotated[str, typer.Option(help="rgb, ngb, ndvi, evi, tci, or bands: swir22+nir+red.")] = "ngb",
    resolution: Annotated[float | None, typer.Option(help="Pixel size, in units of the CRS.")] = None,
) -> None:
    """Make composites of scenes. Float GeoTIFFs of reflectance or an index, no-data apart."""
    from shoal_earth.rasters.composites import write_composite
    from shoal_earth.rasters.opening import read_scene

    for path in scenes:
        with read_scene(path) as scene:
            target = out / f"{scene.name}_{kind.replace('+', '-')}.tif"
            write_composite(scene, kind, target, resolution=resolution)
        typer.echo(str(target))


@app.command("contact-sheet")
def contact_sheet_command(
    scenes: Scenes,
    out: Annotated[Path, typer.Option(help="Folder for index.html and choose.csv.")],
    pairs: Annotated[bool, typer.Option(help="Pairs of one tile, from one year and the next.")] = False,
    kind: Annotated[str, typer.Option(help="Composite of the quick-looks.")] = "rgb",
    title: Annotated[str, typer.Option(help="Of the page.")] = "Choose scenes",
) -> None:
    """Make the page from which a person chooses scenes or pairs."""
    from shoal_earth.rasters.contact_sheet import Candidate, find_pairs, write_contact_sheet

    candidates = find_pairs(scenes) if pairs else [Candidate(path.stem, path) for path in scenes]
    page = write_contact_sheet(candidates, out, title=title, kind=kind)
    typer.echo(f"{len(candidates)} to choose from: {page}")


@app.command("synthetic")
def synthetic_command(
    out: Annotated[Path, typer.Argument(help="Folder for the world.")],
    tiles: Annotated[int, typer.Option(help="How many, at most 8.")] = 2,
    size: TileSize = 240,
    seed: WorldSeed = 0,
    image: Annotated[str, typer.Option(help="jp2 or tif.")] = "jp2",
) -> None:
    """Generate a small synthetic world. Scenes, fires, clearings and their catalogue."""
    from shoal_earth.rasters.synthetic import make_world

    world = make_world(out, tiles=tiles, size=size, seed=seed, image=image)
    typer.echo(f"{len(world.scenes)} synthetic scenes: {world.catalogue}")


def _dates(text: str | None) -> tuple[dt.date | None, dt.date | None]:
    if not text:
        return None, None
    first, slash, last = text.partition("/")
    try:
        days = [dt.date.fromisoformat(day) if day.strip(". ") else None for day in (first, last if slash else first)]
    except ValueError:
        raise UsageError(f'--dates are days such as 2019-05-01/2019-10-31, not "{text}"') from None
    return days[0], days[1]
