"""Watches attempts whose agents this process did not start: by pid and start time, or from afar by heartbeat."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from shoal.agent import agent
from shoal.executors.contract import AttemptKey, Ended
from shoal.executors.records import declare_lost, outcome

__all__ = ["Watcher"]

#: Seconds between two looks at what the system gives no notice of: other machines, agents that live on.
_LOOK_EVERY = 0.5


@dataclass(slots=True)
class _Watched:
    key: AttemptKey
    dir: Path
    pid: int
    start: str | None
    pidfd: int | None
    remote: bool


class Watcher:
    """A set of attempts with live agents; says when one has ended."""

    def __init__(self) -> None:
        self._watched: dict[AttemptKey, _Watched] = {}
        self._next_look = 0.0

    def take_over(self, attempt_dir: Path, key: AttemptKey) -> Ended | None:
        """Begin to watch an attempt; return its end if it has ended, or was never begun.

        An attempt that nobody has claimed is claimed here. Its agent, should it come late, refuses; so there is no
        moment at which two could run.
        """
        if not (attempt_dir / "heartbeat").exists():
            known = outcome(attempt_dir, key)
            if known is not None:
                return known
            if agent.claim(str(attempt_dir), 0, None):
                return declare_lost(attempt_dir, key)
        holder = agent.read_json(str(attempt_dir / "heartbeat"))
        holder = holder if isinstance(holder, dict) else {}
        pid, start = int(holder.get("pid") or 0), holder.get("pid_start")
        remote = holder.get("host") not in (None, os.uname().nodename)
        found = _Watched(key, attempt_dir, pid, start, None, remote)
        if not remote and pid:
            found.pidfd = _pidfd(pid)
        if self._alive(found):
            self._watched[key] = found
            return None
        _close(found)
        return self._end(found, witnessed=False)

    def watch(self, attempt_dir: Path, key: AttemptKey, pid: int, start: str | None) -> Ended | None:
        """Begin to watch an agent that is known to have been started; return its end if it has ended."""
        found = _Watched(key, attempt_dir, pid, start, _pidfd(pid), False)
        if self._alive(found):
            self._watched[key] = found
            return None
        _close(found)
        return self._end(found, witnessed=True)

    def register(self, poll: select.poll) -> float | None:
        """Add what can be waited for to ``poll``; return after how many seconds to look anyhow, or None."""
        for found in self._watched.values():
            if found.pidfd is not None:
                poll.register(found.pidfd, select.POLLIN)
        return _LOOK_EVERY if self._watched else None

    def ended(self) -> list[Ended]:
        """Return the ends of those whose agents are gone, each once."""
        if not self._watched:
            return []
        poll = select.poll()
        self.register(poll)
        ready = {fd for fd, _ in poll.poll(0)}
        look = time.monotonic() >= self._next_look
        if look:
            self._next_look = time.monotonic() + _LOOK_EVERY
        gone = [found for found in self._watched.values() if found.pidfd in ready or (look and not self._alive(found))]
        events = []
        for found in gone:
            del self._watched[found.key]
            _close(found)
            events.append(self._end(found, witnessed=not found.remote))
        return events

    def nudge(self, keys: Iterable[AttemptKey]) -> None:
        """Make the agents of ``keys`` on this machine look for the file ``stop``; others look in a second."""
        for key in keys:
            found = self._watched.get(key)
            if found is not None and not found.remote and self._alive(found):
                agent.nudge(found.pid)

    def close(self) -> None:
        """Watch nothing any more."""
        for found in self._watched.values():
            _close(found)
        self._watched.clear()

    def _alive(self, found: _Watched) -> bool:
        if found.remote:
            try:
                age = time.time() - (found.dir / "heartbeat").stat().st_mtime
            except OSError:
                return False
            if age >= agent.HEARTBEAT_DEAD:
                return False
        elif found.pid <= 0 or found.start is None or agent.process_start(found.pid) != found.start:
            return False
        # The agent may be alive and serve another attempt by now.
        return outcome(found.dir, found.key) is None

    def _end(self, found: _Watched, witnessed: bool) -> Ended:
        known = outcome(found.dir, found.key)
        return known or declare_lost(found.dir, found.key, witnessed=time.time() if witnessed else None)


_open_pidfd: Callable[[int], int] | None = getattr(os, "pidfd_open", None)  # Linux since 5.3


def _pidfd(pid: int) -> int | None:
    if _open_pidfd is None:
        return None
    try:
        return _open_pidfd(pid)
    except OSError:
        return None


def _close(found: _Watched) -> None:
    if found.pidfd is not None:
        os.close(found.pidfd)
        found.pidfd = None
