"""``shoal run --detach`` on pods that truly run: the laptop only looks, asks and fetches."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.executors.kubernetes.client import JOBS, LEASES, PODS, ROLES, SECRETS, NotFound

from .conftest import until

STUDY = """
study: pond
steps:
  prep: {run: "printf 1 > {out}/a"}
  train:
    needs: prep
    matrix: {n: [1, 2]}
    run: python3 train.py {n} {inputs.prep} {out}
    resources: {cpu: 0.1, memory: 64Mi}
  look: {needs: train, gate: Look at it.}
  after: {needs: look, run: "printf done > {out}/x", resources: {cpu: 0.1, memory: 64Mi}}
report: {objective: {metric: train/score, goal: max}}
"""
TRAIN = """
import json, pathlib, sys, time
print("training", sys.argv[1], flush=True)
time.sleep(float(pathlib.Path(sys.argv[2], "a").read_text()))
pathlib.Path(sys.argv[3], "metrics.json").write_text(json.dumps({"score": int(sys.argv[1])}))
"""
RUNNER = "shoal-ml.github.io/role=runner"


def ready(lab: Any, study: str = STUDY) -> None:
    lab.study(study)
    (lab.root / "train.py").write_text(TRAIN)
    path = lab.root / "clusters" / "lab.yaml"
    config = yaml.safe_load(path.read_text())
    config["runner"] = {"image": config["defaults"]["image"], "python": config["defaults"]["python"]}
    path.write_text(yaml.safe_dump(config))


def runners(lab: Any) -> list[str]:
    pods = lab.client.list(PODS, selector=RUNNER).items
    return [one["metadata"]["name"] for one in pods if one["status"].get("phase") == "Running"]


@pytest.mark.slow
def test_a_detached_run_from_start_to_end(real_lab: Any) -> None:
    lab = real_lab
    ready(lab)
    lab.shoal("run", "s.yaml", "--on", "lab", "--detach")
    assert lab.client.get(ROLES, "shoal-runner")["rules"]
    until(lambda: runners(lab), 60)
    # A second one, and one from here, are refused while it is at work.
    refused = lab.shoal("run", "s.yaml", "--on", "lab", "--detach", code=4).stderr
    assert "is being run in the cluster" in refused or "is being run by the pod shoal-run-" in refused
    until(lambda: lab.client.list(LEASES).items[0]["spec"].get("holderIdentity"), 120)
    # Its pod is taken away: the Job brings another, which goes on where it was.
    (first,) = runners(lab)
    lab.client.delete(PODS, first)
    until(lambda: lab.counts() == {"done": 3, "gate": 1, "todo": 1}, 200)
    until(lambda: [one for one in runners(lab) if one != first], 60)
    said = lab.status()["runner"]
    assert said["host"].startswith("shoal-run-")
    assert "training" in lab.shoal("logs", "s.yaml", "train").stdout
    assert "2.00" in lab.shoal("results", "s.yaml").stdout
    # Every task ended once: nothing was lost with the first pod, nothing done again.
    assert all(one["attempt"] == 1 for one in lab.records("attempt.json").values())
    lab.shoal("approve", "s.yaml")
    until(lambda: lab.counts() == {"done": 5}, 120)
    until(lambda: lab.status()["runner"] is None, 60)
    lab.shoal("pull", "s.yaml", "after", "-o", "out")
    (made,) = (lab.root / "out" / "after").glob("*/out/x")
    assert made.read_text() == "done"
    assert not [one for one in lab.client.list(PODS).items if "reader" in one["metadata"]["name"]]
    # A run from here finds nothing to do.
    assert "5 of 5 tasks done (5 of them before this run)" in lab.shoal("run", "s.yaml", "--on", "lab").stderr


@pytest.mark.slow
def test_a_detached_run_is_stopped_and_gone_on_with_from_here(real_lab: Any) -> None:
    lab = real_lab
    ready(lab, STUDY.replace('"printf 1 > {out}/a"', '"printf 60 > {out}/a"'))
    lab.shoal("run", "s.yaml", "--on", "lab", "--detach")
    until(lambda: lab.counts().get("running"), 120)
    lab.shoal("stop", "s.yaml")
    assert lab.status()["runner"] is None
    (job,) = lab.client.list(JOBS, selector=RUNNER).items
    assert any(one["type"] == "Failed" for one in job["status"]["conditions"]), "it is not started again"
    failures = [one["failure"]["class"] for one in lab.records("attempt.json").values() if one.get("failure")]
    assert set(failures) == {"cancelled"}
    lab.study((lab.root / "s.yaml").read_text().replace("printf 60", "printf 0"))
    lab.shoal("run", "s.yaml", "--on", "lab", code=3)
    assert lab.counts() == {"done": 3, "gate": 1, "todo": 1}
    assert json.loads((lab.root / "runs-lab" / "pond" / "plan.json").read_text())["study"] == "pond"


@pytest.fixture
def lake(real_bed: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A bucket ``lake`` on loopback, as this machine and as pods reach it; keys are checked. They are in the environment here."""
    boto3 = pytest.importorskip("boto3")
    from moto import settings
    from moto.core.authorization import ActionAuthenticatorMixin
    from moto.server import ThreadedMotoServer

    # From the fifth request on.
    free = ActionAuthenticatorMixin.request_count + 4
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", free)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    here, there = f"http://127.0.0.1:{port}", f"http://{real_bed.place.node}:{port}"
    first = {"endpoint_url": here, "region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    iam = boto3.client("iam", **first)
    iam.create_user(UserName="lab")
    rule = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    iam.put_user_policy(UserName="lab", PolicyName="all", PolicyDocument=policy)
    made = iam.create_access_key(UserName="lab")["AccessKey"]
    boto3.client("s3", **first).create_bucket(Bucket="lake")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
    words = [sys.executable, "-m", "testbed.forward", there.removeprefix("http://"), f"127.0.0.1:{port}"]
    with subprocess.Popen(words, cwd=Path(__file__).parents[2]) as forward:
        yield here, there
        forward.kill()
    server.stop()


def keys(lab: Any, **data: str) -> None:
    with contextlib.suppress(NotFound):
        lab.client.delete(SECRETS, "keys")
    lab.client.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": data})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_detached_run_with_a_store_in_a_bucket(real_lab: Any, lake: tuple[str, str]) -> None:
    lab = real_lab
    ready(lab, STUDY.replace('run: "printf done > {out}/x"', 'run: "cat {inputs.look}/tiles > {out}/x"'))
    here, there = lake
    path = lab.root / "clusters" / "lab.yaml"
    config = yaml.safe_load(path.read_text())
    config["store"] = {"s3": "s3://lake/team/runs", "endpoint": there, "secret": "keys"}
    config["object_stores"] = {"mine": {"inside": there, "outside": here}}
    path.write_text(yaml.safe_dump(config))
    # A wrong key is one message, before anything is made.
    right = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    keys(lab, **{**right, "AWS_SECRET_ACCESS_KEY": "wrong"})
    said = lab.shoal("run", "s.yaml", "--on", "lab", "--detach", code=2).stderr
    assert "does not accept the keys in the Secret keys" in said
    assert "SignatureDoesNotMatch" in said
    assert lab.client.list(JOBS).items == []
    keys(lab, **right)
    # What was done from here is known there.
    lab.shoal("run", "s.yaml", "--on", "lab", "--only", "prep")
    lab.shoal("run", "s.yaml", "--on", "lab", "--detach")
    job = next(one for one in lab.client.list(JOBS, selector=RUNNER).items)
    assert right["AWS_SECRET_ACCESS_KEY"] not in json.dumps(job)
    until(lambda: lab.counts().get("running") or lab.counts().get("done", 0) > 1, 120)
    # What its pod knew is known to the one that follows.
    (first,) = until(lambda: runners(lab), 120)
    lab.client.delete(PODS, first)
    until(lambda: [one for one in runners(lab) if one != first], 120)
    until(lambda: lab.counts() == {"done": 3, "gate": 1, "todo": 1}, 200)
    (lab.root / "tiles").write_text("7")
    with pytest.MonkeyPatch.context() as other:
        other.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        said = lab.shoal("approve", "s.yaml", "--file", "tiles", code=1).stderr
        assert "does not accept this machine's keys for the bucket: SignatureDoesNotMatch" in said
        said = lab.shoal("pull", "s.yaml", "train", "-o", "none", code=1).stderr
        assert len(said.splitlines()) <= 3, said
    assert lab.counts()["gate"] == 1
    lab.shoal("approve", "s.yaml", "--file", "tiles")
    until(lambda: lab.counts() == {"done": 5}, 200)
    until(lambda: lab.status()["runner"] is None, 100)
    assert all(one["attempt"] == 1 for one in lab.records("attempt.json").values())
    assert "2.00" in lab.shoal("results", "s.yaml").stdout
    lab.shoal("pull", "s.yaml", "after", "-o", "out")
    (made,) = (lab.root / "out" / "after").glob("*/out/x")
    assert made.read_text() == "7"
    assert "5 of 5 tasks done (5 of them before this run)" in lab.shoal("run", "s.yaml", "--on", "lab").stderr
