"""Files from a claim or a bucket: the protocol of kubectl exec, what runs in the pod, and what arrives."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest

from shoal.agent.agent import digest_tree
from shoal.errors import StoreError, UsageError
from shoal.executors.kubernetes import bucket, reader, s3
from shoal.executors.kubernetes.arriving import lay_out, take_records
from shoal.executors.kubernetes.client import CommandFailed, Forbidden, Unreachable
from shoal.executors.kubernetes.pull import Wanted, pull_outputs
from shoal.executors.kubernetes.reading import ClaimFiles, find_image, reader_manifest

from .apiserver import Pods, pods
from .demo import FULL, PLAIN, cluster
from .test_s3 import BUCKETED, KEY, SECRET, Cloud, cloud, endpoint, lake  # noqa: F401 - fixtures


@pytest.fixture
def server() -> Iterator[Pods]:
    with pods() as made:
        yield made


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """A study's folder on a claim: two tasks, one of them done."""
    study = tmp_path / "claim" / "s"
    done, going = study / "train" / "aaaaaaaaaaaa", study / "train" / "bbbbbbbbbbbb"
    for task in (done, going):
        (task / "attempts" / "1").mkdir(parents=True)
        (task / "attempts" / "1" / "attempt.json").write_text('{"state": "running"}')
        (task / "attempts" / "1" / "log.txt").write_text("hello\n")
        (task / "attempts" / "1" / "metrics.jsonl").write_text('{"metrics": {"m": 1}}\n')
        (task / "task.json").write_text("{}")
    out = done / "out"
    (out / "deep" / "er").mkdir(parents=True)
    (out / "deep" / "er" / "large").write_bytes(os.urandom(3 << 20))
    (out / "empty").touch()
    (out / "run.sh").write_text("#!/bin/sh\n")
    (out / "run.sh").chmod(0o755)
    os.link(out / "run.sh", out / "same.sh")
    (out / "link").symlink_to("deep/er/large")
    (out / "folder").symlink_to("deep")
    (out / "away").symlink_to("/nowhere")
    (out / "pictures" / "one").mkdir(parents=True)
    (out / "pictures" / "one" / "input.png").write_bytes(b"png")
    os.mkfifo(out / "pipe")
    result = {"outputs": digest_tree(str(out))}
    (done / "result.json").write_text(json.dumps(result))
    (study / "runs").mkdir()
    (study / "runs" / "1.json").write_text("{}")
    (study / "plan.json").write_text('{"study": "s"}')
    (study / "code" / "abc").mkdir(parents=True)
    return study


def files(server: Pods, claim: Path) -> ClaimFiles:
    return ClaimFiles(server.client(), "reader-1", PurePosixPath(claim), python=sys.executable)


def wanted(claim: Path, task: str = "aaaaaaaaaaaa") -> Wanted:
    said = json.loads((claim / "train" / task / "result.json").read_text())["outputs"]
    return Wanted("train", task, said["digest"], said["bytes"])


# -- outputs


def test_outputs_arrive_whole_and_are_not_brought_twice(server: Pods, claim: Path, tmp_path: Path) -> None:
    said: list[str] = []
    one = wanted(claim)
    found = pull_outputs(files(server, claim), [one], tmp_path / "here", say=lambda _, text: said.append(text))
    assert (found.new, found.here, found.failed) == ([one], [], {})
    out = tmp_path / "here" / "train" / one.task / "out"
    assert digest_tree(str(out))["digest"] == one.digest
    assert os.access(out / "run.sh", os.X_OK)
    assert os.readlink(out / "away") == "/nowhere"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert pull_outputs(files(server, claim), [one], tmp_path / "here").here == [one]
    (out / "empty").write_text("changed")
    assert pull_outputs(files(server, claim), [one], tmp_path / "here").new == [one]
    assert not (out / "empty").read_text()
    path, words = server.asked[0]
    assert path == "/api/v1/namespaces/lab/pods/reader-1/exec"
    assert sum(map(len, words)) < 1000, "words are part of the address"


