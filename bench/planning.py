"""(a) Planning: time and memory of 10,000 and 100,000 tasks, against the bare product with a digest of each point.

Each measurement is a process of its own; this file is also what these run: ``planning.py plan STUDY`` and
``planning.py floor AXES``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from measure import (
    PYTHON,
    RSS_UNIT,
    SHOAL,
    Aim,
    BenchError,
    Part,
    Row,
    Spread,
    Timed,
    command,
    environ,
    interleave,
    ratios,
)

AIM_SECONDS = 1.0


def measure(folder: Path, sizes: tuple[int, int], rounds: int) -> Part:
    """Plan studies of both sizes, ``rounds`` times."""
    import studies

    cases: dict[tuple[str, int], list[str]] = {}
    for size in sizes:
        text, axes = studies.planning(size)
        study, points = folder / f"plan-{size}.yaml", folder / f"axes-{size}.json"
        study.write_text(text)
        points.write_text(json.dumps(axes))
        cases["floor", size] = ["floor", str(points)]
        cases["plan", size] = ["plan", str(study)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, arguments in cases.items():
            found[case].append(_once(arguments))
    whole = {size: partial(command, [SHOAL, "plan", folder / f"plan-{size}.yaml"]) for size in sizes}
    return _told(sizes, found, interleave({str(size): case for size, case in whole.items()}, rounds))


def _told(
    sizes: tuple[int, int], found: dict[tuple[str, int], list[dict[str, float]]], whole: dict[str, Timed]
) -> Part:
    part = Part("Planning")
    total: dict[tuple[str, int], Spread] = {}
    for (name, size), runs in found.items():
        total[name, size] = Spread(tuple(run["load"] + run["plan"] + run["survey"] for run in runs))
        memory = Spread(tuple(run["memory"] for run in runs))
        before = Spread(tuple(run["before"] for run in runs))
        cells = {"total s": total[name, size].shown(3)}
        if name == "plan":
            cells |= {key: Spread(tuple(run[key] for run in runs)).shown(3) for key in ("load", "plan", "survey")}
            cells["x floor"] = ratios(total[name, size], total["floor", size]).shown(1)
        cells["peak MiB"] = f"{memory.median:.0f} (after imports {before.median:.0f})"
        tasks = {int(run["tasks"]) for run in runs}
        what = f"{'Shoal' if name == 'plan' else 'floor: bare product'}, {max(tasks):,} tasks"
        part.rows.append(Row("a", what, cells))
    for size, timed in whole.items():
        cells = {"total s": timed.wall.shown(3), "CPU s": timed.cpu.shown(3)}
        part.rows.append(
            Row("a", f"`shoal plan`, whole command, {found['plan', int(size)][0]['tasks']:,.0f} tasks", cells)
        )
    small, large = sizes
    growth = ratios(total["plan", large], total["plan", small])
    tasks_small, tasks_large = (found["plan", size][0]["tasks"] for size in sizes)
    linear = tasks_large / tasks_small
    part.aims = [
        Aim(
            "a",
            f"{tasks_small:,.0f} tasks planned in under {AIM_SECONDS:g} s",
            f"{total['plan', small].shown(2)} s",
            total["plan", small].median < AIM_SECONDS,
        ),
        Aim(
            "a",
            f"linear growth: x {linear:.1f} tasks, about x {linear:.1f} time (met up to x {1.25 * linear:.1f})",
            f"x {growth.shown(1)}",
            growth.median <= 1.25 * linear,
        ),
    ]
    part.notes = [
        "Each measurement is a fresh process. *load* reads and checks the study file, *plan* makes all tasks with their edges "
        "and identities, *survey* compares them with an empty store and makes the JSON of `shoal plan --json`. Start of Python "
        "and imports are not in these times (they are in part c); memory is the peak of the whole process.",
        "The last two rows are the command as a person calls it, from its start to its exit, with imports and the printed table.",
        "The floor is `itertools.product` over the same axes, with one `json.dumps` and one SHA-256 for each task: no edges, "
        "no commands, no objects kept but the digests.",
    ]
    part.figures = {
        "plan_10k_seconds": total["plan", small].values,
        "plan_100k_seconds": total["plan", large].values,
        "growth": growth.values,
    }
    return part


def _once(arguments: list[str]) -> dict[str, float]:
    done = subprocess.run([PYTHON, __file__, *arguments], env=environ(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"planning {arguments}: {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return {str(key): float(value) for key, value in answer.items()}


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 2**20


def _plan(file: str) -> dict[str, float]:
    from shoal.cli.common import Opened
    from shoal.cli.plan import as_json
    from shoal.plan import build
    from shoal.store import Snapshot, open_store
    from shoal.store.sources import read_sources
    from shoal.store.state import survey
    from shoal.study import load_study

    before = _memory()
    begin = time.perf_counter()
    study = load_study(Path(file))
    loaded = time.perf_counter()
    plan = build(study)
    planned = time.perf_counter()
    root = open_store(None, beside=study.folder)
    store = root.study(study.study)
    states = survey(plan, Snapshot.read(store, plan.order), read_sources(study))
    text = json.dumps(as_json(Opened(plan, store, root, None), states), ensure_ascii=False)
    end = time.perf_counter()
    if len(set(plan.tasks)) != len(states) or not text:
        raise BenchError("not every task was planned")
    return {
        "load": loaded - begin,
        "plan": planned - loaded,
        "survey": end - planned,
        "tasks": len(plan.tasks),
        "memory": _memory(),
        "before": before,
    }


def _floor(file: str) -> dict[str, float]:
    import hashlib
    import itertools

    axes = json.loads(Path(file).read_text())
    before = _memory()
    begin = time.perf_counter()
    names = list(axes)
    digests = []
    for point in itertools.product(*axes.values()):
        params = dict(zip(names, point, strict=True))
        for extra in (None, "last", "best"):
            task = params if extra is None else {**params, "checkpoint": extra}
            digests.append(hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:12])
    seconds = time.perf_counter() - begin
    return {
        "load": 0.0,
        "plan": seconds,
        "survey": 0.0,
        "tasks": len(set(digests)),
        "memory": _memory(),
        "before": before,
    }


if __name__ == "__main__":
    print(json.dumps({"plan": _plan, "floor": _floor}[sys.argv[1]](sys.argv[2])))
