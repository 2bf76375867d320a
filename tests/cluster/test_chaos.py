"""Whatever is killed, cut or lost during a run: every task ends exactly once, with the result of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from typing import Any

import pytest

from shoal.executors.kubernetes.client import PODS, ApiError

from .conftest import Lab, until
from .test_stream import Proxy

STUDY = """
study: pond
max_parallel: {most}
steps:
  prep: {{run: prepare}}
  train:
    needs: prep
    matrix: {{n: [{numbers}], fake_seconds: [{seconds}]}}
    run: train {{inputs.prep}} {{n}} {{fake_seconds}}
    resources: {{gpu: 1, shm: 64Mi}}
  test:
    for_each: train
    run: test {{inputs.train}}
"""


KINDS = ("cut", "pods", "runner", "server", "absent", "node")


class Trouble:
    """Makes one kind of trouble after another: all of them in some order, and again in another."""

    def __init__(self, lab: Lab, proxy: Proxy, chance: random.Random) -> None:
        self.lab, self.proxy, self.chance = lab, proxy, chance
        self.runner = self.begin()
        self.made: list[str] = []
        self.next: list[str] = []

    def begin(self) -> subprocess.Popen[str]:
        return self.lab.begin("run", "s.yaml", "--on", "lab")

    def make(self) -> None:
        if len(self.made) % len(KINDS) == 0:
            self.next = self.chance.sample(KINDS, len(KINDS))
        kind = self.next.pop()
        self.made.append(kind)
        getattr(self, f"_{kind}")()

    def _cut(self) -> None:
        self.proxy.cut()

    def _absent(self) -> None:
        self.proxy.refuse = True
        self.proxy.cut()
        time.sleep(self.chance.uniform(1, 3))
        self.proxy.refuse = False

    def _server(self) -> None:
        if self.chance.random() < 0.5:
            self.lab.bed.compact_etcd()
        self.lab.bed.kill_apiserver()
        time.sleep(self.chance.uniform(0, 2))
        self.lab.bed.restart_apiserver()
        self._until_pods_run()

    def _until_pods_run(self) -> None:
        """The rest of the control plane needs a while to find the server again: else nothing would ever run between troubles."""
        name = f"probe-{len(self.made)}"
        path = "/api/v1/namespaces/default/pods"
        container = {"name": "c", "image": "example.org/task:1"}
        spec = {"restartPolicy": "Never", "containers": [container]}
        body = {"metadata": {"name": name}, "spec": spec}

        def ran() -> bool:
            with contextlib.suppress(Exception):
                self.lab.admin.create(path, body)
                return bool(self.lab.admin.get(f"{path}/{name}")["status"].get("phase") == "Succeeded")
            return False

        until(ran, 120)
        self.lab.admin.delete(f"{path}/{name}")

    def _runner(self) -> None:
        self.runner.send_signal(signal.SIGKILL)
        self.runner.wait()
        for _ in range(5):
            self.runner = self.begin()
            if self.runner.poll() in (None, 0):
                break

    def _pods(self) -> None:
        with contextlib.suppress(ApiError):
            pods = [one["metadata"]["name"] for one in self.lab.client.list(PODS).items
                    if one["status"].get("phase") in ("Running", "Pending")]  # fmt: skip
            for name in self.chance.sample(pods, min(3, len(pods))):
                with contextlib.suppress(ApiError):
                    self.lab.client.delete(PODS, name)

    def _node(self) -> None:
        with contextlib.suppress(ApiError):
            nodes = {one["spec"].get("nodeName") for one in self.lab.client.list(PODS).items
                     if one["status"].get("phase") == "Running"}  # fmt: skip
            if nodes := sorted(nodes - {None}):
                self.lab.bed.fail_node(self.chance.choice(nodes))
                self.lab.bed.add_nodes(1)


def results(lab: Lab) -> dict[str, Any]:
    """What does not depend on when and on which attempt."""
    kept = ("step", "task", "params", "metrics", "outputs", "inputs", "data", "code")
    return {path: {key: one[key] for key in kept} for path, one in lab.records("result.json").items()}


def disturbed(
    lab: Lab,
    seed: int,
    tasks: int,
    *,
    troubles: int,
    at_once: int,
    seconds: int,
    pause: tuple[float, float],
    most: float,
) -> None:
    chance = random.Random(seed)
    numbers = ", ".join(map(str, range(tasks)))
    lab.study(STUDY.format(numbers=numbers, seconds=seconds, most=at_once))
    proxy = Proxy(lab.bed.server)
    try:
        lab.kubeconfig = lab.bed.namespace_user(lab.namespace, server=proxy.address)
        trouble = Trouble(lab, proxy, chance)
        end = time.monotonic() + most
        while trouble.runner.poll() is None and time.monotonic() < end:
            time.sleep(chance.uniform(*pause))
            if trouble.runner.poll() is None and len(trouble.made) < troubles:
                trouble.make()
        assert trouble.runner.poll() is not None, f"not done in {most} s after {trouble.made}"
        assert set(trouble.made) == set(KINDS), trouble.made
    finally:
        lab.kubeconfig = lab.bed.namespace_user(lab.namespace)
        proxy.close()
    # Whatever the last runner came to, the next one finds nothing lost.
    lab.shoal("run", "s.yaml", "--on", "lab", seconds=most)
    total = 1 + 2 * tasks
    assert len(results(lab)) == total
    assert lab.counts() == {"done": total}
    ended: dict[str, list[tuple[int, str]]] = {}
    for record in lab.records("attempt.json").values():
        assert record["state"] == "ended"
        assert record["outcome"] == "succeeded" or record["failure"]["class"] in ("preempted", "node-lost"), record
        ended.setdefault(record["task"], []).append((record["attempt"], record["outcome"]))
    for task, attempts in ended.items():
        outcomes = [outcome for _, outcome in sorted(attempts)]
        assert outcomes == ["failed"] * (len(outcomes) - 1) + ["succeeded"], f"{task}: {outcomes} after {trouble.made}"
    # The same without any trouble, in a store of its own.
    first = results(lab)
    (lab.root / "runs-lab").rename(lab.root / "disturbed")
    lab.study(STUDY.format(numbers=numbers, seconds=seconds, most=tasks))
    lab.cluster(store="/other")
    lab.shoal("run", "s.yaml", "--on", "lab", seconds=most)
    assert json.dumps(results(lab), sort_keys=True) == json.dumps(first, sort_keys=True)


@pytest.mark.timeout(600)
def test_each_trouble_once(lab: Lab) -> None:
    disturbed(lab, seed=1, tasks=20, troubles=6, at_once=5, seconds=2, pause=(0.5, 1.5), most=240)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_troubles(lab: Lab, seed: int) -> None:
    disturbed(lab, seed=seed, tasks=100, troubles=30, at_once=16, seconds=3, pause=(1.0, 4.0), most=900)
