"""An API server of one verb: it runs commands on this machine, by the protocol of kubectl exec."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from shoal.executors.kubernetes import reading
from shoal.executors.kubernetes.client import Client
from shoal.executors.kubernetes.login import Credentials, Login, Server


@dataclass
class Pods:
    """What the server does, and what it was asked.

    Attributes:
        protocols: subprotocols that it speaks.
        cut: break the connection off after so many bytes, for so many times.
        refuse: answer this status and body instead.
    """

    url: str = ""
    protocols: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")
    cut: list[int] = field(default_factory=list)
    refuse: tuple[int, dict[str, Any]] | None = None
    asked: list[tuple[str, list[str]]] = field(default_factory=list)

    def client(self) -> Client:
        server = Server(f"http://{self.url}")
        return Client(Login(server, Credentials(token="t0ken"), "lab", "test", "test"), patience=1.0)

    def admit(self, _: ServerConnection, request: Request) -> Response | None:
        assert request.headers["Authorization"] == "Bearer t0ken"
        if self.refuse is None:
            return None
        status, body = self.refuse
        data = json.dumps(body).encode()
        return Response(status, "no", Headers({"Content-Length": str(len(data))}), data)

    def serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path, _, query = socket.request.path.partition("?")
        asked = urllib.parse.parse_qs(query)
        words = asked["command"]
        self.asked.append((path, words))
        env = {**os.environ, "SHOAL_READER": reading.reader_source()}
        left = self.cut.pop(0) if self.cut else None
        takes = subprocess.PIPE if asked.get("stdin") == ["true"] else subprocess.DEVNULL
        with subprocess.Popen(words, stdin=takes, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
            if process.stdin is not None:
                threading.Thread(target=self._feed, args=(socket, process.stdin), daemon=True).start()
            assert process.stdout is not None
            assert process.stderr is not None
            socket.send(b"\1")  # an empty message opens each channel
            while data := process.stdout.read(40_000):
                if left is not None and len(data) > left:
                    socket.send(b"\1" + data[:left])
                    process.kill()
                    socket.socket.close()
                    return
                left = None if left is None else left - len(data)
                socket.send(b"\1" + data)
            if errors := process.stderr.read():
                socket.send(b"\2" + errors)
        code = process.returncode
        status: dict[str, Any] = {"status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        socket.send(b"\3" + json.dumps(status).encode())

    def _feed(self, socket: ServerConnection, stdin: IO[bytes]) -> None:
        with contextlib.suppress(ConnectionClosed, OSError, ValueError):
            for message in socket:
                assert isinstance(message, bytes)
                assert message[0] == 0
                stdin.write(message[1:])
                stdin.flush()
        with contextlib.suppress(OSError):
            stdin.close()


@contextmanager
def pods() -> Iterator[Pods]:
    """Serve on loopback."""
    made = Pods()
    with serve(
        made.serve,
        "127.0.0.1",
        0,
        subprotocols=made.protocols,  # type: ignore[arg-type]
        process_request=made.admit,
        compression=None,
    ) as server:
        host, port = server.socket.getsockname()[:2]
        made.url = f"{host}:{port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()
