"""Train one segmentation model on chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.errors import UsageError
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.losses import build_loss
from shoal_earth.segmentation.metrics import confusion, scores
from shoal_earth.segmentation.models import build_model
from shoal_earth.session import current_task
from shoal_earth.training.distributed import Ranks, ranks, seed_everything
from shoal_earth.training.loop import Fit, to_device
from shoal_earth.training.optim import Schedule, build_optimizer
from shoal_earth.training.precision import autocast
from shoal_earth.training.settings import TrainingSettings

__all__ = ["TrainSettings", "evaluate_split", "train"]


@dataclass(frozen=True)
class TrainSettings(TrainingSettings):
    """What to train and how; the names are those of the command line. No ``weight_decay`` takes the optimizer's own."""

    model: str
    lr: float
    batch_size: int
    encoder: str | None = None
    weights: str | None = None
    depth: int | None = None
    width: int | None = None
    loss: str = "ce+dice"
    optimizer: str = "adamw"
    weight_decay: float | None = None
    schedule: str = "cosine"
    step_epochs: int = 50
    gamma: float = 0.1
    best_by: str = "val/iou"
    warmup: float = 0.0
    augment: str = "flips"


def train(chips: Path, out: Path | None, settings: TrainSettings) -> dict[str, Any]:
    """Train to the end, going on from an earlier attempt's state if there is one.

    A model that answers at several scales in training is supervised at all of them.

    Args:
        chips: folder of chips.
        out: where ``best.pt`` and ``last.pt`` go at the end; Shoal's output folder by default.
        settings: what and how.

    Returns:
        The best state: ``step``, ``metric``, ``value`` and all its ``metrics``.
    """
    task = current_task(out)
    with ranks(settings.device) as here:
        seed_everything(settings.seed)
        examples = ChipExamples(chips, "train", augment=settings.augment)
        validation = ChipExamples(chips, "val")
        names = examples.index["classes"]
        architecture = {
            "model": settings.model,
            "encoder": settings.encoder,
            "bands": examples.index["bands"],
            "classes": names,
            "dates": examples.index.get("dates", 1),
            "depth": settings.depth,
            "width": settings.width,
        }
        model = build_model(
            settings.model,
            settings.encoder,
            bands=examples.index["bands"],
            classes=len(names),
            dates=architecture["dates"],
            weights=settings.weights,
            depth=settings.depth,
            width=settings.width,
        ).to(here.device)
        loss = build_loss(settings.loss)
        batches = settings.batches(examples, settings.batch_size, here)

        def losses(net: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
            images, labels = batch
            return {"loss": loss(net(images), labels)}

        def evaluate(net: nn.Module) -> Mapping[str, float]:
            return evaluate_split(net, validation, here, "val", settings.batch_size, settings.precision, loss)

        fit = Fit(
            model,
            build_optimizer(settings.optimizer, model, settings.lr, weight_decay=settings.weight_decay),
            _schedule(settings, batches.steps_per_epoch),
            batches,
            losses,
            evaluate,
            config=settings.loop(settings.best_by, "min" if settings.best_by.endswith("loss") else "max"),
            ranks=here,
            task=task,
            checkpoints=Path(task.checkpoints),
            meta={
                "kind": "segmentation",
                **architecture,
                "scale": examples.index["scale"],
                "size": examples.index["size"],
                "resolution": examples.index["resolution"],
                # Of chips cut from satellite scenes: what they show, and in what steps.
                **{key: examples.index[key] for key in ("composite", "step", "normalise") if key in examples.index},
            },
        )
        return fit.complete(Path(task.out))


def _schedule(settings: TrainSettings, per_epoch: int) -> Schedule:
    steps = settings.epochs * per_epoch
    warmup = round(settings.warmup * steps)
    if settings.schedule != "step":
        return Schedule(settings.schedule, steps, warmup=warmup)
    if settings.step_epochs < 1:
        raise UsageError("the learning rate drops after at least one epoch")
    drops = tuple(range(settings.step_epochs * per_epoch, steps, settings.step_epochs * per_epoch))
    return Schedule("step", steps, warmup=warmup, milestones=drops, gamma=settings.gamma)


def evaluate_split(
    model: nn.Module,
    examples: ChipExamples,
    here: Ranks,
    prefix: str,
    batch_size: int,
    precision: str = "fp32",
    loss: Any = None,
) -> dict[str, float]:
    """Scores of a model on a split, shared among the ranks and summed into one confusion matrix.

    Args:
        model: in evaluation mode, on the device of this rank.
        examples: the split.
        here: this process among the others; every rank has to call.
        prefix: put before the names, e.g. ``val``.
        batch_size: chips at once.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        loss: of logits and labels; its mean over chips is ``<prefix>/loss``. None for no such entry.

    Returns:
        The means of :func:`metrics.scores`, the same on every rank.
    """
    names = examples.index["classes"]
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64, device=here.device)
    total = torch.zeros(2, dtype=torch.float64)
    for images, labels, _ in examples.batches(batch_size, here.rank, here.world):
        images, labels = to_device([images, labels], here.device, channels_last=True)
        with autocast(here.device, precision):
            logits = model(images)
        matrix += confusion(logits.argmax(1), labels, len(names))
        if loss is not None:
            total += torch.tensor([float(loss(logits, labels)) * len(images), len(images)], dtype=torch.float64)
    every = scores(here.sum(matrix), names, prefix)
    result = {name: value for name, value in every.items() if name.count("/") == prefix.count("/") + 1}
    if loss is not None:
        summed = here.sum(total)
        result[f"{prefix}/loss"] = float(summed[0] / summed[1].clamp(min=1))
    return result
