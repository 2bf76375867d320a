"""The contract of executors on real pods: a real kubelet, containers, logs, signals, and a claim that is a folder here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executors.suite import SRC, Bench, Concurrent
from processes import until
from shoal.agent import agent
from shoal.clusters import parse_cluster
from shoal.executors import AttemptKey, AttemptSpec, Executor
from shoal.executors.kubernetes import names
from shoal.executors.kubernetes.client import PODS, Client
from shoal.executors.kubernetes.executor import KubernetesExecutor
from shoal.executors.kubernetes.login import read_login
from testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLUSTER = """
namespace: {namespace}
store: {{claim: store, path: {store}}}
defaults: {{image: "shoal.test/python:3.11"}}
"""
RUNNER = """
import json, sys
from pathlib import Path
from shoal.clusters import parse_cluster
from shoal.executors import AttemptSpec
from shoal.executors.kubernetes.client import Client
from shoal.executors.kubernetes.executor import KubernetesExecutor
from shoal.executors.kubernetes.login import read_login
kubeconfig, cluster, spec = map(Path, sys.argv[1:4])
client = Client(read_login([kubeconfig]))
executor = KubernetesExecutor(client, parse_cluster(cluster.read_text(), "lab.yaml"), sys.argv[4], here=True)
executor.start(AttemptSpec.from_json(json.loads(spec.read_text())))
while True: executor.wait(60)
"""


class Place:
    """A namespace on a real node, with a claim that is a folder of this machine."""

    def __init__(self, bed: Testbed) -> None:
        self.namespace = f"contract-{os.getpid()}"
        self.kubeconfig = bed.namespace_user(self.namespace)
        self.store: Path = bed.claim(self.namespace, "store")
        self.text = CLUSTER.format(namespace=self.namespace, store=self.store)
        with contextlib.closing(bed.api()) as api:
            secret = {"metadata": {"name": "shoal-secrets"}, "stringData": {"POND_TOKEN": "s3cret-value"}}
            api.create(f"/api/v1/namespaces/{self.namespace}/secrets", secret)
        self.client = Client(read_login([self.kubeconfig]))

    def executor(self, study: str) -> KubernetesExecutor:
        # A study of its own for each test: the same task of the same study is the same Job.
        client = Client(read_login([self.kubeconfig]))
        return KubernetesExecutor(client, parse_cluster(self.text, "lab.yaml"), study, here=True)


class PodBench(Bench):
    """Tasks in pods: their processes have numbers of their own."""

    python = "python3"
    place: Place

    def another(self, executor: Executor) -> Bench:
        made = PodBench(self.root, executor)
        made.place = self.place
        return made

    def _pods(self) -> list[dict[str, Any]]:
        selector = names.selector(self.executor.scope)  # type: ignore[attr-defined]
        return self.place.client.list(PODS, selector=selector).items

    def _agents(self, pod: str) -> list[int]:
        """Processes of this machine that are the agent in a pod; what the API says of pods lags behind."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                mine = entry.name.isdecimal() and f"HOSTNAME={pod}\0".encode() in (entry / "environ").read_bytes()
                if mine and b"/shoal-agent/pod.py" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def gone(self, pid: int) -> bool:
        return not any(self._agents(one["metadata"]["name"]) for one in self._pods())

    def kill_agent(self, key: AttemptKey) -> None:
        for pid in self._agents(self.record(key)["host"]):
            os.kill(pid, signal.SIGKILL)

    def runner(self, spec: AttemptSpec) -> subprocess.Popen[bytes]:
        handed, cluster = self.root / f"{spec.task}.handed.json", self.root / "lab.yaml"
        handed.write_text(json.dumps(spec.to_json()))
        cluster.write_text(self.place.text)
        return subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(self.place.kubeconfig), str(cluster), str(handed), self.root.name],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "PYTHONPATH": str(SRC)},
        )  # fmt: skip


@pytest.fixture(scope="session")
def place(real_bed: Testbed) -> Iterator[Place]:
    made = Place(real_bed)
    yield made
    made.client.close()


class TestKubernetes(Concurrent):
    test_agents_killed_at_random = None  # test_chaos.py, with pods and nodes

    @pytest.fixture
    def bench(self, place: Place, request: pytest.FixtureRequest) -> Iterator[Bench]:
        self._place = place
        root = self._root = place.store / f"t{abs(hash(request.node.name)):x}"
        root.mkdir()
        made = PodBench(root, self.make())
        made.place = place
        yield made
        made.executor.close()

    def make(self) -> Executor:
        return self._place.executor(self._root.name)

    def begin(self, bench: Bench, script: str, **changes: Any) -> AttemptSpec:
        spec = bench.spec(f"echo $$ > pid.new; mv pid.new pid; {script}", **changes)
        bench.executor.start(spec)
        until(lambda: (spec.cwd / "pid").exists(), 60)
        return spec

    def test_adoption_of_what_no_agent_has_begun(self, bench: Bench) -> None:
        """No Job means that nothing can come late, so it is begun now, under the same number."""
        spec = bench.spec("echo ran >> ran")
        spec.attempt_dir.mkdir(parents=True)
        agent.write_json_atomic(str(spec.path), spec.to_json())
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
        assert bench.wait(spec.key)[spec.key].outcome == "succeeded"
        assert (spec.cwd / "ran").read_text() == "ran\n"

    def test_a_lost_job_is_asked_again_and_runs_nothing_twice(self, bench: Bench) -> None:
        spec = bench.spec("echo ran >> ran; echo '{\"a\": 1}' > out/metrics.json")
        bench.executor.start(spec)
        bench.wait(spec.key)
        bench.place.client.delete_all(PODS, "app.kubernetes.io/managed-by=shoal")  # type: ignore[attr-defined]
        other = bench.another(self.make())
        try:
            other.executor.start(spec)
            assert other.wait(spec.key)[spec.key].outcome == "succeeded"
        finally:
            other.executor.close()
        assert (spec.cwd / "ran").read_text() == "ran\n"
