"""Read a study's folder in the store into :class:`~shoal.results.data.StudyData`.

Only files of the tasks that ``plan.json`` names are read, so results of an older version of the study do
not mix in.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from shoal.errors import StoreError, UsageError
from shoal.results.data import Attempt, StepInfo, StudyData, Task, finite
from shoal.store.index import AttemptRecord, Snapshot, TaskRecord, read_json
from shoal.store.layout import StudyStore
from shoal.store.state import alive

__all__ = ["find_study", "parse_time", "read_curves", "read_store", "read_usage_samples"]


def find_study(folder: Path) -> Path:
    """Return the study's folder: ``folder`` itself, or its only child that holds a ``plan.json``.

    Raises:
        UsageError: there is none, or there are several.
    """
    if (folder / "plan.json").is_file():
        return folder
    if not folder.is_dir():
        what = "file" if folder.suffix in (".yaml", ".yml") else "file or folder"
        hint = "Give a study file, or the folder of a study in a store."
        raise UsageError(f"{folder}: there is no such {what}", hint=hint)
    found = sorted(p.parent for p in folder.glob("*/plan.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{folder}: no study has been run here (there is no plan.json)",
            hint="Start one with: shoal run STUDY",
        )
    names = ", ".join(p.name for p in found)
    raise UsageError(f"{folder}: holds {len(found)} studies: {names}", hint="Name the folder of one of them.")


def read_store(folder: Path | str) -> StudyData:
    """Read everything that the plan's tasks left behind.

    Args:
        folder: the folder of the study in the store, or a store that holds one study.

    Raises:
        UsageError: no study is there.
        StoreError: ``plan.json`` is damaged. Other damaged files count as absent.
    """
    folder = find_study(Path(folder))
    problems: list[str] = []
    plan = _read_plan(folder / "plan.json")
    steps = {
        step["name"]: StepInfo(
            name=step["name"],
            needs=tuple(step.get("needs") or ()),
            for_each=step.get("for_each"),
            gate=bool(step.get("gate")),
            axes=tuple(step.get("axes") or ()),
            resources=dict(step.get("resources") or {}),
        )
        for step in plan["steps"]
    }
    present = Snapshot.read(StudyStore(folder), steps).tasks
    tasks: dict[str, Task] = {}
    for item in plan["tasks"]:
        step, key = item["step"], item["id"]
        task = Task(key, step, dict(item.get("params") or {}), list(item.get("needs") or ()), folder / step / key)
        record = present.get(key)
        if record is not None and record.step == step and step in steps:
            _fill(task, record, steps[step].resources, problems)
        tasks[key] = task
    return StudyData(
        folder=folder,
        study=str(plan["study"]),
        title=str(plan.get("title") or ""),
        description=str(plan.get("description") or ""),
        file=str(plan.get("file") or ""),
        profile=plan.get("profile"),
        overrides=tuple(map(str, plan.get("set") or ())),
        report=dict(plan.get("report") or {}),
        steps=steps,
        tasks=tasks,
        runs=_read_runs(folder / "runs"),
        problems=problems,
    )


def read_curves(folder: Path) -> Iterator[tuple[int, float | None, float | None, dict[str, float]]]:
    """Go through ``metrics.jsonl`` of a task's attempts: attempt, time, step, metrics; in order of writing.

    Lines cut short by a kill and values that are no finite numbers are left out.
    """
    for number in _attempt_numbers(folder):
        for line in _json_lines(folder / "attempts" / str(number) / "metrics.jsonl"):
            metrics = line.get("metrics")
            if isinstance(metrics, dict):
                kept = {str(name): value for name, one in metrics.items() if (value := finite(one)) is not None}
                yield number, parse_time(line.get("time")), finite(line.get("step")), kept


def read_usage_samples(attempt_folder: Path) -> Iterator[dict[str, Any]]:
    """Go through an attempt's samples of CPU, memory and GPU use."""
    yield from _json_lines(attempt_folder / "usage.jsonl")


