"""What every training lets a user choose, and what follows from it for the batches and for the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal_earth.training.data import Batches, Examples
from shoal_earth.training.distributed import Ranks
from shoal_earth.training.loop import Loop

__all__ = ["TrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The choices that trainings of all kinds of models have in common; the names are those of the command line.

    Args:
        epochs: passes over the training chips.
        seed: of the start of the model, the order of the chips and their augmentation.
        accumulate: batches that make one step.
        clip: largest norm of the gradient, or None.
        ema: decay of a moving average of the weights, or None.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        workers: processes that read chips ahead; 0 reads in this one.
        evaluate_every: epochs between two evaluations.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    epochs: int
    seed: int = 0
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    precision: str = "fp32"
    workers: int = 0
    evaluate_every: int = 1
    device: str = "auto"

    def batches(
        self, examples: Examples, size: int, ranks: Ranks, *, collate: Callable[[list[Any]], Any] | None = None
    ) -> Batches:
        """The batches of one process: ``size`` examples each, as ``collate`` joins them (see :class:`Batches`)."""
        return Batches(
            examples,
            size,
            self.seed,
            accumulate=self.accumulate,
            rank=ranks.rank,
            world=ranks.world,
            workers=self.workers,
            collate=collate,
            pin=ranks.device.type == "cuda",
        )

    def loop(self, monitor: str, goal: str = "max", *, clip: float | None = None, ema: float | None = None) -> Loop:
        """How the loop trains images with these settings.

        Args:
            monitor: the metric that says which state is the best.
            goal: ``max`` or ``min``.
            clip, ema: a recipe's own, where the settings say nothing.
        """
        return Loop(
            epochs=self.epochs,
            monitor=monitor,
            goal=goal,
            seed=self.seed,
            precision=self.precision,
            clip=clip if self.clip is None else self.clip,
            ema=ema if self.ema is None else self.ema,
            evaluate_every=self.evaluate_every,
            channels_last=True,
        )
