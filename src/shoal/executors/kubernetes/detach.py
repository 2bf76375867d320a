"""The objects of a runner inside of the cluster: a Job of ``shoal run``, what it reads, and the least rights that do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.clusters.schema import Cluster
from shoal.errors import UsageError
from shoal.executors.kubernetes import bundle, names
from shoal.executors.kubernetes.podspec import Manifest, bucket_env, other_claims, pod_place, pod_security
from shoal.executors.kubernetes.reading import VARIABLE, reader_source
from shoal.executors.kubernetes.spec import WORK, layout_of

__all__ = [
    "ACCOUNT", "BASKET", "CONTAINER", "FINAL", "STUDY",
    "account_objects", "role", "runner_name", "runner_objects", "runner_store",
]  # fmt: skip

ACCOUNT = "shoal-runner"
CONTAINER = "runner"
BASKET = "/shoal-study"
"""Where the study travels, in pieces."""
STUDY = f"{WORK}/study"
"""Where it is laid out."""
_RECORDS = f"{WORK}/runs"
FINAL = (0, 1, 2, 3, 130)
"""What `shoal run` ends with when there is nothing left to do, or a person has to look: it is not started again."""

_RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("batch", ("jobs",), ("get", "list", "watch", "create", "patch", "delete", "deletecollection")),
    ("", ("pods",), ("get", "list", "watch", "delete", "deletecollection")),
    ("", ("pods/log", "events", "persistentvolumeclaims"), ("get", "list")),
    ("", ("configmaps", "services"), ("get", "list", "create", "patch", "delete", "deletecollection")),
    ("coordination.k8s.io", ("leases",), ("get", "create", "patch")),
)


def role(cluster: Cluster) -> Manifest:
    """The least rights that a runner works with: its own namespace, no Secrets, nothing of the cluster's."""
    rules = [{"apiGroups": [group], "resources": list(which), "verbs": list(verbs)} for group, which, verbs in _RULES]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": _meta(cluster, ACCOUNT, {names.MANAGED_BY: "shoal"}),
        "rules": rules,
    }


def account_objects(cluster: Cluster) -> list[Manifest]:
    """The service account, its Role and what binds both; none where the cluster file names an account."""
    if cluster.runner.service_account is not None:
        return []
    labels = {names.MANAGED_BY: "shoal"}
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(cluster, ACCOUNT, labels),
        "automountServiceAccountToken": False,
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _meta(cluster, ACCOUNT, labels),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": cluster.namespace}],
    }
    return [account, role(cluster), binding]


def runner_store(cluster: Cluster) -> str:
    """The store of the runner in its pod: the claim itself, or, for a bucket, records of its own as on any machine."""
    assert cluster.store is not None
    return cluster.store.root if cluster.store.claim is not None else _RECORDS


def runner_name(scope: str) -> str:
    """Name of the Job, and of the Lease: one for each study in a store."""
    return f"shoal-run-{scope}"


def runner_objects(
    study: str,
    cluster: Cluster,
    files: Mapping[str, tuple[bytes, bool]],
    arguments: Sequence[str],
    secrets: Sequence[str] = (),
) -> list[Manifest]:
    """What travels, and the Job; in the order in which to make them.

    Args:
        study: name of the study.
        cluster: where.
        files: the study file, its code and the cluster file: path to content and whether it is executable.
        arguments: of ``shoal run``.
        secrets: names of the variables that the study's steps get from the Secret; here they are masked in records.

    Raises:
        UsageError: there is no image with Shoal, no store, or too much to travel.
    """
    store = cluster.store
    if cluster.runner.image is None:
        raise UsageError(
            f"the cluster {cluster.name} names no image for the runner",
            hint="runner: {image: ...} in the cluster file: any image with Shoal in it. images/README.md says how to build one.",
        )
    layout_of(cluster, study)
    assert store is not None
    scope = names.scope_of(study, store.claim or store.s3 or "", store.root)
    labels = {**cluster.defaults.labels, **names.labels(study, scope), names.ROLE: "runner"}
    packed = bundle.pack(files, "of the whole study")
    assert packed is not None
    maps: list[Manifest] = []
    for number, piece in enumerate(packed.pieces):
        maps.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": _meta(cluster, names.config_name("study", packed.digest, scope, number), labels),
                "binaryData": {f"code.{number}": bundle.binary(piece)},
                "immutable": True,
            }
        )
    return [*maps, _job(study, cluster, runner_name(scope), labels, maps, arguments)]


def _job(
    study: str, cluster: Cluster, name: str, labels: dict[str, str], maps: list[Manifest], arguments: Sequence[str]
) -> Manifest:
    store, defaults = cluster.store, cluster.defaults
    assert store is not None
    keys = [{"name": key, **value} for key, value in bucket_env(str(store.secret)).items()] if store.s3 else []
    amounts = {"cpu": "1", "memory": str(cluster.runner.memory)}
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.runner.service_account or ACCOUNT,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": pod_security(cluster),
        "containers": [
            {
                "name": CONTAINER,
                "image": cluster.runner.image,
                "command": [cluster.runner.python, "-m", "shoal.cli.inpod", BASKET, STUDY, "--", *arguments],
                "env": [
                    {"name": "SHOAL_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "SHOAL_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "HOME", "value": WORK},
                    {"name": VARIABLE, "value": reader_source()},
                    *keys,
                ],
                "resources": {"requests": amounts, "limits": amounts},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "study", "mountPath": BASKET, "readOnly": True},
                    {"name": "work", "mountPath": WORK},
                ],
            }
        ],
        "volumes": [
            {
                "name": "study",
                "projected": {"sources": [{"configMap": {"name": one["metadata"]["name"]}} for one in maps]},
            },
            {"name": "work", "emptyDir": {}},
        ],
    }
    (container,) = pod["containers"]
    if store.claim is not None:
        pod["volumes"].append({"name": "store", "persistentVolumeClaim": {"claimName": store.claim}})
        container["volumeMounts"].append({"name": "store", "mountPath": store.path})
    volumes, mounts = other_claims(cluster)
    pod["volumes"] += volumes
    container["volumeMounts"] += mounts
    if defaults.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": one} for one in defaults.image_pull_secrets]
    pod |= pod_place(cluster)
    spec: Manifest = {
        # A runner that is evicted, or whose node is gone, is started again, and adopts what runs.
        "backoffLimit": 20,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [code for code in FINAL if code],
                    },
                },
            ]
        },
        "ttlSecondsAfterFinished": int(defaults.ttl),
    }
    meta = _meta(cluster, name, labels)
    spec["template"] = {"metadata": {key: meta[key] for key in ("labels", "annotations") if key in meta}, "spec": pod}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def _meta(cluster: Cluster, name: str, labels: Mapping[str, str]) -> Manifest:
    made: dict[str, Any] = {"name": name}
    if cluster.namespace is not None:
        made["namespace"] = cluster.namespace
    made["labels"] = dict(sorted(labels.items()))
    if cluster.defaults.annotations:
        made["annotations"] = dict(cluster.defaults.annotations)
    return made
