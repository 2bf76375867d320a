"""Runs attempts on this machine, as many at once as there is room for."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.agent import agent
from shoal.errors import ShoalError, StoreError, UsageError
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
from shoal.executors.local.machine import Gpu
from shoal.executors.local.server import AgentServer
from shoal.executors.local.slots import Slots
from shoal.executors.records import ask_to_stop, declare_lost, outcome, write_spec
from shoal.executors.watch import Watcher
from shoal.failures import FailureClass

__all__ = ["LocalExecutor"]

#: How many servers may die under an attempt before it begins.
_TRIES = 3


@dataclass(slots=True)
class _Run:
    """An attempt that was handed to the server."""

    key: AttemptKey
    dir: Path
    pid: int | None = None
    start: str | None = None
    tries: int = 0


class LocalExecutor:
    """Runs attempts in slots of CPU, memory and GPU; they survive the terminal and the runner.

    Each attempt has an agent of its own, forked by a server (see ``AgentServer``) that reports its end, so nothing is
    polled. Agents of an earlier runner are adopted by pid and start time. If the server dies, its agents
    are adopted in the same way and another one is started. Tasks see the environment as it was at the first start.

    Args:
        cpus: cores to give out; default: what this process may use.
        memory: bytes to give out; default: the machine's memory or the cgroup's limit.
        gpus: GPUs to give out; default: what ``find_gpus`` finds.
    """

    name = "local"
    site: Site | None = None

    def __init__(
        self, *, cpus: float | None = None, memory: int | None = None, gpus: Sequence[Gpu] | None = None
    ) -> None:
        self._slots = Slots(cpus, memory, gpus)
        self._runs: dict[AttemptKey, _Run] = {}
        self._by_path: dict[str, _Run] = {}
        self._dirs: dict[AttemptKey, Path] = {}  # of all that are started or adopted and not yet reported
        self._watcher = Watcher()
        self._server: AgentServer | None = None
        self._events: list[Started | Ended | Note] = []

    def fits(self, resources: Resources) -> bool:
        """Return whether this much is free."""
        return self._slots.fits(resources)

    def gpus_in_use(self) -> Mapping[str, int]:
        """Return how many GPUs of this machine attempts hold, by name."""
        return self._slots.gpus_in_use()

    def impossible(self, resources: Resources) -> str | None:
        """Return why this never fits on this machine, or None. ``shm`` and ``disk`` are not checked."""
        return self._slots.impossible(resources)

    def start(self, spec: AttemptSpec) -> None:
        """Start an attempt, in a free slot if there is one.

        Raises:
            UsageError: when too few suitable GPUs are free.
            StoreError: when the attempt's folder cannot be written.
        """
        key = spec.key
        if key in self._dirs:
            return
        if (spec.attempt_dir / "heartbeat").exists():
            self._adopt(spec.attempt_dir, key)
            return
        gpus = self._slots.take(key, spec.resources)
        try:
            if len(gpus) < spec.resources.gpu:
                raise UsageError(
                    f"{len(gpus)} of {spec.resources.gpu} suitable GPUs are free for task {spec.task}",
                    hint="Wait until others have ended.",
                )
            write_spec(spec.with_gpus(gpus))
        except BaseException:
            self._slots.release(key)
            raise
        self._dirs[key] = spec.attempt_dir
        self._hand_over(_Run(key, spec.attempt_dir))

    def adopt(self, keys: Iterable[tuple[Path, AttemptKey]]) -> set[AttemptKey]:
        """Take over attempts of an earlier runner (see the contract)."""
        adopted = set()
        for attempt_dir, key in keys:
            if key not in self._dirs:
                if not (attempt_dir / "spec.json").exists():
                    continue  # never handed over
                self._adopt(attempt_dir, key)
            adopted.add(key)
        return adopted

    def wait(self, timeout: float) -> list[Started | Ended | Note]:
        """Return what happened, as soon as something did, or nothing after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while True:
            self._collect()
            if self._events:
                events, self._events = self._events, []
                return events
            left = until - time.monotonic()
            if left <= 0:
                return []
            poll = select.poll()
            blind = self._watcher.register(poll)
            if self._server is not None:
                poll.register(self._server, select.POLLIN)
            poll.poll(max(1, int(1000 * (left if blind is None else min(left, blind)))))

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason, now: bool = False) -> None:
        """Ask attempts to end; those that are not under way here are left alone.

        Raises:
            StoreError: when the request cannot be written.
        """
        wanted = [key for key in keys if key in self._dirs]
        for key in wanted:
            ask_to_stop(self._dirs[key], reason, now)
        for key in wanted:
            run = self._runs.get(key)
            if run is not None and run.pid is not None and agent.process_start(run.pid) == run.start:
                agent.nudge(run.pid)
        self._watcher.nudge(wanted)

    def close(self) -> None:
        """Let the server go; running attempts go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._watcher.close()

    # -- attempts of our own

    def _hand_over(self, run: _Run) -> None:
        if self._server is None:
            try:
                self._server = AgentServer()
            except OSError as error:
                raise ShoalError(
                    f"The agents' server cannot be started: {error.strerror}",
                    hint="This machine has no room for another process, or Python is broken.",
                ) from error
        run.tries += 1
        self._runs[run.key] = run
        self._by_path[str(run.dir / "spec.json")] = run
        self._server.run(run.dir / "spec.json")

    def _collect(self) -> None:
        """Turn what has happened meanwhile into events."""
        if self._server is not None:
            for answer in self._server.answers():
                self._hear(answer)
            if self._server.dead:
                self._replace_server()
        for event in self._watcher.ended():
            self._report(event)

    def _hear(self, answer: dict[str, Any]) -> None:
        if "run" in answer:
            run = self._by_path[answer["run"]]
            run.pid, run.start = answer["pid"], answer["start"]
            self._events.append(Started(run.key, agent.now()))
            return
        run = self._by_path[answer["end"]]
        self._forget(run)
        code = answer["code"]
        if code == 0:
            self._report(Ended(run.key, "succeeded"))
        elif code == agent.EXIT_CLAIMED:
            self._take_over(run.dir, run.key)
        elif (known := outcome(run.dir, run.key)) is not None:
            self._report(known)
        elif code == agent.EXIT_CODES[agent.STORE]:
            message = "The store cannot be written: the agent could not even set down how the attempt ended."
            self._report(Ended(run.key, "failed", Failure(FailureClass.STORE, message)))
        else:
            self._lost(run)

    def _forget(self, run: _Run) -> None:
        self._runs.pop(run.key, None)
        self._by_path.pop(str(run.dir / "spec.json"), None)

    def _replace_server(self) -> None:
        assert self._server is not None
        self._server.close()
        self._server = None
        for run in list(self._runs.values()):
            self._forget(run)
            if run.pid is not None:
                ended = self._watcher.watch(run.dir, run.key, run.pid, run.start)
                if ended is not None:
                    self._report(ended)
            elif run.tries < _TRIES:
                self._hand_over(run)  # if its agent did begin, the second one finds it claimed
            else:
                self._take_over(run.dir, run.key)

    # -- attempts of others

    def _adopt(self, attempt_dir: Path, key: AttemptKey) -> None:
        self._dirs[key] = attempt_dir
        if self._take_over(attempt_dir, key):
            spec = agent.read_json(str(attempt_dir / "spec.json"))
            spec = spec if isinstance(spec, dict) else {}
            wanted = Resources.from_json(spec.get("resources") or {})
            self._slots.take(key, wanted, tuple(spec.get("gpus") or ()))

    def _take_over(self, attempt_dir: Path, key: AttemptKey) -> bool:
        """Watch an attempt; report it when it has ended. Return whether it is alive."""
        try:
            ended = self._watcher.take_over(attempt_dir, key)
        except OSError as error:
            raise StoreError(f"cannot be read or written: {error.strerror}", path=attempt_dir) from error
        if ended is not None:
            self._report(ended)
        return ended is None

    def _lost(self, run: _Run) -> None:
        try:
            self._report(declare_lost(run.dir, run.key, witnessed=time.time()))
        except OSError as error:
            message = f"The store cannot be written: {error.strerror}, and the agent is gone."
            self._report(Ended(run.key, "failed", Failure(FailureClass.STORE, message)))

    def _report(self, event: Ended) -> None:
        self._slots.release(event.key)
        self._dirs.pop(event.key, None)
        self._events.append(event)
