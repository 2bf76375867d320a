"""What every executor must do: one suite, run for each of them with real processes.

A class for an executor derives from ``ExecutorContract`` and gives ``make``; a place without a local file system
also overrides how files are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import gone, until
from shoal.agent import agent
from shoal.executors import AttemptKey, AttemptSpec, Ended, Executor, Failure, Resources, Started
from shoal.failures import FailureClass

SRC = Path(__file__).parents[2] / "src"


class Bench:
    """An executor under test and the tasks that it is given."""

    #: Python as tasks see it.
    python = sys.executable

    def __init__(self, root: Path, executor: Executor) -> None:
        self.root, self.executor = root, executor
        self.events: list[Started | Ended] = []

    def spec(self, argv: list[str] | str, task: str = "aaaaaaaaaaaa", number: int = 1, **changes: Any) -> AttemptSpec:
        """Return the specification of an attempt; a text is a shell command that starts in the task's folder."""
        folder = self.root / task
        folder.mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "study": "pond",
            "step": "train",
            "params": {"lr": 0.1},
            "cwd": folder,
            "executor": self.executor.name,
            "resources": Resources(cpu=0.5),
            "grace": 5.0,
            "sample_every": 0.2,
            **changes,
        }
        return AttemptSpec(
            task=task,
            attempt=number,
            argv=("sh", "-c", argv) if isinstance(argv, str) else tuple(argv),
            task_dir=folder,
            attempt_dir=folder / "attempts" / str(number),
            out=folder / "out",
            checkpoints=folder / "checkpoints",
            **values,
        )

    def wait(self, *keys: AttemptKey, seconds: float = 40) -> dict[AttemptKey, Ended]:
        """Wait until these have ended; each must be reported once, and started before it ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = {event.key: event for event in self.events if isinstance(event, Ended)}
            if set(keys) <= set(ended):
                assert len(ended) == sum(isinstance(event, Ended) for event in self.events)
                return ended
            self.events += self.executor.wait(1.0)
        raise AssertionError(f"not ended in {seconds} s: {self.events}")

    def run(self, argv: list[str] | str, **changes: Any) -> Ended:
        """Run an attempt to its end."""
        spec = self.spec(argv, **changes)
        assert self.executor.impossible(spec.resources) is None
        assert self.executor.fits(spec.resources)
        self.executor.start(spec)
        return self.wait(spec.key)[spec.key]

    def failure(self, argv: list[str] | str, **changes: Any) -> Failure:
        """Run an attempt that fails, and return how; its record must say the same."""
        ended = self.run(argv, **changes)
        assert ended.outcome == "failed"
        assert ended.failure is not None
        record = self.record(ended.key)
        assert record["outcome"] == "failed"
        assert Failure.from_json(record["failure"]) == ended.failure
        assert not (self.root / ended.key.task / "result.json").exists()
        return ended.failure

    def another(self, executor: Executor) -> Bench:
        """The same tasks in the hands of another executor."""
        return type(self)(self.root, executor)

    def gone(self, pid: int) -> bool:
        """Whether a process of a task has ended."""
        return gone(pid)

    def kill_agent(self, key: AttemptKey) -> None:
        """Kill the agent of a running attempt."""
        os.kill(self.record(key)["pid"], signal.SIGKILL)

    def record(self, key: AttemptKey) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.attempt(key) / "attempt.json").read_text())
        return found

    def attempt(self, key: AttemptKey) -> Path:
        return self.root / key.task / "attempts" / str(key.number)

    def log(self, key: AttemptKey) -> str:
        return (self.attempt(key) / "log.txt").read_text()

    def runner(self, spec: AttemptSpec) -> subprocess.Popen[bytes]:
        """Start an attempt from a runner of its own, to be killed."""
        path = self.root / f"{spec.task}-{spec.attempt}.handed.json"
        path.write_text(json.dumps(spec.to_json()))
        kind = type(self.executor)
        program = (
            "import json, sys, time\n"
            "from shoal.executors import AttemptSpec\n"
            f"from {kind.__module__} import {kind.__name__} as Executor\n"
            "executor = Executor()\n"
            "executor.start(AttemptSpec.from_json(json.load(open(sys.argv[1]))))\n"
            "while True: executor.wait(60)\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(SRC)},
        )


class ExecutorContract:
    """The suite."""

    def make(self) -> Executor:
        raise NotImplementedError

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        made = Bench(tmp_path, self.make())
        yield made
        made.executor.close()

    # -- results

    def test_a_success_has_its_metrics_its_parameters_and_its_log(self, bench: Bench) -> None:
        ended = bench.run("echo hi; echo '{\"iou\": 0.5}' > out/metrics.json")
        assert ended == Ended(AttemptKey("aaaaaaaaaaaa", 1), "succeeded")
        result = json.loads((bench.root / "aaaaaaaaaaaa" / "result.json").read_text())
        assert result["metrics"] == {"iou": 0.5}
        assert result["params"] == {"lr": 0.1}
        assert bench.log(ended.key) == "hi\n"
        assert [type(event) for event in bench.events] == [Started, Ended]
        assert bench.record(ended.key)["outcome"] == "succeeded"

    def test_the_spec_on_disk_is_the_one_that_was_given(self, bench: Bench) -> None:
        spec = bench.spec("true", resources=Resources(cpu=0.5, memory=1 << 28), timeout=60.0, env={"A": "b"})
        bench.executor.start(spec)
        bench.wait(spec.key)
        assert AttemptSpec.from_json(json.loads(spec.path.read_text())) == spec

    def test_many_attempts_end_each_in_its_own_way(self, bench: Bench) -> None:
        specs = [bench.spec(f"exit {number % 2}", task=f"{number:012x}") for number in range(12)]
        todo, keys = list(specs), [spec.key for spec in specs]
        while todo:
            while todo and bench.executor.fits(todo[-1].resources):
                bench.executor.start(todo.pop())
            bench.events += bench.executor.wait(5)
        ended = bench.wait(*keys)
        assert [ended[key].outcome for key in keys] == ["succeeded", "failed"] * 6

    def test_waiting_for_nothing_takes_the_time_it_was_given(self, bench: Bench) -> None:
        begin = time.monotonic()
        assert bench.executor.wait(0.2) == []
        assert 0.1 < time.monotonic() - begin < 5

    # -- failures

    def test_a_failure_says_what_was_raised_and_where(self, bench: Bench) -> None:
        (bench.root / "train.py").write_text("raise ValueError('no such optimizer')\n")
        failure = bench.failure([bench.python, "-S", str(bench.root / "train.py")])
        assert failure.kind is FailureClass.USER
        assert failure.message == "The command failed with ValueError: no such optimizer (train.py, line 1)."

    def test_a_command_that_is_not_there_is_told(self, bench: Bench) -> None:
        failure = bench.failure(["no-such-program"])
        assert failure.kind is FailureClass.USER
        assert "not found" in failure.message, failure

    def test_a_folder_that_is_not_there_is_named(self, bench: Bench) -> None:
        failure = bench.failure("true", cwd=Path("/no/such/folder"))
        assert failure.kind is FailureClass.USER
        assert "/no/such/folder" in failure.message

    def test_what_takes_too_long_is_ended(self, bench: Bench) -> None:
        assert bench.failure("sleep 60", timeout=0.3).kind is FailureClass.TIMEOUT

    def test_what_says_nothing_for_too_long_is_ended(self, bench: Bench) -> None:
        assert bench.failure("echo once; sleep 60", stall=0.3).kind is FailureClass.STALLED

    def test_out_of_memory_on_the_gpu(self, bench: Bench) -> None:
        said = (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. "
            "GPU 0 has a total capacity of 23.69 GiB of which 1.2 GiB is free."
        )
        failure = bench.failure(["sh", "-c", 'echo "$1" >&2; exit 1', "sh", said])
        assert failure.kind is FailureClass.OOM_GPU
        assert failure.message == "Out of GPU memory: could not get another 2.00 GiB on a GPU of 23.69 GiB."

    def test_out_of_memory_on_the_host(self, bench: Bench) -> None:
        program = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28,) * 2); bytearray(1 << 34)"
        assert bench.failure([bench.python, "-S", "-c", program]).kind is FailureClass.OOM_HOST

    # -- output

    def test_secrets_are_masked(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POND_TOKEN", "s3cret-value")
        ended = bench.run("printf s3cret; sleep 0.1; echo -value; echo $POND_TOKEN", secrets=("POND_TOKEN",))
        assert bench.log(ended.key) == "***\n***\n"

    def test_much_output_is_kept_whole(self, bench: Bench) -> None:
        ended = bench.run([bench.python, "-S", "-c", "import os\nfor _ in range(160): os.write(1, b'x' * 65536)"])
        assert ended.outcome == "succeeded"
        assert (bench.attempt(ended.key) / "log.txt").stat().st_size == 160 * 65536

    def test_output_that_is_not_utf_8_is_made_so(self, bench: Bench) -> None:
        assert bench.log(bench.run(r"printf '\377\n'").key) == "\ufffd\n"

    # -- attempts

    def test_out_is_emptied_and_checkpoints_survive(self, bench: Bench) -> None:
        assert bench.run("touch out/a checkpoints/b; exit 1").outcome == "failed"
        second = bench.run("ls -A out checkpoints", number=2)
        assert bench.log(second.key).split() == ["checkpoints:", "b", "out:"]

    def test_what_is_started_twice_runs_once(self, bench: Bench) -> None:
        spec = bench.spec("echo ran >> count")
        bench.executor.start(spec)
        bench.executor.start(spec)
        bench.wait(spec.key)
        other = bench.another(self.make())  # another runner that knows nothing of it
        try:
            other.executor.start(spec)
            assert other.wait(spec.key)[spec.key].outcome == "succeeded"
        finally:
            other.executor.close()
        assert (bench.root / spec.task / "count").read_text() == "ran\n"

    def test_leftover_grandchildren_are_ended(self, bench: Bench) -> None:
        ended = bench.run("sh -c 'echo $$ > pid; exec sleep 100' & while [ ! -s pid ]; do :; done")
        assert ended.outcome == "succeeded"
        assert bench.gone(int((bench.root / "aaaaaaaaaaaa" / "pid").read_text()))

    def test_leftovers_in_a_session_of_their_own_are_ended(self, bench: Bench) -> None:
        program = (
            "import os; os.setsid(); open('pid', 'w').write(str(os.getpid())); os.execvp('sleep', ['sleep', '100'])"
        )
        ended = bench.run(f'{bench.python} -S -c "{program}" & while [ ! -s pid ]; do :; done')
        assert ended.outcome == "succeeded"
        until(lambda: bench.gone(int((bench.root / "aaaaaaaaaaaa" / "pid").read_text())))


class Concurrent(ExecutorContract):
    """What an executor must do besides if attempts run while ``wait`` does not."""

    def begin(self, bench: Bench, script: str, **changes: Any) -> AttemptSpec:
        """Start an attempt and wait until its command runs; it writes its pid to ``pid``."""
        spec = bench.spec(f"echo $$ > pid.new; mv pid.new pid; {script}", **changes)
        bench.executor.start(spec)
        until(lambda: (spec.cwd / "pid").exists())
        return spec

    def test_a_stop_leaves_time_to_save(self, bench: Bench) -> None:
        spec = self.begin(bench, "trap 'sleep 0.2; echo saved; exit 0' TERM; while :; do sleep 0.05; done")
        bench.executor.stop([spec.key], "preempted")
        ended = bench.wait(spec.key)[spec.key]
        assert ended.failure is not None
        assert ended.failure.kind is FailureClass.PREEMPTED
        assert "saved" in bench.log(spec.key)
        assert not (bench.root / spec.task / "result.json").exists()

    def test_a_stop_at_once_leaves_no_time(self, bench: Bench) -> None:
        spec = self.begin(bench, "trap '' TERM; while :; do sleep 0.05; done", grace=100.0)
        begin = time.monotonic()
        bench.executor.stop([spec.key], "cancelled", now=True)
        ended = bench.wait(spec.key)[spec.key]
        assert ended.failure is not None
        assert ended.failure.kind is FailureClass.CANCELLED
        assert time.monotonic() - begin < 10
        assert bench.gone(int((spec.cwd / "pid").read_text()))

    def test_a_second_stop_ends_the_grace_of_the_first(self, bench: Bench) -> None:
        spec = self.begin(bench, "trap '' TERM; while :; do sleep 0.05; done", grace=100.0)
        bench.executor.stop([spec.key], "cancelled")
        time.sleep(0.2)
        assert not bench.gone(int((spec.cwd / "pid").read_text()))
        bench.executor.stop([spec.key], "cancelled", now=True)
        assert bench.wait(spec.key)[spec.key].outcome == "failed"

    def test_a_stop_of_others_is_ignored(self, bench: Bench) -> None:
        spec = self.begin(bench, "sleep 0.5")
        bench.executor.stop([AttemptKey("bbbbbbbbbbbb", 1)], "cancelled", now=True)
        assert bench.wait(spec.key)[spec.key].outcome == "succeeded"

    def test_any_runner_can_stop_what_another_one_started(self, bench: Bench) -> None:
        spec = self.begin(bench, "sleep 100")
        other = bench.another(self.make())
        try:
            assert other.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
            other.executor.stop([spec.key], "cancelled")
            for each in (other, bench):
                failure = each.wait(spec.key)[spec.key].failure
                assert failure is not None
                assert failure.kind is FailureClass.CANCELLED
        finally:
            other.executor.close()

    def test_a_killed_agent_takes_its_command_along_and_the_node_is_lost(self, bench: Bench) -> None:
        spec = self.begin(bench, "touch checkpoints/c; sh -c 'echo $$ > child; sleep 100'; true")
        until(lambda: (spec.cwd / "child").exists() and (spec.cwd / "child").read_text())
        bench.kill_agent(spec.key)
        ended = bench.wait(spec.key)[spec.key]
        assert ended.failure is not None
        assert ended.failure.kind is FailureClass.NODE_LOST
        for name in ("pid", "child"):
            assert bench.gone(int((spec.cwd / name).read_text()))
        record = bench.record(spec.key)
        assert (record["state"], record["outcome"]) == ("ended", "failed")
        assert record["checkpointed"] is not None
        assert bench.run("true", number=2).outcome == "succeeded"

    def test_what_outlives_its_runner_is_adopted(self, bench: Bench) -> None:
        """The runner and all of its helpers are killed; the attempt goes on and the next runner hears of its end."""
        spec = bench.spec("echo $$ > pid.new; mv pid.new pid; while [ ! -e go ]; do sleep 0.05; done; echo done")
        runner = bench.runner(spec)
        until(lambda: (spec.cwd / "pid").exists())
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
        assert not bench.gone(int((spec.cwd / "pid").read_text()))
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
        bench.executor.start(spec)
        assert bench.executor.wait(0.3) == []
        (spec.cwd / "go").touch()
        assert bench.wait(spec.key)[spec.key].outcome == "succeeded"
        assert bench.log(spec.key) == "done\n"

    def test_what_ended_meanwhile_is_adopted_with_its_end(self, bench: Bench) -> None:
        spec = bench.spec("echo $$ > pid.new; mv pid.new pid; while [ ! -e go ]; do sleep 0.05; done; exit 3")
        runner = bench.runner(spec)
        until(lambda: (spec.cwd / "pid").exists())
        runner.kill()
        runner.wait()
        (spec.cwd / "go").touch()
        until(lambda: bench.record(spec.key)["state"] == "ended")
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
        failure = bench.wait(spec.key)[spec.key].failure
        assert failure is not None
        assert "exit code 3" in failure.message

    def test_adoption_of_what_no_agent_has_begun(self, bench: Bench) -> None:
        spec = bench.spec("echo ran > ran")
        spec.attempt_dir.mkdir(parents=True)
        agent.write_json_atomic(str(spec.path), spec.to_json())
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
        failure = bench.wait(spec.key)[spec.key].failure
        assert failure is not None
        assert failure.kind is FailureClass.NODE_LOST
        late = subprocess.run([sys.executable, "-S", agent.__file__, str(spec.path)], check=False)
        assert late.returncode == agent.EXIT_CLAIMED
        assert not (spec.cwd / "ran").exists()
        assert bench.run("true", number=2).outcome == "succeeded"

    def test_adoption_of_what_was_never_handed_over(self, bench: Bench) -> None:
        spec = bench.spec("true")
        spec.attempt_dir.mkdir(parents=True)
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == set()

    @pytest.mark.chaos
    def test_agents_killed_at_random(self, bench: Bench) -> None:
        """At whatever moment an agent is killed: a whole result or none, no orphan, no second start."""
        chance = random.Random(20)
        script = (
            "echo $$ >> pids; echo start >> count; for i in 1 2 3 4 5 6; do head -c 20000 /dev/zero > out/$i; "
            "echo $i; sleep 0.01; done; echo '{\"a\": 1}' > out/metrics.json"
        )
        outcomes = []
        for turn in range(20):
            spec = bench.spec(script, task=f"{turn:012x}")
            bench.executor.start(spec)
            heartbeat = spec.attempt_dir / "heartbeat"
            until(heartbeat.exists)
            pid = json.loads(heartbeat.read_text())["pid"]
            time.sleep(chance.random() * 0.16)
            record = agent.read_json(str(spec.attempt_dir / "attempt.json"))
            if record is None or record["state"] == "running":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ended = bench.wait(spec.key)[spec.key]
            outcomes.append(ended.outcome)
            result = spec.task_dir / "result.json"
            assert result.exists() == (ended.outcome == "succeeded")
            if result.exists():
                whole = json.loads(result.read_text())
                assert whole["metrics"] == {"a": 1}
                assert whole["outputs"] == agent.digest_tree(str(spec.out))
            else:
                assert ended.failure is not None
                assert ended.failure.kind is FailureClass.NODE_LOST
            marker = f"SHOAL_SPEC={spec.path}".encode()
            assert not [each for each in agent.processes() if agent._marked(each, b"\0" + marker + b"\0")]
            pids = spec.cwd / "pids"
            assert all(bench.gone(int(line)) for line in (pids.read_text().split() if pids.exists() else []))
            count = spec.cwd / "count"
            assert not count.exists() or count.read_text() == "start\n"
        assert "failed" in outcomes
