"""The debug executor: the contract, and that it stands in front of a person."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from processes import gone, until
from shoal.executors import Ended, Executor, Resources
from shoal.executors.debug import DebugExecutor
from shoal.failures import FailureClass

from .suite import SRC, Bench, ExecutorContract


class TestDebug(ExecutorContract):
    def make(self) -> Executor:
        return DebugExecutor()

    def test_output_is_shown(self, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
        bench.run("echo hello")
        assert capfd.readouterr().out == "hello\n"

    def test_the_command_reads_the_terminal(self, bench: Bench) -> None:
        spec = bench.spec("read line; echo got $line")
        program = (
            "import json, sys\n"
            "from shoal.executors import AttemptSpec, Ended\n"
            "from shoal.executors.debug import DebugExecutor\n"
            "executor = DebugExecutor()\n"
            "executor.start(AttemptSpec.from_json(json.loads(sys.argv[1])))\n"
            "while not any(isinstance(event, Ended) for event in executor.wait(1)): pass\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(spec.to_json())],
            input=b"a word\n",
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(SRC)},
            check=True,
        )
        assert done.stdout == b"got a word\n"

    def test_attempts_run_one_at_a_time(self, bench: Bench) -> None:
        bench.executor.start(bench.spec("true"))
        assert not bench.executor.fits(Resources())
        assert bench.executor.impossible(Resources(nodes=2)) is not None

    def test_what_waits_can_be_stopped(self, bench: Bench) -> None:
        spec = bench.spec("touch ran")
        bench.executor.start(spec)
        bench.executor.stop([spec.key], "cancelled")
        failure = bench.wait(spec.key)[spec.key].failure
        assert failure is not None
        assert failure.kind is FailureClass.CANCELLED
        assert not (spec.cwd / "ran").exists()

    def test_interrupt_stops_the_attempt_and_is_passed_on(self, bench: Bench) -> None:
        spec = bench.spec("trap 'touch saved; exit' TERM; touch up; while :; do sleep 0.05; done")
        bench.executor.start(spec)
        before = signal.getsignal(signal.SIGTERM)

        def interrupt() -> None:
            until((spec.cwd / "up").exists)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        # Whoever starts the tests in the background may have them ignore it.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                bench.wait(spec.key)
        finally:
            signal.signal(signal.SIGINT, ours)
        thread.join()
        assert (spec.cwd / "saved").exists()
        assert bench.record(spec.key)["failure"]["class"] == "cancelled"
        assert signal.getsignal(signal.SIGTERM) is before

    def test_it_works_off_the_main_thread(self, bench: Bench) -> None:
        ended: list[Ended] = []
        thread = threading.Thread(target=lambda: ended.append(bench.run("echo hi; sleep 0.1")))
        thread.start()
        thread.join(30)
        assert ended[0].outcome == "succeeded"

    def test_a_killed_process_takes_the_command_along(self, bench: Bench) -> None:
        spec = bench.spec("echo $$ > pid.new; mv pid.new pid; while :; do sleep 0.1; done")
        runner = bench.runner(spec)
        until((spec.cwd / "pid").exists)
        runner.kill()
        runner.wait()
        assert bench.executor.adopt([(spec.attempt_dir, spec.key)]) == {spec.key}
        failure = bench.wait(spec.key)[spec.key].failure
        assert failure is not None
        assert failure.kind is FailureClass.NODE_LOST
        assert gone(int(Path(spec.cwd / "pid").read_text()))
