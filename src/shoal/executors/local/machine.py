"""What this machine has to give: CPUs, memory and GPUs, as far as this process may use them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.agent import agent
from shoal.errors import UsageError

__all__ = ["Gpu", "count_cpus", "cpu_name", "find_gpus", "find_memory"]

# Makers' and product lines' names are left out of "rtx3090", "a100", "l4".
_LINES = frozenset({"nvidia", "geforce", "tesla", "amd", "instinct"})


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: index, name and memory in bytes; the last two may be unknown."""

    index: int
    name: str | None = None
    memory: int | None = None

    def suits(self, types: Sequence[str], memory: int | None) -> bool:
        """Return whether it is one of ``types`` (any, if empty) with at least ``memory``; unknown counts as yes."""
        if memory is not None and self.memory is not None and self.memory < memory:
            return False
        return not types or self.name is None or any(_is(self.name, each) for each in types)


def _is(name: str, kind: str) -> bool:
    """Whether a device called ``name`` is a ``kind``: "rtx3090" is "NVIDIA GeForce RTX 3090", "a10" no "A100"."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _LINES]
    wanted = "".join(word for word in re.split(r"[^a-z0-9]+", kind.lower()) if word not in _LINES)
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    return wanted in runs


def count_cpus() -> float:
    """Return how many cores this process may use: affinity and the cgroup's quota count.

    ``SHOAL_CPUS=n`` sets the number, for a machine that is to be shared or filled beyond its cores.

    Raises:
        UsageError: when ``SHOAL_CPUS`` is not a positive number.
    """
    claimed = os.environ.get("SHOAL_CPUS")
    if claimed is not None:
        if not re.fullmatch(r"\s*\d+(\.\d+)?\s*", claimed) or float(claimed) == 0:
            raise UsageError(f'SHOAL_CPUS is "{claimed}", not a number of cores', hint="Set it to 1, 2, ...")
        return float(claimed)
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    for folder in agent.cgroup_dirs("cpu"):
        pair = _numbers(folder, "cpu.max")
        pair = pair or _numbers(folder, "cpu.cfs_quota_us") + _numbers(folder, "cpu.cfs_period_us")
        if len(pair) == 2 and pair[0] > 0 and pair[1] > 0:
            cpus = min(cpus, pair[0] / pair[1])
    return cpus


def cpu_name() -> str:
    """Return what the processor is called, or at least its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def find_memory() -> int:
    """Return how many bytes of memory this process may use: the machine's, or the cgroup's limit."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in agent.cgroup_dirs("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for limit in _numbers(folder, name):
                memory = min(memory, limit)
    return memory


def _numbers(folder: str, name: str) -> tuple[int, ...]:
    """Return the numbers in a file of a cgroup; none when it is absent or says "max"."""
    try:
        return tuple(int(word) for word in (Path(folder) / name).read_text("ascii").split())
    except (OSError, ValueError):
        return ()


def find_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use: those of ``CUDA_VISIBLE_DEVICES``, else all that NVML knows.

    ``SHOAL_GPUS=n`` claims n of them without a look, for GPUs that NVML does not know and for tests.

    Raises:
        UsageError: when ``SHOAL_GPUS`` is not a number.
    """
    claimed = os.environ.get("SHOAL_GPUS")
    if claimed is not None:
        if not claimed.strip().isdigit():
            raise UsageError(f'SHOAL_GPUS is "{claimed}", not a number of GPUs', hint="Set it to 0, 1, 2, ...")
        return [Gpu(index) for index in range(int(claimed))]
    gpus = agent.Gpus(agent.visible_gpus({"resources": {"gpu": 1}}))
    try:
        return [Gpu(each["index"], each["name"], each["memory"]) for each in gpus.devices()]
    finally:
        gpus.close()
