"""Runs attempts in this process, one after another, in front of you."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from shoal.agent import agent
from shoal.errors import StoreError
from shoal.executors.contract import (
    AttemptKey,
    AttemptSpec,
    Ended,
    Failure,
    Note,
    Resources,
    Site,
    Started,
    StopReason,
)
from shoal.executors.records import ask_to_stop, declare_lost, outcome, write_spec
from shoal.executors.watch import Watcher
from shoal.failures import FailureClass

__all__ = ["DebugExecutor"]


class DebugExecutor:
    """One attempt at a time, in ``wait``, with the terminal for its input and output.

    The command reads the terminal, so ``breakpoint()`` works; its output is shown and kept in ``log.txt`` as ever.
    ``wait`` reports the start at once and blocks for the whole attempt when it is called next. Ctrl-C stops
    the attempt and is passed on to this process when that is done. There are no slots.
    """

    name = "debug"
    site: Site | None = None

    def __init__(self) -> None:
        self._queue: deque[tuple[AttemptKey, Path]] = deque()
        self._dirs: dict[AttemptKey, Path] = {}
        self._announced: set[AttemptKey] = set()
        self._events: list[Started | Ended | Note] = []
        self._watcher = Watcher()

    def fits(self, resources: Resources) -> bool:
        """Return whether nothing is under way."""
        return not self._dirs

    def gpus_in_use(self) -> Mapping[str, int]:
        """Return nothing: GPUs are not given out here."""
        return {}

    def impossible(self, resources: Resources) -> str | None:
        """Return a sentence for what needs more than one machine; nothing else is checked."""
        if resources.nodes > 1:
            return f"It asks for {resources.nodes} nodes, and the debug executor runs in one process."
        return None

    def start(self, spec: AttemptSpec) -> None:
        """Put an attempt into the queue that ``wait`` works off.

        Raises:
            StoreError: when the attempt's folder cannot be written.
        """
        if spec.key in self._dirs:
            return
        self._dirs[spec.key] = spec.attempt_dir
        if (spec.attempt_dir / "heartbeat").exists():
            self._take_over(spec.attempt_dir, spec.key)
            return
        try:
            write_spec(spec)
        except StoreError:
            del self._dirs[spec.key]
            raise
        self._queue.append((spec.key, spec.attempt_dir))

    def adopt(self, keys: Iterable[tuple[Path, AttemptKey]]) -> set[AttemptKey]:
        """Take over attempts of an earlier runner (see the contract)."""
        adopted = set()
        for attempt_dir, key in keys:
            if key not in self._dirs:
                if not (attempt_dir / "spec.json").exists():
                    continue
                self._dirs[key] = attempt_dir
                self._take_over(attempt_dir, key)
            adopted.add(key)
        return adopted

    def wait(self, timeout: float) -> list[Started | Ended | Note]:
        """Return what happened; if nothing did, run the next attempt to its end, however long that takes."""
        until = time.monotonic() + timeout
        while True:
            for event in self._watcher.ended():
                self._report(event)
            if not self._events and self._queue:
                self._next()
            left = until - time.monotonic()
            if self._events or left <= 0:
                events, self._events = self._events, []
                return events
            poll = select.poll()
            blind = self._watcher.register(poll)
            poll.poll(max(1, int(1000 * (left if blind is None else min(left, blind)))))

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason, now: bool = False) -> None:
        """Ask attempts to end: those in the queue do not begin, adopted ones end within their grace.

        Raises:
            StoreError: when the request cannot be written.
        """
        wanted = [key for key in keys if key in self._dirs]
        for key in wanted:
            ask_to_stop(self._dirs[key], reason, now)
        self._watcher.nudge(wanted)

    def close(self) -> None:
        """Let go of adopted attempts, which go on."""
        self._watcher.close()

    def _next(self) -> None:
        key, attempt_dir = self._queue[0]
        if key not in self._announced:
            self._announced.add(key)
            self._events.append(Started(key, agent.now()))
            return
        self._queue.popleft()
        attempt = agent.Attempt(str(attempt_dir / "spec.json"), tee=True, alone=False, stdin=_terminal())
        code = attempt.run()
        if code == agent.EXIT_CLAIMED:
            self._take_over(attempt_dir, key)
        else:
            agent.kill_left_over(None, None, attempt.spec_path)  # what has left the command's process group
            known = outcome(attempt_dir, key)
            self._report(known or declare_lost(attempt_dir, key, witnessed=time.time()))
        for signum in attempt.signals[-1:]:
            if signum != signal.SIGUSR1:
                signal.raise_signal(signum)  # it was meant for this process too

    def _take_over(self, attempt_dir: Path, key: AttemptKey) -> None:
        try:
            ended = self._watcher.take_over(attempt_dir, key)
        except OSError as error:
            message = f"The store cannot be read or written: {error.strerror}."
            ended = Ended(key, "failed", Failure(FailureClass.STORE, message))
        if ended is not None:
            self._report(ended)

    def _report(self, event: Ended) -> None:
        self._dirs.pop(event.key, None)
        self._events.append(event)


def _terminal() -> int | None:
    """Return standard input for the command, or None when this process has none."""
    try:
        os.fstat(0)
    except OSError:
        return None
    return 0
