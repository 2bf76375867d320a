"""An instance's processes: started apart from the terminal, known by pid and start time, and ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.agent.agent import process_start

__all__ = ["Processes", "alive", "this_process"]

_PATIENCE = 10.0


def alive(pid: int, start: str) -> bool:
    """Whether this very process lives, not another that got its number."""
    return process_start(pid) == start


def this_process() -> tuple[int, str]:
    """Pid and start time of the caller."""
    start = process_start(os.getpid())
    assert start is not None
    return os.getpid(), start


class Processes:
    """The processes of a folder: their records in ``FOLDER/processes``, their output in ``FOLDER/logs``.

    The records outlive whoever started them, so that another can end them.
    """

    def __init__(self, folder: Path) -> None:
        self._records = folder / "processes"
        self._logs = folder / "logs"

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start a program; its output is appended to ``logs/NAME.log``."""
        self._records.mkdir(exist_ok=True)
        self._logs.mkdir(exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        record = {"pid": child.pid, "start": process_start(child.pid), "command": list(command)}
        making = self._records / f".{name}"
        making.write_text(json.dumps(record))
        making.replace(self._records / name)

    def names(self) -> list[str]:
        """The names of all that were started and not stopped, whether they live or not."""
        return sorted(path.name for path in self._records.glob("[!.]*"))

    def alive(self, name: str) -> bool:
        """Whether it lives."""
        return (found := self._read(name)) is not None and alive(*found)

    def pid(self, name: str) -> int | None:
        """The pid of a process that lives."""
        found = self._read(name)
        return found[0] if found is not None and alive(*found) else None

    def log(self, name: str, lines: int = 15) -> str:
        """The end of its output."""
        try:
            return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def stop(self, *names: str, how: signal.Signals = signal.SIGTERM, patience: float = _PATIENCE) -> None:
        """End processes and forget them; kill those that do not go in time. All if no name is given."""
        found = {name: record for name in names or self.names() if (record := self._read(name)) is not None}
        for record in found.values():
            _send(record, how)
        deadline = time.monotonic() + patience
        while left := [record for record in found.values() if not _gone(record)]:
            if time.monotonic() > deadline:
                for record in left:
                    _send(record, signal.SIGKILL)
                deadline = time.monotonic() + patience
            time.sleep(0.02)
        for name in names or found:
            (self._records / name).unlink(missing_ok=True)

    def _read(self, name: str) -> tuple[int, str] | None:
        try:
            record = json.loads((self._records / name).read_text())
        except FileNotFoundError:
            return None
        return int(record["pid"]), str(record["start"])


def _send(record: tuple[int, str], how: signal.Signals) -> None:
    if alive(*record):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record[0], how)


def _gone(record: tuple[int, str]) -> bool:
    # A child of ours stays a zombie until it is waited for.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(record[0], os.WNOHANG)
    # Of a process that is killed the first thread can be over before the others, which hold its ports until they are.
    return not alive(*record) and not _threads(record[0])


def _threads(pid: int) -> bool:
    """Whether a process whose first thread is over has others."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1 and process_start(pid) is None
    except FileNotFoundError:
        return False
