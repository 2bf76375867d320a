"""The process that forks agents: started once, so that an attempt costs a fork and not a new interpreter."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from shoal.agent import agent

__all__ = ["AgentServer"]


class AgentServer:
    """The client's end of ``agent.py --serve``.

    The server shares no session with this process, so what the terminal sends does not reach it. It ends when this
    process does or ``close`` is called; the agents that it has forked live on.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(agent.__file__)), "--serve"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._socket = ours
        self._pending = b""
        self.dead = False

    def fileno(self) -> int:
        """Return what to wait on for answers."""
        return self._socket.fileno()

    def run(self, spec_path: Path) -> None:
        """Ask for an agent. If the server is dead, ``dead`` says so afterwards."""
        try:
            self._socket.sendall(json.dumps({"run": str(spec_path)}).encode() + b"\n")
        except OSError:
            self.dead = True

    def answers(self) -> list[dict[str, Any]]:
        """Return what the server has said since; at its end, ``dead`` becomes true."""
        found = []
        while not self.dead:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.dead = True
                break
            *lines, self._pending = (self._pending + data).split(b"\n")
            found += [json.loads(line) for line in lines]
        return found

    def close(self) -> None:
        """Let the server end."""
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
