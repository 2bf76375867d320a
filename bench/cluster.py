"""(h) A cluster: Jobs that do nothing on 200 fake nodes of a real control plane, against what is written directly."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from cluster_lab import JOBS, PODS, Lab, lab, others, plane, until
from measure import BENCH, PYTHON, ROOT, Aim, BenchError, Part, Row, Spread, ratios

AIM_RATIO, AIM_REQUESTS, AIM_MEMORY, AIM_CANCEL = 1.15, 3.0, 200, 10.0
WORKERS = 32
CASES = ("floor", "shoal", "one", "kubectl", "stop", "memory")
SHOWN = {
    "floor": "floor: parallel creation, one watch",
    "shoal": "Shoal",
    "one": "one by one, one watch",
    "kubectl": "kubectl apply -f, one watch",
}

STUDY = """
study: noop
steps:
  noop:
    run: "true {{n}} {{fake_end}}"
    matrix: {{fake_end: [{end}], n: {{from: 1, to: {tasks}}}}}
    resources: {{gpu: 1, cpu: 1, memory: 1Gi, shm: 64Mi}}
"""


def measure(folder: Path, tasks: int, large: int, rounds: int, nodes: int, only: Collection[str] = CASES) -> Part:
    """Run everything once a round, each on a control plane of its own.

    Args:
        folder: for studies and stores.
        tasks: how many do nothing.
        large: how many are kept waiting, for the memory; 0 leaves that out.
        rounds: how often.
        nodes: how many fake nodes, with 8 GPUs each.
        only: which of `CASES`.
    """
    sys.path.insert(0, str(ROOT))
    from testbed import binaries

    def run(name: str, what: Callable[[Lab], dict[str, float]], text: str, **more: Any) -> dict[str, float]:
        gogc = 100 if name == "memory" else 400  # ten times as many objects
        with plane(lambda bed: bed.add_nodes(nodes), study(20), folder, gogc=gogc) as bed:
            with lab(bed, folder, text, **more) as at:
                before = others(bed)
                figures = what(at)
                figures["others"] = others(bed) - before
        print(f"(h) {name}: {figures}", file=sys.stderr, flush=True)
        return figures

    part = Part("A cluster: Jobs that do nothing")
    kubectl = binaries() / "kubectl"
    runs: dict[str, Callable[[Lab], dict[str, float]]] = {
        "floor": lambda at: _direct(at, WORKERS),
        "shoal": _shoal,
        "one": lambda at: _direct(at, 1),
        "kubectl": lambda at: _kubectl(at, kubectl),
    }
    stopped = min(tasks, nodes * 6)
    stops: dict[str, Callable[[Lab], dict[str, float]]] = {
        "floor": _stop_directly,
        "shoal": lambda at: _stop(at, stopped),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs if name in only}
    ended: dict[str, list[dict[str, float]]] = {name: [] for name in stops if "stop" in only}
    for turn in range(rounds):
        for name in _turned(list(found), turn):
            found[name].append(run(name, runs[name], study(tasks)))
        for name in _turned(list(ended), turn):
            ended[name].append(run(f"stop, {name}", stops[name], study(stopped, "never")))
    _tell(part, found, tasks)
    if ended:
        _tell_stop(part, ended, stopped)
    if large and "memory" in only:
        waits = {"waiting": large, "more": ", hosts: [no-such-node]"}
        _tell_memory(part, run("memory", lambda at: _waiting(at, large), study(large), **waits), large)
    part.notes += [
        "etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok run on this machine beside what is "
        f"measured; {nodes} fake nodes of 8 GPUs. The control plane is what takes the time; each case has one of its own, which "
        "has run a study of 20 tasks before. Its programs run with `GOGC=400` (less garbage collection), on all sides.",
        f"*floor*: the same manifests, read from files, created by {WORKERS} threads over http.client, and one watch on Jobs "
        "until all are over. *Shoal*: all of `shoal run --on`, from the start of the process to its exit: planning, policies, "
        "preflight, ConfigMaps, Jobs, two watches, records and results of every task, with a cluster file of five lines: no "
        "more pods wait at once than the default of `waiting` lets. *one by one*: as a script does it that "
        "loops over create_namespaced_job. *kubectl*: `kubectl apply -f` of the folder, then the watch.",
        "*requests a task* counts every request that Shoal sent, the preflight's and those of watches included. *CPU* is the "
        "client's own, which it takes from the control plane's two cores. *others' CPU* is what other programs took from them "
        "meanwhile: where that is not small, the row is disturbed.",
        "*stop*: all tasks run and would never end. *floor*: one request that deletes all Jobs, one that deletes all pods, and "
        "watches until no container runs and no Job is left. *Shoal*: all of `shoal stop`, from its start to its exit, by which "
        "time the same is true, and every task has its record. *pods gone after*: as long as the control plane is busy with it.",
    ]
    return part


def _turned(names: list[str], turn: int) -> list[str]:
    shift = turn % max(1, len(names))
    return names[shift:] + names[:shift]


def study(tasks: int, end: str = "ok") -> str:
    """A study of tasks that do nothing, and end as the testbed lets them."""
    return STUDY.format(end=end, tasks=tasks)


def _manifests(at: Lab) -> None:
    at.call(PYTHON, "-m", "shoal", "plan", "s.yaml", "--on", "lab", "--manifests", "m")


def _direct(at: Lab, workers: int) -> dict[str, float]:
    _manifests(at)
    return _said(at.call(PYTHON, BENCH / "cluster_floor.py", at.kubeconfig, at.namespace, "m", str(workers)))


def _kubectl(at: Lab, kubectl: Path) -> dict[str, float]:
    _manifests(at)
    begin = time.perf_counter()
    at.call(kubectl, "apply", "-f", "m", "-R")
    created = time.perf_counter() - begin
    at.call(PYTHON, BENCH / "cluster_floor.py", at.kubeconfig, at.namespace, "m", "0")
    return {"created": created, "over": time.perf_counter() - begin}


def _shoal(at: Lab) -> dict[str, float]:
    return _said(at.call(PYTHON, BENCH / "cluster_shoal.py", "s.yaml", "lab"))


def _said(text: str) -> dict[str, float]:
    said: dict[str, float] = json.loads(text.splitlines()[-1])
    return said


def _stop_directly(at: Lab) -> dict[str, float]:
    _manifests(at)
    return _said(at.call(PYTHON, BENCH / "cluster_floor.py", at.kubeconfig, at.namespace, "m", str(WORKERS), "stop"))


def _stop(at: Lab, tasks: int) -> dict[str, float]:
    runner = at.begin()
    beats = "runs-lab/noop/noop/*/attempts/1/heartbeat"
    until(lambda: len(list(at.root.glob(beats))) == tasks, 900, f"{tasks} running tasks")
    time.sleep(2.0)
    begin = time.perf_counter()
    at.call(PYTHON, "-m", "shoal", "stop", "s.yaml")
    over = time.perf_counter() - begin
    runner.wait(60)
    if at.count(JOBS):
        raise BenchError("Jobs are left after shoal stop")
    until(lambda: not at.count(PODS), 300, "no pods")
    return {"over": over, "gone": time.perf_counter() - begin}


def _waiting(at: Lab, tasks: int) -> dict[str, float]:
    """Memory of a runner whose tasks were all submitted, and wait."""
    begin = time.perf_counter()
    runner = at.begin()
    status = Path(f"/proc/{runner.pid}/status")
    until(lambda: at.count(JOBS) >= tasks, 1800, f"{tasks} submitted tasks")
    created = time.perf_counter() - begin
    time.sleep(10)
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    # With its control plane all that it has submitted goes.
    runner.kill()
    runner.wait(60)
    return {"created": created, "memory": float(peak.split()[1]) * 1024}


def _tell_stop(part: Part, found: Mapping[str, list[dict[str, float]]], tasks: int) -> None:
    floor = Spread(tuple(one["over"] for one in found["floor"]))
    for name, shown in (("floor", "floor: Jobs and pods deleted, two requests"), ("shoal", "shoal stop")):
        over = Spread(tuple(one["over"] for one in found[name]))
        gone = Spread(tuple(one["gone"] for one in found[name]))
        cells = {"total s": over.shown(1), "pods gone after s": gone.shown(1)}
        cells["others' CPU s"] = Spread(tuple(one["others"] for one in found[name])).shown(1)
        if name == "shoal":
            ratio = ratios(over, floor)
            cells["x floor"] = ratio.shown(2)
            text = f"{tasks} running tasks stopped within {AIM_RATIO:g} x of two requests that delete everything"
            part.aims.append(Aim("h", text, f"x {ratio.shown(2)}", ratio.median <= AIM_RATIO))
            text = f"{tasks} running tasks stopped within {AIM_CANCEL:g} s"
            part.aims.append(Aim("h", text, f"{over.shown(1)} s", over.median <= AIM_CANCEL))
        part.rows.append(Row("h", f"{shown}, {tasks} running tasks", cells))
    part.figures["stop"] = dict(found)


def _tell_memory(part: Part, found: Mapping[str, float], tasks: int) -> None:
    shown = f"{found['memory'] / 1e6:.0f} MB"
    cells = {"memory": shown, "created after s": f"{found['created']:.1f}"}
    part.rows.append(Row("h", f"Shoal with {tasks} tasks submitted", cells))
    met = found["memory"] < AIM_MEMORY * 1e6
    part.aims.append(Aim("h", f"{tasks} tasks in less than {AIM_MEMORY} MB", shown, met))
    part.figures["memory"] = dict(found)


def _tell(part: Part, found: Mapping[str, list[dict[str, float]]], tasks: int) -> None:
    def spread(name: str, key: str, scale: float = 1.0) -> Spread:
        return Spread(tuple(one[key] * scale for one in found[name]))

    for name, runs in found.items():
        over = spread(name, "over")
        cells = {"total s": over.shown(1), "ms a task": spread(name, "over", 1000 / tasks).shown(1)}
        ratio = ratios(over, spread("floor", "over")) if "floor" in found and name != "floor" else None
        if ratio is not None:
            cells["x floor"] = ratio.shown(2)
        if "created" in runs[0]:
            cells["created after s"] = spread(name, "created").shown(1)
        cells["others' CPU s"] = spread(name, "others").shown(1)
        if "cpu" in runs[0]:
            cells["CPU s"] = spread(name, "cpu").shown(1)
        if name == "shoal":
            requests = spread(name, "requests", 1 / tasks)
            cells |= {"requests a task": requests.shown(2), "memory": f"{spread(name, 'memory', 1e-6).shown(0)} MB"}
            if ratio is not None:
                text = f"{tasks} no-op tasks within {AIM_RATIO:g} x of parallel creation and one watch"
                part.aims.append(Aim("h", text, f"x {ratio.shown(2)}", ratio.median <= AIM_RATIO))
            text = f"at most {AIM_REQUESTS:g} requests a task"
            part.aims.append(Aim("h", text, requests.shown(2), requests.median <= AIM_REQUESTS))
        part.rows.append(Row("h", f"{SHOWN[name]}, {tasks} Jobs", cells))
        part.figures[SHOWN[name]] = runs
