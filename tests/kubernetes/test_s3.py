"""The bucket client and the staging of attempts, against a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from shoal.agent.agent import digest_tree
from shoal.clusters import load_cluster
from shoal.errors import StudyError
from shoal.executors.kubernetes import bundle, s3, staging

from .demo import cluster, container, job, objects
from .test_pod import Pod

KEY, SECRET = "AKIAEXAMPLE", "s3cr3t/of+the=test"
BUCKETED = """
extends: nautilus
namespace: lab
store: {s3: "s3://lake/team/runs", endpoint: "http://store.example:9000", secret: keys}
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server in this process: moto's."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def lake(endpoint: str, request: pytest.FixtureRequest) -> s3.Bucket:
    """An empty bucket."""
    name = "lake-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    bucket = s3.Bucket(endpoint, name, "us-east-1", KEY, SECRET)
    bucket._request("PUT", "")
    for key, _ in bucket.list(""):
        bucket.delete(key)
    return bucket


def keys(bucket: s3.Bucket, prefix: str = "") -> list[str]:
    return sorted(key for key, _ in bucket.list(prefix))


# -- the client


def test_objects_come_back_as_they_went(lake: s3.Bucket, tmp_path: Path) -> None:
    for key in ("plain", "a/b c/+ü%20?&=#.txt", "~tilde/(1)'*!", "nested/" + "x" * 200):
        lake.put(key, key.encode())
        assert lake.get(key) == key.encode()
        assert lake.size(key) == len(key.encode())
    assert lake.get("absent") is None
    assert lake.size("absent") is None
    lake.delete("absent")
    assert len(keys(lake)) == 4
    assert "a/b c/+ü%20?&=#.txt" in keys(lake, "a/")
    lake.delete("plain")
    assert "plain" not in keys(lake)
    lake.download("a/b c/+ü%20?&=#.txt", str(tmp_path / "deep" / "file"))
    assert (tmp_path / "deep" / "file").read_text() == "a/b c/+ü%20?&=#.txt"
    with pytest.raises(s3.S3Error, match="NoSuchKey"):
        lake.download("absent", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(s3.S3Error, match="should have"):
        lake.download("~tilde/(1)'*!", str(tmp_path / "none"), size=1)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_large_files_go_in_parts(lake: s3.Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", 5 << 20)
    (tmp_path / "large").write_bytes(os.urandom(12 << 20))
    assert lake.upload("large", str(tmp_path / "large")) == 12 << 20
    lake.download("large", str(tmp_path / "back"), 12 << 20)
    assert digest_tree(str(tmp_path / "back")) == digest_tree(str(tmp_path / "large"))


def test_a_list_of_many_has_pages(lake: s3.Bucket) -> None:
    for number in range(1005):
        lake.put(f"many/{number:04}", b"")
    assert len(keys(lake, "many/")) == 1005


def test_only_one_creates(lake: s3.Bucket) -> None:
    won = []
    threads = [
        threading.Thread(target=lambda n=n: won.append(lake.create("claim", b"%d" % n)))  # type: ignore[misc]
        for n in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(won) == [False] * 7 + [True]
    assert lake.create("claim", lake.get("claim") or b""), "its own, as when an answer was lost on the way"


class Faulty(http.server.BaseHTTPRequestHandler):
    """Serves one object of 3 MB: busy at first, then a connection that breaks twice, then the rest."""

    body = os.urandom(3_000_000)
    asked: list[str | None]

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.asked.append(span)
        if len(self.asked) == 1:
            self.send_response(503)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(self.body) - begin))
        self.send_header("ETag", '"one"')
        self.end_headers()
        end = begin + 1_000_000 if len(self.asked) < 4 else len(self.body)
        self.wfile.write(self.body[begin:end])
        self.close_connection = True

    def do_PUT(self) -> None:
        self.send_response(501 if self.headers.get("If-None-Match") else 200)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_faults_on_the_way_are_got_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_pause", lambda *_: None)
    Faulty.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        bucket = s3.Bucket(f"http://127.0.0.1:{server.server_port}", "b", "r", KEY, SECRET)
        bucket.download("key", str(tmp_path / "got"), len(Faulty.body))
        assert (tmp_path / "got").read_bytes() == Faulty.body
        assert Faulty.asked == [None, None, "bytes=1000000-", "bytes=2000000-"], "it goes on where it broke off"
        assert bucket.create("claim", b"x"), "a store without conditional writes is asked beforehand"
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(s3.S3Error, match="cannot be reached"):
        bucket.get("key")


def test_signatures_are_those_of_the_published_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are from AWS's documentation of Signature Version 4 for S3 (example: GET Bucket lifecycle)."""

    class Clock(s3.datetime.datetime):  # type: ignore[name-defined,misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2013, 5, 24, 0, 0, 0, tzinfo=tz)

    monkeypatch.setattr(s3.datetime, "datetime", Clock)
    bucket = s3.Bucket(
        "https://examplebucket.s3.amazonaws.com",
        "x",
        "us-east-1",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )
    signed = bucket._sign("GET", "/", {"lifecycle": ""}, b"", {})
    assert signed["authorization"].endswith("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")


# -- attempts


def place(pod: Pod, bucket: s3.Bucket, endpoint: str) -> dict[str, Any]:
    return {"endpoint": endpoint, "name": bucket.name, "region": "us-east-1", "prefix": "team", "root": str(pod.store)}


def spec_of(pod: Pod, where: dict[str, Any], script: str, step: str = "train", **more: Any) -> dict[str, Any]:
    task = pod.store / "s" / step / more.pop("task", "0123456789ab")
    attempt = more.get("attempt", 1)
    return {
        "format": 1, "study": "s", "step": step, "task": task.name, "attempt": attempt, "params": {},
        "argv": ["/bin/sh", "-e", "-c", script], "env": {"OUT": f"{task}/out", "CKPT": f"{task}/checkpoints"},
        "secrets": [], "cwd": ".", "task_dir": str(task), "attempt_dir": str(task / "attempts" / str(attempt)),
        "out": str(task / "out"), "checkpoints": str(task / "checkpoints"), "inputs": {}, "input_digests": {},
        "data": {}, "code": None, "resources": {"cpu": 1.0}, "gpus": [], "timeout": None, "stall": None, "grace": 5.0,
        "sample_every": 0.5, "executor": "kubernetes", "queued": None, "bucket": where, **more,
    }  # fmt: skip


class Cloud:
    """Pods one after another, each on an empty disk, with one bucket between them."""

    def __init__(self, root: Path, bucket: s3.Bucket, endpoint: str) -> None:
        self.root, self.bucket, self.endpoint, self.count = root, bucket, endpoint, 0

    def pod(self, script: str, **more: Any) -> Pod:
        self.count += 1
        folder = self.root / str(self.count)
        folder.mkdir()
        pod = Pod(folder)
        inputs = {name: [str(pod.store / one) for one in ones] for name, ones in more.pop("needs", {}).items()}
        pod.mount(spec_of(pod, place(pod, self.bucket, self.endpoint), script, inputs=inputs, **more))
        return pod

    def run(self, script: str, env: dict[str, str] | None = None, **more: Any) -> tuple[int, str, Pod]:
        pod = self.pod(script, **more)
        code, log = pod.run(**self.env(), **(env or {}))
        assert SECRET not in log
        return code, log, pod

    def env(self) -> dict[str, str]:
        return {"SHOAL_S3_KEY": KEY, "SHOAL_S3_SECRET": SECRET, "SHOAL_SYNC_SECONDS": "0.3"}

    def json(self, key: str) -> Any:
        data = self.bucket.get(f"team/s/{key}")
        assert data is not None, f"{key} is not among {keys(self.bucket)}"
        return json.loads(data)


@pytest.fixture
def cloud(tmp_path: Path, lake: s3.Bucket, endpoint: str) -> Cloud:
    return Cloud(tmp_path, lake, endpoint)


CHIPS = """
mkdir -p "$OUT/a/b" && printf x > "$OUT/a/b/one" && printf '#!/bin/sh\\necho ran' > "$OUT/go" && chmod +x "$OUT/go"
ln -s a/b/one "$OUT/link"; : > "$OUT/empty"; env | grep -c SHOAL_S3 || true
"""


def test_outputs_of_one_pod_are_the_inputs_of_the_next(cloud: Cloud) -> None:
    code, log, pod = cloud.run(CHIPS, step="chips", task="c" * 12)
    assert code == 0, log
    assert "\n0\n" in f"\n{log}", "the command does not see the keys"
    chips = f"chips/{'c' * 12}"
    result = cloud.json(f"{chips}/result.json")
    assert result["outputs"]["files"] == 3
    assert cloud.json(f"{chips}/attempts/1/attempt.json")["outcome"] == "succeeded"
    assert SECRET not in json.dumps([cloud.json(f"{chips}/{name}") for name in ("out.json", "attempts/1/spec.json")])
    script = 'test "$(readlink "$IN/link")" = a/b/one && "$IN/go" && cat "$IN/link" && cp -r "$IN" "$OUT/copy"'
    needed = f"s/{chips}/out"
    needs = {"chips": [needed]}
    code, log, pod = cloud.run(f'IN="{cloud.root}/2/store/{needed}"; {script}', needs=needs)
    assert code == 0, log
    assert "ran\nx" in log
    assert cloud.json("train/0123456789ab/result.json")["inputs"] == {"c" * 12: result["outputs"]["digest"]}
    assert pod.said()["outputs"] == cloud.json("train/0123456789ab/result.json")["outputs"]
    # An input that was changed since is noticed, and so is one that is gone.
    cloud.bucket.put(f"team/s/{chips}/out/a/b/one", b"y")
    code, log, pod = cloud.run("true", needs=needs, attempt=2)
    assert code == 18
    assert "not whole" in pod.said()["problem"]
    cloud.bucket.delete(f"team/s/{chips}/result.json")
    code, log, pod = cloud.run("true", needs=needs, attempt=3)
    assert code == 18
    assert "an input is not in the store" in pod.said()["problem"]


def test_a_killed_pod_leaves_whole_checkpoints_and_the_next_goes_on_from_them(cloud: Cloud) -> None:
    script = """
    if [ -e "$CKPT/last" ]; then echo "resumed $(cat "$CKPT/last") $(cat "$CKPT/deep/other")"; exit 0; fi
    mkdir -p "$CKPT/deep"; printf 7 > "$CKPT/deep/other"; printf 7 > "$CKPT/last"; echo up; while :; do sleep 0.1; done
    """
    process = cloud.pod(script).start(**cloud.env())
    listed = "team/s/train/0123456789ab/checkpoints.json"
    until = time.monotonic() + 30
    while cloud.bucket.get(listed) is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert b"up" in (cloud.bucket.get("team/s/train/0123456789ab/attempts/1/log.txt") or b"")
    process.kill()
    process.wait()
    assert cloud.bucket.get("team/s/train/0123456789ab/result.json") is None
    code, log, _ = cloud.run(script, attempt=2)
    assert code == 0, log
    assert "resumed 7 7" in log


def test_a_pod_that_is_asked_to_end_brings_its_last_checkpoint(cloud: Cloud) -> None:
    script = """
    trap 'printf last > "$CKPT/last"; exit 0' TERM
    echo up; while :; do sleep 0.05; done
    """
    pod = cloud.pod(script)
    process = pod.start(**{**cloud.env(), "SHOAL_SYNC_SECONDS": "60"})
    assert process.stdout is not None
    while "up" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 17
    assert pod.said()["failure"]["class"] == "preempted"
    (entry,) = cloud.json("train/0123456789ab/checkpoints.json")["files"].values()
    assert cloud.bucket.get(f"team/s/train/0123456789ab/{entry['key']}") == b"last"
    assert cloud.json("train/0123456789ab/attempts/1/attempt.json")["failure"]["class"] == "preempted"


def test_checkpoints_of_a_finished_run_are_not_resumed_from(cloud: Cloud) -> None:
    script = 'ls "$CKPT"; printf 1 > "$CKPT/last"; printf 1 > "$OUT/made"; exit ${FAIL:-0}'
    assert cloud.run(f"FAIL=3; {script}")[0] == 1
    code, log, _ = cloud.run(script, attempt=2)
    assert (code, "last" in log) == (0, True)
    code, log, _ = cloud.run("rm -f nothing; " + script, attempt=3)
    assert (code, "last" in log) == (0, False)
    found = keys(cloud.bucket, "team/s/train/0123456789ab/")
    assert not [key for key in found if "/checkpoints" in key], found


def test_the_same_attempt_never_runs_twice(cloud: Cloud) -> None:
    assert cloud.run("printf a > $OUT/a")[0] == 0
    code, _, pod = cloud.run("printf b > $OUT/b")
    assert (code, pod.said()["outcome"]) == (0, "succeeded"), "the second pod tells how the first one ended"
    assert "team/s/train/0123456789ab/result.json" in keys(cloud.bucket)
    assert "team/s/train/0123456789ab/out/b" not in keys(cloud.bucket)


def test_outputs_of_an_earlier_attempt_are_gone(cloud: Cloud) -> None:
    assert cloud.run("printf a > $OUT/a; printf a > $OUT/both")[0] == 0
    assert cloud.run("printf b > $OUT/b; printf b > $OUT/both", attempt=2)[0] == 0
    out = [key for key in keys(cloud.bucket) if "/out/" in key]
    assert [key.rpartition("/")[2] for key in out] == ["b", "both"]


def test_wrong_keys_and_an_absent_bucket_are_told(cloud: Cloud) -> None:
    pod = cloud.pod("true")
    code, log = pod.run(SHOAL_S3_KEY=KEY)
    assert code == 18
    assert "keys of the bucket" in log
    cloud.bucket = s3.Bucket(cloud.endpoint, "no-such-bucket-here", "us-east-1", KEY, SECRET)
    code, _, pod = cloud.run("true")
    assert code == 18
    assert "NoSuchBucket" in pod.said()["problem"]


def test_other_nodes_wait_for_the_first_and_keep_records_only(cloud: Cloud) -> None:
    script = 'printf $NODE_RANK > "$OUT/rank"; sleep 1'
    second = cloud.pod(script, resources={"cpu": 1.0, "nodes": 2})
    process = second.start(**cloud.env(), JOB_COMPLETION_INDEX="1", NODE_RANK="1")
    time.sleep(1.0)
    assert process.poll() is None
    code, log, _ = cloud.run(
        script, {"JOB_COMPLETION_INDEX": "0", "NODE_RANK": "0"}, resources={"cpu": 1.0, "nodes": 2}
    )
    assert code == 0, log
    log, _ = process.communicate(timeout=30)
    assert process.returncode == 0, log
    task = "team/s/train/0123456789ab"
    assert cloud.bucket.get(f"{task}/out/rank") == b"0"
    assert f"{task}/attempts/1/nodes/1/attempt.json" in keys(cloud.bucket)


def test_checkpoints_that_change_while_they_go_do_not_count(cloud: Cloud, tmp_path: Path) -> None:
    pod = cloud.pod("true")
    spec = spec_of(pod, place(pod, cloud.bucket, cloud.endpoint), "true")
    stage = staging.Staging(cloud.bucket, spec, digest_tree)
    folder = Path(spec["checkpoints"])
    folder.mkdir(parents=True)
    (folder / "a").write_text("1")
    assert not stage.send_checkpoints(), "just written"
    assert stage.send_checkpoints(last=True)
    upload = cloud.bucket.upload

    def slow(key: str, path: str) -> int:
        size = upload(key, path)
        (folder / "b").write_text("changed meanwhile")
        return size

    (folder / "a").write_text("22")
    cloud.bucket.upload = slow  # type: ignore[method-assign]
    assert not stage.send_checkpoints(last=True)
    listed = cloud.json("train/0123456789ab/checkpoints.json")
    assert [entry["size"] for entry in listed["files"].values()] == [1], "the set of before still counts"
    cloud.bucket.upload = upload  # type: ignore[method-assign]
    assert stage.send_checkpoints(last=True)
    assert sorted(cloud.json("train/0123456789ab/checkpoints.json")["files"]) == ["a", "b"]
    assert len([key for key in keys(cloud.bucket) if "/checkpoints/" in key]) == 2


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "."])
def test_a_list_that_leads_out_of_its_folder_is_refused(cloud: Cloud, path: str) -> None:
    pod = cloud.pod("true")
    spec = spec_of(pod, place(pod, cloud.bucket, cloud.endpoint), "true")
    stage = staging.Staging(cloud.bucket, spec, digest_tree)
    for tree in ({"files": {path: {"key": "out/x"}}}, {"files": {}, "links": {path: "x"}}):
        with pytest.raises(staging.Broken, match="leads out"):
            stage._download(tree, spec["out"])


