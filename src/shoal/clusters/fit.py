"""What Shoal itself has to say of a plan on a cluster, whatever the platform's rules: images, data, types of GPU, the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from shoal.clusters.gpus import find_gpu, gpu_requests, least_label, too_small
from shoal.clusters.situation import Made, Situation
from shoal.study.problems import nearest
from shoal.units import format_size

__all__ = ["OWN"]


def _image(at: Situation) -> Iterator[Made]:
    if at.cluster.defaults.image is not None:
        return
    missing = [name for name in at.asks if at.plan.study.steps[name].image is None]
    if missing:
        yield (
            "error",
            f"no image for {', '.join(missing)}",
            "Write image: under the step or under defaults: of the study, or defaults: {image: ...} in the cluster file. "
            "Any image with Python 3.8 will do.",
        )


def _store(at: Situation) -> Iterator[Made]:
    store = at.cluster.store
    if store is None:
        yield (
            "note",
            "the cluster file names no store, so nothing can be submitted yet",
            "store: {claim: NAME} in your cluster file; the claim should be ReadWriteMany.",
        )
    elif store.s3 is not None:
        yield from _bucket(at)
    elif store.claim and not store.shared and (at.pods > 1):
        yield (
            "warn",
            f"claim {store.claim} can be mounted on one node at a time, and {at.pods} pods may run at once",
            "Take a claim of a ReadWriteMany storage class.",
        )


def _bucket(at: Situation) -> Iterator[Made]:
    store = at.cluster.store
    assert store is not None
    without = [name for name, asks in at.asks.items() if any(asked.disk is None for asked in asks)]
    if without:
        yield (
            "note",
            f"{', '.join(without)}: with a bucket as store, inputs, outputs and checkpoints lie on the pod's disk, and no disk "
            "is asked for",
            "resources: {disk: 50Gi}, or defaults: {disk: ...} in the cluster file.",
        )
    for name, one in at.cluster.object_stores.items():
        host = store.address.partition("://")[2]
        if one.inside is None or store.address == one.inside.rstrip("/"):
            continue
        if store.address == one.outside.rstrip("/"):
            yield (
                "note",
                f"pods reach the object store {name} from outside, by way of the public network",
                f"endpoint: {one.inside} is its address inside of the cluster.",
            )
        elif host == one.inside.partition("://")[2].rstrip("/"):
            yield (
                "error",
                f"the object store {name} is reached as {one.inside} from pods, not as {store.address}",
                f"endpoint: {one.inside}",
            )


def _data(at: Situation) -> Iterator[Made]:
    study, mounts = at.plan.study, at.mounts
    for name, place in study.sources.items():
        if "://" in place or any(place == mount or place.startswith(mount.rstrip("/") + "/") for mount in mounts):
            continue
        key = "data" if isinstance(study.data, str) else f"data.{name}"
        known = f" Pods see {', '.join(mounts)}." if mounts else ""
        if os.path.isabs(place):  # noqa: PTH117 - a place in a pod, not here
            yield (
                "warn",
                f"{key} is {place}, which no claim of the cluster file brings into pods",
                f"Is it in the image?{known}",
            )
        else:
            yield (
                "error",
                f"{key} is {place}, a place on this machine",
                f"Copy it to a claim, and say where pods find it: --set {key}=/PATH, or a profile.{known}",
            )


def _gpu_types(at: Situation) -> Iterator[Made]:
    cluster = at.cluster
    for name, asks in at.asks.items():
        said: set[str] = set()
        for asked in asks:
            if not asked.gpu:
                continue
            above = None if asked.gpu_memory is None else least_label(cluster, asked.gpu_memory) - 1
            for wanted in asked.gpu_type:
                found = find_gpu(cluster, wanted)
                if wanted in said:
                    continue
                said.add(wanted)
                if found is None:
                    near = nearest(wanted, cluster.gpus)
                    hint = f"Did you mean {near}? " if near else ""
                    level = "warn" if gpu_requests(cluster, asked) else "error"
                    text = f"step {name}: no GPU is called {wanted} on {cluster.name}"
                    yield level, text, f"{hint}See: shoal clusters show {cluster.name}"  # type: ignore[misc]
                elif too_small(found[1], above) and found[1].memory and asked.gpu_memory:
                    yield (
                        "warn" if gpu_requests(cluster, asked) else "error",
                        f"step {name}: {wanted} has {format_size(found[1].memory)}, "
                        f"less than the {format_size(asked.gpu_memory)} asked for",
                        None,
                    )
            if asked.gpu_memory and not asked.gpu_type and cluster.gpus and "" not in said:
                said.add("")
                fits = [n for n, gpu in cluster.gpus.items() if gpu.memory and gpu.memory >> 20 > (above or 0)]
                plain = [n for n in fits if cluster.gpus[n].resource is None]
                if not plain:
                    named = f"Name types: gpu_type: [{', '.join(fits)}]" if fits else None
                    yield (
                        "error",
                        f"step {name}: no GPU that is asked for as {cluster.gpu_resource} has {format_size(asked.gpu_memory)}",
                        named,
                    )
                else:
                    least = format_size(least_label(cluster, asked.gpu_memory) << 20)
                    slack = f" (label from {least})" if cluster.memory_slack else ""
                    yield "ok", f"step {name}: {format_size(asked.gpu_memory)}{slack} fits {', '.join(plain)}"


def _nodes(at: Situation) -> Iterator[Made]:
    for name, asks in at.asks.items():
        most = max(asked.nodes for asked in asks)
        run = at.plan.study.steps[name].run
        text = run if isinstance(run, str) else " ".join(run or ())
        if most > 1 and not any(word in text for word in ("torchrun", "torch.distributed", "NODE_RANK", "MASTER_ADDR")):
            yield (
                "note",
                f"step {name}: each of its {most} nodes runs the whole command; it has to form one group by itself",
                "torchrun finds MASTER_ADDR, NNODES and NODE_RANK in the environment (as PET_* too).",
            )


def _secrets(at: Situation) -> Iterator[Made]:
    names = {secret for name in at.asks for secret in at.plan.study.steps[name].secrets}
    if names:
        secret = at.cluster.defaults.secret
        literals = " ".join(f"--from-literal={name}=..." for name in sorted(names))
        yield (
            "note",
            f"{', '.join(sorted(names))} come from the keys of the Secret {secret}",
            f"kubectl create secret generic {secret} {literals}",
        )


def _regions(at: Situation) -> Iterator[Made]:
    known = at.cluster.regions
    for region in at.cluster.defaults.regions if known else ():
        if region not in known:
            near = nearest(region, known)
            yield (
                "warn",
                f"no region {region} is known, and tasks run there only",
                f"Did you mean {near}?" if near else f"Known: {', '.join(known)}.",
            )


Own = Callable[[Situation], Iterable[Made]]
OWN: dict[str, Own] = {
    "image": _image,
    "store": _store,
    "data": _data,
    "gpu-types": _gpu_types,
    "nodes": _nodes,
    "regions": _regions,
    "secrets": _secrets,
}
