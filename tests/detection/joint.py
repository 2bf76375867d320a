"""The gradient of one joint batch of eight, by one process or shared by two: ``python joint.py CHIPS OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from shoal_earth.detection.dataset import ChipDetections, collate, pixels
from shoal_earth.detection.models import build_detector
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import ranks, seed_everything

torch.set_num_threads(1)
with ranks("cpu") as here:
    seed_everything(3)
    examples = ChipDetections(Path(sys.argv[1]), "train", augment="jitter")
    model = build_detector("vit", len(examples.classes), size="tiny", image_size=examples.size).train()
    for part in model.modules():
        if isinstance(
            part, torch.nn.BatchNorm2d
        ):  # of the tiny size's early convolutions; it would look at other images
            part.eval()
    batches = Batches(examples, 8 // here.world, 5, rank=here.rank, world=here.world, collate=collate)
    images, targets = next(batches.stream(1, 2))
    net = torch.nn.parallel.DistributedDataParallel(model) if here.world > 1 else model
    net(pixels(images), targets)["loss"].backward()
    if here.main:
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert len(found) == sum(p.requires_grad for p in model.parameters())
        torch.save(found, sys.argv[2])
    here.barrier()
