"""What can be found out before anything is created: is the server there, may this login do it, would it be refused."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from shoal.clusters.schema import Cluster
from shoal.errors import UsageError
from shoal.executors.kubernetes.bucket import outside_address
from shoal.executors.kubernetes.client import (
    CLAIMS,
    CONFIG_MAPS,
    JOBS,
    LEASES,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICES,
    ApiError,
    Client,
    Denied,
    Forbidden,
    Invalid,
    NotFound,
    QuotaExceeded,
    Resource,
)
from shoal.executors.kubernetes.client.resources import RULES_REVIEWS
from shoal.executors.kubernetes.manifests import Manifest
from shoal.executors.kubernetes.s3 import Bucket, S3Error

__all__ = ["NEEDED", "Right", "missing_rights", "preflight"]

_OLDEST = (1, 26)
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9][-A-Za-z0-9.]*(?::\d+)?/)?{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@[A-Za-z0-9+._-]+:[0-9a-fA-F]{{32,}})?"
)

Right = tuple[str, Resource, str | None]
"""Verb, resource, and part of the resource."""

NEEDED: tuple[Right, ...] = (
    ("create", JOBS, None),
    ("get", JOBS, None),
    ("list", JOBS, None),
    ("watch", JOBS, None),
    ("delete", JOBS, None),
    ("deletecollection", JOBS, None),
    ("list", PODS, None),
    ("watch", PODS, None),
    ("deletecollection", PODS, None),
    ("get", PODS, "log"),
    ("create", CONFIG_MAPS, None),
    ("get", LEASES, None),
    ("create", LEASES, None),
    ("patch", LEASES, None),
)
"""What a run needs in its namespace."""
_FOR_NODES: tuple[Right, ...] = (("create", SERVICES, None),)


def preflight(
    client: Client,
    cluster: Cluster,
    jobs: Mapping[str, Manifest],
    *,
    secrets: Iterable[str] = (),
) -> list[str]:
    """Find out what would keep a run from working. Creates nothing.

    Args:
        client: the client.
        cluster: the cluster file.
        jobs: step to the Job of one of its tasks.
        secrets: keys that the steps need from the Secret of the cluster file.

    Returns:
        What a person should know, though it keeps nothing from starting.

    Raises:
        UsageError: something would, with what to do.
        ApiError, LoginError: the server cannot be reached or does not accept the login.
    """
    client = client.with_patience(8.0)
    version = client.version()
    if version < _OLDEST:
        raise UsageError(
            f"the server speaks Kubernetes {version[0]}.{version[1]}; {_OLDEST[0]}.{_OLDEST[1]} or newer is needed",
            hint="Older ones cannot tell a preemption from a failure (podFailurePolicy).",
        )
    wide = any("subdomain" in job["spec"]["template"]["spec"] for job in jobs.values())
    lacking = missing_rights(client, NEEDED + (_FOR_NODES if wide else ()))
    _namespace(client, sure=not lacking)
    if lacking:
        verbs: dict[str, list[str]] = {}
        for verb, resource, sub in lacking:
            verbs.setdefault(_said(resource, sub), []).append(verb)
        said = "\n".join(f"  {', '.join(which)} {name}" for name, which in verbs.items())
        asked = "Is it the right namespace, and does it exist? " if set(lacking) >= set(NEEDED) else ""
        raise UsageError(
            f"this login may not do all that is needed in namespace {client.namespace}; it lacks:\n{said}",
            hint=f"{asked}An admin of the namespace can allow it: "
            f"kubectl create rolebinding shoal --clusterrole=edit --user=YOU -n {client.namespace}",
        )
    for step, job in jobs.items():
        _image(step, job)
    notes = _claims(client, cluster)
    _secret(client, cluster.defaults.secret, sorted(set(secrets)))
    _bucket(client, cluster)
    return notes + [note for step, job in jobs.items() for note in _try(client, step, job)]


def missing_rights(client: Client, needed: Iterable[Right]) -> list[Right]:
    """What the login may not do in the namespace, of what is needed."""
    review = client.review(RULES_REVIEWS, {"namespace": client.namespace})
    rules = (review.get("status") or {}).get("resourceRules") or []
    # The list of rules may be incomplete (a webhook decides): what it does not have is asked for by itself.
    return [one for one in needed if not any(_grants(rule, one) for rule in rules) and not client.allowed(*one)]


def _grants(rule: Mapping[str, Any], right: Right) -> bool:
    verb, resource, sub = right
    name = f"{resource.plural}/{sub}" if sub else resource.plural
    return (
        bool({verb, "*"} & set(rule.get("verbs") or ()))
        and bool({resource.group, "*"} & set(rule.get("apiGroups") or ()))
        and bool({name, "*", *([f"*/{sub}"] if sub else [])} & set(rule.get("resources") or ()))
        and not rule.get("resourceNames")
    )


def _said(resource: Resource, sub: str | None) -> str:
    return f"{resource.said}/{sub}" if sub else resource.said


def _namespace(client: Client, *, sure: bool) -> None:
    try:
        found = client.get(NAMESPACES, client.namespace)
    except NotFound:
        raise UsageError(
            f"there is no namespace {client.namespace} on {client.connection.login.server.url}",
            hint="Name yours in the cluster file (namespace: NAME), and see that the context is the right one.",
        ) from None
    except Forbidden:
        return  # then the rights have to tell
    if sure and (found.get("status") or {}).get("phase") == "Terminating":
        raise UsageError(f"the namespace {client.namespace} is being deleted")


def _image(step: str, job: Manifest) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    if not _IMAGE.fullmatch(str(container["image"])):
        raise UsageError(
            f"step {step}: {container['image']!r} is no name of an image",
            hint="It is made like registry.example.org/group/name:tag, in lower-case letters but for the tag.",
        )


def _claims(client: Client, cluster: Cluster) -> list[str]:
    """Whether the claims are there; what a person should know of them."""
    notes = []
    wanted = [cluster.store.claim] if cluster.store is not None and cluster.store.claim else []
    wanted += [one.claim for one in cluster.volumes]
    for name in dict.fromkeys(wanted):
        try:
            found = client.get(CLAIMS, name)
        except NotFound:
            raise UsageError(
                f"there is no claim {name} in namespace {client.namespace}",
                hint="Make it, or name another in the cluster file: kubectl get pvc lists those there are.",
            ) from None
        except Forbidden:
            continue
        phase = (found.get("status") or {}).get("phase")
        if phase == "Lost":
            raise UsageError(f"the claim {name} in namespace {client.namespace} has lost its volume")
        if phase == "Pending":
            # Those of some storage classes are bound when the first pod comes.
            said = f"kubectl describe pvc {name} shows why"
            notes.append(f"the claim {name} is not bound to a volume yet, and pods wait until it is: {said}")
    return notes


def _secret(client: Client, name: str, keys: list[str]) -> dict[str, str] | None:
    """What a Secret holds, which has to have these keys; None where this login may not read it."""
    there: dict[str, str] = {}
    if not keys:
        return there
    try:
        there = dict(client.get(SECRETS, name).get("data") or {})
    except NotFound:
        pass
    except Forbidden:
        return None
    if missing := [key for key in keys if key not in there]:
        literals = " ".join(f"--from-literal={key}=..." for key in missing)
        raise UsageError(
            f"the Secret {name} in namespace {client.namespace} lacks {', '.join(missing)}",
            hint=f"kubectl create secret generic {name} {literals} -n {client.namespace}",
        )
    return there


def _bucket(client: Client, cluster: Cluster) -> None:
    """Whether the keys of the bucket are there, and open it, as far as the object store can be reached from here."""
    store = cluster.store
    if store is None or store.s3 is None or store.secret is None:
        return
    found = _secret(client, store.secret, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    if found is None:
        return
    key, secret, token = (
        base64.b64decode(found.get(name) or "").decode("utf-8", "replace")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    )
    address = outside_address(cluster)
    bucket = Bucket(address, store.bucket, store.region, key, secret, token or None, tries=1)
    try:
        next(iter(bucket.list(f"{store.prefix}/" if store.prefix else "")), None)
    except S3Error as error:
        if error.status in (401, 403):
            raise UsageError(
                f"{address} does not accept the keys in the Secret {store.secret} for the bucket {store.bucket}: {error}",
                hint=f"Put the right ones there: kubectl delete secret {store.secret} -n {client.namespace}, then "
                f"kubectl create secret generic {store.secret} --from-literal=AWS_ACCESS_KEY_ID=... "
                f"--from-literal=AWS_SECRET_ACCESS_KEY=... -n {client.namespace}",
            ) from None
        if error.code == "NoSuchBucket":
            raise UsageError(
                f"there is no bucket {store.bucket} at {address}",
                hint="Make it, or name another: store: {s3: s3://BUCKET/FOLDER} in the cluster file.",
            ) from None


def _try(client: Client, step: str, job: Manifest) -> list[str]:
    """Have the server say what it would make of a step's Job and of its pod."""
    template = job["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": job["metadata"]["name"]},
        "spec": template["spec"],
    }
    notes = []
    for one in (job, pod):
        try:
            client.create(one, dry_run=True)
        except QuotaExceeded as error:
            if never := _never(error.said):
                raise UsageError(f"step {step}: {never}", hint=error.hint) from None
            notes.append(f"step {step}: no quota is left at this moment, so it waits: {error.said}")
        except (Denied, Invalid) as error:
            raise UsageError(f"step {step}: {error.message}", hint=error.hint) from None
        except Forbidden as error:
            if one is pod and "cannot create resource" in error.said:
                continue
            raise UsageError(f"step {step}: {error.message}", hint=error.hint) from None
        except ApiError as error:
            if error.status != 409:
                raise
    return notes


def _never(said: str) -> str | None:
    """A sentence when a quota is too small for one task alone."""
    from shoal.units import parse_cpu, parse_size

    def amounts(word: str) -> dict[str, str]:
        found = re.search(rf"{word}: ([^:]*?)(?:, (?:used|limited):|$)", said)
        return dict(pair.split("=", 1) for pair in found[1].split(",") if "=" in pair) if found else {}

    def number(text: str, name: str) -> float:
        if text == "0":
            return 0.0
        return parse_cpu(text) if name.endswith("cpu") else float(parse_size(text))

    requested, limited = amounts("requested"), amounts("limited")
    for name, text in requested.items():
        try:
            if number(text, name) > number(limited[name], name):
                return f"it asks for {text} {name}, and the namespace's quota is {limited[name]} in all"
        except (KeyError, ValueError, UsageError):
            continue
    return None
