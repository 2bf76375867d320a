"""Studies and clusters that the tests of manifests share."""

from __future__ import annotations

from typing import Any

from shoal.clusters import Cluster, parse_cluster
from shoal.clusters.situation import Situation
from shoal.executors.kubernetes.study import study_objects
from shoal.plan import Plan, build
from shoal.study import parse_study

STUDY = """
study: burned-area
data: /data/canada
defaults: {image: "ghcr.io/example/train:1.2"}
steps:
  chips:
    run: make-chips {data} --size {size} --out {out}
    matrix: {size: [256]}
    resources: {cpu: 500m, memory: 2G, disk: 10Gi}
  train:
    needs: chips
    matrix: {model: [unet], lr: [1e-3]}
    run: python train.py --chips {inputs.chips} --model {model} --lr {lr} --out {out} --resume {checkpoints}
    resources: {gpu: 2, gpu_type: [rtx3090, a10, l4], cpu: 4, memory: 24Gi, shm: 8Gi}
    env: {OMP_NUM_THREADS: 4, RUN: "{model}-{lr}"}
    secrets: [WANDB_API_KEY]
    timeout: 12h
    grace: 2m
  wide:
    needs: chips
    run: torchrun train.py --chips {inputs.chips} --out {out}
    resources: {gpu: 4, gpu_memory: 24Gi, nodes: 2, cpu: 8, memory: 48Gi, shm: 16Gi}
  scarce:
    needs: chips
    run: [python, train.py, --out, "{out}"]
    resources: {gpu: 1, gpu_type: gh200}
  look:
    needs: train
    gate: Look at the models.
"""
PLAIN = """
extends: nautilus
namespace: lab
store: {claim: results}
volumes: [{claim: data, path: /data, read_only: true}]
"""
FULL = """
namespace: lab
store: {claim: results, path: /shoal, folder: team/runs}
volumes: [{claim: results, path: /all}, {claim: data, path: /data, read_only: true}]
queue: gpu-queue
queue_priority: high
security: {user: 1000, group: 1000, fs_group: 2000}
limits: {cpu: 1.2, memory: 1.2}
gpus:
  gh200: {resource: nvidia.com/gh200, tolerations: [{key: arch, operator: Equal, value: arm64, effect: NoSchedule}]}
  rtx3090: {products: [NVIDIA-GeForce-RTX-3090]}
defaults:
  regions: [us-west, us-central]
  zones: [ucsd]
  avoid_hosts: [bad.example.org]
  tolerations: [{key: example.org/special}]
  priority_class: opportunistic
  service_account: runner
  image_pull_secrets: [registry]
  secret: keys
  ttl: 1d
  env: {HTTPS_PROXY: "http://proxy:3128", OMP_NUM_THREADS: 1}
  labels: {team: vision}
  annotations: {example.org/cost-centre: "1e5"}
"""


def demo(text: str = STUDY) -> Plan:
    """The study's plan."""
    return build(parse_study(text, "study.yaml"))


def cluster(text: str = PLAIN) -> Cluster:
    """The cluster of a text."""
    return parse_cluster(text, "mine.yaml")


def objects(
    plan: Plan | None = None, at: Cluster | None = None, pods: int | None = None, **more: Any
) -> dict[str, list[dict[str, Any]]]:
    """File name to objects."""
    plan, at = plan or demo(), at or cluster()
    todo = frozenset(plan.tasks)
    pods = Situation(plan, at, todo).pods if pods is None else pods
    return dict(study_objects(plan, at, todo=todo, pods=pods, **more))


def job(step: str, **more: Any) -> dict[str, Any]:
    """The first Job of a step."""
    for name, made in objects(**more).items():
        if name.startswith(f"{step}/"):
            return made[-1]
    raise KeyError(step)


def container(made: dict[str, Any]) -> dict[str, Any]:
    """A Job's container."""
    found: dict[str, Any] = made["spec"]["template"]["spec"]["containers"][0]
    return found
