"""What cannot work is said in one message, before anything is created."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from shoal.executors.kubernetes.client import CONFIG_MAPS, JOBS, LEASES, PODS, ROLES, SERVICES, Client
from shoal.executors.kubernetes.client.resources import SERVICE_ACCOUNTS
from shoal.executors.kubernetes.login import read_login

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


def quota(lab: Lab, **hard: str) -> None:
    path = f"/api/v1/namespaces/{lab.namespace}/resourcequotas"
    lab.admin.create(path, {"metadata": {"name": "none"}, "spec": {"hard": hard}})
    until(lambda: lab.admin.get(f"{path}/none")["status"])


def too_small_a_quota(lab: Lab) -> None:
    quota(lab, **{"requests.nvidia.com/gpu": "0"})


def no_jobs_at_all(lab: Lab) -> None:
    quota(lab, **{"count/jobs.batch": "0"})


def login(lab: Lab, command: str, *arguments: str) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": command}
    plugin |= {"args": list(arguments), "installHint": "Get it from example.org"}  # type: ignore[dict-item]
    kubeconfig(lab, lambda config: config["users"][0].update(user={"exec": plugin}))


def no_login_plugin(lab: Lab) -> None:
    login(lab, "kubectl-no_such_login")


def a_login_plugin_whose_session_is_over(lab: Lab) -> None:
    login(lab, "sh", "-c", "echo the session is over >&2; exit 1")


def a_login_plugin_that_gives_an_old_token(lab: Lab) -> None:
    said = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "old"}}'
    login(lab, "sh", "-c", f"echo '{said}'")


def no_kubeconfig(lab: Lab) -> None:
    lab.kubeconfig = lab.root / "nowhere"


def an_invalid_namespace(lab: Lab) -> None:
    edit(lab, f"namespace: {lab.namespace}", "namespace: My_Lab")


def an_invalid_claim(lab: Lab) -> None:
    edit(lab, "claim: results", "claim: Results_1")


def an_invalid_image(lab: Lab) -> None:
    edit(lab, "example.org/task:1", "Example.org/My Task")


def an_invalid_study_name(lab: Lab) -> None:
    lab.study(STUDY.replace("pond", "My Pond"))


def no_secret_of_the_bucket(lab: Lab) -> None:
    edit(lab, "{claim: results, path: /shoal}", "{s3: 's3://lake/runs', endpoint: 'http://127.0.0.1:9', secret: keys}")


def not_even_leases(lab: Lab) -> None:
    rights(lab, [
        {"apiGroups": ["", "batch"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
    ])  # fmt: skip


def no_rights(lab: Lab) -> None:
    rights(lab, [{"apiGroups": ["", "batch"], "resources": ["jobs", "pods"], "verbs": ["get", "list", "watch"]}])


def rights(lab: Lab, rules: list[dict[str, Any]]) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1"
    role = {"metadata": {"name": "looker"}, "rules": rules}
    lab.admin.create(f"{path}/namespaces/{lab.namespace}/roles", role)
    lab.kubeconfig = lab.bed.user("looker", namespace=lab.namespace)
    subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "looker"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looker"}
    binding = {"metadata": {"name": "looker"}, "roleRef": reference, "subjects": [subject]}
    lab.admin.create(f"{path}/namespaces/{lab.namespace}/rolebindings", binding)


CASES: list[tuple[Callable[[Lab], None], list[str]]] = [
    (wrong_context, ['there is no context "testbde"', "testbed"]),
    (wrong_namespace, ["there is no namespace no-such-lab", "does it exist?"]),
    (
        someone_elses_namespace,
        ["create, get,", "deletecollection jobs.batch", "get pods/log", "kube-system", "rolebinding"],
    ),
    (
        no_rights,
        ["create, delete, deletecollection jobs.batch", "deletecollection pods", "get pods/log", "create configmaps"],
    ),
    (no_server, ["cannot be reached", "VPN"]),
    (expired_login, ["does not accept the login", "Log in anew"]),
    (no_claim, ["there is no claim no-such-claim", "kubectl get pvc"]),
    (no_secret, ["lacks WANDB_API_KEY", "kubectl create secret"]),
    (no_such_node, ["no node has 64 nvidia.com/gpu", "8"]),
    (unknown_priority, ["no-such-class"]),
    (too_small_a_quota, ["1 requests.nvidia.com/gpu", "quota is 0 in all", "kubectl describe quota"]),
    (no_jobs_at_all, ["1 count/jobs.batch", "quota is 0 in all"]),
    (no_login_plugin, ["kubectl-no_such_login is not installed", "Get it from example.org"]),
    (a_login_plugin_whose_session_is_over, ["the session is over", "kubectl get pods has to work"]),
    (a_login_plugin_that_gives_an_old_token, ["does not accept the login", "kubectl get pods has to work"]),
    (no_kubeconfig, ["there is no kubeconfig", "KUBECONFIG"]),
    (an_invalid_namespace, ["lab.yaml:2:12", "must be the name of a namespace, not 'My_Lab'"]),
    (an_invalid_claim, ["lab.yaml:3:", "'Results_1'"]),
    (an_invalid_image, ["'Example.org/My Task' is no name of an image"]),
    (an_invalid_study_name, ["s.yaml:2:8", '"My Pond"', "lower-case"]),
    (no_secret_of_the_bucket, ["the Secret keys", "lacks AWS_ACCESS_KEY_ID", "kubectl create secret"]),
    (not_even_leases, ["create, patch leases.coordination.k8s.io"]),
]


EVERYTHING = (JOBS, PODS, SERVICES, CONFIG_MAPS, LEASES, ROLES, SERVICE_ACCOUNTS)
"""Kinds of objects that a run makes."""


def there(lab: Lab) -> set[str]:
    with contextlib.closing(Client(read_login([lab.bed.namespace_user(lab.namespace)]))) as client:
        return {f"{kind.plural}/{one['metadata']['name']}" for kind in EVERYTHING for one in client.list(kind).items}


@pytest.mark.parametrize(("spoil", "words"), CASES, ids=[spoil.__name__ for spoil, _ in CASES])
def test_one_message_and_nothing_left_behind(lab: Lab, spoil: Callable[[Lab], None], words: list[str]) -> None:
    lab.study(STUDY)
    edit(lab, "defaults:", "runner: {image: 'example.org/shoal:1'}\ndefaults:")
    spoil(lab)
    # What every namespace has comes a moment after the namespace.
    until(lambda: there(lab) >= {"configmaps/kube-root-ca.crt", "serviceaccounts/default"})
    before = there(lab)
    for more in ([], ["--detach"]) if spoil in (no_rights, expired_login, no_claim) else ([],):
        done = lab.shoal("run", "s.yaml", "--on", "lab", *more, code=2)
        said = done.stderr
        if spoil is wrong_namespace:
            assert any(word in said for word in words), said
        else:
            assert all(word in said for word in words), said
        assert len(said.splitlines()) <= 10, said
        assert said.count("error:") == 1 or ".yaml:" in said.splitlines()[0], said
        assert done.stdout == ""
        assert there(lab) == before
        assert not list(lab.root.glob("runs*"))


def test_a_detached_run_that_cannot_be_made_leaves_nothing_half_made(lab: Lab) -> None:
    lab.study(STUDY)
    edit(lab, "defaults:", "runner: {image: 'example.org/shoal:1'}\ndefaults:")
    quota(lab, **{"count/configmaps": "1"})
    said = lab.shoal("run", "s.yaml", "--on", "lab", "--detach", code=2).stderr
    assert "no quota is left to create configmaps" in said
    left = {"configmaps/kube-root-ca.crt", "serviceaccounts/default"}
    # The Lease stays, held by nobody, until the study is removed.
    assert {one for one in there(lab) if not one.startswith("leases/")} == left
    assert "1 lease removed" in lab.shoal("gc", "s.yaml", "--on", "lab", "--yes").stdout
    assert there(lab) == left


def test_a_runner_that_finds_no_room_in_the_cluster_is_told_of_and_called_off(lab: Lab) -> None:
    lab.study(STUDY)
    edit(lab, "defaults:", "runner: {image: 'example.org/shoal:1', memory: 4Ti}\ndefaults:")
    lab.shoal("run", "s.yaml", "--on", "lab", "--detach")
    until(lambda: "No node has room" in lab.shoal("status", "s.yaml").stderr, 30)
    asked = lab.shoal("retry", "s.yaml", "train", code=2).stderr
    assert "has no running pod at the moment" in asked
    lab.shoal("stop", "s.yaml")
    assert lab.client.list(JOBS).items == []
    assert "no runner" in lab.shoal("status", "s.yaml").stdout
