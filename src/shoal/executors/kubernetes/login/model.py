"""What a login consists of. Secrets never show up in a representation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shoal.errors import ShoalError

__all__ = ["Credentials", "Interactive", "Login", "LoginError", "Plugin", "Server"]

Interactive = Literal["Never", "IfAvailable", "Always"]


class LoginError(ShoalError):
    """The login cannot be used: which file and context, what is wrong, what to do."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Server:
    """Where the API is.

    Attributes:
        url: address, without a slash at its end.
        ca: PEM certificates that the server's certificate must rest on; None: the system's.
        insecure: do not check the server's certificate.
        tls_server_name: name to check instead of the address's.
        proxy_url: proxy of all requests; None: the environment decides.
        compression: whether to ask for compressed answers.
    """

    url: str
    ca: bytes | None = None
    insecure: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None
    compression: bool = True


@dataclass(frozen=True, slots=True)
class Plugin:
    """An exec credential plugin.

    Attributes:
        command: program, as the kubeconfig names it; a path is absolute.
        args: its arguments.
        env: variables added to the environment.
        api_version: ``client.authentication.k8s.io/v1`` or ``v1beta1``.
        interactive: whether it may, or has to, ask at the terminal.
        install_hint: what to tell a user who has not got it.
        cluster: what it is told of the server, or None.
    """

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_version: str = "client.authentication.k8s.io/v1"
    interactive: Interactive = "IfAvailable"
    install_hint: str | None = None
    cluster: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who one is. A token file is read anew for each use; static credentials win over the plugin."""

    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    impersonate: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plugin: Plugin | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A server, who one is there, and the namespace.

    Attributes:
        server: where.
        credentials: who.
        namespace: the context's namespace, ``default`` if it names none.
        context: name of the context, for errors.
        source: the file, or files, it is from, for errors.
    """

    server: Server
    credentials: Credentials
    namespace: str
    context: str
    source: str

    @property
    def said(self) -> str:
        """Where this login is from, for the start of an error."""
        return f"{self.source}, context {self.context}"