def parse_time(value: object) -> float | None:
    """Return an RFC 3339 time as seconds since 1970, or None when it is none."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        return None


def _read_plan(path: Path) -> dict[str, Any]:
    hint = "Write it anew with: shoal run STUDY (finished tasks are kept)."
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"the plan cannot be read ({error})", path=path, hint=hint) from None
    try:
        sound = isinstance(plan["study"], str) and all(isinstance(s["name"], str) for s in plan["steps"])
        sound = sound and all(isinstance(t["id"], str) and isinstance(t["step"], str) for t in plan["tasks"])
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise StoreError("this is not a plan of Shoal's", path=path, hint=hint)
    if plan.get("format", 1) != 1:
        raise StoreError(
            f"written by a newer Shoal (format {plan['format']})", path=path, hint="Update Shoal to read it."
        )
    # The names become folders below: one that leaves the store is not ours.
    for name in [s["name"] for s in plan["steps"]] + [t["id"] for t in plan["tasks"]]:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise StoreError(f"the plan names {name!r}, which is not a name of a step or task", path=path, hint=hint)
    return dict(plan)


def _fill(task: Task, record: TaskRecord, given: dict[str, Any], problems: list[str]) -> None:
    task.result = record.result
    task.attempts = [_attempt(task, found, given) for found in record.attempts]
    if task.result is not None:
        task.state = "done"
    elif task.attempts:
        last = task.attempts[-1]
        if last.state == "running":
            # Without a sign of life its agent is gone, and a next run starts the task again.
            task.state = "running" if alive(record, time.time()) else "waiting"
        elif last.outcome == "failed":
            task.state = "cancelled" if (last.failure or {}).get("class") == "cancelled" else "failed"
        elif last.outcome == "succeeded":
            problems.append(f"{task.folder / 'result.json'}: cannot be read, so the task counts as not done")


def _attempt(task: Task, record: AttemptRecord, given: dict[str, Any]) -> Attempt:
    folder = task.folder / "attempts" / str(record.number)
    raw = record.data
    usage, failure, devices = raw.get("usage"), raw.get("failure"), raw.get("devices")
    cluster = raw.get("cluster")
    cluster = cluster if isinstance(cluster, dict) else {}
    started = parse_time(raw.get("started"))
    return Attempt(
        task=task.id,
        step=task.step,
        number=record.number,
        folder=folder,
        executor=str(raw.get("executor") or ""),
        state=record.state,
        outcome=raw.get("outcome"),
        queued=parse_time(raw.get("queued")),
        started=started,
        ended=parse_time(raw.get("ended")),
        alive=record.heartbeat or started,
        scheduled=parse_time(cluster.get("scheduled")),
        pulled=parse_time(cluster.get("pulled")),
        host=str(raw.get("host") or ""),
        devices=[d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else [],
        failure=failure if isinstance(failure, dict) else None,
        usage=usage if isinstance(usage, dict) else {},
        lost_seconds=finite(raw.get("lost_seconds")),
        resources=_resources(folder, given),
    )


def _resources(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    # The plan has them as written in the study; only a template ("{gpus}") has to be looked up attempt by attempt.
    if not any(isinstance(value, str) and "{" in value for value in given.values()):
        return given
    found = (read_json(folder / "spec.json") or {}).get("resources")
    return found if isinstance(found, dict) else given


def _attempt_numbers(folder: Path) -> list[int]:
    return sorted(int(name) for name in _names(folder / "attempts") if name.isdecimal())


def _read_runs(folder: Path) -> list[dict[str, Any]]:
    numbers = sorted(int(n[:-5]) for n in _names(folder) if n.endswith(".json") and n[:-5].isdecimal())
    found = (read_json(folder / f"{number}.json") for number in numbers)
    return [run for run in found if run is not None]


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                yield found
