"""kubeconfig files as kubectl reads them: several files, first come first served, paths relative to the file they are in."""

from __future__ import annotations

import base64
import binascii
import os
import urllib.parse
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.clusters.load import read_tree
from shoal.errors import StudyError
from shoal.executors.kubernetes.login.model import Credentials, Interactive, Login, LoginError, Plugin, Server
from shoal.study.problems import did_you_mean
from shoal.study.source import Source
from shoal.study.yaml import Mapping, Node, Scalar, Sequence, plain

__all__ = ["kubeconfig_paths", "read_login"]

_API = "client.authentication.k8s.io/"
_EXTENSION = "client.authentication.k8s.io/exec"
_HOW = "kubectl config get-contexts lists what there is."


def kubeconfig_paths(env: MappingOf[str, str] | None = None) -> list[Path]:
    """The files that kubectl would read: those of ``KUBECONFIG``, or ``~/.kube/config``."""
    env = os.environ if env is None else env
    listed = [Path(one).expanduser() for one in env.get("KUBECONFIG", "").split(os.pathsep) if one]
    return list(dict.fromkeys(listed)) or [Path.home() / ".kube" / "config"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cluster, user or context: its tree, and the file it is in."""

    tree: Mapping
    path: Path

    def error(self, name: str, message: str, hint: str | None = None) -> LoginError:
        node = self.tree.items.get(name)
        mark = self.tree.keys[name][0] if node is not None else self.tree.mark
        return LoginError(f"{mark}: {message}", hint=hint)

    def text(self, name: str) -> str | None:
        node = self.tree.items.get(name)
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        if not isinstance(node, Scalar):
            raise self.error(name, f'"{name}" must be a text')
        return _raw(node) or None

    def flag(self, name: str) -> bool:
        node = self.tree.items.get(name)
        value = node.value if isinstance(node, Scalar) else None
        if node is not None and value is not None and not isinstance(value, bool):
            raise self.error(name, f'"{name}" must be true or false')
        return bool(value)

    def texts(self, name: str) -> tuple[str, ...]:
        node = self.tree.items.get(name)
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return ()
        if not isinstance(node, Sequence) or not all(isinstance(one, Scalar) for one in node.items):
            raise self.error(name, f'"{name}" must be a list of texts')
        return tuple(_raw(one) for one in node.items if isinstance(one, Scalar))

    def file(self, name: str) -> Path | None:
        text = self.text(name)
        return None if text is None else self.path.parent / Path(text).expanduser()

    def content(self, name: str) -> bytes | None:
        """What ``NAME-data`` holds in base64, else what the file named by ``NAME`` holds."""
        packed = self.text(f"{name}-data")
        if packed is not None:
            try:
                return base64.b64decode("".join(packed.split()), validate=True)
            except (binascii.Error, ValueError):
                raise self.error(f"{name}-data", f'"{name}-data" is not base64') from None
        path = self.file(name)
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.error(name, f'"{name}": {path} cannot be read: {error.strerror}') from None


@dataclass(frozen=True, slots=True)
class _Merged:
    contexts: dict[str, _Entry]
    clusters: dict[str, _Entry]
    users: dict[str, _Entry]
    current: str | None
    source: str


def read_login(paths: SequenceOf[Path], context: str | None = None) -> Login:
    """The login of a context.

    Args:
        paths: kubeconfig files; of what several define, the first counts, whole. Missing files are passed over.
        context: name of a context; default: the current one.

    Raises:
        LoginError: no file is there, or the context, its cluster or its user cannot be used; with the place.
    """
    merged = _merged(paths)
    name = context or merged.current
    if name is None:
        raise LoginError(
            f"{merged.source}: there is no current context",
            hint=f"Name one in the cluster file (context: NAME), or: kubectl config use-context NAME. {_HOW}",
        )
    if name not in merged.contexts:
        hint = did_you_mean(name, merged.contexts, "Contexts there") or "It has no contexts."
        raise LoginError(f'{merged.source}: there is no context "{name}"', hint=hint)
    entry = merged.contexts[name]
    cluster = _find(entry, "cluster", merged.clusters, name)
    user = _find(entry, "user", merged.users, name)
    server = _server(cluster)
    credentials = Credentials() if user is None else _credentials(user, cluster, server)
    return Login(server, credentials, entry.text("namespace") or "default", name, str(entry.path))


def _merged(paths: SequenceOf[Path]) -> _Merged:
    found: dict[str, dict[str, _Entry]] = {"contexts": {}, "clusters": {}, "users": {}}
    current: str | None = None
    read: list[Path] = []
    for path in paths:
        if not path.exists():
            continue
        read.append(path)
        tree = _tree(path)
        if tree is None:
            continue
        for plural, entries in found.items():
            _collect(tree, plural, path, entries)
        node = tree.items.get("current-context")
        if current is None and isinstance(node, Scalar) and node.value is not None:
            current = _raw(node) or None
    if not read:
        listed = ", ".join(map(str, paths))
        raise LoginError(
            f"there is no kubeconfig: {listed}",
            hint="Get one from your cluster's portal and save it there, or name it in KUBECONFIG.",
        )
    return _Merged(found["contexts"], found["clusters"], found["users"], current, ", ".join(map(str, read)))


def _tree(path: Path) -> Mapping | None:
    try:
        source = Source.read(path, str(path))
        return None if not source.text.strip() else read_tree(source, "kubeconfig")
    except StudyError as error:
        raise LoginError(str(error).replace("study file", "kubeconfig")) from None


def _collect(tree: Mapping, plural: str, path: Path, entries: dict[str, _Entry]) -> None:
    listed = tree.items.get(plural)
    if listed is None or (isinstance(listed, Scalar) and listed.value is None):
        return
    singular = plural[:-1]
    if not isinstance(listed, Sequence):
        raise LoginError(f'{listed.mark}: "{plural}" must be a list')
    for one in listed.items:
        name = one.items.get("name") if isinstance(one, Mapping) else None
        inner = one.items.get(singular) if isinstance(one, Mapping) else None
        if not isinstance(one, Mapping) or not isinstance(name, Scalar) or name.value is None:
            raise LoginError(f'{one.mark}: each of "{plural}" must have a name and a {singular}')
        if inner is None or (isinstance(inner, Scalar) and inner.value is None):
            inner = Mapping({}, {}, one.mark, one.source, 1, 1)
        if not isinstance(inner, Mapping):
            raise LoginError(f'{inner.mark}: "{singular}" must be a mapping')
        entries.setdefault(_raw(name), _Entry(inner, path))


def _find(context: _Entry, kind: str, known: dict[str, _Entry], name: str) -> Any:
    wanted = context.text(kind)
    if wanted is None:
        if kind == "user":
            return None
        raise context.error(kind, f'context "{name}" names no {kind}')
    if wanted not in known:
        hint = did_you_mean(wanted, known, f"{kind.capitalize()}s there")
        raise context.error(kind, f'context "{name}" names the {kind} "{wanted}", which does not exist', hint or None)
    return known[wanted]


def _server(cluster: _Entry) -> Server:
    url = (cluster.text("server") or "").rstrip("/")
    parts = urllib.parse.urlsplit(url)
    try:
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise cluster.error("server", f"{url!r} is not an address of a server", "For example https://host:6443")
    insecure, ca = cluster.flag("insecure-skip-tls-verify"), cluster.content("certificate-authority")
    if insecure and ca is not None:
        raise cluster.error(
            "insecure-skip-tls-verify",
            "a certificate authority is given, and insecure-skip-tls-verify as well",
            "Keep one.",
        )
    if ca is not None and b"-----BEGIN CERTIFICATE-----" not in ca:
        raise cluster.error("certificate-authority", "the certificate authority is no PEM certificate")
    proxy = cluster.text("proxy-url")
    if proxy is not None and urllib.parse.urlsplit(proxy).scheme not in ("http", "https", "socks5"):
        raise cluster.error("proxy-url", f"{proxy!r} is not the address of a proxy", "http://, https:// or socks5://")
    return Server(
        url, ca, insecure, cluster.text("tls-server-name"), proxy, compression=not cluster.flag("disable-compression")
    )


def _credentials(user: _Entry, cluster: _Entry, server: Server) -> Credentials:
    username, token, token_file = user.text("username"), user.text("token"), user.file("tokenFile")
    if username is not None and (token is not None or token_file is not None):
        raise user.error("username", "both a token and a user name with password are given", "Keep one of them.")
    certificate, key = user.content("client-certificate"), user.content("client-key")
    if (certificate is None) != (key is None):
        missing = "client-key" if key is None else "client-certificate"
        raise user.error("client-certificate", f"a client certificate needs its key: {missing} is missing")
    if "auth-provider" in user.tree.items:
        raise user.error(
            "auth-provider",
            "auth-provider is what exec plugins have replaced, and is not supported",
            "For OIDC: kubectl oidc-login setup",
        )
    executed = user.tree.items.get("exec")
    plugin = None
    if isinstance(executed, Mapping):
        plugin = _plugin(_Entry(executed, user.path), cluster, server)
    elif executed is not None and not (isinstance(executed, Scalar) and executed.value is None):
        raise user.error("exec", '"exec" must be a mapping')
    return Credentials(
        token=token,
        token_file=token_file,
        username=username,
        password=user.text("password"),
        certificate=certificate,
        key=key,
        impersonate=_impersonate(user),
        plugin=plugin,
    )


def _impersonate(user: _Entry) -> dict[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    name, uid, groups = user.text("as"), user.text("as-uid"), user.texts("as-groups")
    if name is not None:
        headers["Impersonate-User"] = (name,)
    if uid is not None:
        headers["Impersonate-Uid"] = (uid,)
    if groups:
        headers["Impersonate-Group"] = groups
    extra = user.tree.items.get("as-user-extra")
    for key, node in extra.items.items() if isinstance(extra, Mapping) else ():
        if isinstance(node, Sequence):
            headers[f"Impersonate-Extra-{urllib.parse.quote(key, safe='')}"] = tuple(str(one) for one in plain(node))
    return headers


def _plugin(entry: _Entry, cluster: _Entry, server: Server) -> Plugin:
    command, version = entry.text("command"), entry.text("apiVersion")
    if command is None:
        raise entry.error("command", '"exec" names no command')
    if version not in (f"{_API}v1", f"{_API}v1beta1"):
        raise entry.error(
            "apiVersion",
            f"exec plugins speak {_API}v1 or v1beta1, not {version}",
            "v1alpha1 is gone from Kubernetes: update the plugin's entry." if version == f"{_API}v1alpha1" else None,
        )
    interactive = entry.text("interactiveMode")
    modes: dict[str | None, Interactive] = {"Never": "Never", "IfAvailable": "IfAvailable", "Always": "Always"}
    if interactive is None and version.endswith("/v1"):
        raise entry.error("interactiveMode", f"{_API}v1 needs interactiveMode: Never, IfAvailable or Always")
    if interactive is not None and interactive not in modes:
        raise entry.error("interactiveMode", f"interactiveMode is Never, IfAvailable or Always, not {interactive}")
    if os.sep in command:
        # A path is meant from the kubeconfig's folder; a bare name is looked up in PATH.
        command = str((entry.path.parent / Path(command).expanduser()).absolute())
    env: dict[str, str] = {}
    listed = entry.tree.items.get("env")
    for one in listed.items if isinstance(listed, Sequence) else ():
        name = one.items.get("name") if isinstance(one, Mapping) else None
        value = one.items.get("value") if isinstance(one, Mapping) else None
        if not isinstance(name, Scalar) or not isinstance(value, Scalar):
            raise LoginError(f"{one.mark}: each variable of exec must have a name and a value")
        env[_raw(name)] = _raw(value)
    return Plugin(
        command,
        entry.texts("args"),
        env,
        version,
        modes.get(interactive, "IfAvailable"),
        entry.text("installHint"),
        _told(cluster, server) if entry.flag("provideClusterInfo") else None,
    )


def _told(cluster: _Entry, server: Server) -> dict[str, Any]:
    """What a plugin is told of the server; its own settings are an extension of the cluster's entry."""
    told: dict[str, Any] = {"server": server.url}
    if server.tls_server_name is not None:
        told["tls-server-name"] = server.tls_server_name
    if server.insecure:
        told["insecure-skip-tls-verify"] = True
    if server.ca is not None:
        told["certificate-authority-data"] = base64.b64encode(server.ca).decode("ascii")
    if server.proxy_url is not None:
        told["proxy-url"] = server.proxy_url
    if not server.compression:
        told["disable-compression"] = True
    listed = cluster.tree.items.get("extensions")
    for one in listed.items if isinstance(listed, Sequence) else ():
        if isinstance(one, Mapping) and plain(one).get("name") == _EXTENSION:
            told["config"] = plain(one).get("extension")
    return told


def _raw(node: Node) -> str:
    """A value as it was written: a token of digits is a text."""
    assert isinstance(node, Scalar)
    if isinstance(node.value, str):
        return node.value
    return "" if node.value is None else node.source.text[node.start : node.end].strip()
