"""Every model of segmentation and of change overfits ten pairs, and, stopped or not, the same seed ends in the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal_earth.change.changeformer import TINY
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.losses import build_loss
from shoal_earth.segmentation.metrics import confusion, scores
from shoal_earth.segmentation.models import build_model
from shoal_earth.segmentation.train import TrainSettings, train
from shoal_earth.training.checkpoint import load_checkpoint
from shoal_earth.training.loop import Fit, Stopped

from .pairs import write_pairs

# A network of segmentation sees a pair as one image of six bands.
MODELS: list[tuple[str, str | None, dict[str, int]]] = [
    ("changeformer-tiny", None, {}),
    ("fc-siam-conc", None, {}),
    ("fc-siam-diff", None, {}),
    ("bit", "tu-resnet10t", {}),
    ("siam-unet", "tu-test_resnet", {"depth": 4, "width": 32}),
    ("unet", "tu-test_resnet", {"depth": 4, "width": 32}),
    ("unetplusplus", "tu-test_resnet", {"depth": 3, "width": 32}),
    ("deeplabv3", "tu-resnet10t", {"width": 32}),
    ("deeplabv3plus", "tu-resnet10t", {"width": 32}),
]

# Its answers are cells of 8 pixels, interpolated: finer edges than that it cannot draw.
ENOUGH = {"deeplabv3": 0.65}


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def overfit(model: torch.nn.Module, chips: Path, *, lr: float, enough: float, steps: int = 240) -> float:
    """Train on ten pairs until their mean IoU is enough, or for all steps; gives it."""
    images, labels, _ = next(ChipExamples(chips, "train").batches(10))
    assert len(images) == 10
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0  # what is to be shown is that the model can, not how well it generalises
    loss = build_loss("ce+miou")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    score = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()
        if step % 20 == 19:
            model.eval()
            with torch.no_grad():
                score = scores(confusion(model(images).argmax(1), labels, 2), ["b", "c"], "x")["x/iou"]
            model.train()
            if score > enough:
                break
    return score


# BIT takes ten times as long as the others.
@pytest.mark.parametrize(
    ("name", "encoder", "options"),
    [pytest.param(*m, marks=[pytest.mark.slow] if m[0] == "bit" else []) for m in MODELS],
)
def test_models_overfit_ten_pairs(name: str, encoder: str | None, options: dict[str, int], chips: Path) -> None:
    torch.manual_seed(0)
    model = build_model(name, encoder, bands=6, classes=2, dates=2, **options)
    enough = ENOUGH.get(name, 0.9)
    assert overfit(model, chips, lr=3e-3, enough=enough) > enough


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_changeformer_of_the_published_size_overfits_ten_pairs(chips: Path) -> None:
    torch.manual_seed(0)
    model = build_model("changeformer", None, bands=6, classes=2, dates=2)
    assert sum(value.numel() for value in model.parameters()) > 40e6
    assert overfit(model, chips, lr=1e-4, enough=0.9) > 0.9


@pytest.mark.parametrize(
    ("name", "encoder", "options", "optimizer", "loss"),
    [(*model, "adamw", "miou") for model in MODELS] + [(*MODELS[0], "sgd", "ce"), (*MODELS[5], "lamb", "ce")],
)
def test_interrupted_and_resumed_equals_uninterrupted_and_the_seed_decides(
    name: str,
    encoder: str | None,
    options: dict[str, int],
    optimizer: str,
    loss: str,
    chips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SHOAL_SPEC", raising=False)
    # As the large one: with dropout, and with blocks that are skipped at random.
    monkeypatch.setattr("shoal_earth.change.models.TINY", replace(TINY, drop=0.1))
    base: dict[str, Any] = {"model": name, "encoder": encoder, "optimizer": optimizer, "loss": loss, **options}
    base |= {"lr": 3e-3, "epochs": 2, "batch_size": 4, "schedule": "linear", "augment": "turns", "device": "cpu"}
    settings = TrainSettings(**base)
    step = Fit._train_step

    def stopped(self: Fit, stream: Any) -> None:
        step(self, stream)
        if self.step == 3:
            self.save()
            raise Stopped("killed in the middle of the second epoch")

    train(chips, tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", stopped)
        with pytest.raises(Stopped):
            train(chips, tmp_path / "parts", settings)
    torch.rand(100)
    train(chips, tmp_path / "parts", settings)
    train(chips, tmp_path / "again", replace(settings, workers=2 if name == "unet" else 0))
    train(chips, tmp_path / "other", replace(settings, seed=1))
    for file in ("last.pt", "best.pt"):
        whole, parts, again, other = (
            load_checkpoint(tmp_path / run / file)["model"] for run in ("whole", "parts", "again", "other")
        )
        for key, value in whole.items():
            assert torch.equal(value, parts[key]), key
            assert torch.equal(value, again[key]), key
        assert any(not torch.equal(value, other[key]) for key, value in whole.items())
