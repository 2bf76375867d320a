"""One attempt, run by the real agent: what it leaves behind, and that nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import require
from processes import gone, until
from shoal.agent.agent import cgroup_dirs

from .conftest import AGENT, TaskFolder

PYTHONS = [sys.executable] + [
    str(path) for path in sorted(Path(sys.base_prefix).parent.glob("3.8*/bin/python3")) if path.exists()
]


@pytest.mark.parametrize("python", PYTHONS)
def test_a_success_leaves_a_result(folder: TaskFolder, python: str) -> None:
    folder.python = python
    code = folder.run(
        'echo hello; echo oops >&2; mkdir "$OUT/m"; echo 1 > "$OUT/m/a"; sleep 0.5; '
        'echo \'{"test": {"iou": 0.5}, "loss": NaN}\' > "$OUT/metrics.json"',
        env={"OUT": str(folder.out)},
    )
    assert code == 0
    result, record = folder.result(), folder.record()
    assert result["metrics"] == {"test/iou": 0.5, "loss": None}
    assert result["outputs"]["files"] == 2
    assert (result["inputs"], result["data"], result["code"]) == ({"aaaaaaaaaaaa": "d1"}, {"raster": "d2"}, "d3")
    assert result["params"] == {"lr": 0.1}
    assert result["attempt"] == 1
    assert 0.5 <= result["seconds"] < 30
    assert record["state"] == "ended"
    assert (record["outcome"], record["exit_code"], record["failure"]) == ("succeeded", 0, None)
    assert record["lost_seconds"] == 0
    assert record["usage"]["samples"] >= 1
    assert record["usage"]["memory_peak"] > 100_000
    assert sorted(folder.log().splitlines()) == ["hello", "oops"]
    sample = json.loads((folder.attempt() / "usage.jsonl").read_text().splitlines()[0])
    assert sample["processes"] >= 1
    assert sample["memory"] > 0
    assert folder.checkpoints.is_dir()


def test_the_command_knows_where_it_is(folder: TaskFolder) -> None:
    assert folder.run('echo "$SHOAL_SPEC|$COLOUR|$PYTHONUNBUFFERED|$PWD"', env={"COLOUR": "red"}) == 0
    assert folder.log().strip() == f"{folder.attempt() / 'spec.json'}|red|1|{folder.root}"


def test_variables_and_gpus_of_the_spec(folder: TaskFolder) -> None:
    path = folder.spec('echo "$COLOUR|$CUDA_VISIBLE_DEVICES"', env={"COLOUR": "blue"}, gpus=[1, 3])
    assert folder.start(path, env={"COLOUR": "red", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).wait(30) == 0
    assert folder.log() == "blue|1,3\n"


def test_tee(folder: TaskFolder) -> None:
    said, _ = folder.start(folder.spec("echo one; echo two >&2"), "--tee").communicate(timeout=30)
    assert said == b"one\ntwo\n"
    assert folder.log() == "one\ntwo\n"


def test_out_is_emptied_and_checkpoints_are_kept(folder: TaskFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep me")
    first = f"touch out/a checkpoints/c; mkdir -p out/d/e; chmod 500 out/d; ln -s {outside} out/link; exit 1"
    assert folder.run(first) == 1
    (folder.root / "result.json").write_text("{}")  # of an earlier life: the task is made anew
    assert folder.run("ls -A out checkpoints; test ! -e result.json", 2) == 0
    assert folder.log(2).split() == ["checkpoints:", "c", "out:"]
    assert (outside / "precious").read_text() == "keep me"
    assert folder.result()["attempt"] == 2


def test_an_attempt_is_run_once(folder: TaskFolder) -> None:
    path = folder.spec("echo ran")
    assert folder.start(path).wait(30) == 0
    assert folder.start(path).wait(30) == 20
    assert folder.log() == "ran\n"


def test_an_unreadable_spec(folder: TaskFolder) -> None:
    path = folder.root / "spec.json"
    path.write_text("{")
    process = folder.start(path)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert b"cannot read" in said
    assert b"Traceback" not in said


# -- output


def test_secrets_are_masked_across_pieces(folder: TaskFolder) -> None:
    script = (
        "printf 'a hun'; sleep 0.2; printf 'ter2-'; sleep 0.2; printf 'long b\\nhun'; "
        "printf 'ger hunter2'; echo x hunter2-long >&2"
    )
    code = folder.run(script, env={"TOKEN": "hunter2-long", "EMPTY": ""}, secrets=["TOKEN", "EMPTY", "ABSENT"])
    assert code == 0
    assert folder.log() == "a *** b\nhunger hunter2x ***\n"


def test_secrets_are_masked_in_the_failure(folder: TaskFolder) -> None:
    code = folder.run("echo ValueError: bad key hunter2; exit 1", env={"TOKEN": "hunter2"}, secrets=["TOKEN"])
    assert code == 1
    for path in folder.root.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes() or path.name == "spec.json"
    assert "bad key ***" in folder.failure()[1]


def test_output_that_is_not_text(folder: TaskFolder) -> None:
    assert folder.run(r"printf 'a\377b\303'; sleep 0.1; printf '\251\n\0end'") == 0
    assert folder.log() == "a\ufffdbé\n\0end"


def test_a_flood_of_output_in_one_line(folder: TaskFolder) -> None:
    code = folder.run([sys.executable, "-S", "-c", "import os\nfor _ in range(600): os.write(1, b'x' * 65536)"])
    assert code == 0
    assert (folder.attempt() / "log.txt").stat().st_size == 600 * 65536


# -- ends


def test_a_traceback_names_the_users_line(folder: TaskFolder) -> None:
    (folder.root / "train.py").write_text("import json\ndef main():\n    json.loads('{')\nmain()\n")
    assert folder.run([sys.executable, "train.py"]) == 1
    kind, message, lines = folder.failure()
    assert kind == "user"
    assert message.startswith("The command failed with json.decoder.JSONDecodeError: Expecting property name")
    assert "(train.py, line 3, in main)" in message
    assert lines[1].strip() == "json.loads('{')"
    assert folder.record()["lost_seconds"] > 0


@pytest.mark.parametrize(
    ("argv", "changes", "sentence"),
    [
        (["no-such-program-here"], {}, 'Command not found: "no-such-program-here"'),
        ("no-such-program-here --x", {}, "Command not found: "),
        (["/etc/passwd"], {}, "permission denied"),
        (["true"], {"cwd": "/no/such/folder"}, "The command's folder /no/such/folder cannot be entered"),
        ("kill -SEGV $$", {}, "segmentation fault"),
        ("sh -c 'kill -ABRT $$'; exit 134", {}, "aborted itself (SIGABRT)"),
        ("echo 'train.py: error: unrecognized arguments: --lr' >&2; exit 2", {}, "exit code 2: train.py: error: unrec"),
        ("exit 3", {}, "exit code 3 and wrote nothing"),
    ],
)
def test_user_errors_in_a_sentence(
    folder: TaskFolder, argv: list[str] | str, changes: dict[str, str], sentence: str
) -> None:
    assert folder.run(argv, **changes) == 1
    kind, message, _ = folder.failure()
    assert kind == "user"
    assert sentence in message
    assert message.endswith(".")
    assert not (folder.root / "result.json").exists()


def test_a_script_whose_interpreter_is_missing(folder: TaskFolder) -> None:
    script = folder.root / "go"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o755)
    assert folder.run(["./go"]) == 1
    assert "interpreter" in folder.failure()[1]


def test_memory_error_of_the_host(folder: TaskFolder) -> None:
    program = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28,) * 2); x = bytearray(1 << 34)"
    assert folder.run([sys.executable, "-S", "-c", program]) == 12
    assert folder.failure()[:2] == ("oom-host", "Out of memory: MemoryError.")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of our own with 64 MB of memory."""
    where = next((path for path in map(Path, cgroup_dirs("memory")) if path.is_dir()), None)
    made = where / f"shoal-test-{os.getpid()}" if where else None
    limits = ("memory.max", "memory.limit_in_bytes")
    try:
        assert made is not None
        made.mkdir()
        limit = next(made / name for name in limits if (made / name).exists())
        limit.write_text("64000000")
    except (AssertionError, OSError, StopIteration):
        if made is not None and made.is_dir():
            made.rmdir()
        require("cgroup", False, "this process may not make a memory cgroup")
        raise
    yield made
    until(lambda: not (made / "cgroup.procs").read_text())
    made.rmdir()


