"""A folder for one task, and the real agent to run in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AGENT = Path(__file__).parents[2] / "src" / "shoal" / "agent" / "agent.py"


class TaskFolder:
    """A task's folder; starts agents as a person or a pod would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out, self.checkpoints = root / "out", root / "checkpoints"
        self.python = sys.executable
        self.started: list[subprocess.Popen[bytes]] = []

    def attempt(self, number: int = 1) -> Path:
        return self.root / "attempts" / str(number)

    def spec(self, argv: list[str] | str, number: int = 1, **changes: Any) -> Path:
        """Write spec.json; a text is a shell command."""
        folder = self.attempt(number)
        folder.mkdir(parents=True)
        spec = {
            "format": 1,
            "study": "pond",
            "step": "train",
            "task": "0123456789ab",
            "attempt": number,
            "params": {"lr": 0.1},
            "argv": ["sh", "-c", argv] if isinstance(argv, str) else argv,
            "env": {},
            "secrets": [],
            "cwd": str(self.root),
            "task_dir": str(self.root),
            "attempt_dir": str(folder),
            "out": str(self.out),
            "checkpoints": str(self.checkpoints),
            "inputs": {},
            "input_digests": {"aaaaaaaaaaaa": "d1"},
            "data": {"raster": {"path": "/nowhere", "digest": "d2"}},
            "code": "d3",
            "resources": {"gpu": 0},
            "gpus": [],
            "timeout": None,
            "stall": None,
            "grace": 5,
            "sample_every": 0.2,
            "executor": "local",
            "queued": "2026-01-01T00:00:00.000Z",
            **changes,
        }
        path = folder / "spec.json"
        path.write_text(json.dumps(spec))
        return path

    def start(self, path: Path, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [self.python, "-I", "-S", str(AGENT), str(path), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        self.started.append(process)
        return process

    def run(self, argv: list[str] | str, number: int = 1, env: dict[str, str] | None = None, **changes: Any) -> int:
        """Run an attempt to its end; return the agent's exit status."""
        process = self.start(self.spec(argv, number, **changes), env=env)
        self.said, _ = process.communicate(timeout=60)
        return process.returncode

    def record(self, number: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.attempt(number) / "attempt.json").read_text())
        return found

    def failure(self, number: int = 1) -> tuple[str, str, list[str]]:
        found = self.record(number)["failure"]
        return found["class"], found["message"], found["lines"]

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "result.json").read_text())
        return found

    def log(self, number: int = 1) -> str:
        return (self.attempt(number) / "log.txt").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[TaskFolder]:
    made = TaskFolder(tmp_path / "task")
    made.root.mkdir()
    yield made
    for process in made.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
