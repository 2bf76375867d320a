"""What running pods use of what they asked for, for a runner that has not their store: a look into a few of them, now and then.

A pod says how much it used when it ends. Until then its agent's samples lie in its store; their end is read by a command in the
pod. Short attempts cost no request, long ones one in many minutes.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.executors.contract import AttemptKey
from shoal.executors.kubernetes.client import Client, CommandFailed, Forbidden

__all__ = ["DENIED", "Looks", "read_use"]

DENIED = "denied"
"""The answer where this login may not run commands in pods."""
_EVERY, _AT_ONCE = 30.0, 8
_AFTER, _AGAIN = 150.0, 900.0
_SILENCE = 20.0
_END = """
import sys
with open(sys.argv[1], "rb") as file:
    start = max(0, file.seek(0, 2) - 65536)
    file.seek(start)
    data = file.read()
sys.stdout.buffer.write(data[data.index(b"\\n") + 1:] if start else data)
"""


class Looks:
    """Decides which attempts to look at: those that have run for a while, each after many minutes again, few at once."""

    def __init__(self) -> None:
        self._begun: dict[AttemptKey, float] = {}
        self._last: dict[AttemptKey, float] = {}
        self._next = 0.0
        self._denied = False

    def due(self, now: float, running: Iterable[AttemptKey]) -> list[AttemptKey]:
        """Whom to look at now.

        Args:
            now: monotonic time.
            running: what runs.
        """
        if self._denied or now < self._next:
            return []
        self._next = now + _EVERY
        begun = {key: self._begun.get(key, now) for key in running}
        self._begun = begun
        self._last = {key: at for key, at in self._last.items() if key in begun}
        old = [key for key, at in begun.items() if now - at >= _AFTER and now - self._last.get(key, -_AGAIN) >= _AGAIN]
        chosen = sorted(old, key=lambda key: self._last.get(key, -_AGAIN))[:_AT_ONCE]
        self._last |= dict.fromkeys(chosen, now)
        return chosen

    def give_up(self) -> None:
        """Look at nothing any more: this login may not."""
        self._denied = True


def read_use(client: Client, pod: str, container: str, python: str, path: str) -> bytes | str | None:
    """The last samples of an attempt's agent; None where there are none yet, `DENIED` where they may not be read.

    Args:
        client: talks to the API server.
        pod: the pod's name.
        container: of it.
        python: Python 3 there.
        path: of the agent's file there.
    """
    try:
        with client.execute(pod, [python, "-I", "-c", _END, path], container=container) as running:
            return running.read(_SILENCE)
    except Forbidden:
        return DENIED
    except CommandFailed:
        return None
