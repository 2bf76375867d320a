"""What cannot work is said in one message, before anything is created."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from shoal.executors.kubernetes.client import CONFIG_MAPS, JOBS

from .conftest import Lab, until

STUDY = """
study: pond
steps:
  train: {run: train, resources: {gpu: 1, shm: 64Mi}}
"""


def kubeconfig(lab: Lab, change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load(lab.kubeconfig.read_text())
    change(config)
    lab.kubeconfig = lab.root / "kubeconfig"
    lab.kubeconfig.write_text(yaml.safe_dump(config))


def edit(lab: Lab, before: str, after: str) -> None:
    path = lab.root / "clusters" / "lab.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def wrong_context(lab: Lab) -> None:
    edit(lab, "namespace:", "context: testbde\nnamespace:")


def wrong_namespace(lab: Lab) -> None:
    edit(lab, f"namespace: {lab.namespace}", "namespace: no-such-lab")


def someone_elses_namespace(lab: Lab) -> None:
    edit(lab, f"namespace: {lab.namespace}", "namespace: kube-system")


def no_server(lab: Lab) -> None:
    kubeconfig(lab, lambda config: config["clusters"][0]["cluster"].update(server="https://127.0.0.1:9"))


def expired_login(lab: Lab) -> None:
    kubeconfig(lab, lambda config: config["users"][0].update(user={"token": "expired"}))


def no_claim(lab: Lab) -> None:
    edit(lab, "claim: results", "claim: no-such-claim")


def no_secret(lab: Lab) -> None:
    lab.study(STUDY.replace("run: train,", "run: train, secrets: [WANDB_API_KEY],"))


def no_such_node(lab: Lab) -> None:
    lab.study(STUDY.replace("gpu: 1,", "gpu: 64,"))


def unknown_priority(lab: Lab) -> None:
    edit(lab, "memory: 1Gi", "memory: 1Gi, priority_class: no-such-class")


def too_small_a_quota(lab: Lab) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    path = f"/api/v1/namespaces/{lab.namespace}/resourcequotas"
    lab.admin.create(path, quota)
    until(lambda: lab.admin.get(f"{path}/none")["status"])


def no_rights(lab: Lab) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1"
    role = {"metadata": {"name": "looker"}, "rules": [
        {"apiGroups": ["", "batch"], "resources": ["jobs", "pods"], "verbs": ["get", "list", "watch"]},
    ]}  # fmt: skip
    lab.admin.create(f"{path}/namespaces/{lab.namespace}/roles", role)
    lab.kubeconfig = lab.bed.user("looker", namespace=lab.namespace)
    subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "looker"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looker"}
    binding = {"metadata": {"name": "looker"}, "roleRef": reference, "subjects": [subject]}
    lab.admin.create(f"{path}/namespaces/{lab.namespace}/rolebindings", binding)


CASES: list[tuple[Callable[[Lab], None], list[str]]] = [
    (wrong_context, ['there is no context "testbde"', "testbed"]),
    (wrong_namespace, ["there is no namespace no-such-lab", "may not"]),
    (someone_elses_namespace, ["create jobs.batch", "get pods/log", "namespace kube-system", "rolebinding"]),
    (no_rights, ["create jobs.batch", "deletecollection pods", "get pods/log", "create configmaps"]),
    (no_server, ["cannot be reached", "VPN"]),
    (expired_login, ["does not accept the login", "Log in anew"]),
    (no_claim, ["there is no claim no-such-claim", "kubectl get pvc"]),
    (no_secret, ["lacks WANDB_API_KEY", "kubectl create secret"]),
    (no_such_node, ["no node has 64 nvidia.com/gpu", "8"]),
    (unknown_priority, ["no-such-class"]),
    (too_small_a_quota, ["quota is 0 in all"]),
]


@pytest.mark.parametrize(("spoil", "words"), CASES, ids=[spoil.__name__ for spoil, _ in CASES])
def test_one_message_and_nothing_left_behind(lab: Lab, spoil: Callable[[Lab], None], words: list[str]) -> None:
    lab.study(STUDY)
    spoil(lab)
    done = lab.shoal("run", "s.yaml", "--on", "lab", code=2)
    said = done.stderr
    if spoil is wrong_namespace:
        assert any(word in said for word in words), said
    else:
        assert all(word in said for word in words), said
    assert said.count("error:") == 1, said
    assert done.stdout == ""
    assert lab.client.list(JOBS).items == []
    assert [one["metadata"]["name"] for one in lab.client.list(CONFIG_MAPS).items] == ["kube-root-ca.crt"]
    assert not list(lab.root.glob("runs*"))
