"""Commands in running containers, by the websocket protocol that kubectl exec speaks (``v5`` and ``v4.channel.k8s.io``).

Each message begins with a byte that names its channel: 0 standard input, 1 standard output, 2 standard error, 3 the command's
end as a ``Status``.
"""

from __future__ import annotations

import json
import ssl
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shoal.executors.kubernetes.client.errors import ApiError, Asked, Unreachable
from shoal.executors.kubernetes.login import Login, Material

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = ["PROTOCOLS", "CommandFailed", "Execution", "open_socket"]

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _END = 0, 1, 2, 3
_PIECE = 32 << 10
_OPEN = 10.0
_SILENCE = 300.0
_TAIL = 4096


class CommandFailed(ApiError):
    """A command in a container ended with an exit code other than 0.

    Attributes:
        code: the exit code; -1 where it never started.
    """

    def __init__(self, message: str, asked: Asked, code: int) -> None:
        super().__init__(message, asked)
        self.code = code

    @property
    def started(self) -> bool:
        """Whether it ran at all."""
        return self.code >= 0


class Execution:
    """A command that runs in a container: a context manager, which ends it where it was not read to its end.

    Attributes:
        errors: the end of what it wrote to standard error, so far.
    """

    def __init__(self, socket: ClientConnection, asked: Asked) -> None:
        self._socket = socket
        self._asked = asked
        self.errors = b""

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write to its standard input, which stays open: the command has to know how much there is to read.

        Raises:
            Unreachable: the connection broke.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            for start in range(0, len(data), _PIECE):
                self._socket.send(bytes([_STDIN]) + data[start : start + _PIECE])
        except (ConnectionClosed, OSError) as error:
            raise self._broken(error) from error

    def output(self, silence: float = _SILENCE) -> Iterator[bytes]:
        """Yield what it prints, to its end.

        Args:
            silence: after so many seconds without a word the connection counts as broken.

        Raises:
            CommandFailed: it ended with an error.
            Unreachable: the connection broke.
        """
        from websockets.exceptions import ConnectionClosed

        while True:
            try:
                message = self._socket.recv(timeout=silence)
            except (ConnectionClosed, TimeoutError, OSError) as error:
                raise self._broken(error) from error
            data = message.encode() if isinstance(message, str) else message
            if not data:
                continue
            channel, rest = data[0], data[1:]
            if channel == _STDOUT and rest:
                yield rest
            elif channel == _STDERR:
                self.errors = (self.errors + rest)[-_TAIL:]
            elif channel == _END:
                self._end(rest)
                return

    def read(self, silence: float = _SILENCE) -> bytes:
        """All that it prints; raises as `output`."""
        return b"".join(self.output(silence))

    def _broken(self, error: Exception) -> Unreachable:
        text = f"{self._asked.server}: the connection to pod {self._asked.name} broke: {error or 'no word'}"
        return Unreachable(text, self._asked)

    def _end(self, data: bytes) -> None:
        try:
            status: dict[str, Any] = json.loads(data)
        except ValueError:
            status = {"message": data.decode("utf-8", "replace")}
        if status.get("status") == "Success":
            return
        causes = (status.get("details") or {}).get("causes") or []
        text = next((one.get("message") for one in causes if one.get("reason") == "ExitCode"), None)
        code = int(str(text)) if str(text).isdecimal() else -1
        said = self.errors.decode("utf-8", "replace").strip().rpartition("\n")[2] or str(status.get("message") or "")
        raise CommandFailed(f"a command in pod {self._asked.name} failed: {said}", self._asked, code)


def open_socket(
    login: Login,
    material: Material,
    tls: ssl.SSLContext,
    path: str,
    params: Sequence[tuple[str, str]],
    protocols: Sequence[str],
) -> ClientConnection:
    """Open a websocket to the API server.

    Raises:
        websockets.InvalidStatus: the server answers something else.
        OSError, websockets.WebSocketException: there is no connection.
    """
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    server = login.server
    scheme, _, rest = server.url.partition("://")
    secure = scheme == "https"
    uri = f"{'wss' if secure else 'ws'}://{rest}{path}?{urllib.parse.urlencode(params)}"
    headers = [(name, text) for name, texts in login.credentials.impersonate.items() for text in texts]
    if material.token is not None:
        headers.append(("Authorization", f"Bearer {material.token}"))
    elif material.basic is not None:
        import base64

        word = base64.b64encode(":".join(material.basic).encode()).decode("ascii")
        headers.append(("Authorization", f"Basic {word}"))
    opening = connect(
        uri,
        ssl=tls if secure else None,
        server_hostname=server.tls_server_name if secure else None,
        subprotocols=[Subprotocol(one) for one in protocols],
        additional_headers=headers,
        user_agent_header="shoal",
        proxy=server.proxy_url or True,
        compression=None,
        open_timeout=_OPEN,
        # Old servers do not answer pings; silence is bounded by whoever reads.
        ping_interval=None,
        max_size=None,
    )
    # Newer versions connect when it is entered, older ones have connected already.
    return opening.__enter__()
