"""What starts in a pod, run for real: the files that a manifest would mount, the agent, and what it leaves."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shoal.executors.kubernetes import bundle, pod
from shoal.executors.kubernetes.manifests import Shared, shared_objects
from shoal.executors.kubernetes.spec import CODE

from .demo import cluster


class Pod:
    """A folder for each thing that Kubernetes would mount, and the process that the container would be."""

    def __init__(self, root: Path) -> None:
        self.agent, self.work, self.store = root / "agent", root / "work", root / "store"
        self.message = root / "message"
        for folder in (self.agent, self.work, self.store):
            folder.mkdir()

    def mount(
        self, spec: dict[str, Any], code: dict[str, tuple[bytes, bool]] | None = None, packed: bool = False
    ) -> None:
        """Lay out what the manifests' ConfigMaps and annotation hold."""
        shared = Shared("s", cluster(), code={"train": bundle.pack(code or {}, "train")})
        for made in shared_objects(shared):
            for name, text in made.get("data", {}).items():
                (self.agent / name).write_text(text)
            for name, data in made.get("binaryData", {}).items():
                (self.agent / name).write_bytes(base64.b64decode(data))
        text = json.dumps(spec)
        if packed:
            (self.agent / "spec.gz").write_text(bundle.zipped(text))
        else:
            (self.agent / "spec.json").write_text(text)

    def start(self, **env: str) -> subprocess.Popen[str]:
        """Start it as the manifest's command does."""
        return subprocess.Popen(
            [sys.executable, "-I", "-B", "-u", str(self.agent / "pod.py")],
            cwd=self.work,
            env={**os.environ, "SHOAL_MESSAGE": str(self.message), "SHOAL_NODE": "node-7", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **env: str) -> tuple[int, str]:
        """Run it; return exit status and log."""
        process = self.start(**env)
        log, _ = process.communicate(timeout=60)
        return process.returncode, log

    def said(self) -> dict[str, Any]:
        """The termination message."""
        data = self.message.read_bytes()
        assert len(data) <= 4096
        found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(data[3:])) if data[:3] == b"gz:" else data)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def spec_of(place: Pod, script: str, **more: Any) -> dict[str, Any]:
    """A specification as `pod_spec` makes it, with the places of this test."""
    task = place.store / "s" / "train" / "0123456789ab"
    return {
        "format": 1, "study": "s", "step": "train", "task": "0123456789ab", "attempt": 1, "params": {"lr": 0.1},
        "argv": ["/bin/sh", "-e", "-c", script], "env": {}, "secrets": [], "cwd": ".",
        "task_dir": str(task), "attempt_dir": str(task / "attempts" / "1"), "out": str(task / "out"),
        "checkpoints": str(task / "checkpoints"), "inputs": {}, "input_digests": {}, "data": {}, "code": None,
        "resources": {"cpu": 1.0}, "gpus": [], "timeout": None, "stall": None, "grace": 5.0, "sample_every": 5.0,
        "executor": "kubernetes", "queued": None, **more,
    }  # fmt: skip


def test_a_task_runs_and_its_result_is_in_the_message(place: Pod) -> None:
    spec = spec_of(place, "echo hello; echo '{\"iou\": 0.5}' > $OUT/metrics.json")
    spec["env"] = {"OUT": spec["out"]}
    place.mount(spec)
    code, log = place.run()
    assert (code, "hello" in log) == (0, True)
    task = Path(spec["task_dir"])
    result = json.loads((task / "result.json").read_text())
    said = place.said()
    assert said["metrics"] == result["metrics"] == {"iou": 0.5}
    assert said["outputs"] == result["outputs"]
    assert (said["code"], said["outcome"], said["node"], said["task"]) == (0, "succeeded", "node-7", "0123456789ab")
    assert json.loads((task / "attempts" / "1" / "spec.json").read_text())["argv"] == spec["argv"]


def test_a_failure_is_told_with_its_class(place: Pod) -> None:
    place.mount(spec_of(place, "echo 'torch.cuda.OutOfMemoryError: CUDA out of memory.' >&2; exit 1"), packed=True)
    code, _ = place.run()
    assert code == 13
    assert place.said()["failure"]["class"] == "oom-gpu"
    assert "metrics" not in place.said()


def test_code_is_laid_out_where_the_command_starts(place: Pod) -> None:
    target = place.work / Path(CODE).name
    spec = spec_of(place, "./go.sh && python3 pkg/show.py", cwd=str(target))
    files = {"go.sh": (b"#!/bin/sh\necho went\n", True), "pkg/show.py": (b"print('shown')\n", False)}
    place.mount(spec, files)
    code, log = place.run()
    assert code == 0, log
    assert "went" in log
    assert "shown" in log
    assert not list(place.work.glob("code.*"))


def test_inputs_give_their_digests_and_missing_ones_end_the_attempt(place: Pod) -> None:
    needed = place.store / "s" / "chips" / "ba9876543210"
    spec = spec_of(place, "true", inputs={"chips": [str(needed / "out")]})
    place.mount(spec)
    code, log = place.run()
    assert code == 18
    assert "an input is not in the store" in log
    assert str(needed) in place.said()["problem"]
    (needed / "out").mkdir(parents=True)
    (needed / "result.json").write_text('{"outputs": {"digest": "d1"}}')
    assert place.run()[0] == 0
    assert json.loads((Path(spec["task_dir"]) / "result.json").read_text())["inputs"] == {"ba9876543210": "d1"}


