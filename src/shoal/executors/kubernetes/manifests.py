"""From a task to the objects that run it: plain dictionaries, made without a clock, a network or chance.

The same plan, cluster file and code give the same bytes, so that applying them again changes nothing. Each attempt is one
Job of its own: the runner decides on the next attempt, and Kubernetes only replaces a pod that no node ever started.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.agent.agent import EXIT_CLAIMED, EXIT_CODES, EXIT_SPEC
from shoal.clusters.gpus import GpuRequest, gpu_requests
from shoal.clusters.schema import Cluster
from shoal.errors import UsageError
from shoal.executors.kubernetes import bundle, names
from shoal.executors.kubernetes.podspec import CONTAINER, PORT, Manifest, pod_of
from shoal.plan.resources import Resources

__all__ = ["CONTAINER", "PORT", "Manifest", "Shared", "has_more", "shared_objects", "task_objects"]

_BACKOFF = 3
_PLAIN_SPEC = 32 * 1024
_ZIPPED_SPEC = 200 * 1024


@dataclass(frozen=True, slots=True)
class Shared:
    """What the tasks of a study have in common on a cluster.

    Attributes:
        study: name of the study.
        cluster: where it runs.
        pods: how many pods may run at once; decides on limits.
        code: the packed code of each step that has any.
    """

    study: str
    cluster: Cluster
    pods: int = 1
    code: Mapping[str, bundle.Code | None] = field(default_factory=dict)

    @property
    def scope(self) -> str:
        """What tells the study's objects from all others."""
        store = self.cluster.store
        assert store is not None, "a specification was made before, and that needs a store"
        return names.scope_of(self.study, store.claim or store.s3 or "", store.root)


def shared_objects(shared: Shared) -> list[Manifest]:
    """The ConfigMaps that tasks share: the agent, and the code of each step. To be applied before any Job.

    Their names are made from what is in them, so they are immutable, which spares the nodes watching them.
    """
    agent = names.config_name("agent", bundle.agent_digest(), shared.scope)
    found = {agent: _config_map(shared, agent, data=dict(sorted(bundle.agent_files().items())), immutable=True)}
    for code in shared.code.values():
        for number, name in enumerate(_code_names(shared, code)):
            assert code is not None
            piece = {f"code.{number}": bundle.binary(code.pieces[number])}
            found[name] = _config_map(shared, name, binaryData=piece, immutable=True)
    return list(found.values())


def task_objects(
    spec: Mapping[str, Any], shared: Shared, *, image: str | None = None, gpus: GpuRequest | None = None
) -> list[Manifest]:
    """The objects of one attempt, in the order in which to apply them: a Service for several nodes, then the Job.

    Args:
        spec: the content of ``spec.json``, as ``pod_spec`` makes it.
        shared: what the study's tasks have in common.
        image: the step's container image; default: the cluster's.
        gpus: how to ask for the GPUs, one of `gpu_requests`; default: the first.

    Raises:
        UsageError: there is no image, no way to ask for the GPUs, or the specification is too long.
    """
    cluster = shared.cluster
    step, task, number = str(spec["step"]), str(spec["task"]), int(spec["attempt"])
    asked = Resources.from_json(spec["resources"])
    if (image or cluster.defaults.image) is None:
        raise UsageError(
            f"step {step} has no container image",
            hint="Write image: under the step, or defaults: {image: ...} in the cluster file.",
        )
    ways = [gpus] if gpus is not None else gpu_requests(cluster, asked)
    if asked.gpu and not ways:
        wanted = ", ".join(asked.gpu_type)
        raise UsageError(
            f"step {step}: none of the GPU types {wanted} is there on {cluster.name} as asked for",
            hint=f"See: shoal clusters show {cluster.name}",
        )
    way = ways[0] if ways else None
    name = names.job_name(shared.study, step, task, number, shared.scope)
    labels = {
        **cluster.defaults.labels,
        **names.labels(shared.study, shared.scope, step=step, task=task, attempt=number),
    }
    carried = _carried(spec)
    objects: list[Manifest] = []
    sources: list[Manifest] = [{"configMap": {"name": names.config_name("agent", bundle.agent_digest(), shared.scope)}}]
    if carried.apart:
        objects.append(_config_map(shared, name, labels, data={carried.file: carried.text}))
        sources.append({"configMap": {"name": name}})
    else:
        note = {"fieldPath": f"metadata.annotations['{names.SPEC}']"}
        sources.append({"downwardAPI": {"items": [{"path": carried.file, "fieldRef": note}]}})
    sources += [{"configMap": {"name": one}} for one in _code_names(shared, shared.code.get(step))]
    if asked.nodes > 1:
        objects.append(_service(cluster, name, labels))
    pod = pod_of(spec, cluster, name, way, str(image or cluster.defaults.image), shared.pods, sources)
    template: Manifest = {"labels": dict(sorted(labels.items()))}
    notes = {**cluster.defaults.annotations, **({} if carried.apart else {names.SPEC: carried.text})}
    if notes:
        template["annotations"] = dict(sorted(notes.items()))
    objects.append(_job(spec, cluster, name, labels, asked.nodes, {"metadata": template, "spec": pod}))
    return objects


