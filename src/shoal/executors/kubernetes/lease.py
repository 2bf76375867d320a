"""One runner a study in a namespace, wherever it runs: a Lease that its holder renews, beside the lock of the store.

As leader election does it: whoever finds the lease unchanged for as long as it lasts takes it over. Whoever can see that its
holder is dead, a process of this machine or a pod of the namespace, takes it over at once. A holder that finds another in its
place has lost it, and has to stop deciding; one that only cannot reach the server has not: it can change nothing there meanwhile,
and what two submit under one name runs once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.agent import agent
from shoal.errors import HeldError, ShoalError
from shoal.executors.kubernetes.client import LEASES, PODS, AlreadyExists, ApiError, Client, Conflict, NotFound
from shoal.executors.kubernetes.names import PREFIX

__all__ = ["Lease"]

SECONDS = 45
_RENEW = 10.0
_TRY_AGAIN = 2.0
_SKEW = 60.0
_LOOK = 15.0
"""For so long a lease that looks old is looked at: whichever clock is wrong, a holder that lives renews it meanwhile."""
_HOLDER = f"{PREFIX}/holder"
"""The annotation that says which process or pod holds it, as JSON."""


class Lease:
    """Exclusive hold of a study's name in a namespace, as a context manager.

    Args:
        client: talks to the API server.
        name: of the lease.
        labels: of the lease.
        holder: who this is, for people.
        pod: the pod that this process is in, of the same namespace; None elsewhere.
        patience: for how many seconds to wait for a holder that may be gone.
        lost: called from another thread when the lease is lost.

    Raises:
        HeldError: another runner holds it; says who.
        ApiError: the server fails, or the login may not use leases.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        labels: dict[str, str],
        *,
        holder: str | None = None,
        pod: str | None = None,
        patience: float = 0.0,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._name, self._labels = client, name, labels
        who = holder or f"process {os.getpid()} on {socket.gethostname()}"
        self._me = f"{who} ({secrets.token_hex(4)})"
        self._who = {"pod": pod} if pod is not None else _this_process()
        self._patience, self._lost = patience, lost
        self._over = threading.Event()
        self._version = ""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self._acquire()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(ShoalError):
            if self._version:
                self._write({"holderIdentity": "", "renewTime": _now(), "leaseDurationSeconds": 1})

    def _acquire(self) -> None:
        begun = time.monotonic()
        seen: tuple[str, float] | None = None
        while True:
            found = self._look()
            if found is None:
                with contextlib.suppress(AlreadyExists):
                    self._version = _version(self._client.create(self._manifest()))
                    return
                continue
            spec = found.get("spec") or {}
            holder, version = str(spec.get("holderIdentity") or ""), _version(found)
            if seen is None or seen[0] != version:
                seen = (version, time.monotonic())
            lasts = float(spec.get("leaseDurationSeconds") or SECONDS)
            unchanged = time.monotonic() - seen[1]
            old = _age(spec.get("renewTime")) > lasts + _SKEW
            if not holder or unchanged > lasts or (old and unchanged > _LOOK) or self._is_dead(found):
                self._version = version
                with contextlib.suppress(Conflict):
                    self._write(self._spec(int(spec.get("leaseTransitions") or 0) + 1), notes=self._notes())
                    return
                self._version = ""
                continue
            if time.monotonic() - begun > max(self._patience, _LOOK + 1 if old else 0.0):
                raise HeldError(
                    f"the study is being run by {holder.rpartition(' (')[0] or holder}",
                    hint="Watch it with: shoal status. End it with: shoal stop. If it was killed a moment ago, its hold ends "
                    f"within {lasts + _SKEW + _LOOK:.0f} seconds.",
                )
            time.sleep(min(2.0, lasts / 4))

    def _look(self) -> dict[str, Any] | None:
        try:
            return self._client.get(LEASES, self._name)
        except NotFound:
            return None

    def _is_dead(self, lease: Mapping[str, Any]) -> bool:
        """Whether its holder can be seen to be gone."""
        try:
            who = json.loads((lease["metadata"].get("annotations") or {}).get(_HOLDER) or "{}")
        except ValueError:
            return False
        if not isinstance(who, dict):
            return False
        if isinstance(name := who.get("pod"), str):
            try:
                pod = self._client.get(PODS, name)
            except NotFound:
                return True
            except ApiError:
                return False
            return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        return _is_dead_here(who)

    def _keep(self) -> None:
        pause = _RENEW
        while not self._over.wait(pause):
            try:
                self._renew()
                pause = _RENEW
            except (_LostError, NotFound):
                self._version = ""
                self._lost()
                return
            except ShoalError:
                pause = min(_RENEW, _TRY_AGAIN)

    def _renew(self) -> None:
        try:
            self._write({"renewTime": _now()})
        except Conflict:
            # Perhaps by this one itself: an answer was lost on its way.
            found = self._client.get(LEASES, self._name)
            if (found.get("spec") or {}).get("holderIdentity") != self._me:
                raise _LostError from None
            self._version = _version(found)
            self._write({"renewTime": _now()})

    def _write(self, spec: dict[str, Any], notes: dict[str, str] | None = None) -> None:
        """Change the lease if it is still as this last saw it."""
        meta: dict[str, Any] = {"resourceVersion": self._version}
        if notes is not None:
            meta["annotations"] = notes
        self._version = _version(self._client.patch(LEASES, self._name, {"metadata": meta, "spec": spec}))

    def _notes(self) -> dict[str, str]:
        return {_HOLDER: json.dumps(self._who)}

    def _spec(self, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._me,
            "leaseDurationSeconds": SECONDS,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }

    def _manifest(self) -> dict[str, Any]:
        meta = {"name": self._name, "labels": self._labels, "annotations": self._notes()}
        return {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": meta, "spec": self._spec(0)}


class _LostError(Exception):
    """Another holds it."""


def _this_process() -> dict[str, Any]:
    me = agent.process(os.getpid())
    machine = _machine()
    return {} if me is None or machine is None else {"machine": machine, "pid": os.getpid(), "start": me.start}


def _is_dead_here(who: Mapping[str, Any]) -> bool:
    """Whether a process was one of this machine, and is no more."""
    pid, start = who.get("pid"), who.get("start")
    if not isinstance(pid, int) or not start or who.get("machine") is None or who["machine"] != _machine():
        return False
    there = agent.process(pid)
    return there is None or not there.alive or there.start != start


def _machine() -> str | None:
    """What no other table of processes has: of another machine, of another container, of an earlier boot; None if unknown."""
    table = Path("/proc/self/ns/pid")
    if table.exists():
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot}/{table.stat().st_ino}"
        except OSError:
            return None
    address = uuid.getnode()
    # A made-up one has this bit, and is another one each time.
    return None if address >> 40 & 1 else f"{socket.gethostname()}/{address:012x}"


def _version(lease: dict[str, Any]) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _age(text: Any) -> float:
    try:
        return time.time() - datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