# -- manifests


def test_pods_of_a_bucket_have_no_claim_and_keys_from_the_secret_only() -> None:
    at = cluster(BUCKETED)
    made = job("train", at=at)
    pod = made["spec"]["template"]["spec"]
    assert not [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    env = {one["name"]: one for one in container(made)["env"]}
    assert env["SHOAL_S3_SECRET"]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"}
    assert env["SHOAL_S3_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    spec = json.loads(made["spec"]["template"]["metadata"]["annotations"]["shoal-ml.github.io/spec"])
    assert spec["bucket"] == {
        "endpoint": "http://store.example:9000", "name": "lake", "prefix": "team/runs", "region": "us-east-1",
        "root": "/shoal-work/store",
    }  # fmt: skip
    assert spec["out"].startswith("/shoal-work/store/burned-area/train/")
    for one in objects(at=at).values():
        for each in one:
            kubernetes_validate.validate(each, "1.34", strict=True)


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("{s3: 's3://lake/x'}", "needs the Secret"),
        ("{s3: 's3://lake/x', secret: k, endpoint: store.example}", "no address"),
        ("{s3: 'lake/x', secret: k}", "s3://BUCKET"),
    ],
)
def test_a_bucket_that_cannot_work_is_refused(tmp_path: Path, store: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"store: {store}\n")
    with pytest.raises(StudyError, match=says):
        load_cluster(str(path))


def test_python_3_8_can_read_both() -> None:
    import ast

    for name in ("s3.py", "staging.py"):
        tree = ast.parse(bundle.agent_files()[name], feature_version=(3, 8))
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert imported <= set(sys.stdlib_module_names)
