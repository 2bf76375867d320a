"""The common training loop against a bare PyTorch loop: same model, same chips, same optimizer, one process, one run.

The two take turns of a few steps, and the figure is the median over many turns of the ratio of their speeds: what slows the
machine down for a while slows both. The loop does all its work: schedule, losses summed, stop looked for at every step,
metrics logged. It is entered once; the bare loop takes its turns when the loop looks whether it should stop.

    python bench/training.py [--json PATH] [--device cuda --encoder resnet50 --size 256 --precision bf16 --workers 4]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import shoal
from shoal_earth.rasters.chips import ChipRules, make_chips
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.losses import build_loss
from shoal_earth.segmentation.models import build_model
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import Ranks
from shoal_earth.training.loop import Fit, Loop
from shoal_earth.training.optim import Schedule, build_optimizer

HERE = Path(__file__).parents[1] / "studies" / "quickstart"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Plain(Dataset[Any]):
    """The same chips for the bare loop, read and normalised alike."""

    def __init__(self, examples: ChipExamples) -> None:
        self.examples, self.rng = examples, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples.get(index, self.rng)


def model_and_optimizer(
    args: argparse.Namespace, device: torch.device
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = build_model(args.model, args.encoder, bands=1, classes=2, depth=args.depth, width=args.width)
    model = model.to(device).to(memory_format=torch.channels_last)
    return model, build_optimizer("adamw", model, 1e-3, weight_decay=0.01)


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare(args: argparse.Namespace, chips: Path, device: torch.device) -> Iterator[None]:
    """The shortest loop that does the same training; one step at each ``next``."""
    model, optimizer = model_and_optimizer(args, device)
    loss_of = build_loss("ce+dice")
    loader = DataLoader(
        Plain(ChipExamples(chips, "train", augment="flips")),
        args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=device.type == "cuda",
    )
    model.train()
    while True:
        for images, labels in loader:
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, DTYPES[args.precision], enabled=args.precision != "fp32"):
                loss = loss_of(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield


class Turns:
    """A task for the loop; every few of its steps the bare loop takes as many, and both are timed."""

    def __init__(self, task: Any, other: Iterator[None], steps: int, device: torch.device) -> None:
        self.task, self.other, self.steps, self.device = task, other, steps, device
        self.asked, self.started, self.started_cpu = 0, 0.0, 0.0
        self.times: list[tuple[float, float, float, float]] = []

    def log(self, metrics: Any, step: int | None = None) -> None:
        self.task.log(metrics, step=step)

    @property
    def stopping(self) -> bool:
        stop = bool(self.task.stopping)
        self.asked += 1
        if self.asked % self.steps == 0:
            finish(self.device)
            own, own_cpu = time.perf_counter() - self.started, time.process_time() - self.started_cpu
            begun, begun_cpu = time.perf_counter(), time.process_time()
            for _ in range(self.steps):
                next(self.other)
            finish(self.device)
            plain, plain_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
            self.times.append((own, plain, own_cpu, plain_cpu))
            self.started, self.started_cpu = time.perf_counter(), time.process_time()
        return stop


def measure(
    args: argparse.Namespace, chips: Path, device: torch.device, out: Path
) -> list[tuple[float, float, float, float]]:
    """Seconds of the loop and of the bare loop in each turn, then CPU seconds of both; the first turn is a warm-up, left out."""
    model, optimizer = model_and_optimizer(args, device)
    loss_of = build_loss("ce+dice")
    examples = ChipExamples(chips, "train", augment="flips")
    batches = Batches(examples, args.batch_size, 0, workers=args.workers, pin=device.type == "cuda")
    epochs = -(-args.steps * (args.turns + 1) // batches.steps_per_epoch)
    turns = Turns(shoal.task(params={}, out=out), bare(args, chips, device), args.steps, device)
    fit = Fit(
        model,
        optimizer,
        Schedule("cosine", epochs * batches.steps_per_epoch),
        batches,
        lambda net, batch: {"loss": loss_of(net(batch[0]), batch[1])},
        lambda net: {"x": 0.0},
        config=Loop(
            epochs=epochs,
            monitor="x",
            precision=args.precision,
            channels_last=True,
            evaluate_every=epochs,
            log_every=10,
        ),
        ranks=Ranks(0, 1, device),
        task=turns,
        checkpoints=out,
    )
    fit.run()
    return turns.times[1 : args.turns + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--encoder", default="tu-resnet10t")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        chips = Path(folder) / "chips"
        make_chips(
            [HERE / "atlanta.tif"],
            [HERE / "buildings.geojson"],
            chips,
            ChipRules(size=args.size, stride=args.size // 4),
        )
        times = measure(args, chips, device, Path(folder) / "out")
    ratios = [plain / own for own, plain, _, _ in times]
    # Of CPU time, where that is all there is: what others do on the machine hardly enters it.
    cpu_ratios = [plain / own for _, _, own, plain in times]
    images = args.batch_size * args.steps
    low, _, high = statistics.quantiles(ratios, n=4)
    result = {
        "benchmark": "training",
        "model": f"{args.model} {args.encoder}, {args.size} px, batch {args.batch_size}, {args.precision}, {device.type}",
        "turns": len(times),
        "steps_a_turn": args.steps,
        "loop_images_per_second": round(images / statistics.median(own for own, *_ in times), 1),
        "bare_images_per_second": round(images / statistics.median(plain for _, plain, *_ in times), 1),
        "ratio": round(statistics.median(ratios), 3),
        "cpu_time_ratio": round(statistics.median(cpu_ratios), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "aim": 0.97,
    }
    print("| training | loop, images/s | bare, images/s | ratio (median) | of CPU time | middle half | aim |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {result['model']} | {result['loop_images_per_second']} | {result['bare_images_per_second']} | {result['ratio']:.3f} "
        f"| {result['cpu_time_ratio']:.3f} "
        f"| {low:.3f} to {high:.3f} | >= 0.97 |"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