@pytest.mark.parametrize("script", ["exec {hog}", "{hog}; exit 1", "{hog} & wait; exit 3"])
def test_the_kernels_oom_killer(folder: TaskFolder, small_cgroup: Path, script: str) -> None:
    hog = f"{sys.executable} -S -c 'x = bytearray(10**9)'"
    path = folder.spec(script.replace("{hog}", hog))
    enter = f'echo $$ > "{small_cgroup}/cgroup.procs"; exec "$@"'
    command = [sys.executable, "-I", "-S", str(AGENT), str(path)]
    done = subprocess.run(["sh", "-c", enter, "sh", *command], capture_output=True, timeout=60)
    assert done.returncode == 12, done
    assert folder.failure()[:2] == (
        "oom-host",
        "Out of memory: the kernel killed a process of the task to free memory.",
    )


def test_timeout(folder: TaskFolder) -> None:
    begin = time.monotonic()
    assert folder.run("trap 'echo stopping; exit 0' TERM; while :; do sleep 0.05; done", timeout=0.5) == 14
    assert time.monotonic() - begin < 5
    assert folder.failure()[:2] == ("timeout", "Not done within its timeout of 0.5 s.")
    assert "stopping" in folder.log()
    assert not (folder.root / "result.json").exists()


def test_what_ignores_sigterm_is_killed(folder: TaskFolder) -> None:
    begin = time.monotonic()
    assert folder.run("trap '' TERM; sleep 100", timeout=0.3, grace=0.5) == 14
    assert 0.8 <= time.monotonic() - begin < 10
    assert "had to be killed" in folder.failure()[1]


