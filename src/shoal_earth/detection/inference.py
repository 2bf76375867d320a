"""A detector's answers: to the chips of a split, shared among processes, and to windows of large images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from shoal_earth.detection.dataset import ChipDetections, pixels
from shoal_earth.detection.evaluate import predictions_of
from shoal_earth.detection.predict import Found, Model
from shoal_earth.training.distributed import Ranks
from shoal_earth.training.precision import autocast, check_precision

__all__ = ["Answers", "detect", "windows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answers:
    """What a model found: by position of the chip in its split; and how many images it took how many seconds for."""

    found: dict[int, Found]
    images: int
    seconds: float

    def coco(self) -> list[dict[str, Any]]:
        """All as a list in COCO's form, in order of the chips."""
        return [
            item
            for number in sorted(self.found)
            for item in predictions_of(
                number, self.found[number].boxes, self.found[number].scores, self.found[number].labels
            )
        ]


def detect(
    model: nn.Module,
    examples: ChipDetections,
    here: Ranks,
    *,
    batch_size: int = 8,
    precision: str = "fp32",
    max_detections: int = 100,
) -> Answers:
    """Ask a model about every chip of a split, each rank about its share; all ranks get all answers.

    Args:
        model: on its device, answering in evaluation mode.
        examples: the chips.
        here: this process among the others.
        batch_size: chips at once.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        max_detections: most that are kept of one chip, the highest scores first.

    Returns:
        The answers. The time is that of the model alone, on this rank, the first batch left out where there are others.
    """
    answer = _ask(model, here.device, precision)
    own: dict[int, Found] = {}
    timed: list[tuple[int, float]] = []
    for images, numbers in examples.batches(batch_size, here.rank, here.world):
        started = time.perf_counter()
        found = answer(images)
        timed.append((len(numbers), time.perf_counter() - started))
        for number, one in zip(numbers, found, strict=True):
            best = np.argsort(-one.scores, kind="stable")[:max_detections]
            own[number] = one.take(best)
    timed = timed[1:] or timed
    everything: dict[int, Found] = {}
    for part in here.gather(own):
        everything |= part
    return Answers(everything, sum(n for n, _ in timed), sum(t for _, t in timed))


def windows(model: nn.Module, device: torch.device, precision: str = "fp32") -> Model:
    """The model as :func:`~shoal_earth.detection.predict.predict_image` asks it: windows of 8 bits in, objects out."""
    answer = _ask(model, device, precision)

    def ask(batch: Array) -> list[Found]:
        return answer(torch.from_numpy(np.ascontiguousarray(batch)))

    return ask


def _ask(model: nn.Module, device: torch.device, precision: str) -> Callable[[torch.Tensor], list[Found]]:
    check_precision(precision, device)

    def answer(images: torch.Tensor) -> list[Found]:
        with torch.no_grad(), autocast(device, precision):
            found = model(pixels(images.to(device, non_blocking=True, memory_format=torch.channels_last)))
            # Copies to the CPU wait for the device, so the clock of whoever asks is right.
            return [_found(one) for one in found]

    return answer


def _found(one: Mapping[str, torch.Tensor]) -> Found:
    boxes, scores, labels = (one[key].detach().float().cpu().numpy() for key in ("boxes", "scores", "labels"))
    return Found(boxes.astype(np.float64), scores.astype(np.float64), labels.astype(np.int64))
