"""What is written down about a run as a whole: the plan, the study as resolved, and where its results came from."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.agent.agent import now, write_json_atomic
from shoal.packages import installed
from shoal.plan import Plan
from shoal.store import StudyStore, user_name

__all__ = ["RunRecord", "plan_json", "write_plan"]

_GIT_SECONDS = 10
_DIFF_BYTES = 1 << 20


def plan_json(plan: Plan, *, profile: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plan as it is kept in the store: all that results, tables and the report need to know of a study."""
    study = plan.study
    axes = {step: plan.axes(step) for step in plan.order}
    return {
        "format": 1,
        "study": study.study,
        "title": study.title,
        "description": study.description,
        "file": study.path.name if study.path else None,
        "profile": profile,
        "set": list(overrides),
        "report": study.report_json(),
        "axes": axes,
        "steps": [
            {
                "name": name,
                "needs": list(study.steps[name].needs),
                "for_each": study.steps[name].for_each,
                "gate": study.steps[name].gate is not None,
                "axes": list(axes[name]),
                "resources": study.steps[name].resources.model_dump(
                    mode="json", exclude_defaults=True, warnings="none"
                ),
            }
            for name in plan.order
        ],
        "tasks": [
            {"id": task.id, "step": task.step, "params": task.params, "needs": list(task.needs)}
            for task in plan.tasks.values()
        ],
    }


def write_plan(plan: Plan, store: StudyStore, *, profile: str | None = None, overrides: Sequence[str] = ()) -> None:
    """Write ``plan.json`` and ``study.yaml``."""
    from shoal.study import dump_yaml

    store.root.mkdir(parents=True, exist_ok=True)
    write_json_atomic(str(store.plan), plan_json(plan, profile=profile, overrides=overrides))
    making = store.study.with_name(".study.yaml")
    making.write_text(dump_yaml(plan.study.resolved()))
    making.replace(store.study)


class RunRecord:
    """``runs/<n>.json``: written when a run begins and again when it ends."""

    def __init__(self, plan: Plan, store: StudyStore, *, executor: str, profile: str | None, asked: int) -> None:
        store.runs.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in store.runs.glob("*.json") if path.stem.isdecimal()]
        self.number = max(numbers, default=0) + 1
        self._path = store.runs / f"{self.number}.json"
        mask = _Mask(plan)
        git, diff = _git(plan.study.folder)
        if diff:
            (store.runs / f"{self.number}.diff").write_text(mask(diff))
        self._body: dict[str, Any] = {
            "format": 1,
            "run": self.number,
            "study": plan.study.study,
            "started": now(),
            "ended": None,
            "argv": [mask(word) for word in (Path(sys.argv[0]).name, *sys.argv[1:])],
            "user": user_name(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "executor": executor,
            "profile": profile,
            "asked": asked,
            "counts": None,
            "shoal": _version(),
            "python": platform.python_version(),
            "packages": installed(),
            "machine": _machine(),
            "git": git,
        }
        write_json_atomic(str(self._path), self._body)

    def end(self, counts: dict[str, int]) -> None:
        """Write how the run ended."""
        self._body.update(ended=now(), counts=counts)
        write_json_atomic(str(self._path), self._body)


class _Mask:
    """Takes the values of the study's secrets out of a text."""

    def __init__(self, plan: Plan) -> None:
        names = {name for step in plan.study.steps.values() for name in step.secrets}
        self._values = [value for name in names if (value := os.environ.get(name))]

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "***")
        return text


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"


def _machine() -> dict[str, Any]:
    from shoal.executors.local.machine import count_cpus, cpu_name, find_gpus, find_memory

    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": count_cpus(),
        "memory": find_memory(),
        "gpus": [{"name": gpu.name, "memory": gpu.memory} for gpu in find_gpus()],
    }


def _git(folder: Path) -> tuple[dict[str, Any] | None, str]:
    if shutil.which("git") is None:
        return None, ""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        if not commit:
            return None, ""
        diff = git("diff", "HEAD")
        untracked = git("ls-files", "--others", "--exclude-standard")
        found = {
            "commit": commit,
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "remote": _without_credentials(git("remote", "get-url", "origin")),
            "dirty": bool(diff or untracked),
            "untracked": untracked.splitlines()[:100],
        }
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return found, diff[:_DIFF_BYTES] + "\n" if diff else ""


def _without_credentials(url: str) -> str | None:
    scheme, found, rest = url.partition("://")
    if found and "@" in rest.partition("/")[0]:
        return f"{scheme}://{rest.partition('@')[2]}"
    return url or None