@pytest.mark.skipif(sys.platform != "linux", reason="the folder that nobody may write to is Linux's")
def test_a_store_that_may_not_be_written_is_the_users_to_mend(place: Pod) -> None:
    spec = spec_of(
        place, "true", task_dir="/sys/s/train/0123456789ab", attempt_dir="/sys/s/train/0123456789ab/attempts/1"
    )
    place.mount(spec)
    code, log = place.run()
    assert code == 1
    assert "the user that the pod runs as may not write to the store: " in log
    assert "/sys/s" in place.said()["problem"]


def test_the_same_attempt_never_runs_twice(place: Pod) -> None:
    place.mount(spec_of(place, "echo ran"))
    assert place.run()[0] == 0
    code, log = place.run()
    assert (code, "ran" in log) == (0, False)
    assert place.said()["outcome"] == "succeeded", "the second pod tells how the first one ended"


def test_another_pods_failure_is_told_as_its_own(place: Pod) -> None:
    place.mount(spec_of(place, "exit 3"))
    assert place.run()[0] == 1
    place.message.unlink()
    assert place.run()[0] == 1
    assert "exit code 3" in place.said()["failure"]["message"]


def test_other_nodes_keep_their_records_beside_the_first_ones(place: Pod) -> None:
    spec = spec_of(place, "echo $NODE_RANK > $OUT/$NODE_RANK")
    spec["env"] = {"OUT": spec["out"]}
    place.mount(spec)
    first = place.run(JOB_COMPLETION_INDEX="0", NODE_RANK="0")
    other = place.run(JOB_COMPLETION_INDEX="1", NODE_RANK="1")
    assert (first[0], other[0]) == (0, 0)
    assert sorted(path.name for path in Path(spec["out"]).iterdir()) == ["0", "1"]
    assert (Path(spec["attempt_dir"]) / "nodes" / "1" / "attempt.json").exists()


def test_only_what_was_interrupted_goes_on_from_its_checkpoints(place: Pod) -> None:
    """Who starts it may not see the store: what was finished is begun anew, as on one machine."""
    work = "ls -A {c}; touch {c}/$MARK; exit $CODE"
    task = place.store / "s" / "train" / "0123456789ab"
    needed = place.store / "s" / "chips" / "ba9876543210"
    (needed / "out").mkdir(parents=True)
    seen = []
    for number, (code, digest) in enumerate([(1, "d1"), (0, "d1"), (1, "d1"), (0, "d2")], 1):
        (needed / "result.json").write_text(json.dumps({"outputs": {"digest": digest}}))
        spec = spec_of(place, work.format(c=task / "checkpoints"), attempt=number)
        spec |= {"attempt_dir": str(task / "attempts" / str(number)), "inputs": {"chips": [str(needed / "out")]}}
        place.mount({**spec, "env": {"MARK": f"mark{number}", "CODE": str(code)}})
        assert place.run()[0] == code
        seen.append((task / "attempts" / str(number) / "log.txt").read_text().split())
    assert seen == [[], ["mark1"], [], []], "of a failure; of a result; of other inputs"


def test_sigterm_is_a_preemption(place: Pod) -> None:
    spec = spec_of(place, "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    place.mount(spec)
    process = place.start()
    assert process.stdout is not None
    while "up" not in process.stdout.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    log, _ = process.communicate(timeout=30)
    assert process.returncode == 17
    assert "saved" in log
    assert place.said()["failure"]["class"] == "preempted"


def test_an_unreadable_specification_is_told(place: Pod) -> None:
    place.mount(spec_of(place, "true"))
    (place.agent / "spec.json").write_text("{")
    code, log = place.run()
    assert code == 2
    assert "cannot read the specification" in log
    assert "problem" in place.said()


def test_code_that_leads_out_of_its_folder_is_refused(place: Pod, tmp_path: Path) -> None:
    code = bundle.pack({"../../escaped": (b"x", False)}, "train")
    assert code is not None
    place.mount(spec_of(place, "true", cwd=str(place.work / "code")))
    (place.agent / "code.0").write_bytes(code.pieces[0])
    assert place.run()[0] == 18
    assert not list(tmp_path.rglob("escaped"))


def test_messages_are_short_whatever_is_in_them() -> None:
    few = {"v": 1, "task": "x", "metrics": {"a": 1}}
    assert json.loads(pod.encode(few)) == few
    many = {"v": 1, "metrics": {f"test/class-{i}": i / 7 for i in range(150)}}
    data = pod.encode(many)
    assert data[:3] == b"gz:"
    assert json.loads(gzip.decompress(base64.b64decode(data[3:]))) == many
    huge = {
        "v": 1,
        "task": "x",
        "metrics": {os.urandom(8).hex(): i / 7 for i in range(5000)},
        "failure": {"class": "user"},
    }
    kept = pod.encode(huge)
    assert len(kept) <= 4096
    said = json.loads(kept)
    assert said["left_out"] == ["metrics"]
    assert said["failure"] == {"class": "user"}


def test_python_3_8_can_read_it() -> None:
    import ast

    ast.parse(Path(pod.__file__).read_text(), feature_version=(3, 8))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(Path(pod.__file__).read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported - {"agent", "s3", "staging"} <= set(sys.stdlib_module_names)
