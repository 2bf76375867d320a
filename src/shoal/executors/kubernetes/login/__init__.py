"""Logging in as kubectl does: from kubeconfig files, exec plugins, or as a pod's service account. Makes no connection."""

from shoal.executors.kubernetes.login.incluster import in_cluster
from shoal.executors.kubernetes.login.kubeconfig import kubeconfig_paths, read_login
from shoal.executors.kubernetes.login.model import Credentials, Login, LoginError, Plugin, Server
from shoal.executors.kubernetes.login.plugin import Authenticator, Material
from shoal.executors.kubernetes.login.refused import how_to_renew, what_expired

__all__ = [
    "Authenticator",
    "Credentials",
    "Login",
    "LoginError",
    "Material",
    "Plugin",
    "Server",
    "find_login",
    "how_to_renew",
    "in_cluster",
    "kubeconfig_paths",
    "read_login",
    "what_expired",
]


def find_login(context: str | None = None) -> Login:
    """The login that kubectl would use here: a kubeconfig's, else a pod's own service account.

    Args:
        context: name of a context; default: the current one.

    Raises:
        LoginError: there is neither, or it cannot be used.
    """
    paths = kubeconfig_paths()
    if not any(path.exists() for path in paths) and context is None:
        pod = in_cluster()
        if pod is not None:
            return pod
    return read_login(paths, context)
