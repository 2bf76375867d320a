"""Manifests: golden files, Kubernetes' own types, and what each field is for."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import UsageError
from shoal.executors.kubernetes import bundle, names
from shoal.executors.kubernetes.manifests import Shared, shared_objects, task_objects
from shoal.executors.kubernetes.spec import layout_of, pod_spec
from shoal.executors.kubernetes.write import to_yaml
from shoal.store import Store

from .demo import FULL, PLAIN, STUDY, cluster, container, demo, job, objects

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("1.30", "1.34", "1.37")


def stable(text: str) -> str:
    """Manifests without the digest of the agent, which changes with every change of the agent."""
    return re.sub(rf"shoal-agent-{bundle.agent_digest()[:12]}", "shoal-agent-DIGEST", text)


@pytest.mark.parametrize("step", ["chips", "train", "wide", "scarce"])
@pytest.mark.parametrize("where", ["plain", "full"])
def test_golden(step: str, where: str) -> None:
    """`SHOAL_GOLDEN=write` writes the files anew: then read the difference."""
    at = cluster(PLAIN if where == "plain" else FULL)
    made = next(one for name, one in objects(at=at).items() if name.startswith(f"{step}/"))
    path = GOLDEN / f"{where}-{step}.yaml"
    text = stable(to_yaml(made))
    if os.environ.get("SHOAL_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", [PLAIN, FULL], ids=["plain", "full"])
def test_kubernetes_own_types_accept_every_object_strictly(text: str, version: str) -> None:
    code = {"train": {"train.py": (b"print(1)\n", False)}}
    kinds = set()
    for made in objects(at=cluster(text), code=code).values():
        for one in made:
            kubernetes_validate.validate(one, version, strict=True)
            kinds.add(one["kind"])
    assert kinds == {"ConfigMap", "Job", "Service"}


def test_the_validation_would_notice() -> None:
    wrong = job("train")
    container(wrong)["resorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_the_same_plan_makes_the_same_bytes() -> None:
    code = {"train": {"b.py": (b"2", False), "a.py": (b"1", True)}}
    turned = {"train": dict(reversed(code["train"].items()))}
    one, other = objects(code=code), objects(code=turned)
    assert [to_yaml(made) for made in one.values()] == [to_yaml(made) for made in other.values()]
    assert list(one) == list(other)


def test_gates_and_done_tasks_have_no_manifest() -> None:
    assert not any(name.startswith("look/") for name in objects())


def test_gpus_are_asked_for_by_product_special_resource_or_memory() -> None:
    def wants(made: dict[str, Any]) -> list[dict[str, Any]]:
        affinity = made["spec"]["template"]["spec"].get("affinity")
        terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        found: list[dict[str, Any]] = terms[0]["matchExpressions"]
        return found

    train = job("train")
    assert container(train)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert wants(train)[0]["values"] == ["NVIDIA-GeForce-RTX-3090", "NVIDIA-A10", "NVIDIA-L4"]
    wide = wants(job("wide"))
    assert wide == [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["22978"]}]
    assert int(wide[0]["values"][0]) < 23028, "an A10 is a 24 GB card"
    scarce = job("scarce")
    assert container(scarce)["resources"]["requests"]["nvidia.com/gh200"] == "1"
    assert scarce["spec"]["template"]["spec"]["priorityClassName"] == "opportunistic"
    assert scarce["spec"]["template"]["spec"]["tolerations"][0]["value"] == "arm64"


def test_types_with_resources_of_their_own_are_another_way_to_ask() -> None:
    plan = demo(STUDY.replace("[rtx3090, a10, l4]", "[a40, rtx3090]"))
    made = job("train", plan=plan)
    limits = container(made)["resources"]["limits"]
    assert limits["nvidia.com/a40"] == "2"
    assert "nvidia.com/gpu" not in limits


@pytest.mark.parametrize(("pods", "cpu", "memory"), [(100, "4800m", 1.2), (101, "4", 1.0)])
def test_limits_follow_requests_as_the_platform_wants(pods: int, cpu: str, memory: float) -> None:
    resources = container(job("train", pods=pods))["resources"]
    assert resources["limits"]["cpu"] == cpu
    assert resources["requests"]["memory"] == "24Gi"
    limit = resources["limits"]["memory"]
    amount = int(limit[:-2]) * {"Gi": 1024, "Mi": 1}[limit[-2:]]
    assert 0.99 * memory <= amount / (24 * 1024) <= memory


def test_pods_can_do_little() -> None:
    pod = job("train", at=cluster(FULL))["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "runAsGroup": 1000,
        "fsGroup": 2000,
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    inner = pod["containers"][0]["securityContext"]
    assert inner == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["restartPolicy"] == "Never"


def test_times() -> None:
    pod = job("train")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 150
    assert pod["activeDeadlineSeconds"] > 12 * 3600 + 120
    assert "activeDeadlineSeconds" not in job("chips")["spec"]["template"]["spec"]
    assert job("train")["spec"]["ttlSecondsAfterFinished"] == 604800


def test_secrets_are_named_and_never_there() -> None:
    env = container(job("train"))["env"]
    secret = next(one for one in env if one["name"] == "WANDB_API_KEY")
    assert secret == {
        "name": "WANDB_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "shoal-secrets", "key": "WANDB_API_KEY"}},
    }


def test_no_variable_and_no_mount_is_there_twice() -> None:
    # Server-side apply refuses a list whose keys are not unique.
    text = FULL.replace("OMP_NUM_THREADS: 1}", "WANDB_API_KEY: x, MASTER_ADDR: y, PET_NNODES: 7}")
    for step in ("train", "wide"):
        made = container(job(step, at=cluster(text)))
        for field, key in (("env", "name"), ("volumeMounts", "mountPath")):
            found = [one[key] for one in made[field]]
            assert len(found) == len(set(found))
    env = {one["name"]: one for one in container(job("train", at=cluster(text)))["env"]}
    assert "valueFrom" in env["WANDB_API_KEY"]


def test_several_nodes_find_each_other() -> None:
    service, made = next(one for name, one in objects().items() if name.startswith("wide/"))
    name = made["metadata"]["name"]
    assert service["metadata"]["name"] == name == made["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    env = {one["name"]: one.get("value") for one in container(made)["env"]}
    assert env["MASTER_ADDR"] == env["PET_MASTER_ADDR"] == f"{name}-0.{name}"
    assert (env["NNODES"], env["PET_NNODES"], env["PET_NPROC_PER_NODE"]) == ("2", "2", "4")
    assert "NODE_RANK" in env
    assert made["spec"]["completionMode"] == "Indexed"
    assert made["spec"]["completions"] == made["spec"]["parallelism"] == 2
    assert len(f"{name}-1") <= 63


def test_a_claim_is_one_volume_however_often_it_is_mounted() -> None:
    pod = job("train", at=cluster(FULL))["spec"]["template"]["spec"]
    claims = [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert claims == ["results", "data"]
    mounts = {one["mountPath"]: one for one in pod["containers"][0]["volumeMounts"]}
    assert mounts["/shoal"]["name"] == mounts["/all"]["name"]
    assert mounts["/data"]["readOnly"] is True
    spec = json.loads(job("train", at=cluster(FULL))["spec"]["template"]["metadata"]["annotations"][names.SPEC])
    assert spec["out"].startswith("/shoal/team/runs/burned-area/train/")


def test_kueue_is_a_label_away() -> None:
    made = job("train", at=cluster(FULL))
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
    assert "suspend" not in job("train")["spec"]


def test_places_are_those_of_the_store_everywhere_else() -> None:
    plan = demo()
    task = plan.of_step("train")[0]
    layout = layout_of(cluster(), "burned-area")
    folder = Store(Path("/shoal")).study("burned-area").task("train", task.id)
    assert str(layout.task("train", task.id)) == str(folder.root)
    spec = pod_spec(plan, task, cluster(), number=3)
    assert spec["attempt_dir"] == str(folder.attempt(3))
    assert (spec["out"], spec["checkpoints"]) == (str(folder.out), str(folder.checkpoints))
    assert spec["data"] == {}
    assert pod_spec(plan, plan.of_step("chips")[0], cluster())["data"]["data"]["path"] == "/data/canada"


def test_the_specification_is_what_the_agent_and_the_contract_read() -> None:
    from shoal.executors import AttemptSpec

    made = job("train")
    text = made["spec"]["template"]["metadata"]["annotations"][names.SPEC]
    spec = AttemptSpec.from_json(json.loads(text))
    assert spec.argv[:3] == ("/bin/sh", "-e", "-c")
    assert spec.env == {"OMP_NUM_THREADS": "4", "RUN": "unet-0.001"}
    assert spec.grace == 120
    assert list(spec.params) == ["model", "lr"]


def large(count: int) -> dict[str, Any]:
    """A specification with so many inputs, random enough not to shrink to nothing."""
    plan = demo()
    spec = pod_spec(plan, plan.of_step("train")[0], cluster())
    ids = [base64.b16encode(os.urandom(6)).decode().lower() for _ in range(count)]
    spec["inputs"] = {"chips": [f"/shoal/burned-area/chips/{one}/out" for one in ids]}
    return spec


def test_long_specifications_are_packed_and_longer_ones_get_a_config_map() -> None:
    shared = Shared("burned-area", cluster())
    (made,) = task_objects(large(1000), shared, image="x")
    note = made["spec"]["template"]["metadata"]["annotations"][names.SPEC]
    assert len(json.loads(gzip.decompress(base64.b64decode(note)))["inputs"]["chips"]) == 1000
    path = made["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"][1]["downwardAPI"]["items"][0]["path"]
    assert path == "spec.gz"
    config, made = task_objects(large(20_000), shared, image="x")
    assert "annotations" not in made["spec"]["template"]["metadata"]
    assert len(json.loads(gzip.decompress(base64.b64decode(config["data"]["spec.gz"])))["inputs"]["chips"]) == 20_000
    kubernetes_validate.validate(config, "1.34", strict=True)
    with pytest.raises(UsageError, match="too many inputs"):
        task_objects(large(90_000), shared, image="x")


def test_code_is_cut_to_what_a_config_map_holds_and_comes_out_whole() -> None:
    noise = os.urandom(2_000_000)
    code = bundle.pack({"pkg/weights.bin": (noise, False), "run.sh": (b"#!/bin/sh\n", True)}, "train")
    assert code is not None
    assert len(code.pieces) == 3
    made = shared_objects(Shared("s", cluster(), code={"train": code}))
    assert len(made) == 4
    for one in made:
        size = sum(len(base64.b64decode(data)) for data in one.get("binaryData", {}).values())
        size += sum(len(data.encode()) for data in one.get("data", {}).values())
        assert size < 1 << 20
    with tarfile.open(fileobj=io.BytesIO(b"".join(code.pieces))) as archive:
        assert {one.name: one.mode for one in archive} == {"pkg/weights.bin": 0o644, "run.sh": 0o755}
        inner = archive.extractfile("pkg/weights.bin")
        assert inner is not None
        assert inner.read() == noise
    with pytest.raises(UsageError, match=r"the code of step train is .* when packed"):
        bundle.pack({"x": (os.urandom(bundle.MOST_CODE + 1), False)}, "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: nautilus\n", "has no store"),
    ],
)
def test_a_store_is_needed(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        objects(at=cluster(text))


def test_an_image_is_needed() -> None:
    with pytest.raises(UsageError, match="no container image"):
        objects(plan=demo(STUDY.replace('defaults: {image: "ghcr.io/example/train:1.2"}', "")))


LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
study_names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}\Z")
step_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}\Z")


@given(study_names, step_names, st.integers(1, 99_999))
def test_names_are_valid_whatever_studies_are_called(study: str, step: str, attempt: int) -> None:
    scope = names.scope_of(study, "claim", "/shoal")
    name = names.job_name(study, step, "0123456789ab", attempt, scope)
    assert LABEL.match(name)
    assert len(name) <= 57
    for value in names.labels(study, scope, step=step, task="0123456789ab", attempt=attempt).values():
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value)


@given(st.text(max_size=90), st.text(max_size=90))
def test_labels_keep_texts_apart(one: str, other: str) -> None:
    assert (names.label_value(one) == names.label_value(other)) == (one == other)


def test_names_differ_by_study_store_task_and_attempt() -> None:
    long = "a" * 63
    made = {
        names.job_name(study, step, task, number, names.scope_of(study, claim, "/shoal"))
        for study in (long, long[:-1] + "b")
        for step in ("train", "Train")
        for task in ("0123456789ab", "0123456789ac")
        for number in (1, 2)
        for claim in ("x", "y")
    }
    assert len(made) == 16, "the step is in the task's id"
    assert names.selector("abc", task="x") == (
        "app.kubernetes.io/managed-by=shoal,shoal-ml.github.io/scope=abc,shoal-ml.github.io/task=x"
    )


def test_yaml_means_the_same_to_every_reader() -> None:
    tricky = {
        "a": "12345e678901",
        "b": "1e3",
        "c": "yes",
        "d": "0o17",
        "e": "null",
        "f": "x: y",
        "g": "1_000",
        "h": "a\nb\n",
    }
    text = to_yaml([tricky])
    assert yaml.safe_load(text) == tricky
    plain = [line for line in text.splitlines() if re.match(r"[a-h]: [^'|]", line)]
    assert plain == [], "a word that is a number or a boolean to some reader has to be in quotes"
