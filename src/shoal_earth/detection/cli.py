"""``shoal-earth detection``: from fetch and prepare to train, test and predict. Heavy libraries are imported by the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shoal.errors import UsageError
from shoal_earth.options import (
    Accumulate,
    BatchSize,
    Chips,
    ChipSize,
    Device,
    Epochs,
    EvaluateEvery,
    ImageBands,
    MaxDetections,
    Out,
    Precision,
    Split,
    TrainingSeed,
    WindowOverlap,
    Windows,
    Workers,
)

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Objects in overhead images. Published datasets to chips, models, scores and maps.",
)


@app.command("fetch")
def fetch_command(
    out: Out = None,
    dataset: Annotated[str, typer.Option(help="What to fetch: rareplanes, dota or xview.")] = "rareplanes",
    source: Annotated[
        Path | None,
        typer.Option(help="Folder where you put DOTA or xView, which ask for an account: it is looked at and linked."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(help="Address of the bucket or of a mirror of it; the published one by default.")
    ] = None,
    keep_archives: Annotated[bool, typer.Option(help="Keep the archives after unpacking.")] = False,
) -> None:
    """Fetch RarePlanes; look for DOTA and xView. RarePlanes comes over HTTPS, going on where the last start stopped."""
    from shoal_earth.detection.fetch import BUCKET, fetch_rareplanes, link_dataset
    from shoal_earth.session import current_task

    if dataset not in ("rareplanes", "dota", "xview"):
        raise UsageError(f'there is no dataset "{dataset}" to fetch', hint="Choose one of: rareplanes, dota, xview.")
    task = current_task(out)
    if dataset == "rareplanes":
        counts = fetch_rareplanes(Path(task.out), bucket or BUCKET, keep_archives=keep_archives)
    elif source is None:
        raise UsageError(
            f"{dataset} cannot be fetched without an account",
            hint="Get it as the guide to detection data says, and name its folder: --source DIR",
        )
    else:
        counts = link_dataset(dataset, source, Path(task.out))
    for name, count in counts.items():
        typer.echo(f"{name}: {count}")
    task.log({f"fetch/{name}": float(count) for name, count in counts.items()})


@app.command("prepare")
def prepare_command(
    dataset: Annotated[str, typer.Option(help="Format: dota, xview, rareplanes, coco, voc or csv.")],
    source: Annotated[Path, typer.Option(help="Folder of the dataset as published.")],
    out: Out = None,
    size: ChipSize = 512,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that neighbours share; by default an eighth of the size.")
    ] = None,
    min_visible: Annotated[
        float, typer.Option(help="Smallest share of a cut box that is an object of the chip.")
    ] = 0.3,
    clear_visible: Annotated[float, typer.Option(help="Cut boxes that show less are marked difficult.")] = 0.5,
    min_side: Annotated[float, typer.Option(help="Shortest side of a box in a chip, in pixels.")] = 1.0,
    keep_empty: Annotated[bool, typer.Option(help="Keep chips without an object.")] = False,
    split: Annotated[
        str, typer.Option(help='Shares of training, validation and test; or "given", with the published splits.')
    ] = "0.7,0.15,0.15",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    classes: Annotated[str | None, typer.Option(help="Classes to take, separated by commas; all by default.")] = None,
    bands: ImageBands = None,
) -> None:
    """Bring a published dataset into chips. Says what it found, skipped and why, and writes that to findings.json."""
    from shoal_earth.detection.chips import rules_from
    from shoal_earth.detection.prepare import prepare
    from shoal_earth.detection.splits import SplitRules
    from shoal_earth.rasters.split import parse_shares
    from shoal_earth.session import current_task

    given = split == "given"
    shares = parse_shares("0.7,0.15,0.15" if given else split, "--split")
    rules = rules_from(
        size,
        overlap,
        _bands(bands),
        min_visible=min_visible,
        clear_visible=clear_visible,
        min_side=min_side,
        keep_empty=keep_empty,
    )
    task = current_task(out)
    only = [name.strip() for name in classes.split(",") if name.strip()] if classes else None
    made = prepare(
        dataset,
        source,
        Path(task.out),
        rules,
        SplitRules(shares, seed, given),
        only=only,
    )
    for line in made.lines:
        typer.echo(line)
    task.log(made.counts)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f'{option} needs numbers separated by commas, not "{text}"') from None


def _bands(text: str | None) -> list[int] | None:
    chosen = [int(number) for number in _numbers(text, "--bands")] if text else None
    if chosen is not None and len(chosen) not in (1, 3):
        raise UsageError(f'--bands needs one number or three, such as 5,3,2, not "{text}"')
    return chosen


@app.command("train")
def train_command(
    chips: Chips,
    model: Annotated[str, typer.Option(help="Detector: convnext, swin, vit, detr, fcos, retinanet, yolox, ...")],
    out: Out = None,
    size: Annotated[str, typer.Option(help="published, or tiny for a CPU.")] = "published",
    dataset: Annotated[
        str | None, typer.Option(help="rareplanes, dota or xview, where the published recipes differ.")
    ] = None,
    epochs: Epochs = 300,
    batch_size: Annotated[int | None, typer.Option(help="Chips a step, for each process; by the recipe.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; by the recipe.")] = None,
    seed: TrainingSeed = 0,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="auto takes published weights from the libraries' hubs, a folder those that lie in it, none starts at random. "
            "By default auto, and none for the tiny size."
        ),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="none, flips, jitter, ssd or mosaic (with MixUp); by the recipe.")
    ] = None,
    keep_empty: Annotated[bool, typer.Option(help="Train on chips without an object too.")] = False,
    accumulate: Accumulate = 1,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; by the recipe.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights; by the recipe.")] = None,
    precision: Precision = "fp32",
    workers: Workers = 0,
    evaluate_every: EvaluateEvery = 1,
    max_detections: MaxDetections = 100,
    device: Device = "auto",
) -> None:
    """Train a detector on chips; with torchrun on several GPUs. A new start goes on where the last one stopped."""
    from shoal_earth.detection.train import TrainSettings, train

    start = pretrained or ("auto" if size == "published" else "none")
    settings = TrainSettings(
        model=model,
        size=size,
        dataset=dataset,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        pretrained=None if start == "none" else start,
        augment=augment,
        keep_empty=keep_empty,
        accumulate=accumulate,
        clip=clip,
        ema=ema,
        precision=precision,
        workers=workers,
        evaluate_every=evaluate_every,
        max_detections=max_detections,
        device=device,
    )
    best = train(chips, out, settings)
    if best:
        typer.echo(f"best: {best['metric']} {best['value']:.4f} at step {best['step']}")


@app.command("test")
def score_command(
    chips: Chips,
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a training, or its folder.")],
    out: Out = None,
    split: Split = "test",
    batch_size: BatchSize = 8,
    precision: Precision = "fp32",
    max_detections: MaxDetections = 100,
    pictures: Annotated[int, typer.Option(help="How many chips to draw that every model shows.")] = 3,
    device: Device = "auto",
) -> None:
    """Score a trained detector on chips that it never saw. AP, AR, F1, curves, tables, pictures, speed."""
    from shoal_earth.detection.testing import score_checkpoint

    scores = score_checkpoint(
        chips,
        checkpoint,
        out,
        split=split,
        batch_size=batch_size,
        precision=precision,
        max_detections=max_detections,
        pictures=pictures,
        device=device,
    )
    for line in scores.lines():
        typer.echo(line)


@app.command("predict")
def predict_command(
    model: Annotated[Path, typer.Option(help="A checkpoint, or the folder of a finished training.")],
    image: Annotated[list[Path], typer.Option(help="Image, or folder of images; give the option again for more.")],
    out: Annotated[Path, typer.Option(help="Folder for detections.json and the maps.")],
    overlap: WindowOverlap = 0.25,
    batch_size: Windows = 8,
    min_score: Annotated[float, typer.Option(help="Lower-scoring objects are left out.")] = 0.3,
    iou: Annotated[float, typer.Option(help="Boxes of one class that overlap more are one object.")] = 0.5,
    bands: ImageBands = None,
    scale: Annotated[
        str | None, typer.Option(help="Pixel values that become black and white, such as 200,3000; by the image.")
    ] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
) -> None:
    """Find objects in whole images of any size. COCO JSON, and GeoPackage and GeoJSON for those with a place on earth."""
    from shoal_earth.detection.mapping import detect_images

    values = _numbers(scale, "--scale") if scale else None
    if values is not None and (len(values) != 2 or values[0] >= values[1]):
        raise UsageError(f'--scale needs two rising numbers such as 200,3000, not "{scale}"')
    made = detect_images(
        model,
        image,
        out,
        overlap=overlap,
        batch_size=batch_size,
        min_score=min_score,
        iou=iou,
        bands=_bands(bands),
        scale=(values[0], values[1]) if values else None,
        precision=precision,
        device=device,
    )
    for one in made:
        told = ", ".join(f"{count} {name}" for name, count in one.classes.items()) or "nothing"
        typer.echo(f"{one.image.name}: {told}" + "".join(f"\n  {path}" for path in one.maps))


@app.command("evaluate")
def evaluate_command(
    predictions: Annotated[Path, typer.Option(help="Predictions as a COCO JSON list.")],
    chips: Annotated[Path | None, typer.Option(help="Folder of chips with the truth.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Or the truth as COCO JSON.")] = None,
    out: Out = None,
    split: Split = "test",
    max_detections: MaxDetections = 100,
) -> None:
    """Score predictions as COCO does. AP and AR, by class and size, F1 at the best threshold, precision-recall curves."""
    from shoal_earth.detection.evaluate import evaluate, load_predictions, truth_from_chips, write_scores
    from shoal_earth.detection.jsonstream import stream
    from shoal_earth.session import current_task

    if (chips is None) == (truth is None):
        raise UsageError("the truth is needed, once", hint="Give --chips DIR or --truth FILE.")
    task = current_task(out)
    if chips is not None:
        known = truth_from_chips(chips, split)
    else:
        assert truth is not None
        known = {key: value for key, _, value in stream(truth, ())}
    scores = evaluate(known, load_predictions(predictions), max_detections=max_detections)
    write_scores(scores, Path(task.out))
    task.log({f"{split}/{name}": value for name, value in scores.metrics.items()})
    for line in scores.lines():
        typer.echo(line)


@app.command("synthetic")
def synthetic_command(
    dataset: Annotated[str, typer.Option("--format", help="Format to write: dota, xview or rareplanes.")],
    out: Out = None,
    scenes: Annotated[int, typer.Option(help="How many.")] = 8,
    side: Annotated[int, typer.Option(help="Pixels on the longer side of the largest one.")] = 768,
    seed: Annotated[int, typer.Option(help="Same seed, same scenes.")] = 0,
) -> None:
    """Write a small generated dataset in a published format. For tests and tries; nothing in it is real."""
    from shoal_earth.detection.synthetic_formats import write_synthetic
    from shoal_earth.session import current_task

    task = current_task(out)
    counts = write_synthetic(dataset, Path(task.out), scenes=scenes, side=side, seed=seed)
    typer.echo(json.dumps(counts))
    task.log({f"synthetic/{name}": float(count) for name, count in counts.items()})
