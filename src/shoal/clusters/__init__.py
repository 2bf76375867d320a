"""Clusters: files that describe where to run, and the check of a plan against what is there and allowed. Pure but for reading
the files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.clusters.gpus import GpuRequest, gpu_requests, with_defaults
    from shoal.clusters.load import cluster_places, known_clusters, load_cluster, parse_cluster
    from shoal.clusters.policies import check
    from shoal.clusters.schema import Cluster, Gpu, Policy, Toleration
    from shoal.clusters.situation import Finding, limit_ratios

__all__ = [
    "Cluster",
    "Finding",
    "Gpu",
    "GpuRequest",
    "Policy",
    "Toleration",
    "check",
    "cluster_places",
    "gpu_requests",
    "known_clusters",
    "limit_ratios",
    "load_cluster",
    "parse_cluster",
    "with_defaults",
]

_HOMES = {
    "gpus": "GpuRequest gpu_requests with_defaults",
    "load": "cluster_places known_clusters load_cluster parse_cluster",
    "policies": "check",
    "situation": "Finding limit_ratios",
    "schema": "Cluster Gpu Policy Toleration",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
