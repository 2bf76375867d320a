"""Credentials at the moment of a request: static ones, token files, and exec plugins whose answers are kept until they expire."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shoal.executors.kubernetes.login.model import Login, LoginError, Plugin

__all__ = ["Authenticator", "Material", "how_to_log_in"]

_MARGIN = 10.0
_TIMEOUT = 300.0
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Material:
    """What one request is made with: at most one of token and basic, and maybe a certificate."""

    token: str | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    expires: float | None = None


class Authenticator:
    """Gives out what requests are made with. May be used from several threads.

    Args:
        login: the login.
        clock: seconds since 1970.
        terminal: whether a person can be asked; default: whether standard input is a terminal.
        timeout: how long a plugin may take, in seconds; a person may have to log in meanwhile.
    """

    def __init__(
        self,
        login: Login,
        *,
        clock: Callable[[], float] = time.time,
        terminal: bool | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._login = login
        self._clock = clock
        self._terminal = sys.stdin is not None and sys.stdin.isatty() if terminal is None else terminal
        self._timeout = timeout
        self._lock = threading.Lock()
        self._kept: Material | None = None

    def current(self) -> Material:
        """What to make the next request with.

        Raises:
            LoginError: a token file cannot be read, or the plugin fails.
        """
        who = self._login.credentials
        token = who.token
        if who.token_file is not None:
            try:
                token = who.token_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise LoginError(f"{self._login.said}: token file {who.token_file} cannot be read: {error}") from None
            if not token:
                raise LoginError(f"{self._login.said}: token file {who.token_file} is empty")
        basic = (who.username, who.password or "") if who.username is not None else None
        if token is not None or basic is not None or who.plugin is None or who.certificate is not None:
            return Material(token, basic, who.certificate, who.key)
        with self._lock:
            if self._kept is None or (self._kept.expires is not None and self._clock() >= self._kept.expires - _MARGIN):
                self._kept = self._run(who.plugin)
            return self._kept

    def refused(self, used: Material) -> bool:
        """Take note that the server has refused a request (401); return whether there may be better credentials now."""
        who = self._login.credentials
        with self._lock:
            if self._kept is used:
                self._kept = None
        return who.token_file is not None or (who.plugin is not None and who.token is None and who.username is None)

    def _run(self, plugin: Plugin) -> Material:
        interactive = plugin.interactive != "Never" and self._terminal
        if plugin.interactive == "Always" and not self._terminal:
            raise self._error(
                plugin,
                "has to ask at a terminal, and there is none",
                "Log in once where there is one, or take a service account.",
            )
        program = shutil.which(plugin.command)
        if program is None:
            raise self._error(plugin, "is not installed", plugin.install_hint or how_to_log_in(plugin))
        spec: dict[str, Any] = {"interactive": interactive}
        if plugin.cluster is not None:
            spec["cluster"] = plugin.cluster
        told = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
        try:
            done = subprocess.run(
                [program, *plugin.args],
                env={**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": json.dumps(told)},
                stdin=None if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # What it says to a person is shown to the person.
                stderr=None if interactive else subprocess.PIPE,
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._error(plugin, f"gave no answer within {self._timeout:g} s", how_to_log_in(plugin)) from None
        except OSError as error:
            raise self._error(plugin, f"cannot be started: {error.strerror}", plugin.install_hint) from None
        if done.returncode != 0:
            lines = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines()
            said = f": {lines[-1][:300]}" if lines else ""
            hint = how_to_log_in(plugin)
            if "unknown command" in said and plugin.args:
                file = f"kubectl-{plugin.args[0].replace('-', '_')}"
                hint = plugin.install_hint or f"Install that plugin of kubectl: a program {file} on the PATH."
            raise self._error(plugin, f"failed with exit code {done.returncode}{said}", hint)
        return self._read(plugin, done.stdout)

    def _read(self, plugin: Plugin, data: bytes) -> Material:
        try:
            if len(data) > _LONGEST:
                raise ValueError
            answer = json.loads(data.decode("utf-8"))
            status = answer.get("status") if isinstance(answer, dict) else None
        except (ValueError, UnicodeDecodeError):
            raise self._error(plugin, "did not answer with an ExecCredential in JSON", how_to_log_in(plugin)) from None
        if not isinstance(answer, dict) or answer.get("kind") != "ExecCredential":
            raise self._error(plugin, "did not answer with an ExecCredential", how_to_log_in(plugin))
        if answer.get("apiVersion") != plugin.api_version:
            said = answer.get("apiVersion")
            raise self._error(plugin, f"answered in {said}, though {plugin.api_version} was asked for", "Update it.")
        if not isinstance(status, dict):
            raise self._error(plugin, "gave no credentials (no status)", how_to_log_in(plugin))
        found: dict[str, str | None] = {}
        for name in ("token", "clientCertificateData", "clientKeyData", "expirationTimestamp"):
            value = status.get(name)
            if value is not None and not isinstance(value, str):
                raise self._error(plugin, f"answered with a {name} that is no text")
            found[name] = value or None
        certificate, key = found["clientCertificateData"], found["clientKeyData"]
        if (certificate is None) != (key is None):
            raise self._error(plugin, "gave a certificate without its key, or a key without its certificate")
        if found["token"] is None and certificate is None:
            raise self._error(plugin, "gave neither token nor certificate", how_to_log_in(plugin))
        expires = self._time(plugin, found["expirationTimestamp"])
        if expires is not None and expires <= self._clock():
            raise self._error(
                plugin, f"gave credentials that expired at {found['expirationTimestamp']}", how_to_log_in(plugin)
            )
        return Material(
            found["token"],
            None,
            certificate.encode() if certificate is not None else None,
            key.encode() if key is not None else None,
            expires,
        )

    def _time(self, plugin: Plugin, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError
        except ValueError:
            raise self._error(plugin, f"answered with an expirationTimestamp that is no time: {text[:60]!r}") from None
        return moment.timestamp()

    def _error(self, plugin: Plugin, what: str, hint: str | None = None) -> LoginError:
        name = plugin.command.rpartition("/")[2]
        return LoginError(f"{self._login.said}: the login plugin {name} {what}", hint=hint)


def how_to_log_in(plugin: Plugin) -> str:
    """What to try: the plugin by hand, in the form that people know."""
    words = " ".join([plugin.command.rpartition("/")[2], *plugin.args])
    if "oidc-login" in words or "kubelogin" in words:
        return "Log in anew: kubectl oidc-login get-token, with the arguments of your kubeconfig; kubectl get pods has to work."
    return f"Try it by hand: {words[:200]}; kubectl get pods has to work."
