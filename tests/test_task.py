"""``shoal.task()``: in a real attempt, by hand, and misused."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.executors import AttemptSpec
from shoal.executors.local import LocalExecutor

SRC = Path(__file__).parents[1] / "src"


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> shoal.Task:
    monkeypatch.delenv("SHOAL_SPEC", raising=False)
    return shoal.task(
        params={"lr": 0.1, "seed": 3}, out=tmp_path / "out", inputs={"chips": ["a", "b"]}, data={"r": "/r"}
    )


def lines(task: shoal.Task) -> list[dict[str, Any]]:
    text = (task.out / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


class Attempt:
    """An attempt of a script at the local executor."""

    def __init__(self, root: Path, script: str, **changes: Any) -> None:
        (root / "script.py").write_text(textwrap.dedent(script))
        values: dict[str, Any] = {"params": {"lr": 0.1, "seed": 7}, "grace": 10.0, **changes}
        self.spec = AttemptSpec(
            study="pond", step="train", task="0123456789ab", attempt=1, argv=(sys.executable, str(root / "script.py")),
            cwd=root, task_dir=root, attempt_dir=root / "attempts" / "1", out=root / "out", checkpoints=root / "checkpoints",
            executor="local", env={"PYTHONPATH": str(SRC)}, **values,
        )  # fmt: skip
        self.executor = LocalExecutor(cpus=4)
        self.executor.start(self.spec)

    def end(self) -> str:
        """Wait for the end; return the log."""
        seen: list[Any] = []
        while not any(isinstance(event, shoal_ended()) for event in seen):
            seen += self.executor.wait(10)
        self.executor.close()
        return (self.spec.attempt_dir / "log.txt").read_text()


def shoal_ended() -> type:
    from shoal.executors import Ended

    return Ended


def test_in_a_task(tmp_path: Path) -> None:
    attempt = Attempt(
        tmp_path,
        """
        import os, shoal
        task = shoal.task()
        assert task is shoal.task()
        print(dict(task.params), task.seed, task.study, task.step, task.id, task.attempt)
        print(task.inputs["chips"][1].name, task.data["r"], task.out.name, task.checkpoints.is_dir(), task.stopping)
        task.log({"loss": 0.5}, step=1)
        task.log({"loss": 0.25, "iou": 1}, step=2)
        if os.fork() == 0:
            task.log({"child": 1})
            os._exit(0)
        os.wait()
        """,
        inputs={"chips": (Path("/a/one"), Path("/a/two"))},
        data={"r": (Path("/rasters"), "d")},
    )
    log = attempt.end()
    assert log.splitlines() == [
        "{'lr': 0.1, 'seed': 7} 7 pond train 0123456789ab 1",
        "two /rasters out True False",
    ]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"] == {"loss": 0.25, "iou": 1, "child": 1}
    environment = json.loads((attempt.spec.attempt_dir / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "pytest" in environment["packages"]
    assert environment["devices"] == []


def test_stopping(tmp_path: Path) -> None:
    attempt = Attempt(
        tmp_path,
        """
        import time, shoal
        task = shoal.task()
        while not task.stopping:
            (task.checkpoints / "up").touch()
            time.sleep(0.02)
        print("saved")
        """,
    )
    while not (tmp_path / "checkpoints" / "up").exists():
        time.sleep(0.02)
    attempt.executor.stop([attempt.spec.key], "preempted")
    assert attempt.end() .splitlines()[-1] == "saved"  # fmt: skip


def test_the_request_on_disk_is_seen_in_a_thread(tmp_path: Path) -> None:
    """There is no handler in a thread, and the process may ignore the signal."""
    attempt = Attempt(
        tmp_path,
        """
        import signal, threading, time, shoal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        def work():
            task = shoal.task()
            while not task.stopping:
                (task.checkpoints / "up").touch()
                time.sleep(0.02)
            print("saved")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
    )
    while not (tmp_path / "checkpoints" / "up").exists():
        time.sleep(0.02)
    attempt.executor.stop([attempt.spec.key], "cancelled")
    assert attempt.end().splitlines()[-1] == "saved"


SIGNALS = """
import os, signal, sys, time, shoal
signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
task = shoal.task(params={}, out=sys.argv[1])
assert not task.stopping
worker = os.fork()
if worker == 0:
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    print("worker", flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(0.2)
os.kill(worker, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(worker, 0)[1]) if sys.argv[2] == "default" else "-", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
assert task.stopping
"""


def test_handlers_are_chained(tmp_path: Path) -> None:
    script = SIGNALS.replace("worker = os.fork()", "worker = 1").replace("if worker == 0:", "if False:")
    script = script.replace("os.kill(worker, signal.SIGTERM)\n", "")
    said = run_script(script, str(tmp_path), "own")
    assert said.split() == ["-", "mine"]


def test_a_forked_worker_can_be_ended_by_its_parent(tmp_path: Path) -> None:
    """As data loaders do. It must neither swallow the signal nor take it for the task's."""
    script = SIGNALS.replace('signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))\n', "")
    assert run_script(script, str(tmp_path), "default").split() == ["worker", str(int(signal.SIGTERM))]


def run_script(script: str, *args: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "SHOAL_SPEC"}
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**env, "PYTHONPATH": str(SRC)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- by hand


