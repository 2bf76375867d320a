"""Processes and seeds: who am I among the ranks of ``torchrun``, and how everything random starts."""

from __future__ import annotations

import gc
import importlib
import os
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from shoal.errors import UsageError

__all__ = ["Ranks", "choose_device", "get_rng_state", "ranks", "seed_everything", "set_rng_state"]


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
        device: see :func:`choose_device`.

    Raises:
        UsageError: there is no such device.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    place = choose_device(device, gpus, local, world)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        # What is left in single precision is multiplied in TensorFloat-32, as PyTorch has it for convolutions by default; and
        # of the ways to convolve, the fastest is looked for once for each size, since chips have one.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
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


def choose_device(device: str, gpus: int, local: int = 0, world: int = 1) -> torch.device:
    """Where a process calculates.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        gpus: how many PyTorch sees.
        local: number of this process on this machine; it takes the GPU of that number.
        world: processes that train one model.

    Raises:
        UsageError: there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f'there is no device "{device}"', hint="Choose one of: auto, cpu, cuda, cuda:N.")
    if device == "cpu" or (device == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise UsageError(f"device {device} was asked for, but PyTorch sees no CUDA device", hint="Use --device cpu.")
    named = device.partition(":")[2]
    if named and world > 1:
        raise UsageError(f"{world} processes cannot share {device}", hint="Say --device cuda: each takes its own.")
    number = int(named or local)
    if number >= gpus:
        raise UsageError(
            f"GPU {number} was asked for, but PyTorch sees {gpus}, counted from 0",
            hint="Of several processes each needs a GPU of its own: as many as torchrun's --nproc-per-node says.",
        )
    return torch.device("cuda", number)


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
