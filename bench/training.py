"""The common training loop against a bare PyTorch loop, for segmentation; how they are compared: ``bench/loops.py``.

python bench/training.py [--json PATH] [--device cuda --encoder resnet50 --size 256 --precision bf16 --workers 4]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from loops import Case, add_options, compare, figures
from shoal_earth.rasters.chips import ChipRules, make_chips
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.losses import build_loss
from shoal_earth.segmentation.models import build_model
from shoal_earth.training.optim import Schedule, build_optimizer

HERE = Path(__file__).parents[1] / "studies" / "quickstart"
AIM = 0.97


def case_of(args: argparse.Namespace, chips: Path) -> Case:
    device = torch.device(args.device)
    loss_of = build_loss("ce+dice")

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = build_model(args.model, args.encoder, bands=1, classes=2, depth=args.depth, width=args.width)
        model = model.to(device).to(memory_format=torch.channels_last)
        return model, build_optimizer("adamw", model, 1e-3, weight_decay=0.01)

    def move(batch: Any) -> Any:
        images, labels = batch
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return images, labels.to(device, non_blocking=True)

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return loss_of(model(batch[0]), batch[1])

    return Case(
        build,
        ChipExamples(chips, "train", augment="flips"),
        loss,
        lambda model, batch: {"loss": loss(model, batch)},
        move,
        lambda steps: Schedule("cosine", steps),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, turns=60, steps=3, batch_size=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--encoder", default="tu-resnet10t")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        chips = Path(folder) / "chips"
        rules = ChipRules(size=args.size, stride=args.size // 4)
        make_chips([HERE / "atlanta.tif"], [HERE / "buildings.geojson"], chips, rules)
        times = compare(case_of(args, chips), args, Path(folder) / "out")
    what = f"{args.model} {args.encoder}, {args.size} px, batch {args.batch_size}, {args.precision}, {args.device}"
    result = {
        "benchmark": "training",
        "model": what,
        "turns": len(times),
        "steps_a_turn": args.steps,
        **figures(times, args),
        "aim": AIM,
    }
    low, high = result["quartiles"]
    print("| training | loop, images/s | bare, images/s | ratio (median) | of CPU time | middle half | aim |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {what} | {result['loop_images_per_second']} | {result['bare_images_per_second']} | {result['ratio']:.3f} "
        f"| {result['cpu_time_ratio']:.3f} | {low:.3f} to {high:.3f} | >= {AIM} |"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
