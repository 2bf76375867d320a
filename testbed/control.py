"""The programs of a control plane and their arguments."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from testbed.access import write_kubeconfig
from testbed.nodes import FAKE
from testbed.pki import Authority, signing_key, write

__all__ = [
    "Options", "Place", "commands", "free_ports", "issue_certificates", "kwok", "kwok_configuration",
    "scheduler_configuration",
]  # fmt: skip

_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
# Below the range from which a system picks the ports of connections.
_PORTS = range(20000, 32000)


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between instances.

    Attributes:
        node_grace: seconds without a heartbeat after which a node counts as lost.
        audit: whether each request is logged, one JSON line each, to ``logs/audit``.
        backoff: seconds after which the scheduler looks again at a pod that did not fit, at the latest.
        apiserver: more arguments of kube-apiserver, which override those that are given here.
    """

    node_grace: int = 180
    audit: bool = False
    backoff: int = 10
    apiserver: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance is.

    Attributes:
        folder: its files.
        data: etcd's data, in memory where the system has some.
        ports: by name, all of the loopback address.
        network: a number below 64 that no other instance has; its addresses are made from it.
    """

    folder: Path
    data: Path
    ports: Mapping[str, int]
    network: int

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.ports['apiserver']}"

    @property
    def service(self) -> str:
        """The API server's address in pods."""
        return f"10.{128 + self.network}.0.1"

    @property
    def names(self) -> str:
        """The address of the DNS server in pods."""
        return f"10.{128 + self.network}.0.10"

    @property
    def services(self) -> str:
        """The range of all services' addresses."""
        return f"10.{128 + self.network}.0.0/16"

    @property
    def node(self) -> str:
        """The real node's address; its pods' are in the same ``/24``."""
        return f"10.88.{self.network}.1"

    @property
    def etcd(self) -> str:
        """The database's address."""
        return f"http://127.0.0.1:{self.ports['etcd']}"


def free_ports(names: Iterable[str], taken: Collection[int] = ()) -> dict[str, int]:
    """Pick a port of the loopback address for each name that nobody listens on, and that is not ``taken``."""
    found: dict[str, int] = {}
    for name in names:
        while name not in found:
            port = random.choice(_PORTS)
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in found.values() and port not in taken:
                found[name] = port
    return found


def issue_certificates(place: Place) -> None:
    """Make the instance's authority, keys and kubeconfigs: ``admin``, and one for each component."""
    place.pki.mkdir(mode=0o700, parents=True)
    authority = Authority.new()
    authority.pair.save(place.pki / "ca")
    hosts = ("127.0.0.1", "::1", place.service, *_NAMES)
    authority.issue("kube-apiserver", hosts=hosts).save(place.pki / "apiserver")
    authority.issue("kube-apiserver-kubelet-client", ["system:masters"]).save(place.pki / "to-kubelet")
    write(place.pki / "accounts.key", signing_key())
    write(place.pki / "audit.yaml", _AUDIT.encode())
    authority.issue("kwok", hosts=("127.0.0.1",)).save(place.pki / "kwok-server")
    for user, groups in (
        ("admin", ("system:masters",)),
        ("system:kube-controller-manager", ()),
        ("system:kube-scheduler", ()),
        ("kwok", ("system:masters",)),
    ):
        name = user.rpartition(":")[2]
        path = place.folder / "kubeconfig" if name == "admin" else place.pki / f"{name}.kubeconfig"
        write_kubeconfig(path, place.server, authority.pair.certificate, authority.issue(user, groups), user)


_AUDIT = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


