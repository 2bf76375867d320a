"""Processes and seeds: who am I among the ranks of ``torchrun``, and how everything random starts."""

from __future__ import annotations

import gc
import importlib
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from shoal.errors import UsageError

__all__ = ["Ranks", "get_rng_state", "ranks", "seed_everything", "set_rng_state"]


@dataclass
class Ranks:
    """This process among all that train one model together.

    Control messages (stop, sums of metrics) go through a gloo group on the CPU, so that they never wait for the GPU.
    """

    rank: int
    world: int
    device: torch.device
    control: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the process that logs and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True on every rank as soon as it is true on one."""
        if self.world == 1:
            return flag
        value = torch.tensor([int(flag)])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.control)
        return bool(value.item())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, as a new tensor on the CPU."""
        values = values.detach().to("cpu", copy=True)
        if self.world > 1:
            dist.all_reduce(values, group=self.control)
        return values

    def gather(self, value: Any) -> list[Any]:
        """One value of every rank, in order of rank, on every rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.control)
        return found

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every rank the values that the main one has, in place."""
        if self.world == 1:
            return
        for tensor in tensors:
            value = tensor.detach().to("cpu", copy=True)
            dist.broadcast(value, 0, group=self.control)
            tensor.copy_(value)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier(group=self.control)


@contextmanager
def ranks(device: str = "auto") -> Iterator[Ranks]:
    """Join the group that ``torchrun`` describes in the environment; alone without it.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if device.startswith("cuda") and not cuda:
        raise UsageError(f"device {device} was asked for, but PyTorch sees no CUDA device", hint="Use --device cpu.")
    if device == "cpu" or not cuda:
        place = torch.device("cpu")
    elif ":" in device:
        place = torch.device(device)
    else:
        place = torch.device("cuda", local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Ranks(0, 1, place)
        return
    # Its functions have the default group as a default argument: imported later, as DistributedDataParallel does, they keep
    # that group for ever. See below why it must go.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    here = Ranks(rank, world, place)
    try:
        here.control = dist.new_group(backend="gloo", timeout=timedelta(minutes=30))
        yield here
    finally:
        here.control = None
        # Threads of gloo end with the last reference to their group. One that lives on, and lets go of a tensor while the
        # interpreter ends, aborts the process: a training that is done would count as failed.
        gc.collect()
        dist.destroy_process_group()


def seed_everything(seed: int) -> None:
    """Start Python's, NumPy's and PyTorch's generators from one number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_rng_state() -> dict[str, Any]:
    """The state of all global generators, as plain values and tensors that ``weights_only`` can load."""
    numpy: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = numpy
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what :func:`get_rng_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
