"""Upstream's programs, built once from the modules that ``go.mod`` pins, and kept outside of the tree.

kwok has a module file of its own, ``kwok.mod``: it does not compile with the Kubernetes libraries of ``go.mod``. CoreDNS has a
module, ``coredns``: its usual program would bring the libraries of all clouds. Kueue has one, ``kueue``, and is built only when
asked for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = [
    "CONTROL_PLANE", "OPTIONAL", "PROGRAMS", "BuildError", "binaries", "build", "find_go", "kubernetes_version",
    "optional_binaries",
]  # fmt: skip

HERE = Path(__file__).resolve().parent
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    "coredns": ".",
}
OPTIONAL = {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}
_OWN_MODULE = ("coredns", "kueue")
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd")
_MODULES = ("go.mod", "go.sum", "kwok.mod", "kwok.sum", "coredns/go.mod", "coredns/go.sum", "coredns/main.go")
# Pure Go, without debug information, and with a collector that seldom runs: half the time and a third of the size.
_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-gcflags=all=-dwarf=false")
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOGC": "800", "GOFLAGS": "", "GOWORK": "off"}
_VERSION_OF = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


class BuildError(Exception):
    """The programs cannot be built here; says why and what to do."""


def kubernetes_version() -> str:
    """The version of Kubernetes that ``go.mod`` pins, as ``v1.34.4``."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (HERE / "go.mod").read_text(), re.M)
    assert found is not None
    return found[1]


def binaries() -> Path:
    """The folder of the programs as ``go.mod`` and the flags have them; it may be empty, or not be there.

    ``SHOAL_TESTBED_BIN`` names another, for programs that somebody else has built.
    """
    if (given := os.environ.get("SHOAL_TESTBED_BIN")) is not None:
        return Path(given)
    made_of = [(HERE / name).read_text() for name in _MODULES]
    return _cache() / _digest([made_of, _FLAGS, _linker_flags(), PROGRAMS])


def optional_binaries(name: str) -> Path:
    """The folder of a program that is built only when asked for; it may not be there."""
    made_of = [(HERE / name / file).read_text() for file in ("go.mod", "go.sum")]
    return _cache() / f"{name}-{_digest([made_of, _FLAGS, OPTIONAL[name]])}"


def _digest(made_of: list[object]) -> str:
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal" / "testbed"


def build(programs: tuple[str, ...] = tuple(PROGRAMS), jobs: int | None = None) -> Path:
    """Build what is not there yet and return the folder; each program appears whole or not at all.

    Args:
        programs: which ones, of `PROGRAMS`; or one of `OPTIONAL`, which has a folder of its own.
        jobs: how many compilers may run at once; default: one a core.

    Raises:
        BuildError: there is no Go, or it failed.
    """
    folder = optional_binaries(programs[0]) if programs[0] in OPTIONAL else binaries()
    missing = [name for name in programs if not (folder / name).exists()]
    if not missing:
        return folder
    go = find_go()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in missing if not (folder / name).exists()]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as making:
            for group in _groups(missing):
                _run(go, group, Path(making), jobs)
                for name in group:
                    (Path(making) / name).replace(folder / name)
    return folder


def find_go() -> str:
    """The Go to build with.

    Raises:
        BuildError: there is none.
    """
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise BuildError("the testbed is built with Go, and there is no go on the PATH: install Go 1.24 or newer")
    return go


def _groups(names: list[str]) -> list[list[str]]:
    """What is built by one call: as much as can be, but for etcd, whose main package is not called so, and other modules."""
    together = [name for name in names if name not in ("etcd", "kwok", *_OWN_MODULE)]
    return [group for group in (together, *([name] for name in names if name not in together)) if group]


def _run(go: str, names: list[str], into: Path, jobs: int | None) -> None:
    output = into / names[0] if len(names) == 1 else into
    command = [
        go,
        "build",
        *_FLAGS,
        f"-ldflags={_linker_flags()}",
        "-o",
        f"{output}{'' if len(names) == 1 else os.sep}",
    ]
    command += ["-p", str(jobs)] if jobs else []
    command += ["-modfile=kwok.mod"] if names == ["kwok"] else []
    begin = time.monotonic()
    print(f"testbed: building {', '.join(names)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [*command, *({**PROGRAMS, **OPTIONAL}[name] for name in names)],
        cwd=HERE / names[0] if names[0] in _OWN_MODULE else HERE,
        env={**os.environ, **_ENVIRONMENT},
        check=False,
    )
    if done.returncode:
        raise BuildError(f"go build failed for {', '.join(names)}; what it said is above")
    print(f"testbed: built in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)


def _linker_flags() -> str:
    version = kubernetes_version()
    major, minor = version.removeprefix("v").split(".")[:2]
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = [f"-X {package}.{name}={value}" for package in _VERSION_OF for name, value in facts.items()]
    return " ".join(["-s", "-w", *stamps])