def commands(place: Place, programs: Path, options: Options) -> dict[str, list[str]]:
    """The command line of each program, in the order in which to start them."""
    pki = place.pki
    peer = f"http://127.0.0.1:{place.ports['peer']}"
    etcd = _line(
        programs / "etcd",
        {
            "name": "testbed",
            "data-dir": place.data,
            "listen-client-urls": place.etcd,
            "advertise-client-urls": place.etcd,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"testbed={peer}",
            "unsafe-no-fsync": "true",
            "quota-backend-bytes": 4 << 30,
            "log-level": "warn",
        },
    )
    apiserver = _line(
        programs / "kube-apiserver",
        {
            "bind-address": "127.0.0.1",
            "secure-port": place.ports["apiserver"],
            # Never used by anybody on loopback, where a server may not advertise itself.
            "advertise-address": "192.0.2.1",
            "endpoint-reconciler-type": "none",
            "etcd-servers": place.etcd,
            "cert-dir": pki,
            "tls-cert-file": pki / "apiserver.crt",
            "tls-private-key-file": pki / "apiserver.key",
            "client-ca-file": pki / "ca.crt",
            "kubelet-certificate-authority": pki / "ca.crt",
            "kubelet-client-certificate": pki / "to-kubelet.crt",
            "kubelet-client-key": pki / "to-kubelet.key",
            "kubelet-preferred-address-types": "InternalIP",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": pki / "accounts.key",
            "service-account-signing-key-file": pki / "accounts.key",
            "service-cluster-ip-range": place.services,
            "profiling": "false",
            **(
                {"audit-log-path": place.folder / "logs" / "audit", "audit-policy-file": pki / "audit.yaml"}
                if options.audit
                else {}
            ),
        },
    )
    manager = _line(
        programs / "kube-controller-manager",
        {
            "kubeconfig": pki / "kube-controller-manager.kubeconfig",
            "secure-port": 0,
            "leader-elect": "false",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": pki / "accounts.key",
            "root-ca-file": pki / "ca.crt",
            "cluster-signing-cert-file": pki / "ca.crt",
            "cluster-signing-key-file": pki / "ca.key",
            "node-monitor-grace-period": f"{options.node_grace}s",
            "terminated-pod-gc-threshold": 12500,
            # A claim whose volume was not known yet when it came is looked at again only then; usually after 15 s.
            "pvclaimbinder-sync-period": "1s",
            # A laptop's defaults (20 requests a second) would be what a test of a thousand Jobs measures.
            "kube-api-qps": 1000,
            "kube-api-burst": 2000,
            "concurrent-job-syncs": 20,
            "concurrent-gc-syncs": 20,
            "profiling": "false",
        },
    )
    scheduler = _line(
        programs / "kube-scheduler",
        {"config": place.folder / "scheduler.yaml", "secure-port": 0},
    )
    return {
        "etcd": etcd,
        "kube-apiserver": [*apiserver, *options.apiserver],
        "kube-controller-manager": manager,
        "kube-scheduler": scheduler,
    }


def kwok(place: Place, programs: Path) -> list[str]:
    """The command line of the kubelet of all fake nodes."""
    return _line(
        programs / "kwok",
        {
            "kubeconfig": place.pki / "kwok.kubeconfig",
            "config": place.folder / "kwok.yaml",
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": f"{FAKE}=fake",
            "server-address": f"127.0.0.1:{place.ports['kwok']}",
            "tls-cert-file": place.pki / "kwok-server.crt",
            "tls-private-key-file": place.pki / "kwok-server.key",
            "v": "WARN",
            # Heartbeats of hundreds of nodes should not be what keeps the machine busy.
            "node-lease-duration-seconds": 120,
        },
    )


def scheduler_configuration(place: Place, options: Options) -> str:
    """The configuration of kube-scheduler."""
    kubeconfig = str(place.pki / "kube-scheduler.kubeconfig")
    return yaml.safe_dump(
        {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": kubeconfig, "qps": 1000, "burst": 2000},
            "leaderElection": {"leaderElect": False},
            "enableProfiling": False,
            "podInitialBackoffSeconds": 1,
            "podMaxBackoffSeconds": options.backoff,
        }
    )


def kwok_configuration(place: Place) -> str:
    """The configuration of kwok: what pods do, how many at once, and what their logs say."""
    log = place.folder / "fake.log"
    options = {
        "podPlayStageParallelism": 16,
        "nodePlayStageParallelism": 4,
        "nodeLeaseParallelism": 4,
        "enableCRDs": [],
    }
    parts: list[object] = [
        {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options},
        {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "ClusterLogs",
            "metadata": {"name": "all"},
            "spec": {"logs": [{"logsFile": str(log)}]},
        },
    ]
    return yaml.safe_dump_all(parts, sort_keys=False) + "---\n" + (Path(__file__).parent / "kwok.yaml").read_text()


def _line(program: Path, options: Mapping[str, object]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]
