"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shoal.errors import UsageError

__all__ = ["OPTIMIZERS", "SCHEDULES", "Schedule", "build_optimizer", "parameter_groups"]

OPTIMIZERS = {"adam": 0.0, "adamw": 0.01, "sgd": 5e-4, "lamb": 0.01}
"""By name, with the weight decay that is usual with it. Adam has none: there it is a part of the gradient, which is brought to
unit size, so that even little of it soon outweighs the loss."""
SCHEDULES = ("constant", "step", "linear", "polynomial", "cosine")


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    decay_norm: bool = False,
    no_decay: Sequence[str] = (),
    scale: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Parameters in groups for an optimizer.

    Args:
        model: whose trainable parameters are grouped.
        lr: learning rate.
        weight_decay: for weights; norms, biases and other vectors get none unless ``decay_norm``.
        decay_norm: decay everything.
        no_decay: parts of names of parameters that get none in any case, e.g. ``("pos_embed",)``.
        scale: part of a parameter's name to a factor on its learning rate, e.g. ``{"backbone": 0.1}``; the first match counts.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((f for part, f in (scale or {}).items() if part in name), 1.0)
            spared = any(part in name for part in no_decay) or not (decay_norm or parameter.ndim > 1)
            decay = 0.0 if spared else weight_decay
            groups.setdefault((lr * factor, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_optimizer(
    name: str,
    params: nn.Module | list[dict[str, Any]],
    lr: float,
    *,
    weight_decay: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer by name: ``adam``, ``adamw``, ``sgd`` or ``lamb``.

    Args:
        name: which one.
        params: a model (grouped by :func:`parameter_groups`) or groups of one's own.
        lr: learning rate.
        weight_decay: for the weights of a model; by default as :data:`OPTIMIZERS` has it.
        momentum: of ``sgd``.
        nesterov: the same with Nesterov's look ahead.

    Raises:
        UsageError: there is no such optimizer, or the learning rate is none.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f'there is no optimizer "{name}"', hint=f"Choose one of: {', '.join(OPTIMIZERS)}.")
    if not lr > 0:
        raise UsageError(f"the learning rate must be above 0, not {lr}")
    decay = OPTIMIZERS[name] if weight_decay is None else weight_decay
    groups = parameter_groups(params, lr, decay) if isinstance(params, nn.Module) else params
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    from timm.optim.lamb import Lamb

    lamb: torch.optim.Optimizer = Lamb(groups, lr=lr)
    return lamb


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a factor of its base value: a pure function of the step, so nothing has to be saved.

    Args:
        kind: ``constant``; ``step`` (times ``gamma`` at each of ``milestones``); ``linear`` to ``end``; ``polynomial`` of
            ``power`` to ``end``; ``cosine`` to ``end``.
        total: steps of the whole run.
        warmup: steps over which the factor first rises to 1.
        milestones: steps at which ``step`` drops.
        gamma: the factor of such a drop.
        power: of ``polynomial``.
        end: factor at the end.
        warmup_power: how it rises: 1 in a line, 2 as a square.
        flat: steps at the end over which ``linear``, ``polynomial`` and ``cosine`` stay at ``end``.
    """

    kind: str
    total: int
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 0.9
    end: float = 0.0
    warmup_power: float = 1.0
    flat: int = 0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UsageError(f'there is no schedule "{self.kind}"', hint=f"Choose one of: {', '.join(SCHEDULES)}.")

    def __call__(self, step: int) -> float:
        """The factor for the given step, counted from 0."""
        if step < self.warmup:
            return float(((step + 1) / (self.warmup + 1)) ** self.warmup_power)
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            return float(self.gamma ** sum(step >= m for m in self.milestones))
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.flat - self.warmup))
        if self.kind == "cosine":
            return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))
        power = self.power if self.kind == "polynomial" else 1.0
        return float(self.end + (1 - self.end) * (1 - done) ** power)
