"""One runner a study in a namespace, wherever it runs: a Lease that its holder renews, beside the lock of the store.

As leader election does it: whoever finds the lease unchanged for as long as it lasts takes it over. A holder that cannot renew it
in time has lost it, and has to stop deciding.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from shoal.errors import HeldError
from shoal.executors.kubernetes.client import LEASES, AlreadyExists, ApiError, Client, Conflict, NotFound

__all__ = ["Lease"]

SECONDS = 45
_RENEW = 10.0
_SKEW = 60.0


class Lease:
    """Exclusive hold of a study's name in a namespace, as a context manager.

    Args:
        client: talks to the API server.
        name: of the lease.
        labels: of the lease.
        holder: who this is, for people.
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
        patience: float = 0.0,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._name, self._labels = client, name, labels
        who = holder or f"process {os.getpid()} on {socket.gethostname()}"
        self._me = f"{who} ({secrets.token_hex(4)})"
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
        with contextlib.suppress(ApiError):
            if self._version:
                self._write({"holderIdentity": "", "renewTime": _now(), "leaseDurationSeconds": 1})

    def _acquire(self) -> None:
        until = time.monotonic() + self._patience
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
            unchanged = time.monotonic() - seen[1] > lasts
            if not holder or unchanged or _age(spec.get("renewTime")) > lasts + _SKEW:
                self._version = version
                with contextlib.suppress(Conflict):
                    self._write(self._spec(int(spec.get("leaseTransitions") or 0) + 1))
                    return
                self._version = ""
                continue
            if time.monotonic() > until:
                raise HeldError(
                    f"the study is being run by {holder.rpartition(' (')[0] or holder}",
                    hint="Watch it with: shoal status. End it with: shoal stop. If it was killed a moment ago, its hold ends "
                    f"within {lasts:.0f} seconds.",
                )
            time.sleep(min(2.0, lasts / 4))

    def _look(self) -> dict[str, Any] | None:
        try:
            return self._client.get(LEASES, self._name)
        except NotFound:
            return None

    def _keep(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(_RENEW):
            try:
                self._write({"renewTime": _now()})
                renewed = time.monotonic()
            except (Conflict, NotFound):
                break
            except ApiError:
                if time.monotonic() - renewed > SECONDS - _RENEW:
                    break
        else:
            return
        self._version = ""
        self._lost()

    def _write(self, spec: dict[str, Any]) -> None:
        """Change the lease if it is still as this last saw it."""
        changes = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        self._version = _version(self._client.patch(LEASES, self._name, changes))

    def _spec(self, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._me,
            "leaseDurationSeconds": SECONDS,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }

    def _manifest(self) -> dict[str, Any]:
        meta = {"name": self._name, "labels": self._labels}
        return {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": meta, "spec": self._spec(0)}


def _version(lease: dict[str, Any]) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _age(text: Any) -> float:
    try:
        return time.time() - datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
