"""Batches whose order and augmentation are a pure function of seed and step, so that a run can go on from any step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from shoal.errors import UsageError

__all__ = ["Batches", "Examples"]


class Examples(Protocol):
    """What the loop trains on: a number of examples, each made from its index and its own generator.

    Examples that change with the epoch have ``at(epoch)`` too, which gives them as they are then.
    """

    def __len__(self) -> int:
        """How many examples."""
        ...

    def get(self, index: int, rng: np.random.Generator) -> Any:
        """The example; everything random about it comes from ``rng``."""
        ...


class _Seeded(Dataset[Any]):
    """Gives each (epoch, index) its own generator: no worker, no restart and no order can change an example."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples = examples
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        at = getattr(self.examples, "at", None)
        examples: Examples = self.examples if at is None else at(epoch)
        return examples.get(index, np.random.default_rng((self.seed, epoch, index)))


class _Order(Sampler[list[tuple[int, int]]]):
    """The batches of one rank from a given micro-step on: a new permutation each epoch, cut alike for all ranks."""

    def __init__(self, batches: Batches, first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, np.int64)
        for micro in range(self.first, self.last):
            step, part = divmod(micro, self.batches.accumulate)
            now, position = divmod(step, self.batches.steps_per_epoch)
            if now != epoch:
                epoch, order = now, self.batches.order(now)
            start = (position * self.batches.accumulate + part) * self.batches.joint
            start += self.batches.rank * self.batches.size
            yield [(epoch, int(i)) for i in order[start : start + self.batches.size]]

    def __len__(self) -> int:
        return self.last - self.first


def _deaf(worker: int) -> None:
    """A stop is sent to all processes of a group: those that read ahead go on until the one that trains has saved its state."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Batches:
    """An endless, numbered stream of training batches.

    Batch ``n`` is the same whether the stream was read from the start or from ``n`` on, with any number of workers, and the
    joint batch of all ranks is the same examples in the same order. An epoch has as many steps as whole joint batches fit
    into the data (at least one, then examples are repeated to fill it).

    Args:
        examples: what to train on.
        size: examples a batch, for one process and one of ``accumulate`` parts.
        seed: decides order and augmentation.
        accumulate: batches that make one optimizer step.
        rank, world: this process and how many there are.
        workers: processes that read ahead; 0 reads in this process.
        collate: turns a list of examples into a batch; PyTorch's default stacks tensors.
        pin: page-locked memory, for copies to a GPU that do not wait.
    """

    def __init__(
        self,
        examples: Examples,
        size: int,
        seed: int,
        *,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        pin: bool = False,
    ) -> None:
        if len(examples) == 0:
            raise UsageError("there is nothing to train on: the training split has no examples")
        if size < 1 or accumulate < 1:
            raise UsageError("batch size and accumulation must be at least 1")
        self.examples, self.size, self.seed, self.accumulate = examples, size, seed, accumulate
        self.rank, self.world, self.workers, self.collate, self.pin = rank, world, workers, collate, pin
        self.joint = size * world
        self.per_step = self.joint * accumulate
        self.steps_per_epoch = max(1, len(examples) // self.per_step)

    def order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The indices of one epoch in order, as many as its steps use."""
        permutation = np.random.default_rng((self.seed, epoch)).permutation(len(self.examples))
        return np.resize(permutation, self.steps_per_epoch * self.per_step)

    def stream(self, first: int, last: int) -> Iterator[Any]:
        """The parts of the batches of steps ``first`` to ``last - 1``: ``accumulate`` of them for each step."""
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.examples, self.seed),
            batch_sampler=_Order(self, first * self.accumulate, last * self.accumulate),
            num_workers=self.workers,
            collate_fn=self.collate,
            pin_memory=self.pin and torch.cuda.is_available(),
            worker_init_fn=_deaf,
            # The loader draws a seed for its workers: from a generator of its own, not from the model's.
            generator=torch.Generator().manual_seed(self.seed),
        )
        return iter(loader)
