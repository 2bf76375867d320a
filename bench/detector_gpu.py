"""The ten detectors in their published sizes on a GPU, 512 pixels: bf16, channels-last and compiled against plain fp32.

    python bench/detector_gpu.py [--models ...] [--steps 30] [--json PATH]

Needs a GPU, so it is no part of ``make bench``; ``--device cpu --size tiny --side 128`` shows that it works. For each detector
three ways to train on the same random batch: fp32 as PyTorch does it by default; bf16 with channels-last memory, as ``shoal-earth
detection train --precision bf16`` does it; the same with the model compiled (dynamic shapes of targets make graphs break, so it
helps some detectors and not others). Images a second, and the share of time in which the GPU was at work, as the driver
reports it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from shoal_earth.detection.models import PAPER, build_detector, recipe

WAYS = {"fp32": (False, False), "bf16, channels-last": (True, False), "bf16, channels-last, compiled": (True, True)}


class Use(threading.Thread):
    """How busy the GPU is, every tenth of a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.shares: list[int] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            try:
                self.shares.append(int(torch.cuda.utilization()))
            except (ImportError, RuntimeError):  # the driver's library for Python is not installed
                return


def measure(name: str, fast: bool, compiled: bool, args: argparse.Namespace) -> dict[str, Any]:
    device, how, side = torch.device(args.device), recipe(name, size=args.size), args.side
    cuda = device.type == "cuda"
    torch.manual_seed(0)
    model = build_detector(name, 15, size=args.size, image_size=side).to(device).train()
    images = torch.rand(args.batch_size or how.batch_size, 3, side, side, device=device)
    if fast:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    # Objects of 16 to 72 pixels of 512.
    corner = torch.rand(len(images), 12, 2, device=device) * 440
    boxes = torch.cat([corner, corner + 16 + torch.rand_like(corner) * 56], 2) * (side / 512)
    targets = [{"boxes": own, "labels": torch.randint(0, 15, (12,), device=device)} for own in boxes]
    optimizer = how.build_optimizer(model, lr=1e-6)
    net = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            loss = net(images, targets)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(args.warm_up):
        step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    use, times = Use(), []
    if cuda:
        use.start()
    for _ in range(args.steps):
        begun = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    if cuda:
        use.done.set()
        use.join()
    return {
        "images_per_second": round(len(images) / statistics.median(times), 1),
        "gpu_use": round(statistics.mean(use.shares) / 100, 2) if use.shares else None,
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None,
        "batch": len(images),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--models", default=",".join(PAPER))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("published", "tiny"), default="published")
    parser.add_argument("--side", type=int, default=512, help="pixels on a side of an image")
    parser.add_argument("--ways", default="1,2,3", help="1: fp32, 2: bf16 and channels-last, 3: compiled too")
    parser.add_argument("--batch-size", type=int, help="by the recipe")
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    ways = [list(WAYS)[int(number) - 1] for number in args.ways.split(",")]
    cuda = torch.device(args.device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        print("This needs a GPU that PyTorch sees; nothing was measured.", file=sys.stderr)
        return 1
    machine = torch.cuda.get_device_name() if cuda else args.device
    result: dict[str, Any] = {"benchmark": "detector-gpu", "device": machine, "models": {}}
    print(f"{result['device']}, PyTorch {torch.__version__}\n")
    print("| detector | way | batch | images/s | x fp32 | GPU use | memory, GiB |\n|---|---|---|---|---|---|---|")
    for name in args.models.split(","):
        found = result["models"][name] = {}
        for way in ways:
            fast, compiled = WAYS[way]
            try:
                own = found[way] = measure(name, fast, compiled, args)
            except Exception as error:  # out of memory, or a graph that cannot be compiled: told, and the others go on
                found[way] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
                print(f"| {name} | {way} | | not measured: {found[way]['failed']} | | | |", flush=True)
            else:
                first = found.get("fp32", {}).get("images_per_second")
                times = f"{own['images_per_second'] / first:.2f}" if first else ""
                print(
                    f"| {name} | {way} | {own['batch']} | {own['images_per_second']} | {times} | {own['gpu_use']} "
                    f"| {own['memory_gib']} |",
                    flush=True,
                )
            if cuda:
                torch.cuda.empty_cache()
            torch._dynamo.reset()
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
