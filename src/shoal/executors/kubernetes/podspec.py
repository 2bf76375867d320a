"""The pods of an attempt: what they ask for, where they may run, what they mount, and how little they may do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shoal.clusters.gpus import GpuRequest
from shoal.clusters.schema import Cluster, Toleration
from shoal.clusters.situation import limit_ratios
from shoal.executors.kubernetes.spec import AGENT, WORK
from shoal.plan.resources import Resources

__all__ = ["CONTAINER", "PORT", "Manifest", "pod_of", "pod_place", "pod_security"]

Manifest = dict[str, Any]

CONTAINER = "task"
PORT = 29500
_MARGIN = 30
_MARGIN_BUCKET = 120
_STARTING = 1800
# Variable of the pod, key of the Secret, whether it may be absent.
BUCKET_KEYS = (
    ("SHOAL_S3_KEY", "AWS_ACCESS_KEY_ID", False),
    ("SHOAL_S3_SECRET", "AWS_SECRET_ACCESS_KEY", False),
    ("SHOAL_S3_TOKEN", "AWS_SESSION_TOKEN", True),
)
_MIB = 1 << 20


def pod_of(
    spec: Mapping[str, Any],
    cluster: Cluster,
    name: str,
    way: GpuRequest | None,
    image: str,
    pods: int,
    sources: list[Manifest],
) -> Manifest:
    """The specification of an attempt's pods.

    Args:
        spec: the content of ``spec.json``.
        cluster: where it runs.
        name: the Job's name.
        way: how to ask for the GPUs.
        image: the container image.
        pods: how many pods may run at once.
        sources: what is mounted for the agent: itself, the specification, the code.
    """
    asked = Resources.from_json(spec["resources"])
    defaults = cluster.defaults
    grace = float(spec["grace"])
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Checkpoints and records of a store in a bucket are brought there after the command has ended.
        "terminationGracePeriodSeconds": math.ceil(grace) + (_MARGIN if "bucket" not in spec else _MARGIN_BUCKET),
    }
    if spec["timeout"] is not None:
        # The agent keeps the time; this ends a pod whose agent cannot. It counts from the node's acceptance of the pod, as a
        # Job's own deadline would not, so waiting in the queue costs nothing and pulling the image is allowed for.
        pod["activeDeadlineSeconds"] = math.ceil(float(spec["timeout"]) + grace) + _STARTING
    if defaults.service_account is not None:
        pod["serviceAccountName"] = defaults.service_account
    if defaults.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": one} for one in defaults.image_pull_secrets]
    if (priority := _priority(cluster, way)) is not None:
        pod["priorityClassName"] = priority
    pod["securityContext"] = pod_security(cluster)
    pod |= pod_place(cluster, way)
    if asked.nodes > 1:
        pod["subdomain"] = name
    volumes, mounts = _volumes(cluster, asked, sources)
    pod["containers"] = [
        {
            "name": CONTAINER,
            "image": image,
            "command": [defaults.python, "-I", "-B", "-u", f"{AGENT}/pod.py"],
            "env": _env(spec, cluster, asked, name),
            "resources": _resources(cluster, pods, asked, way),
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        }
    ]
    pod["volumes"] = volumes
    return pod


def _priority(cluster: Cluster, way: GpuRequest | None) -> str | None:
    if cluster.defaults.priority_class is not None:
        return cluster.defaults.priority_class
    admitting = [gpu.priority_class for gpu in (way.gpus if way else ()) if gpu.quota == "priority"]
    return admitting[0] if admitting else None


def pod_security(cluster: Cluster) -> Manifest:
    """As whom a pod runs, and that its system calls are the default ones."""
    security = cluster.security
    made: Manifest = {"seccompProfile": {"type": "RuntimeDefault"}}
    if security.user is not None:
        made["runAsUser"] = security.user
        if security.user:
            made["runAsNonRoot"] = True
    if security.group is not None:
        made["runAsGroup"] = security.group
    if security.fs_group is not None:
        made |= {"fsGroup": security.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}
    return made


def pod_place(cluster: Cluster, way: GpuRequest | None = None) -> Manifest:
    """On which nodes a pod may run, and which taints it puts up with.

    Args:
        cluster: where it runs.
        way: how it asks for GPUs; None for one that wants none.
    """
    made: Manifest = {}
    if affinity := _affinity(cluster, way):
        made["affinity"] = affinity
    tolerations = [
        *cluster.defaults.tolerations,
        *(one for gpu in (way.gpus if way else ()) for one in gpu.tolerations),
    ]
    if tolerations:
        made["tolerations"] = [_toleration(one) for one in dict.fromkeys(tolerations)]
    return made


def _affinity(cluster: Cluster, way: GpuRequest | None) -> Manifest | None:
    label, defaults = cluster.labels, cluster.defaults
    wants: list[Manifest] = []
    if way is not None and way.products:
        wants.append({"key": label.product, "operator": "In", "values": list(way.products)})
    if way is not None and way.memory_above is not None:
        # Gt compares whole numbers only; a value such as 24Gi would match no node.
        wants.append({"key": label.memory, "operator": "Gt", "values": [str(way.memory_above)]})
    for key, operator, values in (
        (label.region, "In", defaults.regions),
        (label.zone, "In", defaults.zones),
        (label.host, "In", defaults.hosts),
        (label.host, "NotIn", defaults.avoid_hosts),
    ):
        if values:
            wants.append({"key": key, "operator": operator, "values": list(values)})
    if not wants:
        return None
    terms = {"nodeSelectorTerms": [{"matchExpressions": wants}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _toleration(one: Toleration) -> Manifest:
    return {name: text for name in ("key", "operator", "value", "effect") if (text := getattr(one, name)) is not None}


def _resources(cluster: Cluster, pods: int, asked: Resources, way: GpuRequest | None) -> Manifest:
    of_cpu, of_memory = limit_ratios(cluster, pods)
    requests: Manifest = {"cpu": _cpu(asked.cpu)}
    limits: Manifest = {"cpu": _cpu(asked.cpu * of_cpu)}
    for name, amount in (("memory", asked.memory), ("ephemeral-storage", asked.disk)):
        if amount is not None:
            requests[name] = _bytes(amount)
            limits[name] = _bytes(amount if of_memory == 1 else math.floor(amount * of_memory / _MIB) * _MIB or amount)
    if way is not None:
        requests[way.resource] = limits[way.resource] = str(way.count)
    return {"requests": requests, "limits": limits}


def _cpu(cores: float) -> str:
    milli = max(1, math.floor(cores * 1000 + 1e-6))
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def _bytes(amount: int) -> str:
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if amount % size == 0:
            return f"{amount // size}{unit}"
    return str(amount)


def _env(spec: Mapping[str, Any], cluster: Cluster, asked: Resources, name: str) -> list[Manifest]:
    """The container's variables, each once: the API server refuses a name that is there twice."""
    made: dict[str, Manifest] = {key: {"value": text} for key, text in sorted(cluster.defaults.env.items())}
    made["SHOAL_NODE"] = {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    for key in spec["secrets"]:
        made[key] = {"valueFrom": {"secretKeyRef": {"name": cluster.defaults.secret, "key": key}}}
    if "bucket" in spec:
        assert cluster.store is not None
        made |= bucket_env(str(cluster.store.secret))
    if asked.nodes > 1:
        index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        group: dict[str, Manifest] = {
            "MASTER_ADDR": {"value": f"{name}-0.{name}"},
            "MASTER_PORT": {"value": str(PORT)},
            "NNODES": {"value": str(asked.nodes)},
            "NODE_RANK": {"valueFrom": index},
        }
        # torchrun takes each of its options from PET_..., so a bare `torchrun train.py` spans the nodes.
        made |= {prefix + key: value for key, value in group.items() for prefix in ("", "PET_")}
        made["PET_NPROC_PER_NODE"] = {"value": str(max(1, asked.gpu))}
    return [{"name": key, **value} for key, value in made.items()]


def other_claims(cluster: Cluster) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of the cluster's claims beside the store's, to be read: environments may lie there."""
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    store = cluster.store.claim if cluster.store is not None else None
    for number, one in enumerate(cluster.volumes):
        if one.claim != store:
            name = f"claim-{number}"
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": one.claim}})
            mounts.append({"name": name, "mountPath": one.path, "readOnly": True})
    return volumes, mounts


def bucket_env(secret: str) -> dict[str, Manifest]:
    """The variables with the keys of the bucket, from the Secret of that name."""
    made: dict[str, Manifest] = {}
    for key, inside, optional in BUCKET_KEYS:
        from_ = {"name": secret, "key": inside, **({"optional": True} if optional else {})}
        made[key] = {"valueFrom": {"secretKeyRef": from_}}
    return made


def _volumes(cluster: Cluster, asked: Resources, sources: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    work: Manifest = {"sizeLimit": _bytes(asked.disk)} if asked.disk is not None else {}
    volumes: list[Manifest] = [
        {"name": "shoal-agent", "projected": {"sources": sources}},
        {"name": "shoal-work", "emptyDir": work},
    ]
    mounts: list[Manifest] = [
        {"name": "shoal-agent", "mountPath": AGENT, "readOnly": True},
        {"name": "shoal-work", "mountPath": WORK},
    ]
    if asked.shm is not None:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _bytes(asked.shm)}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    store = cluster.store
    claims = [(store.claim, store.path, False)] if store is not None and store.claim is not None else []
    claims += [(one.claim, one.path, one.read_only) for one in cluster.volumes]
    known: dict[str, str] = {}
    for claim, path, read_only in claims:
        # A claim is one volume however often it is mounted.
        if claim not in known:
            known[claim] = f"claim-{len(known)}"
            volumes.append({"name": known[claim], "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": known[claim], "mountPath": path, **({"readOnly": True} if read_only else {})})
    return volumes, mounts
