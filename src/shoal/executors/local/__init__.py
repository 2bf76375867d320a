"""This machine as a place to run."""

from shoal.executors.local.executor import LocalExecutor
from shoal.executors.local.machine import Gpu, count_cpus, find_gpus, find_memory

__all__ = ["Gpu", "LocalExecutor", "count_cpus", "find_gpus", "find_memory"]
