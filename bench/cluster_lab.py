"""A control plane, a namespace and a study for one measurement of part (h) or (i)."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import PYTHON, ROOT, BenchError, environ

__all__ = ["JOBS", "PODS", "Lab", "lab", "others", "plane", "until"]

JOBS, PODS = "/apis/batch/v1 jobs", "/api/v1 pods"
_names = itertools.count(1)

CLUSTER = """
namespace: {namespace}
store: {{claim: results, path: /shoal}}
{waiting}defaults: {{image: "example.org/noop:1"{more}}}
"""


class Lab:
    """A fresh namespace, and a study in a folder."""

    def __init__(self, bed: Any, folder: Path, study: str, *, waiting: int | None = None, more: str = "") -> None:
        self.namespace = f"bench-{os.getpid()}-{next(_names)}"
        self.kubeconfig = bed.namespace_user(self.namespace)
        self.root = folder / self.namespace
        (self.root / "clusters").mkdir(parents=True)
        limit = "" if waiting is None else f"waiting: {waiting}\n"
        cluster = CLUSTER.format(namespace=self.namespace, waiting=limit, more=more)
        (self.root / "clusters" / "lab.yaml").write_text(cluster)
        (self.root / "s.yaml").write_text(study)
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

    def begin(self) -> subprocess.Popen[bytes]:
        """Start `shoal run` in the background."""
        argv = [PYTHON, "-m", "shoal", "run", "s.yaml", "--on", "lab"]
        nothing = subprocess.DEVNULL
        return subprocess.Popen(argv, cwd=self.root, env=self.env, stdout=nothing, stderr=nothing)

    def count(self, path: str) -> int:
        """How many objects there are: ``/apis/batch/v1 jobs``; asked so that the server has little to do."""
        group, _, plural = path.partition(" ")
        found = self.api.get(f"{group}/namespaces/{self.namespace}/{plural}?limit=1")
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount") or 0)


@contextlib.contextmanager
def plane(
    add_nodes: Callable[[Any], object], warm: str, folder: Path, *, gogc: int = 400, **options: Any
) -> Iterator[Any]:
    """A control plane of its own for each measurement: none finds what the one before has left, and its rest goes with it.

    Args:
        add_nodes: gives it its fake nodes.
        warm: a study that is run first, so that nothing is cold.
        folder: for studies and stores.
        gogc: how much garbage its programs let gather, in percent of what they use: cores are scarce here, memory is not.
        options: of the testbed.
    """
    sys.path.insert(0, str(ROOT))
    from testbed import Testbed
    from testbed.control import Options

    # Of the environment that its programs get.
    os.environ["GOGC"] = str(gogc)
    with Testbed.start(options=Options(**options)) as bed:
        add_nodes(bed)
        with lab(bed, folder, warm) as at:
            at.call(PYTHON, "-m", "shoal", "run", "s.yaml", "--on", "lab")
        yield bed


@contextlib.contextmanager
def lab(bed: Any, folder: Path, study: str, **more: Any) -> Iterator[Lab]:
    """A `Lab`; its objects are left to the end of its control plane."""
    made = Lab(bed, folder, study, **more)
    try:
        yield made
    finally:
        made.api.close()


def others(bed: Any) -> float:
    """CPU seconds that were used so far on this machine by neither the control plane nor this process and what it has started and
    waited for. What they grow by meanwhile says whether a measurement was disturbed."""
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split(None, 8)[1:8])
    used = (user + nice + system + irq + softirq) / tick
    for name in bed.processes.names():
        words = Path(f"/proc/{bed.processes.pid(name)}/stat").read_text().rpartition(")")[2].split()
        used -= (int(words[11]) + int(words[12])) / tick
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        mine = resource.getrusage(who)
        used -= mine.ru_utime + mine.ru_stime
    return used


def until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something.

    Raises:
        BenchError: it does not come.
    """
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise BenchError(f"{what}: not there in {seconds:g} s")
        time.sleep(0.2)
