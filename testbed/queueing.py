"""Kueue beside a control plane: it lets Jobs go up to a quota, makes the rest wait, and takes places away again.

It is upstream's program with upstream's manifests (``kubectl kustomize`` of its ``config/default``), but a process of this
machine instead of a pod: the API server reaches its webhooks by a Service that is another name of ``localhost``, and the
certificate that it makes for itself is written where it looks for it, as a kubelet does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from testbed.access import Api, write_kubeconfig
from testbed.binaries import HERE, OPTIONAL, BuildError, build, find_go, optional_binaries
from testbed.pki import Authority

if TYPE_CHECKING:
    from testbed.instance import Testbed

__all__ = ["KUEUE", "build_kueue", "built", "make_queue", "start"]

KUEUE = "kueue"
_MANIFESTS = "kueue.yaml"
_NAMESPACE = "kueue-system"
_SECRET = "kueue-webhook-server-cert"
_SERVICE = "kueue-webhook-service"
_PATIENCE = 90.0
_API = "/apis/kueue.x-k8s.io/v1beta2"
# The kinds that are made of its manifests, with their collections, in this order; the rest is about pods and other services.
_KINDS = {
    "Namespace": "/api/v1/namespaces",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "Secret": f"/api/v1/namespaces/{_NAMESPACE}/secrets",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "MutatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
}
_GROUPS = {"batch", "kueue.x-k8s.io"}


def built() -> bool:
    """Whether it is in the cache."""
    folder = optional_binaries(KUEUE)
    return (folder / KUEUE).exists() and (folder / _MANIFESTS).exists()


def build_kueue(jobs: int | None = None) -> Path:
    """Build what is not there yet, and return the folder.

    Raises:
        BuildError: there is no Go, or it failed.
    """
    folder = build((KUEUE,), jobs)
    if not (folder / _MANIFESTS).exists():
        kubectl = build(("kubectl",), jobs) / "kubectl"
        module = OPTIONAL[KUEUE].removesuffix("/cmd/kueue")
        source = _said([find_go(), "list", "-m", "-f", "{{.Dir}}", module]).strip()
        text = _said([str(kubectl), "kustomize", f"{source}/config/default"])
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".making-", delete=False) as making:
            making.write(text)
        Path(making.name).replace(folder / _MANIFESTS)
    return folder


def _said(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=HERE / KUEUE, env={**os.environ, "GOFLAGS": ""}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def start(bed: Testbed) -> None:
    """Make its objects, start it, and wait until it decides about Jobs. Those without a queue's label are none of its business.

    Raises:
        BuildError: it is not there, and cannot be built.
        RuntimeError: it does not become ready.
    """
    programs = build_kueue()
    folder = bed.folder / KUEUE
    certificates = folder / "certificates"
    certificates.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(_configuration(bed, certificates)))
    authority = Authority.load(bed.place.pki / "ca")
    pair = authority.issue(KUEUE, ["system:masters"])
    kubeconfig = write_kubeconfig(
        folder / "kubeconfig", bed.server, authority.pair.certificate, pair, KUEUE, _NAMESPACE
    )
    with contextlib.closing(bed.api()) as api:
        _make_objects(api, (programs / _MANIFESTS).read_text(), bed.place.ports["kueue"])
        command = [str(programs / KUEUE), f"--config={folder / 'config.yaml'}", f"--kubeconfig={kubeconfig}"]
        bed.processes.start(KUEUE, command)
        deadline = time.monotonic() + _PATIENCE
        while not (_mounted(api, certificates) and _ready(bed.place.ports["kueue-health"]) and _answers(api)):
            if time.monotonic() > deadline or not bed.processes.alive(KUEUE):
                raise RuntimeError(f"Kueue is not ready; the end of its log:\n{bed.processes.log(KUEUE)}")
            time.sleep(0.1)


def _configuration(bed: Testbed, certificates: Path) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": _NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{bed.place.ports['kueue-health']}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": bed.place.ports["kueue"], "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": True, "webhookServiceName": _SERVICE, "webhookSecretName": _SECRET},
        "clientConnection": {"qps": 200, "burst": 400},
        "integrations": {"frameworks": ["batch/job"]},
        "featureGates": {"VisibilityOnDemand": False},
    }


def _make_objects(api: Api, text: str, port: int) -> None:
    made = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    for kind, path in _KINDS.items():
        for one in made:
            if one["kind"] == kind:
                _point(one, port)
                api.create(path, one)
    # Another name of this machine: the certificate is of the Service's name, and the port that of the process.
    spec = {"type": "ExternalName", "externalName": "localhost"}
    api.create(f"/api/v1/namespaces/{_NAMESPACE}/services", {"metadata": {"name": _SERVICE}, "spec": spec})


def _point(one: dict[str, Any], port: int) -> None:
    """Let webhooks be asked at the port, and only those of Jobs and of Kueue's own kinds."""
    if "webhooks" in one:
        one["webhooks"] = [hook for hook in one["webhooks"] if _GROUPS & set(hook["rules"][0]["apiGroups"])]
        for hook in one["webhooks"]:
            hook["clientConfig"]["service"]["port"] = port
    elif one["kind"] == "CustomResourceDefinition":
        conversion = one["spec"].get("conversion") or {}
        if "webhook" in conversion:
            conversion["webhook"]["clientConfig"]["service"]["port"] = port