def test_by_hand(by_hand: shoal.Task, tmp_path: Path) -> None:
    assert by_hand.params["lr"] == 0.1
    assert by_hand.seed == 3
    assert by_hand.out == tmp_path / "out"
    assert by_hand.checkpoints.is_dir()
    assert by_hand.inputs == {"chips": [Path("a"), Path("b")]}
    assert by_hand.data == {"r": Path("/r")}
    assert (by_hand.study, by_hand.id, by_hand.attempt) == (None, None, 1)
    by_hand.log({"loss": 1})
    assert lines(by_hand)[0]["metrics"] == {"loss": 1}


@pytest.mark.parametrize("given", [{}, {"params": {}}, {"out": "x"}])
def test_outside_of_a_task(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    monkeypatch.delenv("SHOAL_SPEC", raising=False)
    with pytest.raises(shoal.TaskError, match="outside of a task") as caught:
        shoal.task(**given)
    assert caught.value.hint is not None
    assert "shoal.task(params=" in caught.value.hint


@pytest.mark.parametrize("text", [None, "{", "{}", "[]", '{"attempt": 1, "params": 3}'])
def test_an_unreadable_specification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    path = tmp_path / "spec.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("SHOAL_SPEC", str(path))
    with pytest.raises(shoal.TaskError, match=r"spec\.json: the task's specification cannot be read"):
        shoal.task()


def test_out_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_SPEC", raising=False)
    (tmp_path / "file").touch()
    with pytest.raises(shoal.TaskError, match="cannot be made"):
        shoal.task(params={}, out=tmp_path / "file" / "out")


# -- numbers


class Scalar:
    """What a tensor with one element offers."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def item(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (1, 1), (0.5, 0.5), (True, 1), (Fraction(1, 4), 0.25), (Scalar(2.5), 2.5), (Scalar(3), 3),
        (math.nan, None), (math.inf, None), (Scalar(-math.inf), None), (10**400, None), (2**60, 2**60),
    ],
)  # fmt: skip
def test_numbers(by_hand: shoal.Task, value: Any, kept: Any) -> None:
    by_hand.log({"m": value}, step=Scalar(4))
    assert lines(by_hand) == [{"time": lines(by_hand)[0]["time"], "step": 4, "metrics": {"m": kept}}]


def test_tensors(by_hand: shoal.Task) -> None:
    numpy = pytest.importorskip("numpy")
    by_hand.log({"a": numpy.float32(0.5), "b": numpy.array(3), "c": numpy.array([7]), "d": numpy.bool_(True)})
    assert lines(by_hand)[0]["metrics"] == {"a": 0.5, "b": 3, "c": 7, "d": 1}
    with pytest.raises(shoal.TaskError, match='metric "a" has several elements'):
        by_hand.log({"a": numpy.zeros(2)})


@pytest.mark.parametrize(
    "value", ["0.5", None, [1], {"a": 1}, object(), 1j, Scalar("x"), Scalar(ValueError()), Scalar(RuntimeError())]
)
def test_no_numbers(by_hand: shoal.Task, value: Any) -> None:
    with pytest.raises(shoal.TaskError, match='metric "test/iou"'):
        by_hand.log({"loss": 1, "test/iou": value})
    assert not (by_hand.out / "metrics.jsonl").exists()


@pytest.mark.parametrize("step", [0.5, "1", math.nan, [1]])
def test_no_steps(by_hand: shoal.Task, step: Any) -> None:
    with pytest.raises(shoal.TaskError, match="step"):
        by_hand.log({"loss": 1}, step=step)


@pytest.mark.parametrize("name", ["", 3, None])
def test_no_names(by_hand: shoal.Task, name: Any) -> None:
    with pytest.raises(shoal.TaskError, match="name of a metric"):
        by_hand.log({name: 1})


def test_a_full_disk(by_hand: shoal.Task) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (by_hand.out / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(shoal.TaskError, match="No space left on device"):
        by_hand.log({"loss": 1})


def test_lines_of_many_writers_do_not_mix(by_hand: shoal.Task) -> None:
    def write(number: int) -> None:
        for step in range(50):
            by_hand.log({f"metric-{number}-{key}": step for key in range(40)}, step=step)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    pids = []
    for number in (8, 9):
        pid = os.fork()
        if pid == 0:
            try:
                write(number)
            finally:
                os._exit(0)
        pids.append(pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pid in pids:
        os.waitpid(pid, 0)
    found = lines(by_hand)
    assert len(found) == 300
    assert all(len(line["metrics"]) == 40 for line in found)


# -- the package


def test_the_package_loads_lazily() -> None:
    program = "import sys, shoal; shoal.task; print(*(n for n in ('pandas', 'torch', 'pydantic', 'rich') if n in sys.modules))"
    assert run_script(program).strip() == ""


def test_public_names() -> None:
    assert set(shoal.__all__) <= set(dir(shoal))
    for name in shoal.__all__:
        assert getattr(shoal, name).__doc__
    assert callable(shoal.task)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        shoal.nothing  # noqa: B018


def test_failure_classes_have_words() -> None:
    from shoal.failures import FailureClass

    assert {each.value for each in FailureClass if each.platform} == {
        "preempted", "node-lost", "image-pull", "unschedulable", "store",
    }  # fmt: skip
    for each in FailureClass:
        assert each.sentence.endswith(".")
        assert each.advice.endswith(".")
