"""How to get the study again: its file, command, commit and changes, packages, image and machines."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.report.trials import Trials
from shoal.results import StudyData
from shoal.store.index import read_json
from shoal.units import format_size

__all__ = ["Provenance", "collect_provenance"]

_LONGEST = 200_000


@dataclass
class Provenance:
    """What the last section of a report shows; every part may be empty."""

    study_file: str = ""
    command: str = ""
    git: dict[str, Any] = field(default_factory=dict)
    diff: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    packages: list[tuple[str, str]] = field(default_factory=list)
    packages_of: str = ""
    runs: list[dict[str, str]] = field(default_factory=list)


def collect_provenance(data: StudyData, trials: Trials) -> Provenance:
    """Read what the runs and the tasks recorded."""
    found = Provenance(study_file=_text(data.folder / "study.yaml"))
    last = data.runs[-1] if data.runs else {}
    argv = last.get("argv")
    if isinstance(argv, list) and argv:
        found.command = shlex.join(["shoal" if i == 0 else str(a) for i, a in enumerate(argv)])
    git = last.get("git")
    if isinstance(git, dict):
        found.git = {k: _without_password(str(v)) if k == "remote" else v for k, v in git.items()}
    if last.get("run") is not None:
        found.diff = _text(data.folder / "runs" / f"{last['run']}.diff")
    environment = _environment(trials)
    for name, value in (
        ("Shoal", last.get("shoal")),
        ("Python", environment.get("python") or last.get("python")),
        ("Executor", last.get("executor")),
        ("Profile", last.get("profile")),
        ("Started by", _who(last)),
        ("Machine of the runner", _machine(last.get("machine"))),
        ("Machines of the tasks", _hosts(data)),
    ):
        if value:
            found.facts.append((name, str(value)))
    packages = environment.get("packages") or last.get("packages")
    if isinstance(packages, dict):
        found.packages = sorted((str(k), str(v)) for k, v in packages.items())
        found.packages_of = "the best trial's task" if environment.get("packages") else "the runner"
    found.runs = [_run(run) for run in data.runs[-20:]]
    return found


def _environment(trials: Trials) -> dict[str, Any]:
    for i in [*trials.ranked()[:1], *range(min(3, len(trials.tasks)))]:
        for attempt in reversed(trials.tasks[i].attempts):
            read = read_json(attempt.folder / "environment.json")
            if read:
                return read
    return {}


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + f"\n… cut; the whole is in {path.name} in the store\n"


def _without_password(remote: str) -> str:
    return re.sub(r"(?<=//)[^/@]*@", "", remote)


def _who(run: dict[str, Any]) -> str:
    user, host = run.get("user"), run.get("host")
    return f"{user} on {host}" if user and host else str(user or host or "")


def _machine(machine: object) -> str:
    if not isinstance(machine, dict):
        return ""
    parts = [str(machine[k]) for k in ("system", "cpu") if machine.get(k)]
    if machine.get("cores"):
        parts.append(f"{machine['cores']} cores")
    if isinstance(machine.get("memory"), int | float):
        parts.append(f"{format_size(machine['memory'])} memory")
    gpus = machine.get("gpus")
    if isinstance(gpus, list):
        parts += [str(g.get("name")) for g in gpus if isinstance(g, dict) and g.get("name")]
    return ", ".join(parts)


def _hosts(data: StudyData) -> str:
    devices = Counter(a.device for a in data.attempts() if a.started is not None)
    hosts = {a.host for a in data.attempts() if a.host}
    if not devices:
        return ""
    named = ", ".join(f"{name} ({count:,})" for name, count in devices.most_common(8))
    return f"{len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}; attempts by device: {named}"


def _run(run: dict[str, Any]) -> dict[str, str]:
    counts = run.get("counts")
    counted = ", ".join(f"{v} {k}" for k, v in counts.items() if v) if isinstance(counts, dict) else ""
    return {
        "run": str(run.get("run", "")),
        "started": str(run.get("started") or "")[:16].replace("T", " "),
        "ended": str(run.get("ended") or "")[:16].replace("T", " ") or "not ended",
        "executor": str(run.get("executor") or ""),
        "asked": str(run.get("asked") or ""),
        "counts": counted,
    }
