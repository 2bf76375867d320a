"""A small training job, run by ``test_loop.py`` in its own process and in others: ``python job.py OUT [DELAY]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import shoal
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import ranks, seed_everything
from shoal_earth.training.loop import Fit, Loop
from shoal_earth.training.optim import Schedule, build_optimizer


class Noisy:
    """y = x @ w, seen through noise that comes from the example's own generator."""

    def __init__(self, count: int = 40, delay: float = 0.0) -> None:
        rng = np.random.default_rng(11)
        self.x = rng.normal(size=(count, 6)).astype(np.float32)
        self.y = (self.x @ rng.normal(size=(6, 1))).astype(np.float32)
        self.delay = delay

    def __len__(self) -> int:
        return len(self.x)

    def get(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(self.delay)
        noise = rng.normal(scale=0.1, size=6).astype(np.float32)
        return torch.from_numpy(self.x[index] + noise), torch.from_numpy(self.y[index])


def net(dropout: float = 0.2, norm: bool = True) -> nn.Module:
    layers = [
        nn.Linear(6, 16),
        *([nn.BatchNorm1d(16)] if norm else []),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(16, 1),
    ]
    return nn.Sequential(*layers)


def make(
    out: Path,
    *,
    seed: int = 0,
    epochs: int = 6,
    delay: float = 0.0,
    size: int = 4,
    accumulate: int = 1,
    dropout: float = 0.2,
    norm: bool = True,
    optimizer: str = "adamw",
    lr: float = 0.02,
    here: Any = None,
    examples: Any = None,
    evaluate: Any = None,
    task: Any = None,
    **config: Any,
) -> Fit:
    """A run that can be started: 10 steps an epoch by default."""
    task = task or shoal.task(params={}, out=out)
    seed_everything(seed)
    model = net(dropout, norm)
    data = examples or Noisy(delay=delay)
    batches = Batches(data, size, seed, accumulate=accumulate, rank=here.rank, world=here.world)

    def losses(model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        x, y = batch
        error = nn.functional.mse_loss(model(x), y)
        size = 1e-3 * sum(p.pow(2).sum() for p in model.parameters())
        return {"loss": error + size, "error": error}

    def score(model: nn.Module) -> dict[str, float]:
        plain = Noisy()
        with torch.no_grad():
            return {
                "val/error": float(nn.functional.mse_loss(model(torch.from_numpy(plain.x)), torch.from_numpy(plain.y)))
            }

    config = {
        "monitor": "val/error",
        "goal": "min",
        "clip": 1.0,
        "ema": 0.9,
        "log_every": 3,
        "save_every": 0.0,
        **config,
    }
    return Fit(
        model,
        build_optimizer(optimizer, model, lr, weight_decay=0.01),
        Schedule("cosine", epochs * batches.steps_per_epoch, warmup=5),
        batches,
        losses,
        evaluate or score,
        config=Loop(epochs=epochs, seed=seed, **config),
        ranks=here,
        task=task,
        checkpoints=Path(task.checkpoints),
        meta={"kind": "job"},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode = sys.argv[2]
    with ranks("cpu") as here:
        if mode == "ddp":
            make(Path(sys.argv[1]), here=here, dropout=0.0, norm=False, ema=None, epochs=2).run()
        else:
            make(Path(sys.argv[1]), here=here, delay=float(mode)).run()
    # A thread of gloo that outlives its group aborts the process now and then, when the interpreter ends.
    names = [Path(thread, "comm").read_text() for thread in Path("/proc/self/task").iterdir()]
    assert not [name for name in names if "gloo" in name], names
