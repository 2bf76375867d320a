"""The recipes against the table of arXiv 2411.12038, and what becomes of them."""

from __future__ import annotations

import pytest
import torch

from shoal.errors import UsageError
from shoal_earth.detection.models import DETECTORS, SIZES, build_detector, recipe

# Optimizer, rate, weight decay, batch of a GPU, schedule: as in the paper; None where it does not say.
TABLE = {
    ("convnext", "rareplanes"): ("sgd", 0.02, 1e-4, 12, "step"),
    ("convnext", "dota"): ("sgd", 0.001, 1e-4, 12, "step"),
    ("swin", "dota"): ("adamw", 1e-4, 0.05, 6, "step"),
    ("vit", "xview"): ("adamw", 6e-5, 0.01, 8, "polynomial"),
    ("detr", "dota"): ("adamw", 1e-4, None, 8, "step"),
    ("deformable-detr", "dota"): ("adamw", 2e-4, None, 6, "step"),
    ("fcos", "dota"): ("sgd", None, None, 6, "step"),
    ("retinanet", "dota"): ("sgd", 1e-3, None, 6, "step"),
    ("retinanet", "xview"): ("sgd", 1e-4, None, 6, "step"),
    ("ssd", "dota"): ("sgd", 1e-3, None, 16, "step"),
    ("yolov3", "rareplanes"): ("sgd", 1e-3, None, 6, "step"),
    ("yolov3", "xview"): ("sgd", 1e-3, None, 1, "step"),
    ("yolox", "dota"): ("sgd", 1e-3, None, 6, "cosine"),
}


@pytest.mark.parametrize(("name", "dataset"), TABLE)
def test_recipes_are_those_of_the_paper(name: str, dataset: str) -> None:
    own = recipe(name, dataset)
    found = (own.optimizer, own.lr, own.weight_decay, own.batch_size, own.schedule)
    assert [f if e is not None else None for f, e in zip(found, TABLE[name, dataset], strict=True)] == list(
        TABLE[name, dataset]
    )


def test_the_schedules_of_300_epochs() -> None:
    step = recipe("convnext", "dota").build_schedule(30_000)  # 100 steps an epoch
    assert step.warmup == 750
    assert [round(step(n), 6) for n in (25_999, 26_000, 27_999, 28_000)] == [1, 0.1, 0.1, 0.01]
    poly = recipe("vit", "dota").build_schedule(31_500)
    assert poly.warmup == 1500
    assert poly(1500 + 15_000) == pytest.approx(0.5)
    yolox = recipe("yolox", "dota").build_schedule(30_000)
    assert yolox(1000) == pytest.approx((1001 / 2001) ** 2)
    assert {yolox(n) for n in range(28_500, 30_000, 100)} == {0.05}
    assert yolox(28_000) > 0.05
    short = recipe("vit", "dota").build_schedule(100)
    assert short.warmup == 10


def test_the_groups_of_parameters() -> None:
    vit = build_detector("vit", 2, size="tiny", image_size=128)
    own = recipe("vit", "dota")
    groups = own.build_optimizer(vit).param_groups
    names = {id(p): n for n, p in vit.named_parameters()}
    free = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    decayed = {names[id(p)] for g in groups if g["weight_decay"] == 0.01 for p in g["params"]}
    assert "model.backbone.body.pos_embed" in free
    assert not [n for n in decayed if "norm" in n or n.endswith("bias") or "pos_embed" in n]
    assert free | decayed == set(names.values())

    detr = build_detector("deformable-detr", 2, size="tiny", image_size=128)
    names = {id(p): n for n, p in detr.named_parameters()}
    rates = {
        names[id(p)]: g["lr"] for g in recipe("deformable-detr").build_optimizer(detr).param_groups for p in g["params"]
    }
    for name, rate in rates.items():
        slow = "backbone" in name or "sampling_offsets" in name
        assert rate == pytest.approx(2e-5 if slow else 2e-4), name


def test_every_detector_has_a_recipe_in_every_size_that_builds_an_optimizer() -> None:
    for name in DETECTORS:
        for size in SIZES:
            own = recipe(name, "dota", size=size)
            optimizer = own.build_optimizer(torch.nn.Linear(2, 2))
            assert optimizer.param_groups[0]["lr"] == own.lr
            assert 0 < own.build_schedule(1000)(500) <= 1
    assert recipe("ssd").build_optimizer(torch.nn.Linear(2, 2), 0.5).param_groups[0]["lr"] == 0.5
    with pytest.raises(UsageError, match="no detector"):
        recipe("yolov9")
    with pytest.raises(UsageError, match="no size"):
        recipe("ssd", size="huge")
