"""Numbers of how many bits a network calculates with."""

from __future__ import annotations

import torch

from shoal.errors import UsageError

__all__ = ["PRECISIONS", "autocast", "check_precision"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By name. Weights are in single precision in any case."""


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """See to it that there is a precision of this name, and that the device has it.

    Raises:
        UsageError: there is none, or the GPU is older than bf16.
    """
    if precision not in PRECISIONS:
        raise UsageError(f'there is no precision "{precision}"', hint=f"Choose one of: {', '.join(PRECISIONS)}.")
    if precision != "bf16" or device is None or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(
            f"the GPU here ({torch.cuda.get_device_name(device)}) does not calculate in bf16",
            hint="Say --precision fp16, or ask for a GPU of Ampere's generation (A10, A100, RTX 30..) or a later one.",
        )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A block in which matrix products and convolutions are calculated in a precision of :data:`PRECISIONS`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
