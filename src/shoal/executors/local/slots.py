"""Who holds which part of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from shoal.executors.contract import AttemptKey, Resources
from shoal.executors.local.machine import Gpu, count_cpus, find_gpus, find_memory
from shoal.units import format_size

__all__ = ["Slots"]


class Slots:
    """CPU, memory and GPUs of this machine, and the attempts that hold them.

    GPUs are looked for when one is first asked for. Memory counts for those who ask for some.
    """

    def __init__(self, cpus: float | None = None, memory: int | None = None, gpus: Sequence[Gpu] | None = None) -> None:
        self.cpus = count_cpus() if cpus is None else cpus
        self.memory = find_memory() if memory is None else memory
        self._gpus = None if gpus is None else list(gpus)
        self._held: dict[AttemptKey, tuple[Resources, tuple[int, ...]]] = {}
        self._cpus_used = 0.0
        self._memory_used = 0

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs of this machine."""
        if self._gpus is None:
            self._gpus = find_gpus()
        return self._gpus

    def impossible(self, wanted: Resources) -> str | None:
        """Return why ``wanted`` never fits on this machine, or None."""
        if wanted.nodes > 1:
            return f"It asks for {wanted.nodes} nodes, and this is one machine: use a Kubernetes cluster for that."
        if wanted.cpu > self.cpus:
            return f"It asks for {wanted.cpu:g} CPUs, and this machine has {self.cpus:g}: lower resources.cpu."
        if wanted.memory is not None and wanted.memory > self.memory:
            return (
                f"It asks for {format_size(wanted.memory)} of memory, and this machine has "
                f"{format_size(self.memory)}: lower resources.memory."
            )
        if wanted.gpu == 0:
            return None
        if wanted.gpu > len(self.gpus):
            have = f"has {len(self.gpus)}" if self.gpus else "has none that Shoal can see"
            return f"It asks for {wanted.gpu} GPUs, and this machine {have}: lower resources.gpu."
        suited = [gpu for gpu in self.gpus if gpu.suits(wanted.gpu_type, wanted.gpu_memory)]
        if wanted.gpu > len(suited):
            kinds = " or ".join(wanted.gpu_type) or "any type"
            size = f" with {format_size(wanted.gpu_memory)}" if wanted.gpu_memory else ""
            names = ", ".join(sorted({gpu.name or "unknown" for gpu in self.gpus}))
            return (
                f"It asks for {wanted.gpu} GPUs of {kinds}{size}, and this machine has {len(suited)} such "
                f"({names}): change resources.gpu_type or resources.gpu_memory."
            )
        return None

    def fits(self, wanted: Resources) -> bool:
        """Return whether ``wanted`` is free now."""
        if wanted.nodes > 1 or self._cpus_used + wanted.cpu > self.cpus + 1e-6:
            return False
        if wanted.memory is not None and self._memory_used + wanted.memory > self.memory:
            return False
        return wanted.gpu == 0 or len(self._free(wanted)) >= wanted.gpu

    def gpus_in_use(self) -> dict[str, int]:
        """Return how many GPUs are held, by name."""
        busy = [index for _, held in self._held.values() for index in held]
        if not busy:  # Without a need they are not even looked for.
            return {}
        names = {gpu.index: gpu.name or "GPU" for gpu in self.gpus}
        return dict(Counter(names.get(index, "GPU") for index in busy))

    def _free(self, wanted: Resources) -> list[int]:
        busy = {index for _, held in self._held.values() for index in held}
        suited = (gpu for gpu in self.gpus if gpu.suits(wanted.gpu_type, wanted.gpu_memory))
        return [gpu.index for gpu in suited if gpu.index not in busy]

    def take(self, key: AttemptKey, wanted: Resources, gpus: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Give ``wanted`` to an attempt (with ``gpus``: these, which it holds already); return its GPUs."""
        if gpus is None:
            gpus = tuple(self._free(wanted)[: wanted.gpu]) if wanted.gpu else ()
        self._held[key] = (wanted, gpus)
        self._cpus_used += wanted.cpu
        self._memory_used += wanted.memory or 0
        return gpus

    def release(self, key: AttemptKey) -> None:
        """Take back what an attempt holds, if it holds anything."""
        wanted, _ = self._held.pop(key, (None, ()))
        if wanted is not None:
            self._cpus_used = self._cpus_used - wanted.cpu if self._held else 0.0
            self._memory_used -= wanted.memory or 0
