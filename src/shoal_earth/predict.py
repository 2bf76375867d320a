"""``shoal-earth predict``: a trained model and a scene become a map. Heavy libraries are imported by the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal_earth.options import Device, WindowOverlap, Windows

__all__ = ["predict_command"]


def predict_command(
    model: Annotated[Path, typer.Option(help="A checkpoint, or the folder of a finished trial.")],
    scene: Annotated[
        list[Path],
        typer.Option(
            help="The scene: a raster, or a satellite product. Of a model of change two: the earlier, the later."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for classes.tif, probability.tif and the polygons.")],
    composite: Annotated[
        str | None,
        typer.Option(help="Composite that the model's chips were cut from, where it does not know: ngb, ndvi, ..."),
    ] = None,
    overlap: WindowOverlap = 0.25,
    batch_size: Windows = 8,
    threshold: Annotated[
        float | None, typer.Option(help="Smallest probability; by default the likeliest class wins.")
    ] = None,
    min_hectares: Annotated[float, typer.Option(help="Leave out smaller polygons.")] = 0.0,
    skip_hidden: Annotated[bool, typer.Option(help="Judge nothing under cloud or shadow.")] = False,
    device: Device = "auto",
) -> None:
    """Map a whole scene with a trained model. Writes GeoTIFFs of classes and probability, and polygons with hectares.

    A detector gives the objects that it finds instead, as detection predict does.
    """
    from shoal_earth.training.checkpoint import find_checkpoint, load_checkpoint

    if load_checkpoint(find_checkpoint(model))["meta"].get("kind") == "detection":
        from shoal_earth.detection.mapping import detect_images

        for found in detect_images(
            model,
            scene,
            out,
            overlap=overlap,
            batch_size=batch_size,
            min_score=0.3 if threshold is None else threshold,
            device=device,
        ):
            typer.echo(f"{found.count} objects: {', '.join(map(str, found.maps)) or out}")
        return
    from shoal_earth.segmentation.mapping import map_scene

    made = map_scene(
        model,
        scene,
        out,
        kind=composite,
        overlap=overlap,
        batch_size=batch_size,
        threshold=threshold,
        min_hectares=min_hectares,
        skip_hidden=skip_hidden,
        device=device,
    )
    typer.echo(f"{made.count} polygons, {made.hectares:,.2f} hectares: {made.polygons}")
