"""Kubeconfigs, and a small client for what the testbed itself asks of its API server."""

from __future__ import annotations

import base64
import ssl
import tempfile
from pathlib import Path
from typing import Any

import httpx
import yaml

from testbed.pki import Pair, write

__all__ = ["Api", "write_kubeconfig"]


def write_kubeconfig(
    path: Path, server: str, authority: bytes, pair: Pair, user: str, namespace: str | None = None
) -> Path:
    """Write a kubeconfig that needs no other file, and return its path."""

    def packed(data: bytes) -> str:
        return base64.b64encode(data).decode()

    context = {"cluster": "testbed", "user": user, **({"namespace": namespace} if namespace else {})}
    key = {"client-certificate-data": packed(pair.certificate), "client-key-data": packed(pair.key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [
            {"name": "testbed", "cluster": {"server": server, "certificate-authority-data": packed(authority)}}
        ],
        "users": [{"name": user, "user": key}],
        "contexts": [{"name": "testbed", "context": context}],
    }
    making = path.with_name(f".{path.name}")
    write(making, yaml.safe_dump(config, sort_keys=False).encode())
    making.replace(path)
    return path


class Api:
    """Requests to an API server, as whoever the kubeconfig's certificate names."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:  # ssl reads them from a file only
            for name in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[name]))
            pair.flush()
            context.load_cert_chain(pair.name)
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        self._client = httpx.Client(
            base_url=cluster["server"], verify=context, timeout=30, limits=limits, trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request(self, verb: str, path: str, body: Any = None, *, kind: str = "application/json") -> httpx.Response:
        """Send one request; the caller looks at the status."""
        return self._client.request(verb, path, json=body, headers={"Content-Type": kind})

    def get(self, path: str) -> Any:
        """Read an object or a list."""
        return self.request("GET", path).raise_for_status().json()

    def create(self, path: str, body: Any) -> None:
        """Create an object; fine if it is there already."""
        done = self.request("POST", path, body)
        if done.status_code != httpx.codes.CONFLICT:
            done.raise_for_status()

    def patch(self, path: str, body: Any, kind: str = "application/merge-patch+json") -> Any:
        """Change parts of an object."""
        return self.request("PATCH", path, body, kind=kind).raise_for_status().json()

    def delete(self, path: str, body: Any = None) -> None:
        """Delete an object; fine if it is not there."""
        done = self.request("DELETE", path, body)
        if done.status_code != httpx.codes.NOT_FOUND:
            done.raise_for_status()

    def ready(self, path: str = "/readyz") -> bool:
        """Whether the server answers that it is ready."""
        try:
            return self._client.get(path, timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
