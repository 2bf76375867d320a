"""Requests to a live runner, as files that it picks up: stop, retry. What another process writes, the runner obeys."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from shoal.store import StudyStore, read_json

__all__ = ["Request", "as_file", "ask", "clear", "take"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        verb: ``stop`` or ``retry``.
        tasks: ids; empty means the whole run.
        now: for ``stop``: kill instead of asking.
        set: for ``retry``: other resources, as ``{"gpu_memory": ...}``.
    """

    verb: str
    tasks: tuple[str, ...] = ()
    now: bool = False
    set: dict[str, Any] = field(default_factory=dict)


def ask(store: StudyStore, request: Request) -> None:
    """Leave a request for the runner of a study."""
    store.control.mkdir(parents=True, exist_ok=True)
    name, body = as_file(request)
    making = store.control / f".{name}"
    making.write_bytes(body)
    making.rename(store.control / name)


def as_file(request: Request) -> tuple[str, bytes]:
    """A request as the file that a runner picks up: name and content."""
    name = f"{time.time_ns()}-{request.verb}-{uuid.uuid4().hex[:6]}.json"
    body = {"verb": request.verb, "tasks": list(request.tasks), "now": request.now, "set": request.set}
    return name, json.dumps(body).encode()


def take(store: StudyStore) -> list[Request]:
    """Take all requests, oldest first."""
    try:
        names = sorted(name for name in os.listdir(store.control) if name.endswith(".json") and name[0] != ".")
    except FileNotFoundError:
        return []
    requests = []
    for name in names:
        path = store.control / name
        body = read_json(path) or {}
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        if body.get("verb") in ("stop", "retry"):
            tasks = tuple(str(task) for task in body.get("tasks", ()))
            requests.append(Request(body["verb"], tasks, bool(body.get("now")), dict(body.get("set") or {})))
    return requests


def clear(store: StudyStore) -> None:
    """Forget requests that were meant for a runner that is gone."""
    take(store)
