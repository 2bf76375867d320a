"""Requests to one API server: connections that are kept, the login renewed, what passes by itself tried again."""

from __future__ import annotations

import contextlib
import copy
import json as json_
import os
import random
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from shoal.executors.kubernetes.client.errors import ApiError, Asked, Unreachable, error_of
from shoal.executors.kubernetes.login import Authenticator, Login, LoginError, Material, how_to_renew, what_expired

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = ["Connection", "Stream"]

_CONNECT = 10.0
_READ = 60.0
_OPENINGS = 3
"""How often a websocket is tried to be opened that nobody answers."""
_MOST = 64
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_ASKED = 0.2, 8.0, 60.0
_PASSING = frozenset({429, 500, 502, 503, 504})


class Stream:
    """An answer that is read as it comes. ``cancel`` may be called from another thread."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive.

        Raises:
            httpx.TransportError: the connection broke, or was silent for too long.
        """
        return self._response.iter_bytes()

    def cancel(self) -> None:
        """End it: whoever reads sees a broken connection at once."""
        import socket

        network = self._response.extensions.get("network_stream")
        found = network.get_extra_info("socket") if network is not None else None
        if found is not None:
            with contextlib.suppress(OSError):
                # Closing alone does not wake a thread that waits for data. Below TLS: it must not wait for the other side either.
                socket.socket.shutdown(found, socket.SHUT_RDWR)


class Connection:
    """Sends requests and gives back answers, or raises what `error_of` makes of them.

    Args:
        login: where, and as whom.
        patience: for how many seconds what passes by itself (no connection, 429, 5xx) is tried again.
        terminal: whether a login plugin may ask a person; default: whether there is a terminal.
    """

    def __init__(self, login: Login, *, patience: float = 60.0, terminal: bool | None = None) -> None:
        self.login = login
        self.patience = patience
        self._authenticator = Authenticator(login, terminal=terminal)
        self._shared = _Shared(login)

    def with_patience(self, seconds: float) -> Connection:
        """The same connection for somebody less or more patient."""
        made = copy.copy(self)
        made.patience = seconds
        return made

    @property
    def requests(self) -> int:
        """How many requests were sent so far, by all that share the connection."""
        return self._shared.requests

    def send(
        self,
        method: str,
        path: str,
        asked: Asked,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content_type: str | None = None,
    ) -> dict[str, Any]:
        """Send a request, and return the JSON object that is answered.

        Every request may be sent more than once: a create whose answer was lost then finds its own object.

        Raises:
            ApiError: it was refused, or went on failing for longer than the patience.
            LoginError: there are no credentials.
        """
        headers = {"Content-Type": content_type} if content_type else None
        with self._answer(method, path, asked, params, json, headers, stream=False) as response:
            try:
                body = response.json()
            except ValueError:
                body = None
        if not isinstance(body, dict):
            raise Unreachable(
                f"{asked.server}: the answer is none of a Kubernetes API: {response.text[:100]!r}",
                asked,
                status=response.status_code,
                hint="Is a proxy or a login page in between?",
            )
        return body

    @contextlib.contextmanager
    def stream(
        self, path: str, asked: Asked, *, params: Mapping[str, Any] | None = None, silence: float = _READ
    ) -> Iterator[Stream]:
        """Open an answer that is read as it comes.

        Args:
            path: where.
            asked: what, for errors.
            params: the query.
            silence: after so many seconds without a byte the connection counts as broken.

        Raises:
            ApiError, LoginError: as for `send`; a broken connection while reading is an `Unreachable`.
        """
        with self._answer("GET", path, asked, params, None, None, stream=True, silence=silence) as response:
            try:
                yield Stream(response)
            except httpx.TransportError as error:
                raise _unreachable(error, asked) from error

    def socket(
        self, path: str, asked: Asked, *, params: Sequence[tuple[str, str]] = (), protocols: Sequence[str] = ()
    ) -> ClientConnection:
        """Open a websocket.

        Args:
            path: where.
            asked: what, for errors.
            params: the query; a name may be there several times.
            protocols: subprotocols, the best first.

        Raises:
            ApiError, LoginError: as for `send`.
        """
        from websockets.exceptions import InvalidStatus, WebSocketException

        from shoal.executors.kubernetes.client.execute import open_socket

        renewed, silent = False, 0
        while True:
            material = self._authenticator.current()
            tls = _tls(self.login, material.certificate, material.key)
            try:
                return open_socket(self.login, material, tls, path, params, protocols)
            except InvalidStatus as error:
                status = error.response.status_code
                if status == 401 and not renewed and self._authenticator.refused(material):
                    renewed = True
                    continue
                raise self._error(status, _json_object(bytes(error.response.body or b"")), asked, material) from error
            except TimeoutError as error:
                # A node now and then never answers one of several at once; nothing has been sent yet.
                silent += 1
                if silent == _OPENINGS:
                    raise _unreachable(error, asked) from error
            except (OSError, WebSocketException) as error:
                raise _unreachable(error, asked) from error

    def _error(self, status: int, body: Mapping[str, Any], asked: Asked, used: Material) -> ApiError:
        if status != 401:
            return error_of(status, body, asked)
        expired, renew = what_expired(used, time.time()), how_to_renew(self.login, used)
        return error_of(status, body, asked, expired=expired, renew=renew)

    def close(self) -> None:
        """Close all connections; what waits to be tried again is not."""
        self._shared.close()

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        asked: Asked,
        params: Mapping[str, Any] | None,
        json: Any,
        headers: Mapping[str, str] | None,
        *,
        stream: bool,
        silence: float = _READ,
    ) -> Iterator[httpx.Response]:
        until = time.monotonic() + self.patience
        tries, renewed = 0, False
        while True:
            pause: float | None
            try:
                material = self._authenticator.current()
                response = self._shared.send(material, method, path, params, json, headers, stream, silence)
            except httpx.TransportError as error:
                problem: ApiError = _unreachable(error, asked)
                if _hopeless(error):
                    raise problem from error
                pause = None
            except RuntimeError as error:
                if not self._shared.closed.is_set():
                    raise
                raise Unreachable(f"{asked.server}: the connection was closed", asked) from error
            else:
                try:
                    if response.status_code < 400:
                        yield response
                        return
                    response.read()
                finally:
                    response.close()
                if response.status_code == 401 and not renewed and self._authenticator.refused(material):
                    renewed = True
                    continue
                problem = self._error(response.status_code, _object(response), asked, material)
                if response.status_code not in _PASSING:
                    raise problem
                pause = _asked_pause(response)
            tries += 1
            wait = random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries)
            wait = max(wait, pause or 0.0)
            if time.monotonic() + wait > until or self._shared.closed.wait(wait):
                raise problem


