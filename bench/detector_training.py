"""Each detector in the common loop against a bare PyTorch loop: same model, same chips, same optimizer, same varied batches.

The two take turns of a few steps in one process (see ``bench/training.py``); the figure is the median over the turns of the ratio
of their speeds. The bare loop is the shortest that trains the library's model: DataLoader, forward, backward, step.

    python bench/detector_training.py [--models fcos,yolox] [--turns 8] [--steps 2] [--json PATH]

On a GPU, the published sizes (not part of ``make bench``): ``python bench/detector_gpu.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import shoal
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.dataset import ChipDetections, collate, pixels
from shoal_earth.detection.models import PAPER, build_detector, recipe
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules
from shoal_earth.detection.synthetic_formats import write_synthetic
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import Ranks
from shoal_earth.training.loop import Fit, Loop
from shoal_earth.training.optim import build_optimizer, parameter_groups
from training import DTYPES, Turns, finish

AIM = 0.95


class Plain(Dataset[Any]):
    """The same chips for the bare loop, varied alike."""

    def __init__(self, examples: ChipDetections) -> None:
        self.examples, self.rng = examples, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples.get(index, self.rng)


def examples_of(chips: Path, name: str, size: str) -> ChipDetections:
    return ChipDetections(chips, "train", augment=recipe(name, size=size).augment, keep_empty=False)


def model_of(name: str, examples: ChipDetections, size: str, device: torch.device) -> Any:
    torch.manual_seed(0)
    model = build_detector(name, len(examples.classes), size=size, image_size=examples.size)
    return model.to(device).to(memory_format=torch.channels_last).train()


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    # Small steps of one kind for all: what is compared is speed.
    return build_optimizer("adamw", parameter_groups(model, 1e-5, 1e-4), 1e-5)


def bare(name: str, chips: Path, args: argparse.Namespace, device: torch.device) -> Iterator[None]:
    """The shortest loop that does the same training; one step at each ``next``."""
    examples = examples_of(chips, name, args.size)
    model = model_of(name, examples, args.size, device)
    optimizer = optimizer_of(model)
    loader = DataLoader(
        Plain(examples),
        args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    while True:
        for images, targets in loader:
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            targets = [{key: value.to(device, non_blocking=True) for key, value in one.items()} for one in targets]
            with torch.autocast(device.type, DTYPES[args.precision], enabled=args.precision != "fp32"):
                loss = model(pixels(images), targets)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield


def measure(name: str, chips: Path, args: argparse.Namespace, device: torch.device, out: Path) -> dict[str, Any]:
    """Images a second of both, and the ratio."""
    examples = examples_of(chips, name, args.size)
    model = model_of(name, examples, args.size, device)
    batches = Batches(examples, args.batch_size, 0, workers=args.workers, collate=collate, pin=device.type == "cuda")
    epochs = -(-args.steps * (args.turns + 1) // batches.steps_per_epoch)
    turns = Turns(shoal.task(params={}, out=out), bare(name, chips, args, device), args.steps, device)
    Fit(
        model,
        optimizer_of(model),
        recipe(name, size=args.size).build_schedule(epochs * batches.steps_per_epoch),
        batches,
        lambda net, batch: net(pixels(batch[0]), batch[1]),
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
    ).run()
    finish(device)
    times = turns.times[1 : args.turns + 1]
    images = args.batch_size * args.steps
    ratios = [plain / own for own, plain, _, _ in times]
    return {
        "loop_images_per_second": round(images / statistics.median(own for own, *_ in times), 1),
        "bare_images_per_second": round(images / statistics.median(plain for _, plain, *_ in times), 1),
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "cpu_time_ratio": round(statistics.median(plain / own for _, _, own, plain in times), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--models", default=",".join(PAPER))
    parser.add_argument("--size", choices=("tiny", "published"), default="tiny")
    parser.add_argument("--chip", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "benchmark": "detector-training",
        "turns": args.turns,
        "steps_a_turn": args.steps,
        "aim": AIM,
    }
    result["what"] = f"{args.size}, {args.chip} px, batch {args.batch_size}, {args.precision}, {args.device}"
    result["models"] = {}
    print("| detector | loop, images/s | bare, images/s | ratio (median) | range | of CPU time | aim |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic("dota", folder / "source", scenes=8, side=max(420, 2 * args.chip))
        rules = ChipRules(args.chip, args.chip // 4)
        prepare("dota", folder / "source", folder / "chips", rules, SplitRules((0.8, 0.1, 0.1)))
        for model in args.models.split(","):
            own = measure(model, folder / "chips", args, torch.device(args.device), folder / model)
            result["models"][model] = own
            low, high = own["spread"]
            print(
                f"| {model} | {own['loop_images_per_second']} | {own['bare_images_per_second']} | {own['ratio']:.3f} "
                f"| {low:.3f} to {high:.3f} | {own['cpu_time_ratio']:.3f} | >= {AIM} |",
                flush=True,
            )
    result["median_ratio"] = round(statistics.median(own["ratio"] for own in result["models"].values()), 3)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
