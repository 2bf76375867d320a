"""A look at the store: right with a cache, without one, with a broken one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from shoal.store import Snapshot, StudyStore


def done_task(store: StudyStore, step: str, id_: str, value: float = 1.0) -> Path:
    folder = store.task(step, id_)
    (folder.root / "out").mkdir(parents=True)
    folder.attempt(1).mkdir(parents=True)
    (folder.attempt(1) / "attempt.json").write_text(json.dumps({"state": "ended", "outcome": "succeeded"}))
    folder.result.write_text(json.dumps({"task": id_, "metrics": {"x": value}, "outputs": {"digest": id_, "files": 1}}))
    settle(folder.root)
    return folder.root


def settle(folder: Path, age: float = 60.0) -> None:
    at = time.time() - age
    os.utime(folder, (at, at))


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    made = StudyStore(tmp_path / "study")
    for number in range(20):
        done_task(made, "train", f"{number:012x}", number)
    return made


def test_a_second_look_reads_from_the_cache_and_says_the_same(store: StudyStore) -> None:
    first = Snapshot.read(store)
    assert store.index.exists()
    # What the files say no longer matters as long as the folder has not changed: proof that the cache was used.
    path = store.task("train", f"{3:012x}").result
    body = path.read_bytes()
    path.write_bytes(b"{}")
    assert Snapshot.read(store) == first
    path.write_bytes(body)
    store.index.unlink()
    assert Snapshot.read(store) == first


def test_a_result_that_goes_or_comes_is_seen_at_once(store: StudyStore) -> None:
    Snapshot.read(store)
    gone = store.task("train", f"{3:012x}")
    gone.result.unlink()
    new = done_task(store, "train", "f" * 12)
    seen = Snapshot.read(store)
    assert seen.tasks[gone.root.name].result is None
    assert seen.tasks[new.name].result is not None
    beside = gone.root / ".result"
    beside.write_text(json.dumps({"task": gone.root.name, "metrics": {"x": 99}}))
    beside.rename(gone.result)
    result = Snapshot.read(store).tasks[gone.root.name].result
    assert result is not None
    assert result["metrics"] == {"x": 99}


def test_a_folder_that_changed_a_moment_ago_is_not_cached(store: StudyStore) -> None:
    folder = done_task(store, "train", "e" * 12)
    settle(folder, age=0.0)
    Snapshot.read(store)
    stamp = folder.stat().st_mtime_ns
    (folder / "result.json").write_text(json.dumps({"task": "e" * 12, "metrics": {"x": 5}}))
    os.utime(folder, ns=(stamp, stamp))
    result = Snapshot.read(store).tasks["e" * 12].result
    assert result is not None
    assert result["metrics"] == {"x": 5}


@pytest.mark.parametrize("damage", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_cache_costs_time_and_never_truth(store: StudyStore, damage: bytes) -> None:
    first = Snapshot.read(store)
    for suffix in ("-wal", "-shm"):
        Path(f"{store.index}{suffix}").unlink(missing_ok=True)
    store.index.write_bytes(damage)
    assert Snapshot.read(store) == first
    assert Snapshot.read(store) == first


def test_what_is_not_whole_counts_as_absent(store: StudyStore) -> None:
    folder = store.task("train", "d" * 12)
    folder.attempt(1).mkdir(parents=True)
    folder.result.write_text('{"task": "ddd')
    (folder.attempt(1) / "attempt.json").write_text("")
    (folder.root / "attempts" / "notes").mkdir()
    record = Snapshot.read(store).tasks["d" * 12]
    assert record.result is None
    assert [attempt.state for attempt in record.attempts] == ["unstarted"]
    assert Snapshot.read(StudyStore(store.root / "nowhere")).tasks == {}
