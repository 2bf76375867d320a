"""The local executor: the contract, slots, and what its server may go through."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from processes import gone, until
from shoal.agent import agent
from shoal.errors import UsageError
from shoal.executors import AttemptKey, Executor, Resources
from shoal.executors.local import Gpu, LocalExecutor, count_cpus, find_gpus, find_memory
from shoal.failures import FailureClass

from .suite import Bench, Concurrent

GIB = 1 << 30


class TestLocal(Concurrent):
    def make(self) -> Executor:
        return LocalExecutor(cpus=2)

    def server(self, bench: Bench) -> int:
        assert isinstance(bench.executor, LocalExecutor)
        assert bench.executor._server is not None
        return bench.executor._server._process.pid

    def test_a_killed_server_takes_nothing_along(self, bench: Bench) -> None:
        first = self.begin(bench, "while [ ! -e go ]; do sleep 0.05; done")
        bench.events += bench.executor.wait(5)
        os.kill(self.server(bench), signal.SIGKILL)
        second = bench.spec("echo $$ > pid", task="bbbbbbbbbbbb")
        bench.executor.start(second)
        assert bench.wait(second.key)[second.key].outcome == "succeeded"
        assert not gone(int((first.cwd / "pid").read_text()))
        (first.cwd / "go").touch()
        assert bench.wait(first.key)[first.key].outcome == "succeeded"

    def test_a_server_killed_before_it_hears(self, bench: Bench) -> None:
        assert bench.run("true").outcome == "succeeded"
        os.kill(self.server(bench), signal.SIGSTOP)
        spec = bench.spec("echo ran >> count", task="bbbbbbbbbbbb")
        bench.executor.start(spec)
        os.kill(self.server(bench), signal.SIGKILL)
        assert bench.wait(spec.key)[spec.key].outcome == "succeeded"
        assert (spec.cwd / "count").read_text() == "ran\n"

    def test_nothing_is_left_when_it_is_closed(self, bench: Bench) -> None:
        bench.run("true")
        server = self.server(bench)
        worker = bench.record(AttemptKey("aaaaaaaaaaaa", 1))["pid"]
        assert not gone(worker)  # it waits for its next attempt
        bench.executor.close()
        until(lambda: gone(server) and gone(worker))

    def test_a_stop_does_not_reach_the_next_attempt_of_an_agent(self, bench: Bench) -> None:
        first = bench.run("true")
        pid = bench.record(first.key)["pid"]
        second = self.begin(bench, "sleep 0.5", task="bbbbbbbbbbbb")
        assert bench.record(second.key)["pid"] == pid
        agent.nudge(pid)  # a stop meant for the first one, come late
        assert bench.wait(second.key)[second.key].outcome == "succeeded"

    def test_gpus_are_given_to_one_at_a_time(self, tmp_path: Path) -> None:
        executor = LocalExecutor(cpus=8, gpus=[Gpu(0, "NVIDIA A10", 24 * GIB), Gpu(3, "NVIDIA A100", 80 * GIB)])
        bench = Bench(tmp_path, executor)
        one = Resources(gpu=1)
        specs = [bench.spec("echo $CUDA_VISIBLE_DEVICES; sleep 0.3", task=f"{n:012x}", resources=one) for n in range(2)]
        try:
            for spec in specs:
                assert executor.fits(one)
                executor.start(spec)
            assert not executor.fits(one)
            with pytest.raises(UsageError):
                executor.start(bench.spec("true", task="cccccccccccc", resources=one))
            bench.wait(*(spec.key for spec in specs))
            assert sorted(bench.log(spec.key) for spec in specs) == ["0\n", "3\n"]
            assert executor.fits(Resources(gpu=2))
            large = bench.run(
                "echo $CUDA_VISIBLE_DEVICES", task="dddddddddddd", resources=Resources(gpu=1, gpu_type=("a100",))
            )
            assert bench.log(large.key) == "3\n"
        finally:
            executor.close()

    def test_adopted_attempts_hold_their_slots(self, bench: Bench, tmp_path: Path) -> None:
        spec = self.begin(bench, "while [ ! -e go ]; do sleep 0.05; done", resources=Resources(cpu=1.5, memory=GIB))
        other = LocalExecutor(cpus=2, memory=2 * GIB)
        try:
            other.adopt([(spec.attempt_dir, spec.key)])
            assert not other.fits(Resources(cpu=1))
            assert not other.fits(Resources(cpu=0.5, memory=GIB + 1))
            assert other.fits(Resources(cpu=0.5, memory=GIB))
            (spec.cwd / "go").touch()
            until(lambda: other.wait(1))
            assert other.fits(Resources(cpu=2, memory=2 * GIB))
        finally:
            other.close()
        bench.wait(spec.key)

    def test_an_agent_on_another_machine(self, bench: Bench) -> None:
        """By its heartbeat: alive while that is fresh, lost when it is old."""
        spec = bench.spec("true")
        spec.attempt_dir.mkdir(parents=True)
        agent.write_json_atomic(str(spec.path), spec.to_json())
        heartbeat = spec.attempt_dir / "heartbeat"
        heartbeat.write_text(json.dumps({"host": "elsewhere", "pid": 1, "pid_start": "1"}))
        record = {
            "state": "running",
            "host": "elsewhere",
            "started": agent.now(),
            "group": os.getpid(),
            "group_start": "x",
        }
        agent.write_json_atomic(str(spec.attempt_dir / "attempt.json"), record)
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
        assert bench.executor.wait(0.7) == []
        os.utime(heartbeat, (1, 1))
        failure = bench.wait(spec.key)[spec.key].failure
        assert failure is not None
        assert failure.kind is FailureClass.NODE_LOST


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (Resources(nodes=2), "asks for 2 nodes, and this is one machine"),
        (Resources(cpu=5), "asks for 5 CPUs, and this machine has 4"),
        (Resources(memory=9 * GIB), "of memory, and this machine has"),
        (Resources(gpu=3), "asks for 3 GPUs, and this machine has 2"),
        (
            Resources(gpu=2, gpu_type=("a10", "l4")),
            "asks for 2 GPUs of a10 or l4, and this machine has 1 such (NVIDIA A10, NVIDIA A100",
        ),
        (Resources(gpu=1, gpu_memory=90 * GIB), "of any type with 90"),
    ],
)
def test_impossible(resources: Resources, sentence: str) -> None:
    gpus = [Gpu(0, "NVIDIA A10", 24 * GIB), Gpu(1, "NVIDIA A100-SXM4-80GB", 80 * GIB)]
    executor = LocalExecutor(cpus=4, memory=8 * GIB, gpus=gpus)
    why = executor.impossible(resources)
    assert why is not None
    assert sentence in why
    assert why.endswith(".")
    assert not executor.fits(resources)


@pytest.mark.parametrize(
    ("name", "kind", "same"),
    [
        ("NVIDIA GeForce RTX 3090", "rtx3090", True),
        ("NVIDIA GeForce RTX 3090", "RTX-3090", True),
        ("NVIDIA A100-SXM4-80GB", "a100", True),
        ("NVIDIA A100-SXM4-80GB", "a10", False),
        ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-SXM4-80GB", True),
        ("NVIDIA L40", "l4", False),
        ("NVIDIA RTX A6000", "rtxa6000", True),
        ("Quadro RTX 8000", "quadro-rtx-8000", True),
    ],
)
def test_types_of_gpus(name: str, kind: str, same: bool) -> None:
    assert Gpu(0, name).suits((kind,), None) is same
    assert Gpu(0, name).suits(("other", kind), None) is same


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_CPUS", raising=False)
    assert 0 < count_cpus() <= (os.cpu_count() or 1)
    assert 1 << 26 < find_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setenv("SHOAL_CPUS", "12")
    assert count_cpus() == 12
    monkeypatch.setenv("SHOAL_GPUS", "2")
    assert find_gpus() == [Gpu(0), Gpu(1)]
    for name, ask in (("SHOAL_GPUS", find_gpus), ("SHOAL_CPUS", count_cpus)):
        monkeypatch.setenv(name, "many")
        with pytest.raises(UsageError, match="many"):
            ask()
