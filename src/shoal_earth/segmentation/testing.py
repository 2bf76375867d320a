"""Test one trained segmentation model on chips that it never saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shoal.errors import UsageError
from shoal_earth.pictures import LEGEND, choose
from shoal_earth.rasters.output import write_text
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.metrics import confusion, scores, trivial_scores
from shoal_earth.segmentation.models import load_model
from shoal_earth.segmentation.objects import Objects, write_objects
from shoal_earth.segmentation.pictures import save_panels
from shoal_earth.session import current_task
from shoal_earth.training.checkpoint import find_checkpoint
from shoal_earth.training.distributed import ranks

__all__ = ["score_checkpoint"]


def score_checkpoint(
    chips: Path,
    checkpoint: Path,
    out: Path | None,
    *,
    split: str = "test",
    batch_size: int = 16,
    pictures: int = 6,
    device: str = "auto",
) -> dict[str, float]:
    """Score a checkpoint on a split and draw some of its chips.

    Args:
        chips: folder of chips.
        checkpoint: file of ``shoal-earth segmentation train``, or the folder of such a training.
        out: where pictures and metrics go; Shoal's output folder by default.
        split: which chips.
        batch_size: chips at once.
        pictures: how many chips to draw.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The metrics that were logged: those of the model, and under ``<split>/trivial`` what a constant answer reaches;
        scores by object (see :mod:`shoal_earth.segmentation.objects`), which are listed in ``objects.csv``; and under
        ``checkpoint`` what validation said of it in training.

    Raises:
        UsageError: there is no such checkpoint, it does not fit the chips, or this is one of several processes.
    """
    task = current_task(out)
    with ranks(device) as here:
        if here.world > 1:
            raise UsageError("a test of a segmentation model is one process", hint="Start it without torchrun.")
        model, meta = load_model(find_checkpoint(checkpoint))
        model = model.to(here.device).to(memory_format=torch.channels_last)
        # The scale of the training chips belongs to the model.
        examples = ChipExamples(chips, split, scale=meta["scale"])
        names = examples.index["classes"]
        _same(meta, examples, checkpoint, chips)
        matrix = torch.zeros(len(names), len(names), dtype=torch.int64)
        shown = choose([examples.chip(i)["share"] for i in range(len(examples))], pictures)
        objects = Objects(examples.index.get("scenes", []))
        notes: dict[str, object] = {}
        scenes = {str(scene["name"]): scene for scene in examples.index.get("scenes", [])}
        with torch.no_grad():
            for images, labels, indices in examples.batches(batch_size):
                inputs = images.to(here.device, memory_format=torch.channels_last)
                predicted = model(inputs).argmax(1).cpu()
                matrix += confusion(predicted, labels, len(names))
                for image, truth, prediction, index in zip(images, labels, predicted, indices, strict=True):
                    chip = examples.chip(index)
                    objects.add(chip["scene"], chip["row"], chip["column"], prediction.numpy(), truth.numpy())
                    if index in shown:
                        key = str(chip["key"])
                        save_panels(
                            Path(task.out) / "pictures" / key,
                            image.numpy(),
                            truth.numpy(),
                            prediction.numpy(),
                            dates=examples.index.get("dates", 1),
                        )
                        own = scores(confusion(prediction, truth, len(names)), names, "chip")
                        notes[key] = {
                            **_described(chip, scenes.get(str(chip["scene"]), {})),
                            "score": round(own["chip/iou"], 4),
                            "metric": "IoU",
                        }
    metrics = scores(matrix, names, split) | trivial_scores(matrix, names, f"{split}/trivial") | objects.finish(split)
    # What validation said of this very state, so that a table can choose by it among all that were tested.
    metrics |= {f"checkpoint/{name}": float(value) for name, value in meta["metrics"].items()}
    write_objects(Path(task.out) / "objects.csv", objects.found)
    if notes:
        notes["legend"] = LEGEND
        write_text(Path(task.out) / "pictures" / "pictures.json", json.dumps(notes, indent=1) + "\n")
    task.log(metrics)
    return metrics


def _described(chip: Mapping[str, Any], scene: Mapping[str, Any]) -> dict[str, str]:
    """A title for people, of tile and days where the chips know them, and where in the scene the chip lies."""
    days = scene.get("acquired") or []
    days = [str(day)[:10] for day in ([days] if isinstance(days, str) else days)]
    tile = scene.get("tile") or (str(scene.get("group", "")).partition("-")[0] if days else "")
    title = " ".join(part for part in (str(tile), " to ".join(days)) if part)
    caption = f"row {chip['row']}, column {chip['column']}"
    group = str(scene.get("group") or "")
    if title and group and tile not in group:
        caption = f"{group}, {caption}"
    return {"title": title or str(chip["scene"]), "caption": caption}


def _same(meta: dict[str, object], examples: ChipExamples, checkpoint: Path, chips: Path) -> None:
    for key in ("bands", "classes", "resolution", "dates"):
        if meta.get(key, 1) != examples.index.get(key, 1):
            raise UsageError(
                f"{checkpoint}: was trained on chips with {key} {meta.get(key)}, but those in {chips} have "
                f"{examples.index.get(key)}"
            )
