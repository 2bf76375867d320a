"""A store written by hand: a few tasks with exactly the numbers that a test is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

T0 = 1_795_000_000.0


def stamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(T0 + seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def attempt(
    queued: float,
    started: float | None,
    ended: float | None,
    *,
    outcome: str | None = "succeeded",
    lost: float | None = 0.0,
    gpus: int = 0,
    device: str = "NVIDIA A10",
    host: str = "h1",
    failure: str | None = None,
    scheduled: float | None = None,
    pulled: float | None = None,
    **usage: float,
) -> dict[str, Any]:
    """The content of ``attempt.json``; with ``scheduled``, of one on a cluster."""
    times = {"scheduled": scheduled, "pulled": pulled}
    cluster = {name: None if at is None else stamp(at) for name, at in times.items()}
    return {
        **({"cluster": cluster} if scheduled is not None else {}),
        "format": 1,
        "executor": "local",
        "state": "ended" if ended is not None else "running",
        "queued": stamp(queued),
        "started": None if started is None else stamp(started),
        "ended": None if ended is None else stamp(ended),
        "host": host,
        "devices": [{"index": i, "name": device, "memory": 24 << 30} for i in range(gpus)],
        "outcome": outcome,
        "failure": {"class": failure, "message": "It broke", "lines": []} if failure else None,
        "usage": usage,
        "lost_seconds": lost,
    }


class Small:
    """``add`` tasks, then ``write``."""

    def __init__(self, folder: Path, **report: Any) -> None:
        self.root = folder / "small"
        self.report = report
        self.steps: dict[str, dict[str, Any]] = {}
        self.tasks: list[dict[str, Any]] = []

    def step(self, name: str, **more: Any) -> None:
        self.steps[name] = {
            "name": name,
            "needs": [],
            "for_each": None,
            "gate": False,
            "axes": [],
            "resources": {},
        } | more

    def add(
        self,
        step: str,
        params: dict[str, Any],
        metrics: dict[str, Any] | None = None,
        *,
        needs: list[str] | None = None,
        attempts: list[dict[str, Any]] | None = None,
    ) -> str:
        """Add a task; it is done when it has metrics. Returns its id."""
        if step not in self.steps:
            self.step(step)
        key = f"{len(self.tasks):012x}"
        self.tasks.append({"id": key, "step": step, "params": params, "needs": needs or []})
        folder = self.root / step / key
        if attempts is None and metrics is not None:
            attempts = [attempt(0, 0, 10)]
        for number, body in enumerate(attempts or [], 1):
            self.put(folder / "attempts" / str(number) / "attempt.json", {"task": key, "step": step} | body)
        if metrics is not None:
            body = {"format": 1, "task": key, "step": step, "params": params, "metrics": metrics, "seconds": 10.0}
            self.put(folder / "result.json", body)
        return key

    def put(self, path: Path, body: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body), encoding="utf-8")

    def write(self) -> Path:
        self.put(
            self.root / "plan.json",
            {
                "format": 1,
                "study": "small",
                "title": "Small",
                "report": self.report,
                "axes": {},
                "steps": list(self.steps.values()),
                "tasks": self.tasks,
            },
        )
        return self.root
