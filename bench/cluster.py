"""(h) A cluster: Jobs that do nothing on 200 fake nodes of a real control plane, against what is written directly."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measure import BENCH, PYTHON, ROOT, Aim, BenchError, Part, Row, Spread, environ, ratios

AIM_RATIO, AIM_REQUESTS, AIM_MEMORY, AIM_CANCEL = 1.15, 3.0, 200, 10.0
WORKERS = 32
_names = itertools.count(1)

STUDY = """
study: noop
steps:
  noop:
    run: "true {{n}} {{fake_end}}"
    matrix: {{fake_end: [{end}], n: [{numbers}]}}
    resources: {{gpu: 1, cpu: 1, memory: 1Gi, shm: 64Mi}}
"""
CLUSTER = """
namespace: {namespace}
store: {{claim: results, path: /shoal}}
waiting: {waiting}
defaults: {{image: "example.org/noop:1"{more}}}
"""


class Lab:
    """A fresh namespace, and a study in a folder."""

    def __init__(
        self, bed: Any, folder: Path, tasks: int, *, end: str = "ok", waiting: int = 300, more: str = ""
    ) -> None:
        self.namespace = f"bench-{os.getpid()}-{next(_names)}"
        self.kubeconfig = bed.namespace_user(self.namespace)
        self.root = folder / self.namespace
        (self.root / "clusters").mkdir(parents=True)
        cluster = CLUSTER.format(namespace=self.namespace, waiting=waiting, more=more)
        (self.root / "clusters" / "lab.yaml").write_text(cluster)
        numbers = ", ".join(map(str, range(tasks)))
        (self.root / "s.yaml").write_text(STUDY.format(end=end, numbers=numbers))
        self.api = bed.api()
        common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        claim = {"name": "results", "namespace": self.namespace}
        volume = {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/none"}, "claimRef": claim}
        self.api.create("/api/v1/persistentvolumes", {"metadata": {"name": self.namespace}, "spec": volume})
        spec = {**common, "volumeName": self.namespace, "resources": {"requests": {"storage": "1Gi"}}}
        path = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        self.api.create(path, {"metadata": {"name": "results"}, "spec": spec})

    @property
    def env(self) -> dict[str, str]:
        return environ() | {"KUBECONFIG": str(self.kubeconfig)}

    def call(self, *argv: str | Path, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command; return what it prints."""
        done = subprocess.run(
            [str(word) for word in argv], cwd=self.root, env=self.env, capture_output=True, text=True, timeout=3000
        )
        if done.returncode not in codes:
            raise BenchError(f"{argv[1]}: exit {done.returncode}\n{done.stderr[-1500:]}")
        return done.stdout

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.get(f"/apis/batch/v1/namespaces/{self.namespace}/jobs")["items"]
        return found

    def close(self) -> None:
        """Remove it, and wait until the control plane has nothing more to do with it."""
        self.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
        with contextlib.suppress(Exception):
            until = time.monotonic() + 300
            while (
                time.monotonic() < until and self.api.request("GET", f"/api/v1/namespaces/{self.namespace}").is_success
            ):
                time.sleep(1)
        self.api.request("DELETE", f"/api/v1/persistentvolumes/{self.namespace}")
        self.api.close()


@contextlib.contextmanager
def lab(bed: Any, folder: Path, tasks: int, **more: Any) -> Iterator[Lab]:
    made = Lab(bed, folder, tasks, **more)
    try:
        yield made
    finally:
        made.close()