def test_stall(folder: TaskFolder) -> None:
    begin = time.monotonic()
    metrics = folder.attempt() / "metrics.jsonl"
    script = f"for i in 1 2 3; do sleep 0.3; echo $i; done; for i in 1 2; do sleep 0.5; echo '{{}}' >> {metrics}; done; sleep 100"
    assert folder.run(script, stall=0.8) == 15
    assert time.monotonic() - begin > 2.5
    assert folder.failure()[1].startswith("Stalled: no output and no metrics for 0.8 s.")


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGTERM, "preempted"), (signal.SIGINT, "cancelled")])
def test_a_stopped_attempt_is_never_finished(folder: TaskFolder, signum: int, kind: str) -> None:
    """Even if the command then ends well: whether it was done is not known."""
    script = "trap 'echo 1 > out/metrics.json; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    process = folder.start(folder.spec(script))
    until(lambda: (folder.attempt() / "log.txt").exists() and "up" in folder.log())
    process.send_signal(signum)
    assert process.wait(20) in (16, 17)
    assert folder.failure()[0] == kind
    assert folder.record()["exit_code"] == 0
    assert not (folder.root / "result.json").exists()


def test_the_file_stop(folder: TaskFolder) -> None:
    process = folder.start(folder.spec("echo up; sleep 100"))
    until(lambda: (folder.attempt() / "log.txt").exists() and "up" in folder.log())
    (folder.attempt() / "stop").write_text('{"reason": "preempted", "now": false}')
    assert process.wait(20) == 17


def test_a_stop_before_the_start(folder: TaskFolder) -> None:
    path = folder.spec("touch out/ran")
    (folder.attempt() / "stop").write_text('{"reason": "cancelled", "now": false}')
    assert folder.start(path).wait(20) == 16
    assert not (folder.out / "ran").exists()


def test_only_the_trainer_is_asked_to_stop(folder: TaskFolder) -> None:
    """A worker that died first would make the trainer fail before its last checkpoint is whole."""
    (folder.root / "train.py").write_text(
        "import os, signal, subprocess, sys, time\n"
        "stop = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: stop.append(1))\n"
        "worker = subprocess.Popen(['sleep', '100'])\n"
        "print('up', flush=True)\n"
        "while not stop: time.sleep(0.02)\n"
        "time.sleep(0.3)\n"
        "open('checkpoints/last', 'w').write(str(worker.poll()))\n"
        "worker.kill()\n"
    )
    process = folder.start(folder.spec(f"cd . && {sys.executable} -S train.py; echo done"))
    until(lambda: (folder.attempt() / "log.txt").exists() and "up" in folder.log())
    process.terminate()
    assert process.wait(20) == 17
    assert (folder.checkpoints / "last").read_text() == "None"
    record = folder.record()
    assert record["checkpointed"] is not None
    assert record["lost_seconds"] < 0.5


