"""``shoal-earth deforestation ...``: from polygons and a catalogue to chips of pairs. Commands import heavy libraries late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.errors import UsageError
from shoal_earth.options import Catalogue, ChipSize, Collections, Shares, TileSize, WorldSeed

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Deforestation, from PRODES polygons to chips of pairs. Train and test with: shoal-earth change.",
)

Scenes = Annotated[Path, typer.Option(help="Folder of scenes.")]
Pairs = Annotated[Path, typer.Option(help="Folder that `deforestation pairs` wrote.")]
Choices = Annotated[Path, typer.Option(help="The filled choose.csv, or the folder that holds it.")]
Composites = Annotated[Path, typer.Option(help="Folder that `deforestation composites` wrote.")]
Prodes = Annotated[Path, typer.Option(help="Shapefile or GeoPackage of PRODES' yearly deforestation.")]
Year = Annotated[int, typer.Option(help="Year of the second image, and of PRODES.")]


@app.command("units")
def units_command(
    areas: Annotated[Path, typer.Option(help="Vector file of the protected areas.")],
    prodes: Prodes,
    out: Annotated[Path, typer.Option(help="Folder for units.gpkg and clearings.gpkg.")],
    year: Year = 2021,
    name: Annotated[str | None, typer.Option(help="Column with the areas' names, where it is an unusual one.")] = None,
    top: Annotated[int | None, typer.Option(help="Only so many areas, the most deforested.")] = None,
) -> None:
    """Find the protected areas with clearings. The most deforested come first."""
    from shoal_earth.deforestation.prodes import find_units, save_units

    found = find_units(areas, prodes, year, name=name, top=top)
    save_units(found, out)
    for row in found.units.itertuples():
        typer.echo(f"{row.hectares:,.1f} ha, {row.clearings} clearings, {row.first} to {row.last}: {row.unit}")


@app.command("search")
def search_command(
    units: Annotated[Path, typer.Option(help="Folder that `deforestation units` wrote.")],
    out: Annotated[Path, typer.Option(help="GeoJSON file for the items found; for `shoal-earth scenes fetch`.")],
    year: Year = 2021,
    catalogue: Catalogue = "earth-search",
    collection: Collections = None,
    margin: Annotated[int, typer.Option(help="Days before the first and after the last clearing.")] = 30,
    cloud: Annotated[float, typer.Option(help="Largest cloud cover in percent.")] = 20.0,
    each: Annotated[int, typer.Option(help="Most scenes of a tile, orbit and year: the clearest.")] = 5,
) -> None:
    """Find scenes of both years that show the clearings. By tile and orbit."""
    from shoal_earth.deforestation.search import find_candidates
    from shoal_earth.rasters.stac import collections_of, save_items

    collections = collections_of(catalogue, collection)
    items = find_candidates(units, catalogue, year, margin=margin, cloud=cloud, each=each, collections=collections)
    save_items(items, out)
    typer.echo(f"{len(items)} scenes: {out}")


@app.command("pairs")
def pairs_command(
    scenes: Scenes,
    out: Annotated[Path, typer.Option(help="Folder for index.html and choose.csv.")],
    year: Year = 2021,
    kind: Annotated[str, typer.Option(help="Composite of the quick-looks.")] = "rgb",
) -> None:
    """Make the page from which a person chooses pairs. Look at it, fill in choose.csv, approve with it."""
    from shoal_earth.deforestation.pairs import propose

    candidates = propose(scenes, out, year, kind=kind)
    typer.echo(f"{len(candidates)} pairs to choose from: {out / 'index.html'}")


@app.command("choose")
def choose_command(
    pairs: Pairs,
    out: Annotated[Path, typer.Option(help="Folder for choose.csv.")],
    each: Annotated[int, typer.Option(help="Pairs of each tile and orbit, those of which most is seen.")] = 1,
) -> None:
    """Choose by a rule where no person can. Takes the pairs with least cloud and no-data."""
    from shoal_earth.deforestation.pairs import clearest

    for name in clearest(pairs, out, each):
        typer.echo(name)


@app.command("composites")
def composites_command(
    scenes: Scenes,
    pairs: Pairs,
    choices: Choices,
    out: Annotated[Path, typer.Option(help="Folder for the composites.")],
) -> None:
    """Write composites of the chosen scenes, a COG each. Blue, green, red, near infrared and the classification, at 10 m."""
    from shoal_earth.deforestation.composites import write_composites
    from shoal_earth.deforestation.pairs import chosen_pairs

    made = write_composites(chosen_pairs(pairs, choices, scenes), out)
    typer.echo(f"{len(made)} composites: {out}")


@app.command("labels")
def labels_command(
    scenes: Scenes,
    pairs: Pairs,
    choices: Choices,
    composites: Composites,
    prodes: Prodes,
    out: Annotated[Path, typer.Option(help="Folder for a GeoTIFF for each pair.")],
    smooth: Annotated[int, typer.Option(help="Side of the median filter in pixels; 1 for none.")] = 5,
    until: Annotated[
        str, typer.Option(help="Clearings count to the end of the second image's year, or to its day.")
    ] = "year",
) -> None:
    """Burn the clearings between the images of each pair. What is hidden at either date is ignored."""
    from shoal_earth.deforestation.chips import label_pairs
    from shoal_earth.deforestation.pairs import chosen_pairs

    if until not in ("year", "day"):
        raise UsageError(f'--until is year or day, not "{until}"')
    chosen = chosen_pairs(pairs, choices, scenes)
    for line in label_pairs(chosen, composites, prodes, out, smooth=smooth, whole_year=until == "year"):
        typer.echo(line)


@app.command("chips")
def chips_command(
    scenes: Scenes,
    pairs: Pairs,
    choices: Choices,
    composites: Composites,
    labels: Annotated[Path, typer.Option(help="Folder that `deforestation labels` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the chips.")],
    bands: Annotated[str, typer.Option(help="ngb, ndvi, evi, or bands: red+green+blue.")] = "ngb",
    size: ChipSize = 256,
    stride: Annotated[
        int | None, typer.Option(help="Pixels from one training chip to the next; by default the size by 1.5.")
    ] = None,
    both: Annotated[
        str, typer.Option(help="Chips must show cleared and other ground: always (as the paper), train, or never.")
    ] = "always",
    max_hidden: Annotated[float, typer.Option(help="Largest share under cloud or shadow at either date.")] = 0.1,
    normalise: Annotated[
        str, typer.Option(help="chip (1 to 99 % of each chip and band), percentile, iqr, ...")
    ] = "chip",
    shares: Shares = "0.6,0.2,0.2",
    seed: Annotated[int, typer.Option(help="Of the deal of tiles and orbits to them.")] = 0,
) -> None:
    """Cut chips of the chosen pairs. A tile and orbit goes to one split."""
    from shoal_earth.deforestation.chips import cut_pairs
    from shoal_earth.deforestation.pairs import chosen_pairs
    from shoal_earth.rasters.cutting import CutRules
    from shoal_earth.rasters.split import parse_shares

    if both not in ("always", "train", "never"):
        raise UsageError(f'--both is always, train or never, not "{both}"')
    rules = CutRules(
        size,
        stride or round(size / 1.5),
        parse_shares(shares),
        seed,
        min_valid=1.0,
        max_hidden=max_hidden,
        present=() if both == "never" else (0, 1),
        present_always=both == "always",
        normalise=normalise,
    )
    made = cut_pairs(chosen_pairs(pairs, choices, scenes), composites, labels, out, rules, kind=bands)
    for line in made.lines(groups=True):
        typer.echo(line)


@app.command("synthetic")
def synthetic_command(
    out: Annotated[Path, typer.Option(help="Folder for the world.")],
    tiles: Annotated[int, typer.Option(help="How many, at most 8.")] = 5,
    size: TileSize = 600,
    seed: WorldSeed = 0,
) -> None:
    """Generate a small world to try things out. Scenes of two years, PRODES polygons, protected areas, a catalogue."""
    from shoal_earth.deforestation.synthetic import make_deforestation_world

    world = make_deforestation_world(out, tiles=tiles, size=size, seed=seed)
    typer.echo(f"{len(world.scenes)} synthetic scenes: {world.catalogue}")
