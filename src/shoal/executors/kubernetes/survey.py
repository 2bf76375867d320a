"""What a login may see of a cluster's GPUs at this moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shoal.clusters.free import FreeGpus, free_gpus, gpu_pods, quotas_left
from shoal.clusters.schema import Cluster
from shoal.executors.kubernetes.client import NODES, PODS, QUOTAS, Client, Forbidden

__all__ = ["survey_gpus"]

_LIVE = "status.phase!=Succeeded,status.phase!=Failed"


def survey_gpus(client: Client, cluster: Cluster) -> FreeGpus:
    """Ask for nodes, pods and quotas, and count what is free.

    Pods of all namespaces are asked for first; where these may not be read, those of the own one have to do.

    Raises:
        ApiError, LoginError: the server cannot be asked at all.
    """
    everywhere = True
    try:
        nodes = client.list(NODES, keep=_needed).items
    except Forbidden:
        nodes = None
    try:
        pods = client.list(replace(PODS, namespaced=False), fields=_LIVE, keep=lambda pod: gpu_pods(pod, cluster)).items
    except Forbidden:
        everywhere = False
        try:
            pods = client.list(PODS, fields=_LIVE, keep=lambda pod: gpu_pods(pod, cluster)).items
        except Forbidden:
            pods = None
    try:
        quotas = [left for found in client.list(QUOTAS).items for left in quotas_left(found, cluster)]
    except Forbidden:
        quotas = None
    held = None if pods is None else [pod for pod in pods if pod is not None]
    return free_gpus(cluster, nodes, held, quotas, everywhere=everywhere)


def _needed(node: dict[str, Any]) -> dict[str, Any]:
    """A node without its list of images, which is longer than all the rest."""
    status = {key: part for key, part in (node.get("status") or {}).items() if key in ("allocatable", "conditions")}
    return {"metadata": node["metadata"], "spec": node.get("spec") or {}, "status": status}
