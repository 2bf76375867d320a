"""The login of a process in a pod: its service account."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shoal.executors.kubernetes.login.model import Credentials, Login, LoginError, Server

__all__ = ["in_cluster"]

_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def in_cluster(env: Mapping[str, str] | None = None, folder: Path = _FOLDER) -> Login | None:
    """The service account of the pod that this process runs in; None outside of a pod.

    Args:
        env: default: the environment.
        folder: where the account's token is mounted.

    Raises:
        LoginError: this is a pod, but without a token.
    """
    env = os.environ if env is None else env
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        return None
    token, ca = folder / "token", folder / "ca.crt"
    if not token.is_file():
        raise LoginError(
            f"{token}: this pod has no service-account token",
            hint="Give it a service account, and automountServiceAccountToken: true; or mount a kubeconfig.",
        )
    try:
        pem = ca.read_bytes() if ca.is_file() else None
        namespace = (folder / "namespace").read_text().strip() if (folder / "namespace").is_file() else ""
    except OSError as error:
        raise LoginError(f"{error.filename}: cannot be read: {error.strerror}") from error
    address = f"[{host}]" if ":" in host else host
    # The token is renewed in place, so it is read anew each time.
    return Login(
        Server(f"https://{address}:{port}", ca=pem),
        Credentials(token_file=token),
        namespace or "default",
        "service account",
        str(folder),
    )