def measure(folder: Path, tasks: int, large: int, rounds: int, nodes: int) -> Part:
    """Run everything once a round on one control plane.

    Args:
        folder: for studies and stores.
        tasks: how many do nothing.
        large: how many are kept waiting, for the memory; 0 leaves that out.
        rounds: how often.
        nodes: how many fake nodes, with 8 GPUs each.
    """
    sys.path.insert(0, str(ROOT))
    from testbed import Testbed, binaries

    part = Part("A cluster: Jobs that do nothing")
    with Testbed.start(nodes=nodes) as bed:
        kubectl = binaries() / "kubectl"
        cases = {
            "floor: parallel creation, one watch": lambda at: _direct(at, WORKERS),
            "Shoal": _shoal,
            "one by one, one watch": lambda at: _direct(at, 1),
            "kubectl apply -f, one watch": lambda at: _kubectl(at, kubectl),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        with lab(bed, folder, 20) as at:  # so that the first case is no colder than the others
            _shoal(at)
        for turn in range(rounds):
            names = list(cases)
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                with lab(bed, folder, tasks) as at:
                    found[name].append(cases[name](at))
        _tell(part, found, tasks)
        cancel = _cancel(bed, folder, min(tasks, nodes * 8))
        part.rows.append(
            Row("h", f"shoal stop of {cancel['tasks']:.0f} running tasks", {"total s": f"{cancel['over']:.1f}"})
        )
        part.aims.append(
            Aim("h", f"{cancel['tasks']:.0f} running tasks stopped within {AIM_CANCEL:g} s", f"{cancel['over']:.1f} s",
                cancel["over"] <= AIM_CANCEL)
        )  # fmt: skip
        part.figures["cancel"] = cancel
        if large:
            memory = _waiting(bed, folder, large)
            shown = f"{memory / 1e6:.0f} MB"
            part.rows.append(Row("h", f"Shoal with {large} tasks submitted", {"memory": shown}))
            part.aims.append(Aim("h", f"{large} tasks in less than {AIM_MEMORY} MB", shown, memory < AIM_MEMORY * 1e6))
            part.figures["memory"] = memory
    part.notes += [
        "etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok run on this machine beside what is "
        f"measured; {nodes} fake nodes of 8 GPUs. The control plane is what takes the time; each case has a namespace "
        "of its own, and the one before is removed and gone first.",
        f"*floor*: the same manifests, read from files, created by {WORKERS} threads over http.client, and one watch on Jobs "
        "until all are over. *Shoal*: all of `shoal run --on`, from the start of the process to its exit: planning, policies, "
        "preflight, ConfigMaps, Jobs, two watches, records and results of every task. *one by one*: as a script does it that "
        "loops over create_namespaced_job. *kubectl*: `kubectl apply -f` of the folder, then the watch.",
        "*requests a task* counts every request that Shoal sent, the preflight's and those of watches included.",
    ]
    return part


def _manifests(at: Lab) -> None:
    at.call(PYTHON, "-m", "shoal", "plan", "s.yaml", "--on", "lab", "--manifests", "m")


def _direct(at: Lab, workers: int) -> dict[str, float]:
    _manifests(at)
    said: dict[str, float] = json.loads(
        at.call(PYTHON, BENCH / "cluster_floor.py", at.kubeconfig, at.namespace, "m", str(workers))
    )
    return said


def _kubectl(at: Lab, kubectl: Path) -> dict[str, float]:
    _manifests(at)
    begin = time.perf_counter()
    at.call(kubectl, "apply", "-f", "m", "-R")
    created = time.perf_counter() - begin
    at.call(PYTHON, BENCH / "cluster_floor.py", at.kubeconfig, at.namespace, "m", "0")
    return {"created": created, "over": time.perf_counter() - begin}


def _shoal(at: Lab) -> dict[str, float]:
    said: dict[str, float] = json.loads(at.call(PYTHON, BENCH / "cluster_shoal.py", "s.yaml", "lab"))
    return said


def _begin(at: Lab) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [PYTHON, "-m", "shoal", "run", "s.yaml", "--on", "lab"],
        cwd=at.root, env=at.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _until(ready: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise BenchError(f"not there in {seconds:g} s")
        time.sleep(0.5)


def _cancel(bed: Any, folder: Path, tasks: int) -> dict[str, float]:
    with lab(bed, folder, tasks, end="never") as at:
        runner = _begin(at)
        _until(lambda: len(list(at.root.glob("runs-lab/noop/noop/*/attempts/1/heartbeat"))) == tasks, 900)
        begin = time.perf_counter()
        at.call(PYTHON, "-m", "shoal", "stop", "s.yaml")
        over = time.perf_counter() - begin
        runner.wait(60)
        if at.jobs():
            raise BenchError("Jobs are left after shoal stop")
        return {"tasks": float(tasks), "over": over}


def _waiting(bed: Any, folder: Path, tasks: int) -> float:
    """Memory of a runner whose tasks were all submitted, and wait."""
    with lab(bed, folder, tasks, waiting=tasks, more=", hosts: [no-such-node]") as at:
        runner = _begin(at)
        status = Path(f"/proc/{runner.pid}/status")
        count = f"/apis/batch/v1/namespaces/{at.namespace}/jobs?limit=1"

        def submitted() -> bool:
            meta = at.api.get(count)["metadata"]
            return 1 + int(meta.get("remainingItemCount") or 0) >= tasks

        _until(submitted, 1800)
        time.sleep(10)
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        runner.send_signal(signal.SIGTERM)
        runner.wait(60)
        return float(peak.split()[1]) * 1024


def _tell(part: Part, found: Mapping[str, list[dict[str, float]]], tasks: int) -> None:
    over = {name: Spread(tuple(one["over"] for one in runs)) for name, runs in found.items()}
    floor = next(iter(over.values()))
    for name, spread in over.items():
        ratio = ratios(spread, floor)
        cells = {
            "total s": spread.shown(1),
            "ms a task": Spread(tuple(1000 * v / tasks for v in spread.values)).shown(1),
        }
        if name != next(iter(over)):
            cells["x floor"] = ratio.shown(2)
        if "created" in found[name][0]:
            cells["created after s"] = Spread(tuple(one["created"] for one in found[name])).shown(1)
        if name == "Shoal":
            requests = Spread(tuple(one["requests"] / tasks for one in found[name]))
            memory = Spread(tuple(one["memory"] / 1e6 for one in found[name]))
            cells |= {"requests a task": requests.shown(2), "memory": f"{memory.shown(0)} MB"}
            text = f"{tasks} no-op tasks within {AIM_RATIO:g} x of parallel creation and one watch"
            part.aims.append(Aim("h", text, f"x {ratio.shown(2)}", ratio.median <= AIM_RATIO))
            reached = requests.shown(2)
            part.aims.append(
                Aim("h", f"at most {AIM_REQUESTS:g} requests a task", reached, requests.median <= AIM_REQUESTS)
            )
        part.rows.append(Row("h", f"{name}, {tasks} Jobs", cells))
        part.figures[name] = found[name]
