"""One control plane on this machine, from its start to its end."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from testbed import real, registry
from testbed.access import Api, write_kubeconfig
from testbed.binaries import CONTROL_PLANE, binaries, build
from testbed.control import (
    Options,
    Place,
    commands,
    issue_certificates,
    kwok,
    kwok_configuration,
    scheduler_configuration,
)
from testbed.nodes import FAKE, KINDS, Kind, add_nodes, fail_node, set_up
from testbed.pki import Authority
from testbed.processes import Processes
from testbed.registry import TestbedError

__all__ = ["Testbed", "sweep"]

_PATIENCE = 90.0
_RBAC = "rbac.authorization.k8s.io"
_TRIES = 3


class Testbed:
    """A control plane that runs. Made by `start` or `open`; ends with `stop`, or with a ``with`` block.

    If whoever started it dies without stopping it, the next start of any instance ends it, unless it was started to stay.
    """

    __test__ = False  # pytest: not a test

    def __init__(self, folder: Path) -> None:
        """Use `start` or `open`."""
        facts = json.loads((folder / registry.FACTS).read_text())
        self.folder = folder
        self.programs = Path(facts["programs"])
        self.place = Place(folder, Path(facts["data"]), facts["ports"], facts.get("network", 0))
        self.options = Options(**{**facts["options"], "apiserver": tuple(facts["options"]["apiserver"])})
        self.processes = Processes(folder)

    # -- life --------------------------------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        name: str | None = None,
        *,
        nodes: int = 0,
        real_node: bool = False,
        stay: bool = False,
        options: Options | None = None,
    ) -> Testbed:
        """Start one and wait until it is ready; seconds.

        Args:
            name: its name; default: one that is free.
            nodes: how many fake nodes it has, of all kinds, with 8 GPUs each.
            real_node: whether it has the one node whose pods truly run.
            stay: whether it outlives this process.
            options: what differs from the usual.

        Raises:
            BuildError: its programs are not there, and cannot be built.
            TestbedError: it does not start.
        """
        sweep()
        programs = build(CONTROL_PLANE)
        for attempt in range(_TRIES):
            self = cls(registry.new(name, programs, options or Options(), stay=stay))
            try:
                self._start_all()
                if nodes:
                    self.add_nodes(nodes)
                if real_node:
                    self.add_real_node()
            except TestbedError as error:
                # Somebody else may have taken a port between looking and listening.
                taken = "address already in use" in str(error)
                self.stop()
                if not taken or attempt == _TRIES - 1:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return self
        raise AssertionError

    @classmethod
    def open(cls, name: str) -> Testbed:
        """Take the instance of this name.

        Raises:
            TestbedError: there is none.
        """
        return cls(registry.find(name))

    def stop(self) -> None:
        """End all of its processes, and remove its folder."""
        real.stop(self)
        self.processes.stop("kube-scheduler", "kube-controller-manager")
        self.processes.stop("kube-apiserver", how=signal.SIGKILL)
        self.processes.stop(how=signal.SIGKILL)
        shutil.rmtree(self.place.data, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Testbed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    # -- use ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of an administrator who may do all."""
        return self.folder / "kubeconfig"

    @property
    def server(self) -> str:
        """The API server's address."""
        return self.place.server

    def api(self) -> Api:
        """Requests as the administrator."""
        return Api(self.kubeconfig)

    def ready(self) -> bool:
        """Whether the API server answers that it is ready."""
        with contextlib.closing(self.api()) as api:
            return api.ready()

    def namespace_user(self, namespace: str, *, nodes: bool = True, server: str | None = None) -> Path:
        """Make a namespace if it is not there, and a user who is its admin and nothing else.

        Args:
            namespace: its name.
            nodes: whether the user may also read nodes, as on NRP Nautilus.
            server: another address for the kubeconfig, as that of a proxy.

        Returns:
            The user's kubeconfig; the namespace is its context's.
        """
        user = f"user-of-{namespace}"
        subject = {"kind": "User", "apiGroup": _RBAC, "name": user}
        with contextlib.closing(self.api()) as api:
            api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
            role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "admin"}
            rbac = f"/apis/{_RBAC}/v1"
            binding = {"metadata": {"name": "namespace-admin"}, "roleRef": role, "subjects": [subject]}
            api.create(f"{rbac}/namespaces/{namespace}/rolebindings", binding)
            if nodes:
                rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}
                api.create(f"{rbac}/clusterroles", {"metadata": {"name": "node-reader"}, "rules": [rule]})
                role = {**role, "name": "node-reader"}
                binding = {"metadata": {"name": f"node-reader-{namespace}"}, "roleRef": role, "subjects": [subject]}
                api.create(f"{rbac}/clusterrolebindings", binding)
            _wait(
                lambda: api.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default").is_success,
                f"the service account of namespace {namespace}",
            )
            _wait(lambda: _may_all(api, user, namespace), f"the rights of {user}")
        return self.user(user, namespace=namespace, server=server)

    def user(
        self, name: str, groups: tuple[str, ...] = (), *, namespace: str | None = None, server: str | None = None
    ) -> Path:
        """Return the kubeconfig of a user with no rights but those that bindings give."""
        authority = Authority.load(self.place.pki / "ca")
        folder = self.folder / "users"
        folder.mkdir(exist_ok=True)
        pair = authority.issue(name, groups)
        return write_kubeconfig(
            folder / f"{name}.kubeconfig", server or self.server, authority.pair.certificate, pair, name, namespace
        )

    # -- nodes -------------------------------------------------------------------------------------------------

    def add_nodes(self, count: int, *, gpus: int = 8, kinds: Sequence[Kind] = KINDS) -> list[str]:
        """Add fake nodes and return their names; their pods do what ``kwok.yaml`` says.

        Args:
            count: how many.
            gpus: of each.
            kinds: what machines, spread by their shares.
        """
        if not self.processes.alive("kwok"):
            self._start_kwok()
        with contextlib.closing(self.api()) as api:
            set_up(api)
            first = sum(FAKE in (one["metadata"].get("annotations") or {}) for one in api.get("/api/v1/nodes")["items"])
            return add_nodes(
                api, count, gpus=gpus, kinds=kinds, address="127.0.0.1", port=self.place.ports["kwok"], first=first
            )

    def add_real_node(self) -> str:
        """Add the one node whose pods truly run, wait until it is ready, and return its name.

        Its pods may use the image `testbed.image.PYTHON`, which has Debian and Python 3.

        Raises:
            TestbedError: it cannot be had here (`testbed.real.lacking` says why), or does not start.
        """
        if (why := real.lacking()) is not None:
            raise TestbedError(why)
        try:
            real.start(self)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            raise TestbedError(f"the real node does not start: {error} {said}".rstrip()) from error
        with contextlib.closing(self.api()) as api:
            self._wait(lambda: _node_ready(api, real.NODE), "kubelet")
        return real.NODE

    def fail_node(self, name: str) -> None:
        """Take a node away for good, as when its machine fails."""
        with contextlib.closing(self.api()) as api:
            fail_node(api, name)

    def _start_kwok(self) -> None:
        build(("kwok",))
        (self.folder / "kwok.yaml").write_text(kwok_configuration(self.place))
        (self.folder / "fake.log").write_text(f"{_nanoseconds()} stdout F a fake node has no log of this pod\n")
        self.processes.start("kwok", kwok(self.place, binaries()))

    def claim(self, namespace: str, name: str, path: Path | None = None) -> Path:
        """Make a claim that many pods may write to (on the real node), bound to a folder of this machine.

        Args:
            namespace: of the claim.
            name: of the claim.
            path: the folder; default: a new one, that every user of a pod may write to.

        Returns:
            The folder.
        """
        if path is None:
            path = self.folder / "claims" / namespace / name
            path.mkdir(parents=True)
            path.chmod(0o777)
            for above in (self.folder, path.parent, path.parent.parent):
                above.chmod(0o755)
        size = {"storage": "10Gi"}
        shared: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        volume = f"{namespace}-{name}"
        whose = {"namespace": namespace, "name": name}
        spec = {**shared, "capacity": size, "hostPath": {"path": str(path)}, "claimRef": whose}
        wish = {**shared, "resources": {"requests": size}, "volumeName": volume}
        with contextlib.closing(self.api()) as api:
            volumes = "/api/v1/persistentvolumes"
            api.create(volumes, {"metadata": {"name": volume}, "spec": spec})
            # A claim that comes before its volume is known waits for another round of the controller's.
            _wait(lambda: api.get(f"{volumes}/{volume}")["status"].get("phase") == "Available", f"volume {volume}")
            claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
            api.create(claims, {"metadata": {"name": name}, "spec": wish})
            _wait(lambda: api.get(f"{claims}/{name}")["status"].get("phase") == "Bound", f"claim {name}")
        return path

    def environment(self, namespace: str) -> list[dict[str, Any]]:
        """Make claims of this Python's environment, so that pods of the real node can run it where it is.

        That spares an image of gigabytes for PyTorch. It works as long as this machine's C library is not newer than that of
        the image, Debian 12.

        Returns:
            ``volumes`` of a cluster file; ``python`` of its ``defaults`` is then `sys.executable`.
        """
        places = [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).resolve().parent.parent / "src"]
        found = []
        for number, place in enumerate(places):
            name = f"environment-{number}"
            self.claim(namespace, name, place)
            found.append({"claim": name, "path": str(place), "read_only": True})
        return found

    # -- faults ------------------------------------------------------------------------------------------------

    def kill_apiserver(self) -> None:
        """End the API server as a crash does; it stays away until `restart_apiserver`."""
        self.processes.stop("kube-apiserver", how=signal.SIGKILL)

    def restart_apiserver(self) -> None:
        """Kill the API server if it runs, start it anew at the same address, and wait until it is ready."""
        self.kill_apiserver()
        self._start("kube-apiserver")

    def compact_etcd(self) -> int:
        """Forget all revisions but the last, so that a watch from an older one is gone (410), and return the last.

        The API server's own cache still has recent ones until it is restarted.
        """
        with httpx.Client(base_url=self.place.etcd, trust_env=False) as client:
            status = client.post("/v3/maintenance/status", json={}).raise_for_status().json()
            revision = int(status["header"]["revision"])
            client.post("/v3/kv/compaction", json={"revision": revision, "physical": True}).raise_for_status()
        return revision

    # -- start -------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        issue_certificates(self.place)
        (self.folder / "scheduler.yaml").write_text(scheduler_configuration(self.place, self.options))
        for name in commands(self.place, self.programs, self.options):
            self._start(name)

    def _start(self, name: str) -> None:
        """Start one of the programs and wait until it works, as far as others need it."""
        self.processes.start(name, commands(self.place, self.programs, self.options)[name])
        if name == "etcd":
            self._wait(self._etcd_ready, name)
        elif name == "kube-apiserver":
            self._wait(self.ready, name)

    def _etcd_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.place.etcd}/health", timeout=2, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.is_success and answer.json().get("health") == "true"

    def _wait(self, ready: Callable[[], bool], name: str) -> None:
        def looked() -> bool:
            if not self.processes.alive(name):
                raise TestbedError(f"{name} ended; the end of its log:\n{self.processes.log(name)}")
            return ready()

        try:
            _wait(looked, name)
        except TimeoutError:
            raise TestbedError(f"{name} is not ready; the end of its log:\n{self.processes.log(name)}") from None


def _may_all(api: Api, user: str, namespace: str) -> bool:
    """Whether a namespace's admin has all rights: a controller puts the role together, a little after the start, of what viewers,
    editors and admins may do."""
    for verb, group, resource in (("get", "batch", "jobs"), ("create", "batch", "jobs"), ("create", _RBAC, "roles")):
        asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        review = {"spec": {"user": user, "resourceAttributes": asked}}
        answer = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        if not answer.json()["status"]["allowed"]:
            return False
    return True


def _node_ready(api: Api, name: str) -> bool:
    found = api.request("GET", f"/api/v1/nodes/{name}")
    if not found.is_success:
        return False
    conditions = found.json()["status"].get("conditions") or []
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and not found.json()["spec"].get("taints")


def _nanoseconds() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _wait(ready: Callable[[], Any], what: str, patience: float = _PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience:.0f} s for {what}")
        time.sleep(0.05)


def sweep() -> list[str]:
    """End what dead starters have left, and return the names of those instances."""
    with registry.locked():
        swept = registry.abandoned()
        for folder in swept:
            Testbed(folder).stop()
    return [folder.name for folder in swept]
