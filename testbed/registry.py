"""Which instances there are: a folder for each, in one folder of the user's, and who started it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.control import Options, free_ports
from testbed.processes import alive, this_process

__all__ = ["FACTS", "TestbedError", "abandoned", "find", "instances", "locked", "new"]

FACTS = "instance.json"
_PORTS = ("apiserver", "etcd", "peer", "kwok", "kubelet", "names", "kueue", "kueue-health")
_NETWORKS = 64


class TestbedError(Exception):
    """The testbed does not do what it should; says which part, and the end of its log."""

    __test__ = False


def new(name: str | None, programs: Path, options: Options, *, stay: bool) -> Path:
    """Make the folder of a new instance, with its facts: owner, ports, network, options."""
    root = _root()
    with locked():
        if name is None:
            folder = Path(tempfile.mkdtemp(prefix="t-", dir=root))
        elif (root / name).exists():
            raise TestbedError(f"a testbed called {name} is there already: python -m testbed stop {name}")
        else:
            folder = root / name
            folder.mkdir(mode=0o700)
        memory = Path("/dev/shm")
        data = memory / f"{root.name}-{folder.name}" if os.access(memory, os.W_OK) else folder / "etcd"
        others = [_facts(root / other) for other in instances()]
        taken = {other.get("network") for other in others}
        # A part of theirs may be down for the moment, and will want its port back.
        ports = {port for other in others for port in other["ports"].values()}
        facts = {
            "owner": None if stay else this_process(),
            "programs": str(programs),
            "data": str(data),
            "ports": free_ports(_PORTS, ports),
            "network": next(number for number in range(_NETWORKS) if number not in taken),
            "options": asdict(options),
        }
        making = folder / f".{FACTS}"
        making.write_text(json.dumps(facts))
        making.replace(folder / FACTS)
    return folder


def find(name: str) -> Path:
    """The folder of the instance of this name.

    Raises:
        TestbedError: there is none.
    """
    folder = _root() / name
    if not (folder / FACTS).exists():
        raise TestbedError(f"there is no testbed called {name}: {', '.join(instances()) or 'none'} there")
    return folder


def instances() -> list[str]:
    """The names of all instances that are there, running or not."""
    return sorted(path.parent.name for path in _root().glob(f"*/{FACTS}"))


def abandoned() -> list[Path]:
    """The folders of instances whose starters have died without ending them."""
    owners = {name: _facts(_root() / name)["owner"] for name in instances()}
    return [_root() / name for name, owner in owners.items() if owner is not None and not alive(*owner)]


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep others from making or sweeping instances meanwhile."""
    with (_root() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / FACTS).read_text())
    return found


def _root() -> Path:
    """The folder of all instances: one a user, of nobody else."""
    given = os.environ.get("SHOAL_TESTBED_STATE")
    root = Path(given) if given else Path(tempfile.gettempdir()) / f"shoal-testbed-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise TestbedError(f"{root} is another user's: name a folder of your own in SHOAL_TESTBED_STATE")
    return root
