"""A look at all tasks of a study at once, made fast by a cache that can be thrown away.

Reading ten thousand finished tasks is three small files each. The cache holds what was read, under the modification
time of the task's folder: every change that matters (a result appears or goes, outputs are removed) changes the folder's
entries and so its time. A row is trusted only while the time is the same, and only if the folder had been at rest when the
row was made, so a cache that is old, foreign or damaged costs time and never truth.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.store.layout import StudyStore

__all__ = ["AttemptRecord", "Snapshot", "TaskRecord", "read_json", "read_task"]

# A folder whose last change is younger than this may change again within the same tick of the file system's clock.
_SETTLED_SECONDS = 2.0
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt as the store knows it.

    Attributes:
        number: from 1.
        data: ``attempt.json``, empty if the agent never came to write it.
        heartbeat: when the agent last lived, in seconds since the epoch, or None.
    """

    number: int
    data: dict[str, Any]
    heartbeat: float | None = None

    @property
    def state(self) -> str:
        """``running``, ``ended``, or ``unstarted`` if there is no word of the agent."""
        return str(self.data.get("state", "unstarted"))

    @property
    def failure(self) -> dict[str, Any] | None:
        """Class, message and decisive lines of a failed attempt."""
        failure = self.data.get("failure")
        return failure if isinstance(failure, dict) else None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the store holds of one task: its result if it is done, and its attempts."""

    id: str
    step: str
    result: dict[str, Any] | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    has_out: bool = False

    @property
    def last(self) -> AttemptRecord | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def seconds(self) -> float:
        """Run time of the attempt that succeeded; 0 for a task that is not done."""
        seconds = (self.result or {}).get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    @property
    def output_digest(self) -> str | None:
        """The digest of a finished task's outputs."""
        digest = (self.result or {}).get("outputs", {}).get("digest")
        return digest if isinstance(digest, str) else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tasks of a study's folder, by id."""

    tasks: dict[str, TaskRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, store: StudyStore, steps: Iterable[str] | None = None) -> Snapshot:
        """Read a study's folder.

        Args:
            store: the study's part of the store.
            steps: only these; all by default.
        """
        folders = store.step_folders() if steps is None else [store.root / step for step in steps]
        if not any(folder.is_dir() for folder in folders):
            return cls()
        tasks: dict[str, TaskRecord] = {}
        with _Cache(store.index) as cache:
            for folder in folders:
                for entry in _scan(folder):
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    try:
                        stamp = entry.stat(follow_symlinks=False).st_mtime_ns
                    except FileNotFoundError:
                        continue  # removed meanwhile, by shoal gc
                    record = cache.get(f"{folder.name}/{entry.name}", stamp)
                    if record is None:
                        record = read_task(Path(entry.path), folder.name)
                        cache.put(f"{folder.name}/{entry.name}", stamp, record)
                    tasks[record.id] = record
        return cls(tasks)


def read_task(folder: Path, step: str) -> TaskRecord:
    """Read one task's folder; whatever is missing or unreadable counts as absent."""
    names = {entry.name for entry in _scan(folder)}
    result = read_json(folder / "result.json") if "result.json" in names else None
    attempts = []
    if "attempts" in names:
        numbers = sorted(int(entry.name) for entry in _scan(folder / "attempts") if entry.name.isdecimal())
        for number in numbers:
            path = folder / "attempts" / str(number)
            data = read_json(path / "attempt.json") or {}
            beat = None
            if data.get("state") != "ended":
                with contextlib.suppress(OSError):
                    beat = (path / "heartbeat").stat().st_mtime
            attempts.append(AttemptRecord(number, data, beat))
    return TaskRecord(
        folder.name,
        step,
        result if result is not None and _is_result(result, folder.name) else None,
        tuple(attempts),
        "out" in names,
    )


def _is_result(body: dict[str, Any], task: str) -> bool:
    """Whether a file is a result, and this task's: anything else in its place does not make the task done."""
    parts = (body.get(key, {}) for key in ("metrics", "outputs", "inputs", "data"))
    return body.get("task") == task and all(isinstance(part, dict) for part in parts)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if there is none, or it is not whole."""
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


class _Cache:
    """Finished tasks by path and the time of their folder. Every fault of SQLite's means: no cache this time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, tuple[int, str]] = {}
        self._fresh: dict[str, tuple[int, str]] = {}
        self._seen: set[str] = set()

    def __enter__(self) -> _Cache:
        if self._path.exists():
            try:
                place = f"{self._path.absolute().as_uri()}?mode=ro"
                with contextlib.closing(sqlite3.connect(place, uri=True, timeout=0.2)) as db:
                    if db.execute("PRAGMA user_version").fetchone()[0] == _FORMAT:
                        self._rows = {
                            path: (stamp, body)
                            for path, stamp, body in db.execute("SELECT path, stamp, body FROM tasks")
                        }
            except sqlite3.Error:
                self._rows = {}
        return self

    def get(self, path: str, stamp: int) -> TaskRecord | None:
        self._seen.add(path)
        row = self._rows.get(path)
        if row is None or row[0] != stamp:
            return None
        try:
            body = json.loads(row[1])
            attempts = tuple(AttemptRecord(number, data) for number, data in body["attempts"])
            return TaskRecord(body["id"], body["step"], body["result"], attempts, body["out"])
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, path: str, stamp: int, record: TaskRecord) -> None:
        settled = time.time() - stamp / 1e9 > _SETTLED_SECONDS
        if record.result is None or not settled or any(a.state != "ended" for a in record.attempts):
            return
        body = {
            "id": record.id,
            "step": record.step,
            "result": record.result,
            "attempts": [(attempt.number, attempt.data) for attempt in record.attempts],
            "out": record.has_out,
        }
        self._fresh[path] = (stamp, json.dumps(body))

    def __exit__(self, *_: object) -> None:
        gone = [path for path in self._rows if path not in self._seen and not (self._path.parent / path).is_dir()]
        if not self._fresh and not gone:
            return
        for attempt in range(2):
            try:
                with contextlib.closing(sqlite3.connect(self._path, timeout=0.5)) as db, db:
                    db.execute("PRAGMA journal_mode=WAL")
                    if db.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                        db.execute("DROP TABLE IF EXISTS tasks")
                        db.execute(f"PRAGMA user_version={_FORMAT}")
                    db.execute("CREATE TABLE IF NOT EXISTS tasks (path TEXT PRIMARY KEY, stamp INTEGER, body TEXT)")
                    db.executemany(
                        "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?)",
                        [(path, stamp, body) for path, (stamp, body) in self._fresh.items()],
                    )
                    db.executemany("DELETE FROM tasks WHERE path = ?", [(path,) for path in gone])
                return
            except sqlite3.OperationalError:
                return  # Read-only, full or busy: the next reader tries again.
            except sqlite3.DatabaseError:
                if attempt == 0:  # Damaged: make it anew from the store.
                    for suffix in ("", "-wal", "-shm"):
                        with contextlib.suppress(OSError):
                            Path(f"{self._path}{suffix}").unlink()
