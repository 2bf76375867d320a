"""When each attempt of a run was submitted, placed, ran and ended: seen by a watch beside it, by one clock, and not by Shoal."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster_floor import LABEL, Server, Watch

__all__ = ["Moments", "phases", "shown"]

WAITED = 0.25
"""Seconds: a pod that was placed sooner has found room, one that was placed later has waited for it."""


class Moments:
    """Notes when Jobs and pods of a namespace were first seen in each state.

    Attributes:
        at: name of the Job to the times, in seconds since 1970, at which it was first seen as ``job``, ``pod``, ``placed``,
            ``runs``, ``over``.
        node: name of the Job to its pod's node.
    """

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.at: dict[str, dict[str, float]] = {}
        self.node: dict[str, str] = {}
        server = Server(str(kubeconfig))
        for path in (f"/apis/batch/v1/namespaces/{namespace}/jobs", f"/api/v1/namespaces/{namespace}/pods"):
            Watch(server, path, {"all that comes"}, "", self._see).start()

    def _see(self, kind: str, one: dict[str, Any]) -> bool:
        if kind == "DELETED":
            return False
        job = (one["metadata"].get("labels") or {}).get(LABEL)
        name = job or one["metadata"]["name"]
        moments, now = self.at.setdefault(name, {}), time.time()
        moments.setdefault("pod" if job else "job", now)
        if job is None:
            return False
        if one["spec"].get("nodeName"):
            self.node[name] = one["spec"]["nodeName"]
            moments.setdefault("placed", now)
        phase = one["status"].get("phase")
        if phase == "Running":
            moments.setdefault("runs", now)
        elif phase in ("Succeeded", "Failed"):
            moments.setdefault("over", now)
        return False


def phases(moments: Moments, attempts: Sequence[Path]) -> dict[str, list[float]]:
    """Seconds of each phase, by its name, in order.

    Args:
        moments: what was seen.
        attempts: the attempts' folders.
    """
    found: dict[str, list[float]] = {
        "Shoal: handed over until the Job is there": [],
        "Job there until its pod is": [],
        "room there, pod there, until it has a node": [],
        "room becomes free until a waiting pod has it": [],
        "has a node until it runs": [],
        "Shoal: over until it is written down": [],
        "Shoal: a pod gets a node until the next is handed over": [],
    }
    submit, pods, roomy, taken, starts, heard, follows = found.values()
    ends: dict[str, list[float]] = {}
    placed = sorted(one["placed"] for one in moments.at.values() if "placed" in one)
    for name, one in moments.at.items():
        if "over" in one and name in moments.node:
            ends.setdefault(moments.node[name], []).append(one["over"])
    for folder in attempts:
        record = json.loads((folder / "attempt.json").read_text())
        name = record["cluster"]["job"]
        one = moments.at.get(name, {})
        if not {"job", "pod", "placed", "runs", "over"} <= one.keys():
            continue  # the watch was cut just then
        queued = datetime.fromisoformat(record["queued"]).timestamp()
        submit.append(one["job"] - queued)
        pods.append(one["pod"] - one["job"])
        waited = one["placed"] - one["pod"]
        before = [end for end in ends[moments.node[name]] if end <= one["placed"]]
        if waited < WAITED:
            roomy.append(waited)
        elif before:
            taken.append(one["placed"] - max(*before, one["pod"]))
        starts.append(one["runs"] - one["placed"])
        # Both watch the same: sometimes Shoal hears of it first.
        heard.append(max(0.0, (folder / "attempt.json").stat().st_mtime - one["over"]))
        if earlier := [moment for moment in placed if moment <= queued]:
            follows.append(queued - earlier[-1])
    return found


def shown(times: Sequence[float]) -> dict[str, str]:
    """Cells of a table: how many, the median, and what nine of ten stay below."""
    if not times:
        return {"times": "0"}
    high = sorted(times)[min(len(times) - 1, int(0.9 * len(times)))]
    return {"times": f"{len(times)}", "median s": f"{statistics.median(times):.2f}", "90 % below s": f"{high:.2f}"}