def has_more(spec: Mapping[str, Any]) -> bool:
    """Whether an attempt has objects beside its Job: a Service for several nodes, a ConfigMap for a long specification."""
    return Resources.from_json(spec["resources"]).nodes > 1 or _carried(spec).apart


def _code_names(shared: Shared, code: bundle.Code | None) -> list[str]:
    pieces = range(len(code.pieces)) if code else ()
    return [names.config_name("code", code.digest, shared.scope, number) for number in pieces if code]


def _meta(cluster: Cluster, name: str, labels: Mapping[str, str], notes: Mapping[str, str] | None = None) -> Manifest:
    made: Manifest = {"name": name}
    if cluster.namespace is not None:
        made["namespace"] = cluster.namespace
    made["labels"] = dict(sorted(labels.items()))
    if notes:
        made["annotations"] = dict(sorted(notes.items()))
    return made


def _config_map(shared: Shared, name: str, labels: Mapping[str, str] | None = None, **content: Any) -> Manifest:
    made = labels or {**shared.cluster.defaults.labels, **names.labels(shared.study, shared.scope)}
    notes = shared.cluster.defaults.annotations
    meta = _meta(shared.cluster, name, made, notes)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **content}


@dataclass(frozen=True, slots=True)
class _Carried:
    """How the specification gets into the pod: as an annotation that is mounted as a file, which costs no request, or, when it is
    too long for that, in a ConfigMap of its own."""

    file: str
    text: str
    apart: bool = False


def _carried(spec: Mapping[str, Any]) -> _Carried:
    text = json.dumps(spec, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) <= _PLAIN_SPEC:
        return _Carried("spec.json", text)
    packed = bundle.zipped(text)
    if len(packed) > bundle.PIECE:
        raise UsageError(
            f"task {spec['task']} of step {spec['step']} has too many inputs to be described to a pod",
            hint="Put a step in between that gathers them in groups.",
        )
    return _Carried("spec.gz", packed, apart=len(packed) > _ZIPPED_SPEC)


def _service(cluster: Cluster, name: str, labels: Mapping[str, str]) -> Manifest:
    """A name for each node of a task: torchrun's nodes find the first by it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(cluster, name, labels, cluster.defaults.annotations),
        "spec": {
            "clusterIP": "None",
            # The nodes look for each other before they are ready.
            "publishNotReadyAddresses": True,
            "selector": {key: labels[key] for key in (names.ATTEMPT, names.SCOPE, names.TASK)},
            "ports": [{"name": "rendezvous", "port": PORT, "protocol": "TCP"}],
        },
    }


def _job(
    spec: Mapping[str, Any], cluster: Cluster, name: str, labels: dict[str, str], nodes: int, template: Manifest
) -> Manifest:
    labels = dict(labels)
    body: Manifest = {"backoffLimit": _BACKOFF, "podFailurePolicy": _failure_policy()}
    if nodes > 1:
        body |= {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes}
    if cluster.queue is not None:
        body["suspend"] = True
        labels["kueue.x-k8s.io/queue-name"] = cluster.queue
        if cluster.queue_priority is not None:
            labels["kueue.x-k8s.io/priority-class"] = cluster.queue_priority
    body |= {"ttlSecondsAfterFinished": math.ceil(cluster.defaults.ttl), "template": template}
    notes = dict(cluster.defaults.annotations)
    if spec["params"]:
        point = ", ".join(f"{key}={value}" for key, value in spec["params"].items())
        notes[names.POINT] = point if len(point) <= 1000 else point[:999] + "…"
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _meta(cluster, name, labels, notes), "spec": body}


def _failure_policy() -> Manifest:
    """Every end of a pod is the end of its attempt, and the Job's condition tells of which kind even when the pod is gone:
    rule 0 a disruption, rule 1 the agent's own word, rule 2 anything else that ended the container (a kill, a bad image)."""
    codes = sorted({EXIT_SPEC, EXIT_CLAIMED, *EXIT_CODES.values()})
    return {
        "rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}},
            {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": codes}},
        ]
    }