class _Shared:
    """The pool of connections, made anew when the client's certificate changes."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._certificate: tuple[bytes | None, bytes | None] | None = None
        self.closed = threading.Event()
        self.requests = 0

    def send(
        self,
        material: Material,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        json: Any,
        headers: Mapping[str, str] | None,
        stream: bool,
        silence: float,
    ) -> httpx.Response:
        client = self._at(material)
        self.requests += 1
        sent = [(name, text) for name, texts in self._login.credentials.impersonate.items() for text in texts]
        sent += list((headers or {}).items())
        auth = None
        if material.token is not None:
            sent.append(("Authorization", f"Bearer {material.token}"))
        elif material.basic is not None:
            auth = httpx.BasicAuth(*material.basic)
        request = client.build_request(
            method,
            self._login.server.url + path,
            params={key: value for key, value in (params or {}).items() if value is not None},
            json=json,
            headers=sent,
            timeout=httpx.Timeout(_READ, connect=_CONNECT, read=silence),
        )
        return client.send(request, auth=auth, stream=stream)

    def _at(self, material: Material) -> httpx.Client:
        wanted = (material.certificate, material.key)
        with self._lock:
            if self._client is None or wanted != self._certificate:
                # The one before ends with the answers that are still read from it.
                self._client, self._certificate = _client(self._login, *wanted), wanted
            return self._client

    def close(self) -> None:
        self.closed.set()
        with self._lock:
            if self._client is not None:
                self._client.close()


def _client(login: Login, certificate: bytes | None, key: bytes | None) -> httpx.Client:
    server = login.server
    headers = {"User-Agent": "shoal", "Accept": "application/json"}
    if not server.compression:
        headers["Accept-Encoding"] = "identity"
    hooks = {}
    if server.tls_server_name is not None:
        name = server.tls_server_name

        def check_as(request: httpx.Request) -> None:
            request.extensions = {**request.extensions, "sni_hostname": name}

        hooks["request"] = [check_as]
    return httpx.Client(
        verify=_tls(login, certificate, key),
        proxy=server.proxy_url,
        headers=headers,
        limits=httpx.Limits(max_connections=_MOST, max_keepalive_connections=_MOST),
        event_hooks=hooks,
    )


def _tls(login: Login, certificate: bytes | None, key: bytes | None) -> ssl.SSLContext:
    server = login.server
    try:
        if server.insecure:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context(cadata=server.ca.decode("ascii", "ignore") if server.ca else None)
        if certificate is not None and key is not None:
            # The library reads files only.
            fd, path = tempfile.mkstemp(prefix="shoal-", suffix=".pem")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(certificate.rstrip() + b"\n" + key)
                context.load_cert_chain(path)
            finally:
                os.unlink(path)  # noqa: PTH108
    except (ssl.SSLError, ValueError) as error:
        raise LoginError(f"{login.said}: its certificates cannot be used: {error}") from None
    return context


def _object(response: httpx.Response) -> dict[str, Any]:
    return _json_object(response.content)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        body = json_.loads(content)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": content[:200].decode("utf-8", "replace")}


def _asked_pause(response: httpx.Response) -> float | None:
    try:
        return min(_LONGEST_ASKED, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):
        return None


def _hopeless(error: BaseException) -> bool:
    """Whether trying again cannot help: the server shows a certificate that is not trusted."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return isinstance(error, httpx.UnsupportedProtocol)


def _unreachable(error: Exception, asked: Asked) -> Unreachable:
    what = str(error) or type(error).__name__
    if _hopeless(error):
        return Unreachable(
            f"{asked.server}: the server's certificate is not trusted: {what}",
            asked,
            hint="Does certificate-authority in the kubeconfig belong to this server?",
        )
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.PoolTimeout):
        what = "no answer in time"
    return Unreachable(
        f"{asked.server}: the server cannot be reached: {what}",
        asked,
        hint="Is the network (VPN, proxy) up, and is this the right context? kubectl get pods has to work.",
    )
