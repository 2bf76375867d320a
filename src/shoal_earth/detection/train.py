"""Train one detector on chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal_earth.detection.dataset import ChipDetections, collate, pixels
from shoal_earth.detection.evaluate import evaluate, truth_from_chips
from shoal_earth.detection.inference import detect
from shoal_earth.detection.models import Recipe, build_detector, recipe
from shoal_earth.detection.models.recipes import EPOCHS
from shoal_earth.session import current_task
from shoal_earth.training.distributed import Ranks, ranks, seed_everything
from shoal_earth.training.loop import Fit
from shoal_earth.training.settings import TrainingSettings

__all__ = ["TrainSettings", "evaluate_split", "train"]

_KEPT = ("ap", "ap50", "ap75", "f1")


@dataclass(frozen=True)
class TrainSettings(TrainingSettings):
    """What to train and how; the names are those of the command line. None takes what the detector's recipe says."""

    model: str
    size: str = "published"
    dataset: str | None = None
    epochs: int = field(default=EPOCHS, kw_only=True)
    batch_size: int | None = None
    lr: float | None = None
    pretrained: str | None = None
    augment: str | None = None
    keep_empty: bool = False
    max_detections: int = 100

    def recipe(self) -> Recipe:
        """The detector's recipe with the learning rate, batch size and augmentation of these settings, where they have such."""
        known = recipe(self.model, self.dataset, size=self.size)
        names = ("lr", "batch_size", "augment")
        changes: dict[str, Any] = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return replace(known, **changes)


def train(chips: Path, out: Path | None, settings: TrainSettings) -> dict[str, Any]:
    """Train to the end, going on from an earlier attempt's state if there is one.

    Args:
        chips: folder of chips.
        out: where ``best.pt`` (by validation AP) and ``last.pt`` go at the end; Shoal's output folder by default.
        settings: what and how.

    Returns:
        The best state: ``step``, ``metric``, ``value`` and all its ``metrics``; of several processes on the first one alone.
    """
    task = current_task(out)
    how = settings.recipe()
    with ranks(settings.device) as here:
        seed_everything(settings.seed)
        # Whole epochs without Mosaic and MixUp, at least one.
        plain = max(1, round(how.plain * settings.epochs)) if how.plain else None
        examples = ChipDetections(
            chips,
            "train",
            augment=how.augment,
            keep_empty=settings.keep_empty,
            plain_from=None if plain is None else settings.epochs - plain,
        )
        validation = ChipDetections(chips, "val")
        model = build_detector(
            settings.model,
            len(examples.classes),
            size=settings.size,
            image_size=examples.size,
            pretrained=settings.pretrained,
        ).to(here.device)
        batches = settings.batches(examples, how.batch_size, here, collate=collate)
        truth = truth_from_chips(chips, "val")

        def losses(net: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
            images, targets = batch
            # YOLOX has one more loss while it is trained without Mosaic and MixUp.
            model.strong_augmentation = plain is None or fit.epoch < settings.epochs - plain
            found: Mapping[str, torch.Tensor] = net(pixels(images), targets)
            return found

        def score(net: nn.Module) -> Mapping[str, float]:
            return evaluate_split(
                net,
                validation,
                truth,
                here,
                "val",
                precision=settings.precision,
                max_detections=settings.max_detections,
            )

        fit = Fit(
            model,
            how.build_optimizer(model),
            how.build_schedule(settings.epochs * batches.steps_per_epoch),
            batches,
            losses,
            score,
            config=settings.loop("val/ap", clip=how.clip, ema=how.ema),
            ranks=here,
            task=task,
            checkpoints=Path(task.checkpoints),
            meta={
                "kind": "detection",
                "model": settings.model,
                "size": settings.size,
                "classes": examples.classes,
                "image_size": examples.size,
                "dataset": str(examples.chips.index["dataset"]),
            },
        )
        return fit.complete(Path(task.out))


def evaluate_split(
    model: nn.Module,
    examples: ChipDetections,
    truth: Mapping[str, Any],
    here: Ranks,
    prefix: str,
    *,
    batch_size: int = 8,
    precision: str = "fp32",
    max_detections: int = 100,
) -> dict[str, float]:
    """Scores of a model on a split: chips are shared among the ranks, the first one scores all answers.

    Args:
        model: in evaluation mode, on the device of this rank.
        examples: the split.
        truth: its objects, as :func:`evaluate.truth_from_chips` gives them.
        here: this process among the others; every rank has to call.
        prefix: put before the names, e.g. ``val``.
        batch_size: chips at once.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        max_detections: detections counted in an image.

    Returns:
        ``<prefix>/ap``, ``ap50``, ``ap75`` and ``f1``, from 0 to 1, the same on every rank.
    """
    answers = detect(model, examples, here, batch_size=batch_size, precision=precision, max_detections=max_detections)
    metrics: dict[str, float] = {}
    if here.main:
        scores = evaluate(truth, answers.coco(), max_detections=max_detections)
        # Where no object can be measured, nothing was found of what was asked for.
        metrics = {f"{prefix}/{name}": scores.metrics.get(name, 0.0) for name in _KEPT}
    first: dict[str, float] = here.gather(metrics)[0]
    return first
