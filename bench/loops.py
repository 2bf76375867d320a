"""What ``bench/training.py`` and ``bench/detector_training.py`` share: the common loop and a bare PyTorch loop, turn by turn.

Both train the same model from the same weights, with the same optimizer, on the very same batches: the examples of each step, and
the random numbers that vary them, are the same on both sides. The two take turns of a few steps in one process, and the figure
is the median over the turns of the ratio of their speeds: what slows the machine down for a while slows both. The common loop
does all its work: schedule, losses summed, stop looked for at every step, metrics logged. It is entered once; the bare loop takes
its turns when the common one looks whether it should stop.

What a recipe asks of a step is no part of what is compared: neither side clips gradients or keeps an average of the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import shoal
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import Ranks
from shoal_earth.training.loop import Fit, Loop, Stopped
from shoal_earth.training.optim import Schedule

__all__ = ["DTYPES", "Case", "add_options", "compare", "figures"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_options(parser: argparse.ArgumentParser, *, turns: int, steps: int, batch_size: int) -> None:
    """The options that both benches have."""
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--turns", type=int, default=turns)
    parser.add_argument("--steps", type=int, default=steps, help="steps of a turn")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)


@dataclass(frozen=True)
class Case:
    """What both loops train.

    Args:
        build: model and optimizer, the same at each call.
        examples: as :class:`Batches` takes them.
        loss: ``(model, batch) -> loss`` for the bare loop, on the device.
        losses: the same for the common loop.
        move: a batch to the device, written out as a person would.
        schedule: of the common loop, by its steps.
        collate: of both.
    """

    build: Callable[[], tuple[torch.nn.Module, torch.optim.Optimizer]]
    examples: Any
    loss: Callable[[torch.nn.Module, Any], torch.Tensor]
    losses: Callable[[torch.nn.Module, Any], Mapping[str, torch.Tensor]]
    move: Callable[[Any], Any]
    schedule: Callable[[int], Schedule]
    collate: Callable[[list[Any]], Any] | None = None


class _Plain(Dataset[Any]):
    """The same examples, varied alike."""

    def __init__(self, examples: Any) -> None:
        self.examples = examples

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.examples.get(key[1], np.random.default_rng((0, *key)))


def _bare(case: Case, order: list[list[tuple[int, int]]], args: argparse.Namespace) -> Iterator[None]:
    """The shortest loop that does the same training; one step at each ``next``."""
    device = torch.device(args.device)
    model, optimizer = case.build()
    loader = DataLoader(
        _Plain(case.examples),
        batch_sampler=order,
        num_workers=args.workers,
        collate_fn=case.collate,
        pin_memory=device.type == "cuda",
    )
    model.train()
    for batch in loader:
        batch = case.move(batch)
        with torch.autocast(device.type, DTYPES[args.precision], enabled=args.precision != "fp32"):
            loss = case.loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class _Turns:
    """A task for the loop; every few of its steps the bare loop takes as many, and both are timed."""

    def __init__(self, task: Any, other: Iterator[None], args: argparse.Namespace) -> None:
        self.task, self.other, self.steps, self.turns = task, other, args.steps, args.turns + 1
        self.device = torch.device(args.device)
        self.asked, self.started, self.started_cpu = 0, 0.0, 0.0
        self.times: list[tuple[float, float, float, float]] = []

    def log(self, metrics: Any, step: int | None = None) -> None:
        self.task.log(metrics, step=step)

    @property
    def stopping(self) -> bool:
        stop = bool(self.task.stopping)
        self.asked += 1
        if self.asked % self.steps == 0:
            _finish(self.device)
            own, own_cpu = time.perf_counter() - self.started, time.process_time() - self.started_cpu
            begun, begun_cpu = time.perf_counter(), time.process_time()
            for _ in range(self.steps):
                next(self.other)
            _finish(self.device)
            plain, plain_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
            self.times.append((own, plain, own_cpu, plain_cpu))
            self.started, self.started_cpu = time.perf_counter(), time.process_time()
        return stop or len(self.times) == self.turns


def compare(case: Case, args: argparse.Namespace, out: Path) -> list[tuple[float, float, float, float]]:
    """Seconds of the loop and of the bare loop in each turn, then CPU seconds of both; the first turn is a warm-up, left out."""
    device = torch.device(args.device)
    pin = device.type == "cuda"
    batches = Batches(case.examples, args.batch_size, 0, workers=args.workers, collate=case.collate, pin=pin)
    epochs = -(-args.steps * (args.turns + 1) // batches.steps_per_epoch)
    order = [
        [(epoch, int(index)) for index in chosen]
        for epoch in range(epochs)
        for chosen in np.split(batches.order(epoch), batches.steps_per_epoch)
    ]
    turns = _Turns(shoal.task(params={}, out=out), _bare(case, order, args), args)
    model, optimizer = case.build()
    fit = Fit(
        model,
        optimizer,
        case.schedule(epochs * batches.steps_per_epoch),
        batches,
        case.losses,
        lambda net: {"x": 0.0},
        config=Loop(
            epochs=epochs,
            monitor="x",
            precision=args.precision,
            channels_last=True,
            evaluate_every=epochs,
            log_every=10,
            save_every=1e9,
        ),
        ranks=Ranks(0, 1, device),
        task=turns,
        checkpoints=out,
    )
    with suppress(Stopped):  # which the turns ask for when all are taken
        fit.run()
    return turns.times[1:]


def figures(times: list[tuple[float, float, float, float]], args: argparse.Namespace) -> dict[str, Any]:
    """Images a second of both, and their ratio: of time, and of CPU time, which what others do on the machine hardly enters."""
    images = args.batch_size * args.steps
    ratios = [plain / own for own, plain, _, _ in times]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "loop_images_per_second": round(images / statistics.median(own for own, *_ in times), 1),
        "bare_images_per_second": round(images / statistics.median(plain for _, plain, *_ in times), 1),
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "cpu_time_ratio": round(statistics.median(plain / own for _, _, own, plain in times), 3),
    }
