"""Each detector in the common loop against a bare PyTorch loop; how they are compared: ``bench/loops.py``.

    python bench/detector_training.py [--models fcos,yolox] [--turns 8] [--steps 2] [--json PATH]

On a GPU, the published sizes (not part of ``make bench``): ``python bench/detector_gpu.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from loops import Case, add_options, compare, figures
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.dataset import ChipDetections, collate, pixels
from shoal_earth.detection.models import PAPER, build_detector, recipe
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules
from shoal_earth.detection.synthetic_formats import write_synthetic
from shoal_earth.training.optim import build_optimizer, parameter_groups

AIM = 0.95


def case_of(name: str, chips: Path, args: argparse.Namespace) -> Case:
    device, how = torch.device(args.device), recipe(name, size=args.size)
    examples = ChipDetections(chips, "train", augment=how.augment, keep_empty=False)

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = build_detector(name, len(examples.classes), size=args.size, image_size=examples.size)
        model = model.to(device).to(memory_format=torch.channels_last)
        # Small steps of one kind for all: what is compared is speed.
        return model, build_optimizer("adamw", parameter_groups(model, 1e-5, 1e-4), 1e-5)

    def move(batch: Any) -> Any:
        images, targets = batch
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return images, [{key: value.to(device, non_blocking=True) for key, value in one.items()} for one in targets]

    return Case(
        build,
        examples,
        lambda model, batch: model(pixels(batch[0]), batch[1])["loss"],
        lambda model, batch: model(pixels(batch[0]), batch[1]),
        move,
        how.build_schedule,
        collate,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, turns=8, steps=2, batch_size=4)
    parser.add_argument("--models", default=",".join(PAPER))
    parser.add_argument("--size", choices=("tiny", "published"), default="tiny")
    parser.add_argument("--chip", type=int, default=128)
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
            times = compare(case_of(model, folder / "chips", args), args, folder / model)
            own = result["models"][model] = figures(times, args)
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
