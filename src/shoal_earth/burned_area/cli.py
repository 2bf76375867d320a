"""``shoal-earth burned-area ...``: from fire polygons and scenes to chips. Heavy libraries are imported by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.errors import UsageError
from shoal_earth.options import (
    Catalogue,
    ChipSize,
    Cloud,
    Collections,
    MaxCloud,
    MaxNodata,
    Shares,
    TileSize,
    Unclassified,
    WorldSeed,
)

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Burned area, from fire polygons and scenes to chips. Train and test with: shoal-earth segmentation.",
)

FiresFile = Annotated[Path, typer.Option("--fires", help="What `burned-area fires` wrote.")]
ScenesFolder = Annotated[Path, typer.Option("--scenes", help="Folder of scenes.")]


@app.command("fires")
def fires_command(
    polygons: Annotated[list[Path], typer.Argument(help="Vector files, a set each, or folders of such.")],
    out: Annotated[Path, typer.Option(help="GeoPackage for the table of fires.")],
    margin: Annotated[float, typer.Option(help="Fires are kept together whose surroundings (metres) meet.")] = 2560.0,
) -> None:
    """Read fire polygons into one table with days and groups. Knows the columns of NBAC, CNFDB, EFFIS and others."""
    from shoal_earth.burned_area.fires import gather, save_fires

    fires, lines = gather(polygons, margin=margin)
    save_fires(fires, out)
    for line in lines:
        typer.echo(line)
    frame = fires.frame
    typer.echo(f"{len(frame)} fires in {frame['group'].nunique()} groups, {frame['hectares'].sum():,.0f} ha: {out}")


@app.command("search")
def search_command(
    fires: FiresFile,
    out: Annotated[Path, typer.Option(help="GeoJSON file for the items found.")],
    of_set: Annotated[str | None, typer.Option("--set", help="Only fires of this set.")] = None,
    catalogue: Catalogue = "earth-search",
    collection: Collections = None,
    after: Annotated[int, typer.Option(help="Days after a fire that its burn is looked for.")] = 60,
    before: Annotated[int, typer.Option(help="Days before a fire.")] = 0,
    cloud: Cloud = None,
    limit: Annotated[int | None, typer.Option(help="Most items; all by default.")] = None,
) -> None:
    """Find the scenes that show fires soon after they were out."""
    from shoal_earth.burned_area.fires import Fires, load_fires
    from shoal_earth.burned_area.search import find_items
    from shoal_earth.rasters.stac import collections_of, save_items

    found = load_fires(fires)
    if of_set is not None:
        chosen = found.frame[found.frame["set"] == of_set]
        if not len(chosen):
            raise UsageError(
                f'{fires}: has no set "{of_set}"', hint=f"It has: {', '.join(sorted(found.frame['set'].unique()))}."
            )
        found = Fires(found.path, chosen.reset_index(drop=True))
    collections = collections_of(catalogue, collection)
    items = find_items(found, catalogue, after=after, before=before, cloud=cloud, collections=collections, limit=limit)
    save_items(items, out)
    typer.echo(f"{len(items)} scenes of {len(found)} fires: {out}")


@app.command("filter")
def filter_command(
    scenes: ScenesFolder,
    out: Annotated[Path, typer.Option(help="Folder for figures.csv.")],
    max_nodata: MaxNodata = 0.8,
    max_cloud: MaxCloud = 0.25,
    unclassified: Unclassified = False,
) -> None:
    """Measure scenes, drop those with too little to see. The folder may be empty."""
    from shoal_earth.burned_area.labels import filter_scenes
    from shoal_earth.rasters.filters import Rules

    lines = filter_scenes(scenes, out, Rules(max_nodata, max_cloud, unclassified))
    for line in lines:
        typer.echo(line)
    typer.echo(f"{sum(line.startswith('keep') for line in lines)} of {len(lines)} kept")


@app.command("labels")
def labels_command(
    scenes: ScenesFolder,
    figures: Annotated[Path, typer.Option(help="What `burned-area filter` wrote; its kept scenes are labelled.")],
    fires: FiresFile,
    part: Annotated[str, typer.Option(help="Name of this part of the scenes, e.g. of the batch.")],
    out: Annotated[Path, typer.Option(help="Folder for a GeoTIFF for each scene.")],
    resolution: Annotated[float, typer.Option(help="Pixel size, in units of the scenes' CRS.")] = 10.0,
    fresh: Annotated[
        int, typer.Option(min=1, help="Days after a fire for which its burn is surely seen; later it is not known.")
    ] = 365,
) -> None:
    """Burn what had burnt by its day into a label of each scene."""
    from shoal_earth.burned_area.fires import load_fires
    from shoal_earth.burned_area.labels import kept_scenes, label_scenes

    kept = kept_scenes(scenes, figures)
    for line in label_scenes(kept, load_fires(fires), out, part=part, resolution=resolution, fresh=fresh):
        typer.echo(line)


@app.command("split")
def split_command(
    labels: Annotated[list[Path], typer.Argument(help="Folders that `burned-area labels` wrote.")],
    fires: FiresFile,
    out: Annotated[Path, typer.Option(help="Folder for places.json.")],
    by: Annotated[
        str, typer.Option(help="What shares no ground: fire (groups of fires), or tile (whole scenes).")
    ] = "fire",
    shares: Shares = "0.6,0.2,0.2",
    margin: Annotated[float, typer.Option(help="Around the fires of a group, in units of the scenes' CRS.")] = 2560.0,
    size: ChipSize = 256,
    seed: Annotated[int, typer.Option(help="Of the deal.")] = 0,
) -> None:
    """Deal the fires to training, validation and test."""
    from shoal_earth.burned_area.fires import load_fires
    from shoal_earth.burned_area.places import PLACES, deal_places, summary
    from shoal_earth.rasters.split import parse_shares

    wanted = parse_shares(shares)
    places = deal_places(labels, load_fires(fires), margin=margin, smallest=size, shares=wanted, by=by, seed=seed)
    places.save(out / PLACES)
    for line in summary(places):
        typer.echo(line)


@app.command("chips")
def chips_command(
    scenes: ScenesFolder,
    labels: Annotated[Path, typer.Option(help="What `burned-area labels` wrote for these scenes.")],
    places: Annotated[Path, typer.Option(help="What `burned-area split` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the chips of this part.")],
    imagery: Annotated[
        str, typer.Option(help="img (red, green, blue), tci (true-colour picture), or a composite: swir22+nir+red.")
    ] = "img",
    size: ChipSize = 256,
    overlap: Annotated[float, typer.Option(help="Share of a training chip that its neighbours share.")] = 0.25,
    min_valid: Annotated[float, typer.Option(help="Smallest share of valid pixels in a chip.")] = 0.75,
    max_hidden: Annotated[float, typer.Option(help="Largest share under cloud or shadow.")] = 0.25,
    burnt_only: Annotated[bool, typer.Option(help="Training chips have at least one burnt pixel.")] = True,
) -> None:
    """Cut the chips of one part of the scenes."""
    from shoal_earth.burned_area.chips import cut_chips
    from shoal_earth.burned_area.places import load_places
    from shoal_earth.rasters.cutting import CutRules

    if not 0 <= overlap < 1:
        raise UsageError(f"--overlap is a share of a chip, from 0 to less than 1, not {overlap:g}")
    rules = CutRules(
        size,
        max(1, round(size * (1 - overlap))),
        min_valid=min_valid,
        max_hidden=max_hidden,
        present=(1,) if burnt_only else (),
    )
    made = cut_chips(scenes, labels, load_places(places), out, rules, imagery=imagery)
    for line in made.lines():
        typer.echo(line)


@app.command("dataset")
def dataset_command(
    parts: Annotated[list[Path], typer.Argument(help="Folders that `burned-area chips` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the dataset.")],
    normalise: Annotated[
        str, typer.Option(help="iqr (one scale for all bands, as the paper's), percentile, or reflectance.")
    ] = "iqr",
) -> None:
    """Join the chips of all parts. The statistics to normalise with come from the training chips alone."""
    from shoal_earth.rasters.joining import join_parts

    made = join_parts(parts, out, normalise=normalise)
    for line in made.lines():
        typer.echo(line)


@app.command("synthetic")
def synthetic_command(
    out: Annotated[Path, typer.Argument(help="Folder for the world.")],
    size: TileSize = 180,
    seed: WorldSeed = 0,
) -> None:
    """Generate a small world to try things out. Five sets of fires, scenes with clouds and edges, a catalogue."""
    from shoal_earth.burned_area.synthetic import make_burned_world

    world = make_burned_world(out, size=size, seed=seed)
    typer.echo(f"{len(world.scenes)} synthetic scenes: {world.catalogue}")
