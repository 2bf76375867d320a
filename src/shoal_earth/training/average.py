"""The moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["Average"]


class Average:
    """An exponential moving average of a model's weights; its buffers are those of the model as it is.

    ``torch.optim.swa_utils.AveragedModel`` would do, but it asks a GPU for its count at each step, and so waits for it.

    Args:
        model: what is averaged; ``module`` is a copy of it.
        decay: share of the old average that stays. Early on less of it does, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 0; the first ones are copied."""
        decay = min(self.decay, (1 + step) / (10 + step)) if step else 0.0
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - decay)
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(model.buffers()))

    def state_dict(self) -> dict[str, Any]:
        """The average, as the state of a model."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.module.load_state_dict(state)
