"""One real node: containerd and runc of Debian, a kubelet of our build; its pods truly start, log, and run out of memory.

Needs root and Linux. Its network is a bridge of this machine with three addresses: the node's, that of the API server's service,
and that of the DNS server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import yaml

from testbed.access import write_kubeconfig
from testbed.binaries import build
from testbed.control import Place
from testbed.image import PAUSE, archive
from testbed.pki import Authority
from testbed.processes import Processes

if TYPE_CHECKING:
    from testbed.instance import Testbed

__all__ = ["NODE", "lacking", "start", "stop"]

NODE = "real-0"
PACKAGES = ("containerd", "runc", "containernetworking-plugins", "debootstrap", "iproute2")
_NETWORK_PLUGINS = Path("/usr/lib/cni")
_CONTROLLERS = Path("/sys/fs/cgroup")
_NAMESPACE = "k8s.io"
_DOMAIN = "cluster.local"


def lacking() -> str | None:
    """Why there can be no real node here; None if there can be one."""
    if sys.platform != "linux":
        return "a real node needs Linux"
    if os.geteuid() != 0:
        return "a real node needs root"
    programs = [name for name in ("containerd", "ctr", "runc", "ip", "debootstrap") if shutil.which(name) is None]
    if not (_NETWORK_PLUGINS / "bridge").exists():
        programs.append(f"{_NETWORK_PLUGINS}/bridge")
    if programs:
        return f"a real node needs {', '.join(programs)}: apt-get install {' '.join(PACKAGES)}"
    return None


def start(bed: Testbed) -> None:
    """Start containerd, bring the images, and start the kubelet. The caller waits for the node to be ready."""
    folder = bed.folder / "node"
    folder.mkdir(exist_ok=True)
    images, programs = archive(), build(("kubelet", "coredns"))
    _network(bed.place, True)
    _configure_containerd(bed.place, folder)
    bed.processes.start("containerd", ["containerd", "--config", str(folder / "containerd.toml")])
    _until_answers(folder, bed.processes)
    _ctr(folder, "images", "import", str(images))
    _cgroups(bed.name, True)
    bed.processes.start("forward", _forward(bed), env={"PYTHONPATH": str(Path(__file__).parent.parent)})
    bed.processes.start("coredns", _names(bed, folder, programs))
    bed.processes.start("kubelet", _kubelet(bed, folder, programs))
    _until_named(bed)


def stop(bed: Testbed) -> None:
    """End the kubelet, then all containers, then containerd, and take away mounts, cgroups and the network."""
    folder = bed.folder / "node"
    if not folder.exists():
        return
    processes = bed.processes
    processes.stop("kubelet")
    if processes.alive("containerd"):
        for task in _ctr(folder, "tasks", "list", "--quiet", check=False).split():
            _ctr(folder, "tasks", "kill", "--all", "--signal", "SIGKILL", task, check=False)
        for task in _ctr(folder, "tasks", "list", "--quiet", check=False).split():
            _ctr(folder, "tasks", "delete", "--force", task, check=False)
    processes.stop("forward", "coredns", "containerd")
    _end_shims(folder)
    for mount in sorted(_mounts_below(bed.folder), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    _cgroups(bed.name, False)
    _network(bed.place, False)


# -- network -----------------------------------------------------------------------------------------------------


def _network(place: Place, there: bool) -> None:
    bridge = _bridge(place)
    if Path("/sys/class/net", bridge).exists():
        _ip("link", "delete", bridge)
    if there:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{place.node}/24", "dev", bridge)
        for address in (place.service, place.names):
            _ip("address", "add", f"{address}/32", "dev", bridge)
        _ip("link", "set", bridge, "up")


def _bridge(place: Place) -> str:
    return f"shoal-bed{place.network}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _forward(bed: Testbed) -> list[str]:
    return [
        sys.executable,
        "-m",
        "testbed.forward",
        f"{bed.place.service}:443",
        f"127.0.0.1:{bed.place.ports['apiserver']}",
    ]


# -- names of Services -------------------------------------------------------------------------------------------


def _names(bed: Testbed, folder: Path, programs: Path) -> list[str]:
    """The DNS server's command line. It knows the cluster's names, and no other."""
    authority = Authority.load(bed.place.pki / "ca")
    kubeconfig = folder / "coredns.kubeconfig"
    pair = authority.issue("coredns", ["system:masters"])
    write_kubeconfig(kubeconfig, bed.server, authority.pair.certificate, pair, "coredns")
    (folder / "Corefile").write_text(
        f""".:53 {{
    bind {bed.place.names}
    ready 127.0.0.1:{bed.place.ports["names"]}
    errors
    kubernetes {_DOMAIN} {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
"""
    )
    return [str(programs / "coredns"), "-conf", str(folder / "Corefile")]


def _until_named(bed: Testbed, patience: float = 60) -> None:
    """Wait until the DNS server knows what there is."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and bed.processes.alive("coredns"):
        with contextlib.suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{bed.place.ports['names']}/ready"
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the DNS server is not ready; the end of its log:\n{bed.processes.log('coredns')}")


# -- containerd --------------------------------------------------------------------------------------------------


def _configure_containerd(place: Place, folder: Path) -> None:
    """Write its configuration and the network's."""
    plugin = {
        "cniVersion": "0.4.0",
        "name": "testbed",
        "plugins": [
            {
                "type": "bridge",
                "bridge": _bridge(place),
                "isGateway": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "addresses"),
                    "ranges": [[{"subnet": f"{place.node[:-1]}0/24", "gateway": place.node}]],
                    "routes": [{"dst": "0.0.0.0/0", "gw": place.node}],
                },
            },
        ],
    }
    networks = folder / "networks"
    networks.mkdir(exist_ok=True)
    (networks / "testbed.conflist").write_text(json.dumps(plugin))
    (folder / "containerd.toml").write_text(
        f"""version = 2
root = "{folder}/containerd"
state = "{folder}/run"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_NETWORK_PLUGINS}"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
    )


def _ctr(folder: Path, *words: str, check: bool = True) -> str:
    command = ["ctr", "--address", f"{folder}/containerd.sock", "--namespace", _NAMESPACE, *words]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=120).stdout


def _until_answers(folder: Path, processes: Processes, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and processes.alive("containerd"):
        try:
            _ctr(folder, "version")
        except subprocess.CalledProcessError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"containerd does not answer; the end of its log:\n{processes.log('containerd')}")


def _end_shims(folder: Path) -> None:
    """End what holds containers: known by the address of this very containerd in its command line."""
    mark = f"{folder}/containerd.sock".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if mark in words and b"shim" in words[0]:
                os.kill(int(path.parent.name), signal.SIGKILL)


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line.split()[4].replace("\\040", " ") for line in lines]
    return [mount for mount in found if mount.startswith(f"{folder}/")]


# -- kubelet -----------------------------------------------------------------------------------------------------


def _cgroups(name: str, there: bool) -> None:
    """Make the group that all pods are in, or remove it."""
    unified = (_CONTROLLERS / "cgroup.controllers").exists()
    tops = [_CONTROLLERS] if unified else [path for path in _CONTROLLERS.iterdir() if path.is_dir()]
    for top in dict.fromkeys(path.resolve() for path in tops):
        group = top / f"shoal-testbed-{name}"
        if there:
            with contextlib.suppress(OSError):
                group.mkdir(exist_ok=True)
                if top.name == "cpuset":  # empty until written
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (group / file).write_text((top / file).read_text())
        elif group.exists():
            for path in sorted(group.rglob("*"), key=lambda one: -len(one.parts)):
                if path.is_dir():
                    with contextlib.suppress(OSError):
                        path.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()


def _kubelet(bed: Testbed, folder: Path, programs: Path) -> list[str]:
    pki = bed.place.pki
    authority = Authority.load(pki / "ca")
    kubeconfig = folder / "kubelet.kubeconfig"
    user = f"system:node:{NODE}"
    pair = authority.issue(user, ["system:nodes"])
    write_kubeconfig(kubeconfig, bed.server, authority.pair.certificate, pair, user)
    authority.issue(NODE, hosts=(bed.place.node, NODE)).save(pki / "kubelet")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": bed.place.node,
        "port": bed.place.ports["kubelet"],
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "clusterDNS": [bed.place.names],
        "clusterDomain": _DOMAIN,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/shoal-testbed-{bed.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "podLogsDir": str(folder / "logs"),
        "resolvConf": str(folder / "resolv.conf"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "serializeImagePulls": False,
        "enableControllerAttachDetach": False,
        "registryPullQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "logging": {"verbosity": 1},
    }
    # Names other than of this machine are nobody's business here.
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return [
        str(programs / "kubelet"),
        f"--config={folder / 'kubelet.yaml'}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={folder / 'kubelet'}",
        f"--cert-dir={pki}",
        f"--hostname-override={NODE}",
        f"--node-ip={bed.place.node}",
    ]
