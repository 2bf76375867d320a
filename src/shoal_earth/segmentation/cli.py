"""``shoal-earth segmentation chips | train | test | export``. Heavy libraries are imported by the commands, not by this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal_earth.options import (
    Accumulate,
    BatchSize,
    Chips,
    ChipSize,
    Device,
    Epochs,
    EvaluateEvery,
    Out,
    Precision,
    Shares,
    Split,
    TrainingSeed,
    Workers,
)

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Segmentation of scenes. Polygons to chips, chips to models, models to scores."
)


@app.command("chips")
def chips_command(
    raster: Annotated[list[Path], typer.Option(help="Scene; give the option again for more.")],
    polygons: Annotated[
        list[Path], typer.Option(help="Vector file with the polygons; give the option again for more.")
    ],
    out: Out = None,
    size: ChipSize = 256,
    stride: Annotated[
        int | None, typer.Option(help="Pixels from one training chip to the next; by default the size.")
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Resample to pixels of this size, in units of the CRS.")
    ] = None,
    split: Shares = "0.6,0.15,0.25",
    region: Annotated[int, typer.Option(help="Side of the regions dealt to the splits, in chips.")] = 1,
    seed: Annotated[int, typer.Option(help="Of that deal.")] = 0,
    min_valid: Annotated[float, typer.Option(help="Smallest share of valid pixels in a chip.")] = 0.5,
    keep_empty: Annotated[bool, typer.Option(help="Keep training chips without a polygon.")] = True,
    name: Annotated[str, typer.Option(help="Name of the class that the polygons stand for.")] = "foreground",
) -> None:
    """Cut chips from scenes and label them with polygons. They are split by region."""
    from shoal_earth.rasters.chips import ChipRules, make_chips
    from shoal_earth.rasters.split import parse_shares
    from shoal_earth.session import current_task

    shares = parse_shares(split, "--split")
    rules = ChipRules(size, stride or size, resolution, shares, region, seed, min_valid, keep_empty, name)
    task = current_task(out)
    made = make_chips(raster, polygons, Path(task.out), rules)
    for line in made.lines:
        typer.echo(line)
    task.log(made.counts)


@app.command("train")
def train_command(
    chips: Chips,
    model: Annotated[
        str,
        typer.Option(
            help="Architecture: unet, unetplusplus, fpn, linknet, deeplabv3plus, segformer, ...; of pairs: changeformer, "
            "changeformer-tiny, fc-siam-conc, fc-siam-diff, bit, siam-unet, ..."
        ),
    ],
    out: Out = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder, e.g. resnet34, or tu- and a timm model; by default resnet50.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Start of the encoder: none, imagenet, or a file (a model of change: of all of it).")
    ] = "none",
    pretrained: Annotated[
        str, typer.Option(help="true: the encoder starts from ImageNet, as --weights imagenet; false.")
    ] = "false",
    weights_folder: Annotated[
        Path | None,
        typer.Option(envvar="SHOAL_EARTH_WEIGHTS", help="Folder that has what `segmentation weights` wrote."),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Stages of the encoder.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the decoder at its widest.")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    epochs: Epochs = 50,
    batch_size: Annotated[int, typer.Option(help="Chips a step, for each process.")] = 8,
    seed: TrainingSeed = 0,
    loss: Annotated[str, typer.Option(help="ce, dice, focal, lovasz, miou, or a sum such as ce+dice.")] = "ce+dice",
    optimizer: Annotated[str, typer.Option(help="adam, adamw, sgd or lamb.")] = "adamw",
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Of weights, not of norms and biases. By the optimizer: adamw and lamb 0.01, sgd 0.0005, adam none."
        ),
    ] = None,
    schedule: Annotated[str, typer.Option(help="constant, step, linear, polynomial or cosine.")] = "cosine",
    step_epochs: Annotated[int, typer.Option(help="Epochs after which schedule step drops the rate.")] = 50,
    gamma: Annotated[float, typer.Option(help="Factor of such a drop.")] = 0.1,
    best_by: Annotated[
        str, typer.Option(help="Metric that says which state is the best: val/iou, val/loss, ...")
    ] = "val/iou",
    warmup: Annotated[float, typer.Option(help="Share of the steps over which the rate rises.")] = 0.05,
    augment: Annotated[
        str, typer.Option(help="none, turns (0, 90, 180 degrees), flips, or full (with brightness and contrast).")
    ] = "flips",
    accumulate: Accumulate = 1,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights.")] = None,
    precision: Precision = "fp32",
    workers: Workers = 0,
    evaluate_every: EvaluateEvery = 1,
    device: Device = "auto",
) -> None:
    """Train a model on chips; with torchrun on several GPUs. A new start goes on where the last one stopped."""
    from shoal_earth.change.models import default_encoder
    from shoal_earth.segmentation.train import TrainSettings, train
    from shoal_earth.segmentation.weights import choose_weights

    settings = TrainSettings(
        model=model,
        encoder=encoder,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        weights=choose_weights(encoder or default_encoder(model), weights, pretrained, weights_folder),
        depth=depth,
        width=width,
        loss=loss,
        optimizer=optimizer,
        weight_decay=weight_decay,
        schedule=schedule,
        step_epochs=step_epochs,
        gamma=gamma,
        best_by=best_by,
        warmup=warmup,
        augment=augment,
        accumulate=accumulate,
        clip=clip,
        ema=ema,
        precision=precision,
        workers=workers,
        evaluate_every=evaluate_every,
        device=device,
    )
    best = train(chips, out, settings)
    if best:
        typer.echo(f"best: {best['metric']} {best['value']:.4f} at step {best['step']}")


@app.command("weights")
def weights_command(
    encoder: Annotated[str, typer.Option(help="Encoder, e.g. resnet50; give it again for more.")],
    out: Annotated[Path, typer.Option(help="Folder for ENCODER.safetensors; for train's --weights-folder.")],
    source: Annotated[
        str, typer.Option(help="imagenet, a file, or random: to try things out where there is no network.")
    ] = "imagenet",
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
) -> None:
    """Fetch the pretrained weights of an encoder. Once, for machines without network."""
    from shoal_earth.segmentation.weights import save_encoder

    typer.echo(str(save_encoder(encoder, out, source=source, seed=seed)))


@app.command("export")
def export_command(
    chips: Chips,
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    layout: Annotated[
        str, typer.Option(help="geotiff, with its place on the ground; or of pairs change, for A/ B/ label/ list/.")
    ] = "geotiff",
    ignore: Annotated[
        int | None, typer.Option(help="Number for pixels to ignore in labels; by default 255, and 2 for change.")
    ] = None,
) -> None:
    """Write chips as files that other programs read."""
    from shoal_earth.rasters.layouts import export_chips

    typer.echo(f"{export_chips(chips, out, layout, ignore=ignore)} chips: {out}")


@app.command("test")
def score_command(
    chips: Chips,
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a training, or its folder.")],
    out: Out = None,
    split: Split = "test",
    batch_size: BatchSize = 16,
    pictures: Annotated[int, typer.Option(help="How many chips to draw.")] = 6,
    device: Device = "auto",
) -> None:
    """Score a trained model on chips that it never saw. Draws its answers too."""
    from shoal_earth.segmentation.testing import score_checkpoint

    metrics = score_checkpoint(
        chips, checkpoint, out, split=split, batch_size=batch_size, pictures=pictures, device=device
    )
    for key in (
        f"{split}/iou",
        f"{split}/f1",
        f"{split}/accuracy",
        f"{split}/trivial/iou",
        f"{split}/trivial/accuracy",
    ):
        typer.echo(f"{key} {metrics[key]:.4f}")