def test_a_broken_connection_is_tried_again(
    server: Pods, claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    one = wanted(claim)
    server.cut = [1_000_000, 0]
    assert pull_outputs(files(server, claim), [one], tmp_path).new == [one]
    assert len(server.asked) == 3
    server.cut = [1_000_000] * 4
    found = pull_outputs(files(server, claim), [one], tmp_path / "other")
    assert "broke" in found.failed[one.task]
    assert not list((tmp_path / "other" / "train" / one.task).iterdir()), "nothing half there"


def test_one_task_that_fails_keeps_no_other_from_coming(server: Pods, claim: Path, tmp_path: Path) -> None:
    good = wanted(claim)
    changed = Wanted("train", "d" * 12, "0" * 64)
    (claim / "train" / changed.task).mkdir()
    gone = Wanted("train", "c" * 12, "0" * 64)
    (claim / "train" / changed.task / "out").mkdir()
    found = pull_outputs(files(server, claim), [gone, changed, good], tmp_path)
    assert found.new == [good]
    assert "there is no folder" in found.failed[gone.task]
    assert "not what its result says" in found.failed[changed.task]


def test_what_a_killed_pull_left_is_swept(server: Pods, claim: Path, tmp_path: Path) -> None:
    one = wanted(claim)
    (tmp_path / "train" / one.task / ".out.99999.part" / "x").mkdir(parents=True)
    pull_outputs(files(server, claim), [one], tmp_path)
    assert [path.name for path in (tmp_path / "train" / one.task).iterdir()] == ["out"]


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
def test_both_protocols_are_spoken(claim: Path, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kubernetes.apiserver.Pods.protocols", (protocol,), raising=False)
    with pods() as made:
        made.protocols = (protocol,)
        assert pull_outputs(files(made, claim), [wanted(claim)], tmp_path).new


def test_a_refused_command_says_why(server: Pods, claim: Path, tmp_path: Path) -> None:
    server.refuse = (403, {"message": 'pods "reader-1" is forbidden: cannot create resource "pods/exec"'})
    with pytest.raises(Forbidden, match="may not get pods/exec reader-1 in namespace lab"):
        files(server, claim).outputs("train", "a" * 12, tmp_path)


def test_a_failed_command_has_its_last_words(server: Pods) -> None:
    with server.client().execute("p", ["sh", "-c", "echo so far; echo why >&2; exit 7"]) as running:
        chunks = running.output()
        assert next(chunks) == b"so far\n"
        with pytest.raises(CommandFailed, match="why") as caught:
            list(chunks)
    assert caught.value.code == 7


def test_silence_is_bounded(server: Pods) -> None:
    with server.client().execute("p", ["sleep", "5"]) as running, pytest.raises(Unreachable, match="broke"):
        running.read(silence=0.2)


def stream(*entries: tuple[tarfile.TarInfo, bytes]) -> list[bytes]:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = raw.getvalue()
    return [data[i : i + 100] for i in range(0, len(data), 100)]


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("../x"), b"x")],
        [(entry("/tmp/x"), b"x")],
        [(entry("a/../../x"), b"x")],
        [(entry("x", tarfile.CHRTYPE), b"")],
        [(entry("x", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        [(entry("there/x"), b"x")],
    ],
)
def test_nothing_is_written_elsewhere(entries: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "there").symlink_to(outside)
    with pytest.raises(StoreError):
        lay_out(stream(*entries), inside)
    assert not list(outside.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_stream_that_is_cut_short_is_noticed(tmp_path: Path) -> None:
    whole = b"".join(stream((entry("a"), b"x" * 5000)))
    with pytest.raises(StoreError, match="cut short"):
        lay_out([whole[:2000]], tmp_path)
    with pytest.raises(StoreError):
        take_records(stream((entry("plan.json"), b"{}")), tmp_path)
    with pytest.raises(StoreError):
        take_records([], tmp_path)


# -- records


def test_small_files_come_and_later_only_what_has_changed(server: Pods, claim: Path, tmp_path: Path) -> None:
    here = tmp_path / "mirror"
    state, count = files(server, claim).records(here)
    assert state.done == {"train/aaaaaaaaaaaa"}
    assert state.complete
    paths = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    assert count == len(paths)
    assert {
        "plan.json",
        "runs/1.json",
        "train/aaaaaaaaaaaa/result.json",
        "train/bbbbbbbbbbbb/attempts/1/log.txt",
    } <= paths
    assert not [path for path in paths if "/out/" in path or path.startswith("code")]
    log = claim / "train" / "bbbbbbbbbbbb" / "attempts" / "1" / "log.txt"
    later = state.now + 60
    os.utime(log, (later, later))
    again, count = files(server, claim).records(here, since=state.now + 30)
    assert count == 1
    assert (here / "train/bbbbbbbbbbbb/attempts/1/log.txt").stat().st_mtime == pytest.approx(later)
    assert again.now >= state.now


def test_a_sign_of_life_is_as_young_here_as_it_is_there_whatever_the_clocks_say(
    claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = time.time() - 600
    beat = claim / "train" / "bbbbbbbbbbbb" / "attempts" / "1" / "heartbeat"
    beat.write_text("{}")
    os.utime(beat, (there, there))
    raw = io.BytesIO()
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: there)
        reader.records({"root": str(claim)}, raw)
    here = tmp_path / "train/bbbbbbbbbbbb/attempts/1/heartbeat"
    take_records([raw.getvalue()], tmp_path, live=True)
    assert here.stat().st_mtime == pytest.approx(time.time(), abs=300)
    # What was sent when nobody knows is as old as it says.
    take_records([raw.getvalue()], tmp_path)
    assert here.stat().st_mtime == pytest.approx(there, abs=1)


def test_some_tasks_with_their_pictures(server: Pods, claim: Path, tmp_path: Path) -> None:
    many = [f"train/{number:012}" for number in range(250)] + ["train/aaaaaaaaaaaa"]
    _, count = files(server, claim).records(
        tmp_path, tasks=many, pictures=True, skip=lambda path: path.endswith("attempt.json")
    )
    assert len(server.asked) == 3
    paths = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert "train/aaaaaaaaaaaa/out/pictures/one/input.png" in paths
    assert "train/aaaaaaaaaaaa/attempts/1/attempt.json" not in paths
    assert count == len([path for path in paths if path.startswith("train/")])


def test_long_logs_come_as_their_end(claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LONGEST", 1000)
    log = claim / "train" / "bbbbbbbbbbbb" / "attempts" / "1" / "log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    (claim / "runs" / "1.json").write_text('{"x": "' + "y" * 2000 + '"}')
    raw = io.BytesIO()
    reader.records({"root": str(claim)}, raw)
    take_records([raw.getvalue()], tmp_path)
    got = (tmp_path / "train/bbbbbbbbbbbb/attempts/1/log.txt").read_text()
    assert len(got) < 1000
    assert got.endswith("line 999\n")
    assert got.startswith("line ")
    assert not (tmp_path / "runs" / "1.json").exists(), "half a JSON file is none"


def test_a_file_is_put_whole_or_not_at_all(server: Pods, claim: Path) -> None:
    large = os.urandom(1_000_000)
    files(server, claim).put("look/cccccccccccc/out/tiles", large)
    assert (claim / "look" / "cccccccccccc" / "out" / "tiles").read_bytes() == large
    files(server, claim).put("control/1-stop.json", b'{"verb": "stop"}')
    assert json.loads((claim / "control" / "1-stop.json").read_text()) == {"verb": "stop"}
    assert [path.name for path in (claim / "control").iterdir()] == ["1-stop.json"]
    with pytest.raises(CommandFailed):
        files(server, claim).put("plan.json/x", b"")
    with files(server, claim)._run("put", str(claim / "half"), "10", stdin=True) as running:
        running.send(b"12345")
    time.sleep(0.5)
    assert not (claim / "half").exists()


# -- the pod


@pytest.mark.parametrize("text", [PLAIN, FULL])
def test_the_reader_can_do_little_and_ends_by_itself(text: str) -> None:
    made = reader_manifest(cluster(text), "burned-area", "python:3.12-slim")
    kubernetes_validate.validate(made, "1.34", strict=True)
    spec: dict[str, Any] = made["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["activeDeadlineSeconds"] <= 6 * 3600, "bare pods are removed after 6 h"
    (container,) = spec["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["volumeMounts"][0] == {"name": "store", "mountPath": "/shoal", "readOnly": True}
    assert all(one["readOnly"] for one in container["volumeMounts"])
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert ("affinity" in spec, "tolerations" in spec) == ((text == FULL),) * 2, "where the cluster file lets pods run"
    names = {reader_manifest(cluster(text), "s", "i")["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5


def test_any_image_will_do() -> None:
    assert find_image(cluster(PLAIN), [None, "a", "b"]) == "a"
    with pytest.raises(UsageError, match="no container image"):
        find_image(cluster(PLAIN), [None])


def test_python_3_8_can_read_what_runs_in_the_pod() -> None:
    import ast

    tree = ast.parse(Path(reader.__file__).read_text(), feature_version=(3, 8))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported <= set(sys.stdlib_module_names)


# -- buckets


def at(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> bucket.BucketFiles:  # noqa: F811
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    text = (
        f"namespace: lab\nstore: {{s3: 's3://{cloud.bucket.name}/team', endpoint: '{cloud.endpoint}', secret: keys}}\n"
    )
    return bucket.BucketFiles(bucket.open_bucket(cluster(text)), "s")


def test_outputs_and_records_come_from_a_bucket(
    cloud: Cloud,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    script = """
    mkdir -p "$OUT/a b/c" "$OUT/pictures/x"; printf x > "$OUT/a b/c/ü"; ln -s 'a b' "$OUT/link"; : > "$OUT/empty"
    printf p > "$OUT/pictures/x/input.png"; printf '#!/bin/sh' > "$OUT/go"; chmod +x "$OUT/go"; echo hello
    """
    assert cloud.run(script)[0] == 0
    source = at(cloud, monkeypatch)
    result = source.result("train", "0123456789ab")
    assert result is not None
    one = Wanted("train", "0123456789ab", result["outputs"]["digest"])
    assert pull_outputs(source, [one], tmp_path / "here").new == [one]
    assert os.access(tmp_path / "here/train/0123456789ab/out/go", os.X_OK)
    assert pull_outputs(source, [one], tmp_path / "here").here == [one]
    count = source.records(tmp_path / "mirror", ["train/0123456789ab"], pictures=True)
    assert count >= 3
    assert (tmp_path / "mirror/train/0123456789ab/attempts/1/log.txt").read_text() == "hello\n"
    assert (tmp_path / "mirror/train/0123456789ab/out/pictures/x/input.png").exists()
    cloud.bucket.put("team/s/train/0123456789ab/out/go", b"changed")
    assert "not what its result says" in pull_outputs(source, [one], tmp_path / "other").failed[one.task]
    cloud.bucket.delete("team/s/train/0123456789ab/out.json")
    cloud.bucket.put("team/s/train/0123456789ab/out/go", b"#!/bin/sh")
    assert source.result("train", "absent") is None


def test_a_bucket_that_cannot_be_read_is_told(
    cloud: Cloud,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source = at(cloud, monkeypatch)
    (tmp_path / "x").mkdir()
    source.outputs("train", "absent", tmp_path / "x")
    assert not list((tmp_path / "x").iterdir())
    cloud.bucket = s3.Bucket(cloud.endpoint, "no-such-bucket-here", "us-east-1", KEY, SECRET)
    with pytest.raises(StoreError, match="cannot be read"):
        at(cloud, monkeypatch).outputs("train", "absent", tmp_path / "x")


def test_keys_are_found_where_other_programs_find_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    with pytest.raises(UsageError, match="no keys"):
        bucket.find_keys()
    path.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = S%/\n[lab]\naws_access_key_id=B\n")
    assert bucket.find_keys() == {"access_key_id": "A", "secret_access_key": "S%/"}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(UsageError, match="no keys"):
        bucket.find_keys()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "E")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "F")
    assert bucket.find_keys()["access_key_id"] == "E"


def test_the_address_from_outside() -> None:
    inside = cluster(BUCKETED.replace("http://store.example:9000", "http://rook-ceph-rgw-easts3.rook-east"))
    assert bucket.outside_address(inside) == "https://s3-east.nrp-nautilus.io"
    assert bucket.outside_address(cluster(BUCKETED)) == "http://store.example:9000"


STUDY = """
study: s
steps:
  train: {run: "train {out}"}
  later: {needs: train, run: "later {inputs.train} {out}"}
"""


def test_the_verb_brings_what_is_done_and_says_what_is_not(
    cloud: Cloud,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from typer.testing import CliRunner

    from shoal.cli import app
    from shoal.plan import build
    from shoal.study import load_study

    at(cloud, monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "lab.yaml").write_text(
        f"store: {{s3: 's3://{cloud.bucket.name}/team', endpoint: '{cloud.endpoint}', secret: keys}}\n"
    )
    train = build(load_study(tmp_path / "s.yaml")).of_step("train")[0].id
    assert cloud.run("printf x > $OUT/x; mkdir $OUT/pictures; printf p > $OUT/pictures/p.png", task=train)[0] == 0
    task = tmp_path / "runs-lab" / "s" / "train" / train
    (task / "out").mkdir(parents=True)
    (task / "result.json").write_text(json.dumps(cloud.json(f"train/{train}/result.json")))
    study = str(tmp_path / "s.yaml")

    def run(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["pull", study, "--on", "lab", *more])
        return done.exit_code, done.output

    code, said = run("-o", str(tmp_path / "o"))
    assert (code, (tmp_path / "o" / "train" / train / "out" / "x").read_text()) == (0, "x"), said
    assert "1 of 2 tasks not done" in said
    assert "outputs of 1 task brought" in said
    code, said = run("train", "-o", str(tmp_path / "o"))
    assert (code, "1 were here" in said) == (0, True)
    code, said = run("--records")
    assert code == 0, said
    assert (task / "attempts" / "1" / "log.txt").exists()
    assert (task / "out" / "pictures" / "p.png").read_bytes() == b"p"
    assert run("later")[0] == 1
    done = CliRunner().invoke(app, ["pull", study, "--store", str(tmp_path / "nowhere")])
    assert done.exit_code == 2 or "was run on this machine" in str(done.exception)
