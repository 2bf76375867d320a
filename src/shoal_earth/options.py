"""Options that several commands have: one name, one meaning and one line of help each. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Accumulate",
    "BatchSize",
    "Catalogue",
    "ChipSize",
    "Chips",
    "Cloud",
    "Collections",
    "Device",
    "Epochs",
    "EvaluateEvery",
    "ImageBands",
    "MaxCloud",
    "MaxDetections",
    "MaxNodata",
    "Out",
    "Precision",
    "Shares",
    "Split",
    "TileSize",
    "TrainingSeed",
    "Unclassified",
    "WindowOverlap",
    "Windows",
    "Workers",
    "WorldSeed",
]

Out = Annotated[Path | None, typer.Option(help="Folder for the output; inside a Shoal task its own by default.")]

# Chips.
Chips = Annotated[Path, typer.Option(help="Folder of chips.")]
ChipSize = Annotated[int, typer.Option(help="Pixels on a side of a chip.")]
Shares = Annotated[str, typer.Option(help="Shares of training, validation and test.")]

# Training, testing and maps.
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training chips.")]
TrainingSeed = Annotated[int, typer.Option(help="Same seed, same numbers (on a CPU).")]
Accumulate = Annotated[int, typer.Option(help="Batches that make one step.")]
Workers = Annotated[int, typer.Option(help="Processes that read chips ahead.")]
EvaluateEvery = Annotated[int, typer.Option(help="Epochs between two evaluations.")]
Split = Annotated[str, typer.Option(help="Which chips: train, val or test.")]
BatchSize = Annotated[int, typer.Option(help="Chips at once.")]
MaxDetections = Annotated[int, typer.Option(help="Detections counted in an image.")]
Windows = Annotated[int, typer.Option("--batch-size", help="Windows at once.")]
WindowOverlap = Annotated[float, typer.Option("--overlap", help="Share of a window that neighbours share.")]
ImageBands = Annotated[
    str | None, typer.Option("--bands", help="One band or three, such as 5,3,2; colours by default.")
]

# Scenes and their catalogues.
Catalogue = Annotated[
    str, typer.Option(help="earth-search, planetary-computer, copernicus, or a URL or path of a STAC catalogue.")
]
Collections = Annotated[list[str] | None, typer.Option("--collection", help="Collection; give it again for more.")]
Cloud = Annotated[float | None, typer.Option(help="Largest cloud cover in percent.")]
MaxNodata = Annotated[float, typer.Option(help="Largest share without data.")]
MaxCloud = Annotated[float, typer.Option(help="Largest share of cloud among valid pixels.")]
Unclassified = Annotated[bool, typer.Option(help="Keep scenes whose clouds cannot be told.")]

# Generated worlds.
TileSize = Annotated[int, typer.Option(help="Side of a tile in pixels of 10 m, a multiple of 6.")]
WorldSeed = Annotated[int, typer.Option(help="Of everything.")]