def test_orphans_of_a_dying_wrapper_are_asked_too(folder: TaskFolder) -> None:
    inner = "trap 'touch checkpoints/asked; exit' TERM; echo up; while :; do sleep 0.05; done"
    wrapper = f"import subprocess; subprocess.call(['sh', '-c', {inner!r}])"
    process = folder.start(folder.spec([sys.executable, "-S", "-c", wrapper]))
    until(lambda: (folder.attempt() / "log.txt").exists() and "up" in folder.log())
    process.terminate()
    assert process.wait(20) == 17
    assert (folder.checkpoints / "asked").exists()


@pytest.mark.parametrize("detached", ["", "setsid "])
def test_what_the_command_leaves_running_is_ended(folder: TaskFolder, detached: str) -> None:
    begin = time.monotonic()
    assert folder.run(f"{detached}sh -c 'echo $$ > pid; exec sleep 100' & while [ ! -s pid ]; do :; done") == 0
    assert time.monotonic() - begin < 10
    assert gone(int((folder.root / "pid").read_text()))


def test_what_is_left_running_and_ignores_sigterm(folder: TaskFolder) -> None:
    inner = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"
    assert folder.run(f'sh -c "{inner.replace("$", chr(92) + "$")}" & while [ ! -s pid ]; do :; done') == 0
    assert gone(int((folder.root / "pid").read_text()))


# -- publishing


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "out/metrics.json is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"a": {"b": "high"}}', '"a/b" is a text, not a number'),
        ('{"a": [1]}', '"a" is a list, not a number'),
        ("[" * 100_000, "out/metrics.json is not JSON"),
    ],
)
def test_malformed_metrics_are_the_users(folder: TaskFolder, text: str, sentence: str) -> None:
    (folder.root / "m").write_text(text)
    assert folder.run("cp m out/metrics.json") == 1
    kind, message, _ = folder.failure()
    assert kind == "user"
    assert sentence in message
    assert not (folder.root / "result.json").exists()


def test_metrics_that_lead_elsewhere(folder: TaskFolder) -> None:
    (folder.root / "secret.json").write_text('{"a": 1}')
    assert folder.run("ln -s ../secret.json out/metrics.json") == 1
    assert "not a file inside" in folder.failure()[1]
    assert folder.run("mkfifo out/metrics.json", 2) == 1
    assert "not a file inside" in folder.failure(2)[1]


def test_logged_metrics(folder: TaskFolder) -> None:
    lines = ['{"metrics": {"a": 1, "b": 2}}', '{"metrics": {"a": 3}}', '{"metrics": {"c": Infinity}}', '{"metr']
    (folder.root / "m").write_text("\n".join(lines))
    assert folder.run(f"cp m {folder.attempt()}/metrics.jsonl; echo '{{\"b\": 7}}' > out/metrics.json") == 0
    assert folder.result()["metrics"] == {"a": 3, "b": 7, "c": None}
    json.loads((folder.root / "result.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_store_that_cannot_be_written(folder: TaskFolder) -> None:
    """The log stands on a device that is always full: a real ENOSPC."""
    path = folder.spec("echo hello; sleep 60")
    (folder.attempt() / "log.txt").symlink_to("/dev/full")
    begin = time.monotonic()
    assert folder.start(path).wait(30) == 18
    assert time.monotonic() - begin < 20
    kind, message, _ = folder.failure()
    assert (kind, "No space left on device" in message) == ("store", True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has no parent-death signal")
def test_the_command_dies_with_the_agent(folder: TaskFolder) -> None:
    process = folder.start(folder.spec(["sh", "-c", "echo $$ > pid; while :; do sleep 0.1; done"]))
    until(lambda: (folder.root / "pid").exists() and (folder.root / "pid").read_text().strip())
    process.kill()
    process.wait()
    until(lambda: gone(int((folder.root / "pid").read_text())))
    assert not (folder.root / "result.json").exists()


def test_the_agent_needs_the_standard_library_of_3_8_alone() -> None:
    import ast

    tree = ast.parse(AGENT.read_text(), feature_version=(3, 8))
    names = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names
    assert os.path.getsize(AGENT) < 200_000  # a ConfigMap holds 1 MiB
