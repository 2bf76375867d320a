"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shoal.agent import agent


def gone(pid: int) -> bool:
    """Whether a process has ended, or can do nothing any more but wait to be buried."""
    return agent.process_start(pid) is None


def until(check: Callable[[], Any], seconds: float = 20, every: float = 0.01) -> Any:
    """Wait until ``check`` gives something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(every)
    raise AssertionError(f"did not come true in {seconds} s")
