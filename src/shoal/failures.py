"""Why attempts fail: the classes, whose fault each is, and what to tell a person."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from shoal.agent import agent

__all__ = ["FailureClass", "signature"]


class FailureClass(StrEnum):
    """The class of a failure, as ``attempt.json`` names it."""

    USER = agent.USER
    OOM_HOST = agent.OOM_HOST
    OOM_GPU = agent.OOM_GPU
    PREEMPTED = agent.PREEMPTED
    NODE_LOST = agent.NODE_LOST
    IMAGE_PULL = "image-pull"
    UNSCHEDULABLE = "unschedulable"
    TIMEOUT = agent.TIMEOUT
    STALLED = agent.STALLED
    STORE = agent.STORE
    CANCELLED = agent.CANCELLED

    @property
    def platform(self) -> bool:
        """Whether the platform is at fault: such a failure does not spend the task's ``retries``."""
        return self in _PLATFORM

    @property
    def sentence(self) -> str:
        """What happened, in one plain sentence."""
        return _TEXTS[self][0]

    @property
    def advice(self) -> str:
        """What a person can do next, in one plain sentence."""
        return _TEXTS[self][1]


_PLATFORM = frozenset(
    {
        FailureClass.PREEMPTED,
        FailureClass.NODE_LOST,
        FailureClass.IMAGE_PULL,
        FailureClass.UNSCHEDULABLE,
        FailureClass.STORE,
    }
)

_TEXTS = {
    FailureClass.USER: (
        "The command failed by itself.",
        "Read the log's decisive lines, mend the code or the parameters, then run again.",
    ),
    FailureClass.OOM_HOST: (
        "The task ran out of memory.",
        "Ask for more (resources.memory, or resources.shm for data loaders), or use fewer workers.",
    ),
    FailureClass.OOM_GPU: (
        "The task ran out of GPU memory.",
        "Use a smaller batch or mixed precision, or ask for a larger GPU (resources.gpu_memory).",
    ),
    FailureClass.PREEMPTED: (
        "The platform took the machine back.",
        "Nothing to do: the task starts again from its last checkpoint.",
    ),
    FailureClass.NODE_LOST: (
        "The machine, its GPU or the agent was lost.",
        "Nothing to do: the task starts again; if it happens on one machine only, avoid that machine.",
    ),
    FailureClass.IMAGE_PULL: (
        "The container image could not be fetched.",
        "Check the image's name and tag, and whether the cluster may read it.",
    ),
    FailureClass.UNSCHEDULABLE: (
        "No machine of the platform has room for what the task asks.",
        "Ask for less or for more kinds of GPU (resources), or wait.",
    ),
    FailureClass.TIMEOUT: (
        "The task took longer than its timeout.",
        "Raise the step's timeout, or let the task go on from a checkpoint.",
    ),
    FailureClass.STALLED: (
        "The task stopped writing output and metrics.",
        "Look where it hangs (data loading, a lost peer), or raise the step's stall time.",
    ),
    FailureClass.STORE: (
        "The store or a disk could not be read or written.",
        "Make room or mend the disk; the task starts again by itself.",
    ),
    FailureClass.CANCELLED: (
        "A person stopped the task.",
        "Run the study again to go on from the last checkpoint.",
    ),
}

# What differs from task to task: addresses, paths, numbers; but an exit code says what failed.
_OWN = re.compile(r"0x[0-9a-fA-F]+|[\w.~-]*/[\w./~-]+|(?<!exit code )(?<!\d)\d+(\.\d+)?")


@lru_cache(4096)
def signature(message: str) -> str:
    """What the messages of two attempts share if these failed alike: the text without its numbers, addresses and paths."""
    return _OWN.sub("_", message)[:300]
