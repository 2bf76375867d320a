"""How each detector is trained: optimizer, learning rate, schedule, augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shoal.errors import UsageError
from shoal_earth.detection.models.registry import DETECTORS, SIZES

if TYPE_CHECKING:
    import torch
    from torch import nn

    from shoal_earth.training.optim import Schedule

__all__ = ["EPOCHS", "Recipe", "recipe"]

EPOCHS = 300
"""Of every model in arXiv 2411.12038."""


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained.

    Args:
        optimizer: of :data:`shoal_earth.training.optim.OPTIMIZERS`.
        lr: learning rate.
        weight_decay: for weights.
        batch_size: of one GPU.
        schedule: of :data:`shoal_earth.training.optim.SCHEDULES`.
        milestones: shares of the run at which ``step`` divides the rate by ten.
        momentum: of ``sgd``.
        nesterov: of ``sgd``.
        power: of ``polynomial``.
        end: the rate's factor at the end of ``polynomial`` and ``cosine``.
        warmup: steps over which the rate first rises; never more than a tenth of a run.
        warmup_power: 1 rises in a line, 2 as a square.
        plain: share of the run, at its end, without strong augmentation and at the lowest rate.
        clip: largest norm of the gradient.
        ema: decay of the moving average of the weights.
        augment: of the training command: ``flips``, ``ssd`` (colours, zooming out, crops), ``mosaic`` (with MixUp).
        scale: part of a parameter's name to a factor on its learning rate.
        decay_norm: weight decay for norms and biases as well.
        no_decay: parts of names of parameters without weight decay.
    """

    optimizer: str
    lr: float
    weight_decay: float
    batch_size: int
    schedule: str = "step"
    milestones: tuple[float, ...] = (260 / 300, 280 / 300)
    momentum: float = 0.9
    nesterov: bool = False
    power: float = 1.0
    end: float = 0.0
    warmup: int = 0
    warmup_power: float = 1.0
    plain: float = 0.0
    clip: float | None = None
    ema: float | None = None
    augment: str = "flips"
    scale: Mapping[str, float] = field(default_factory=dict)
    decay_norm: bool = True
    no_decay: tuple[str, ...] = ()

    def build_optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """The optimizer over a model's parameters; ``lr`` instead of the recipe's if given."""
        from shoal_earth.training.optim import build_optimizer, parameter_groups

        rate = self.lr if lr is None else lr
        groups = parameter_groups(
            model, rate, self.weight_decay, decay_norm=self.decay_norm, no_decay=self.no_decay, scale=self.scale
        )
        return build_optimizer(self.optimizer, groups, rate, momentum=self.momentum, nesterov=self.nesterov)

    def build_schedule(self, steps: int) -> Schedule:
        """The schedule of a run of that many steps."""
        from shoal_earth.training.optim import Schedule

        return Schedule(
            self.schedule,
            steps,
            warmup=min(self.warmup, steps // 10),
            warmup_power=self.warmup_power,
            milestones=tuple(round(share * steps) for share in self.milestones) if self.schedule == "step" else (),
            power=self.power,
            end=self.end,
            flat=round(self.plain * steps),
        )


_YOLOX = Recipe(
    "sgd",
    1e-3,
    5e-4,
    6,
    "cosine",
    nesterov=True,
    end=0.05,
    warmup=2000,
    warmup_power=2.0,
    plain=15 / 300,
    ema=0.9998,
    augment="mosaic",
    decay_norm=False,
)
_PUBLISHED: dict[str, Recipe] = {
    "convnext": Recipe("sgd", 1e-3, 1e-4, 12, warmup=750),
    "swin": Recipe("adamw", 1e-4, 0.05, 6),
    "vit": Recipe(
        "adamw",
        6e-5,
        0.01,
        8,
        "polynomial",
        warmup=1500,
        decay_norm=False,
        no_decay=("pos_embed", "cls_token", "norm"),
    ),
    "detr": Recipe("adamw", 1e-4, 1e-4, 8, clip=0.1, scale={"backbone": 0.1}),
    "deformable-detr": Recipe(
        "adamw",
        2e-4,
        1e-4,
        6,
        clip=0.1,
        scale={"backbone": 0.1, "sampling_offsets": 0.1, "reference_points": 0.1},
    ),
    "fcos": Recipe("sgd", 1e-3, 1e-4, 6, warmup=500, clip=35.0),
    "retinanet": Recipe("sgd", 1e-3, 1e-4, 6, warmup=500),
    "ssd": Recipe("sgd", 1e-3, 5e-4, 16, warmup=500, augment="ssd"),
    "yolov3": Recipe("sgd", 1e-3, 5e-4, 1, warmup=2000, clip=35.0, augment="ssd"),
    "yolox": _YOLOX,
    "rtdetrv2": Recipe(
        "adamw",
        1e-4,
        1e-4,
        4,
        warmup=2000,
        clip=0.1,
        ema=0.9999,
        scale={"backbone": 0.1},
        decay_norm=False,
        augment="ssd",
    ),
    "dfine": Recipe(
        "adamw",
        2.5e-4,
        1.25e-4,
        8,
        warmup=500,
        clip=0.1,
        ema=0.9999,
        scale={"backbone": 0.05},
        decay_norm=False,
        augment="ssd",
    ),
    "rfdetr": Recipe(
        "adamw", 1e-4, 1e-4, 4, clip=0.1, ema=0.993, scale={"backbone": 1.5}, no_decay=("norm", "bias", "position")
    ),
}
_BY_DATASET: dict[tuple[str, str], dict[str, float | int]] = {
    ("convnext", "rareplanes"): {"lr": 0.02},
    ("retinanet", "xview"): {"lr": 1e-4},
    ("yolov3", "rareplanes"): {"batch_size": 6},
}
# From a random start on a CPU within some hundred steps: what learns fastest, not what anybody published.
_TINY = Recipe(
    "adamw", 2e-3, 0.01, 8, "cosine", end=0.02, warmup=50, clip=5.0, decay_norm=False, no_decay=("pos_embed",)
)


def recipe(name: str, dataset: str | None = None, *, size: str = "published") -> Recipe:
    """The recipe of a detector.

    The published ones are those of arXiv 2411.12038 (300 epochs; steps at 260 and 280; 4 GPUs). What that paper does not
    say is taken from where the detector was published: gradient clipping at 0.1 and weight decay 1e-4 of DETR (arXiv
    2005.12872) and Deformable DETR (arXiv 2010.04159, with a tenth of the rate for sampling offsets); weight decay 5e-4 of
    SSD (arXiv 1512.02325), YOLOv3 (arXiv 1804.02767) and YOLOX (arXiv 2107.08430: Nesterov momentum, squared warm-up,
    cosine to 0.05, the last 15 epochs without Mosaic and MixUp, EMA 0.9998). The learning rate of FCOS, which the paper
    does not name, is RetinaNet's. RT-DETRv2 (arXiv 2407.17140), D-FINE (arXiv 2410.13842) and RF-DETR (arXiv 2511.09554)
    are not of the paper: theirs are their authors'.

    Args:
        name: of a detector.
        dataset: ``rareplanes``, ``dota`` or ``xview`` where the paper's recipes differ.
        size: ``tiny`` has recipes of our own for a random start on a CPU.

    Raises:
        UsageError: there is no such detector or size.
    """
    if name not in DETECTORS:
        raise UsageError(f'there is no detector "{name}"', hint=f"Choose one of: {', '.join(DETECTORS)}.")
    if size not in SIZES:
        raise UsageError(f'there is no size "{size}" of {name}', hint=f"Choose one of: {', '.join(SIZES)}.")
    if size == "tiny":
        return _TINY
    if name not in _PUBLISHED:
        raise UsageError(
            f"{name} has no recipe in its published size", hint="Add one to recipes.py, beside the others."
        )
    return replace(_PUBLISHED[name], **_BY_DATASET.get((name, dataset or ""), {}))  # type: ignore[arg-type]