def _mounted(api: Api, certificates: Path) -> bool:
    """Write the certificate that it has made for itself to where it looks for it, as a kubelet does."""
    if (certificates / "tls.crt").exists():
        return True
    data = api.get(f"/api/v1/namespaces/{_NAMESPACE}/secrets/{_SECRET}").get("data") or {}
    if "tls.crt" not in data:
        return False
    for name in ("ca.crt", "tls.key", "tls.crt"):  # the last is what it waits for
        making = certificates / f".{name}"
        making.touch(mode=0o600)
        making.write_bytes(base64.b64decode(data[name]))
        making.replace(certificates / name)
    return True


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _answers(api: Api) -> bool:
    """Whether its webhooks are asked and answer."""
    done = api.request("POST", f"{_API}/resourceflavors", _own("ResourceFlavor", "default"))
    return done.is_success or done.status_code == httpx.codes.CONFLICT


def _own(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": _API.removeprefix("/apis/"), "kind": kind, "metadata": {"name": name}, **more}


def make_queue(bed: Testbed, namespace: str, name: str, quota: dict[str, str], priorities: dict[str, int]) -> None:
    """Make a queue of a namespace, with a quota of its own, in which more urgent work takes the place of less urgent.

    Args:
        bed: where `start` was called.
        namespace: of the LocalQueue.
        name: of the LocalQueue; the ClusterQueue's is made of both.
        quota: resource to amount, such as ``{"nvidia.com/gpu": "4"}``; of others as much as anybody asks for.
        priorities: names of WorkloadPriorityClasses, which all queues share, to their values.
    """
    resources = {"cpu": "10000", "memory": "10000Gi", "ephemeral-storage": "10000Gi", **quota}
    flavor = {
        "name": "default",
        "resources": [{"name": resource, "nominalQuota": amount} for resource, amount in resources.items()],
    }
    whole = f"{namespace}-{name}"
    spec = {
        "namespaceSelector": {},
        "resourceGroups": [{"coveredResources": list(resources), "flavors": [flavor]}],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    with contextlib.closing(bed.api()) as api:
        for priority, value in priorities.items():
            api.create(f"{_API}/workloadpriorityclasses", _own("WorkloadPriorityClass", priority, value=value))
        api.create(f"{_API}/clusterqueues", _own("ClusterQueue", whole, spec=spec))
        queue = _own("LocalQueue", name, spec={"clusterQueue": whole})
        api.create(f"{_API}/namespaces/{namespace}/localqueues", queue)
