"""Data frames, reading, and stores that are not as they should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import Small, attempt, stamp

from shoal.errors import StoreError, UsageError
from shoal.results import load, read_store


def test_one_row_a_task_of_the_plan(tmp_path: Path) -> None:
    small = Small(tmp_path)
    done = small.add("s", {"model": "a", "lr": 0.1}, {"iou": 0.5}, attempts=[attempt(0, 0, 1800, gpus=2)])
    failed = small.add("s", {"model": "b", "lr": 0.1}, attempts=[attempt(0, 0, 9, outcome="failed", failure="user")])
    small.add("s", {"model": "c", "lr": 0.1})
    # A task of an older version of the study, which the plan no longer names.
    small.put(small.root / "s" / "ffffffffffff" / "result.json", {"task": "ffffffffffff", "metrics": {"iou": 9.0}})
    frame = load(small.write()).results()
    assert list(frame.columns) == ["task", "step", "state", "model", "lr", "iou", "seconds", "gpu_hours", "attempts"]
    assert list(frame.state) == ["done", "failed", "waiting"]
    assert list(frame.task)[:2] == [done, failed]
    assert frame.gpu_hours[0] == pytest.approx(1.0)
    assert frame.iou[0] == 0.5
    assert frame.iou.isna().sum() == 2


def test_names_that_collide(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.add("s", {"seconds": 5, "loss": 3, "x": 1}, {"loss": 0.5, "step": 7.0})
    frame = load(small.write()).results()
    row = frame.iloc[0]
    assert (row["params.seconds"], row["params.loss"], row["x"]) == (5, 3, 1)
    assert (row["loss"], row["metrics.step"], row["step"], row["seconds"]) == (0.5, 7.0, "s", 10.0)


def test_whole_numbers_stay_whole_beside_tasks_that_have_none(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.add("prep", {}, {"n": 3})
    small.add("s", {"seed": 1, "lr": 0.1, "flag": True}, {"iou": 0.5})
    frame = load(small.write()).results()
    assert list(frame.seed.astype(object).where(frame.seed.notna(), None)) == [None, 1]
    assert str(frame.seed.dtype) == "Int64"
    assert frame.lr.dtype == float
    assert frame[frame.seed == 1].iou.mean() == 0.5
    assert frame.to_csv(index=False).splitlines()[2].split(",")[3] == "1"


def test_curves_after_a_resume(tmp_path: Path) -> None:
    small = Small(tmp_path)
    lost = attempt(0, 0, 9, outcome="failed", failure="preempted")
    key = small.add("s", {}, {"loss": 1.0}, attempts=[lost, attempt(9, 9, 20)])
    folder = small.root / "s" / key / "attempts"

    def line(step: int | None, **metrics: object) -> str:
        return json.dumps({"time": stamp(1), "step": step, "metrics": metrics}) + "\n"

    (folder / "1" / "metrics.jsonl").write_text(
        line(1, loss=5.0) + line(2, loss=4.0) + "[" * 50_000 + "\n" + line(3, loss=3.9) + '{"step": 4, "me'
    )
    (folder / "2" / "metrics.jsonl").write_text(
        line(2, loss=4.5) + line(3, loss=float("nan")) + line(4, loss=1.0, acc=0.5)
    )
    found = load(small.write())
    frame = found.curves("loss").sort_values("at")
    assert list(zip(frame["at"], frame["value"], frame["attempt"], strict=True)) == [
        (1, 5.0, 1),
        (2, 4.5, 2),
        (3, 3.9, 1),
        (4, 1.0, 2),
    ]
    assert set(found.curves().metric) == {"loss", "acc"}
    assert found.curves("nothing").empty


def test_attempts_frame(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.add(
        "s",
        {},
        {"m": 1},
        attempts=[attempt(0, 60, 120, outcome="failed", failure="oom-gpu", lost=30), attempt(120, 130, 300)],
    )
    frame = load(small.write()).attempts()
    assert list(frame.queue_seconds) == [60, 10]
    assert list(frame.run_seconds) == [60, 170]
    assert list(frame.wasted_seconds) == [30, 0]
    assert frame.failure[0] == "oom-gpu"
    assert str(frame.started[0]) == "2026-11-18 11:07:40+00:00"


def test_metrics_of_relatives_on_request(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.step("test", for_each="train")
    for model in "ab":
        train = small.add("train", {"model": model}, {"loss": 1.0})
        small.add("test", {"model": model}, {"iou": 0.5 if model == "a" else 0.6}, needs=[train])
    frame = load(small.write()).results("train", metrics=["test/iou"])
    assert list(frame["test/iou"]) == [0.5, 0.6]


def test_running_needs_a_sign_of_life(tmp_path: Path) -> None:
    small = Small(tmp_path)
    keys = [small.add("s", {"x": x}, attempts=[attempt(0, 0, None, outcome=None, lost=None)]) for x in range(2)]
    for key, beat in zip(keys, (time.time(), time.time() - 3600), strict=True):
        path = small.root / "s" / key / "attempts" / "1" / "heartbeat"
        path.touch()
        os.utime(path, (beat, beat))
    data = read_store(small.write())
    assert [data.tasks[k].state for k in keys] == ["running", "waiting"]


def test_a_task_below_a_failed_one_shares_its_fate(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.step("test", for_each="train")
    train = small.add("train", {}, attempts=[attempt(0, 0, 9, outcome="failed", failure="user")])
    test = small.add("test", {}, needs=[train])
    data = read_store(small.write())
    assert data.tasks[test].state == "waiting"
    assert data.fate(data.tasks[test]) == "failed"


@pytest.mark.parametrize("text", ["{", "[]", "null", '"x"', "\x00"])
def test_damaged_small_files_count_as_absent(tmp_path: Path, text: str) -> None:
    small = Small(tmp_path)
    key = small.add("s", {}, {"m": 1.0})
    folder = small.write()
    for name in ("result.json", "attempts/1/metrics.jsonl", "attempts/1/usage.jsonl", "retry.json"):
        (folder / "s" / key / name).write_text(text)
    (folder / "runs").mkdir()
    (folder / "runs" / "1.json").write_text(text)
    found = load(folder)
    assert found.results().state[0] == "waiting"
    assert "cannot be read" in found.data.problems[0]
    (folder / "s" / key / "attempts" / "1" / "attempt.json").write_text(text)
    assert load(folder).results().state[0] == "waiting"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "not a plan"),
        ('{"study": "x", "steps": [{"name": "s"}], "tasks": [{"id": 5, "step": "s"}]}', "not a plan"),
        ('{"study": "x", "steps": [{"name": "../s"}], "tasks": []}', "not a name"),
        ('{"study": "x", "steps": [], "tasks": [{"id": "../../etc", "step": "s"}]}', "not a name"),
        ('{"format": 2, "study": "x", "steps": [], "tasks": []}', "newer Shoal"),
    ],
)
def test_damaged_plan(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(StoreError, match=what) as caught:
        read_store(tmp_path)
    assert "plan.json" in str(caught.value)


def test_where_there_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no study has been run here"):
        load(tmp_path)
    with pytest.raises(UsageError, match="there is no such file or folder"):
        load(tmp_path / "nothing")
    for name in ("one", "two"):
        small = Small(tmp_path / name)
        small.add("s", {})
        small.write().rename(tmp_path / f"study-{name}")
    with pytest.raises(UsageError, match="holds 2 studies: study-one, study-two"):
        load(tmp_path)


def test_load_by_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_STORE", raising=False)
    small = Small(tmp_path / "runs")
    small.add("s", {"x": 1}, {"m": 1.0})
    small.write()
    file = tmp_path / "small.yaml"
    file.write_text("study: small\nsteps:\n  s:\n    run: 'true {x}'\n    matrix: {x: [1]}\n")
    assert len(load(file).results()) == 1
    assert len(load(file, store=tmp_path / "runs").results()) == 1
    with pytest.raises(UsageError):
        load(file, store=tmp_path / "elsewhere")


def test_pandas_is_loaded_only_when_a_frame_is_made() -> None:
    code = (
        "import sys, shoal.results, shoal.report; print({'pandas', 'jinja2', 'vl_convert', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
