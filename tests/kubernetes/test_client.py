"""The client against a server on loopback that misbehaves to order: what passes by itself, what does not, and how it reads."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from shoal.executors.kubernetes import client as api
from shoal.executors.kubernetes.login import Credentials, Login, Plugin, Server

POD = {"metadata": {"name": "a", "resourceVersion": "7"}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        server: Any = self.server
        server.seen.append((self.command, self.path, dict(self.headers), body))
        script = server.script
        status, headers, said = script.pop(0) if len(script) > 1 else script[0]
        if status == 0:  # the connection breaks
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) + (100 if headers.get("X-Cut") else 0)))
        self.end_headers()
        self.wfile.write(data)
        if headers.get("X-Cut"):
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        pass


class Scripted(ThreadingHTTPServer):
    daemon_threads = True
    script: list[tuple[int, dict[str, str], Any]]
    seen: list[Any]


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted(("127.0.0.1", 0), Handler)
    made.seen, made.script = [], [(200, {}, POD)]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def client(server: Scripted, patience: float = 5.0, **who: Any) -> api.Client:
    login = Login(
        Server(f"http://127.0.0.1:{server.server_port}"), Credentials(**(who or {"token": "t"})), "lab", "c", "f"
    )
    return api.Client(login, patience=patience)


def status(code: int, message: str, reason: str = "") -> tuple[int, dict[str, str], Any]:
    return code, {}, {"kind": "Status", "code": code, "message": message, "reason": reason}


def test_what_passes_by_itself_is_tried_again(server: Scripted) -> None:
    busy = (429, {"Retry-After": "1"}, {"message": "slow down"})
    server.script = [status(503, "starting"), (0, {}, {}), busy, (200, {}, POD)]
    begin = time.monotonic()
    assert client(server, patience=20).get(api.PODS, "a") == POD
    assert time.monotonic() - begin >= 1, "Retry-After was not waited for"
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (status(403, "no"), api.Forbidden, "may not get pods a in namespace lab"),
        (status(403, 'pods "a" is forbidden: User "u" cannot get x'), api.Forbidden, "this login may not get pods a"),
        (
            status(403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'),
            api.Forbidden,
            'the platform refuses to get pods a in namespace lab: violates PodSecurity "restricted:latest"',
        ),
        (status(403, "exceeded quota: q, requested: pods=1"), api.QuotaExceeded, "exceeded quota: q"),
        (status(403, 'admission webhook "x" denied the request: no sleep'), api.Denied, "no sleep"),
        (status(404, "gone"), api.NotFound, "gone"),
        (status(409, "there", "AlreadyExists"), api.AlreadyExists, "there"),
        (status(409, "changed", "Conflict"), api.Conflict, "changed"),
        (status(410, "too old", "Expired"), api.Expired, "too old"),
        (status(422, "bad name"), api.Invalid, "bad name"),
        (status(401, "Unauthorized"), api.Unauthorized, "does not accept the login"),
    ],
)
def test_what_does_not_is_said_at_once(server: Scripted, answer: Any, kind: type[api.ApiError], words: str) -> None:
    server.script = [answer]
    with pytest.raises(kind, match=words):
        client(server).get(api.PODS, "a")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(status(500, "etcd"), api.ServerFault), (status(429, "slow"), api.Busy), ((0, {}, {}), api.Unreachable)],
)
def test_patience_ends(server: Scripted, answer: Any, kind: type[api.ApiError]) -> None:
    server.script = [answer]
    with pytest.raises(kind):
        client(server, patience=0.5).get(api.PODS, "a")


def test_no_server_and_no_api(server: Scripted) -> None:
    login = Login(Server("http://127.0.0.1:9"), Credentials(token="t"), "lab", "c", "kubeconfig")
    with pytest.raises(api.Unreachable, match=r"kubeconfig, context c.*cannot be reached") as caught:
        api.Client(login, patience=0.1).get(api.PODS, "a")
    assert "VPN" in str(caught.value)
    server.script = [(200, {}, b"<html>log in</html>")]
    with pytest.raises(api.Unreachable, match="none of a Kubernetes API"):
        client(server).get(api.PODS, "a")


def test_a_refused_plugin_is_asked_once_more(server: Scripted, tmp_path: Any) -> None:
    program = tmp_path / "login"
    program.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/count\n"
        'echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",\\"kind\\":\\"ExecCredential\\",'
        f'\\"status\\":{{\\"token\\":\\"t$(wc -l < {tmp_path}/count | tr -d " ")\\"}}}}"\n'
    )
    program.chmod(0o755)
    server.script = [status(401, "expired"), (200, {}, POD)]
    made = client(server, plugin=Plugin(str(program), interactive="Never"))
    assert made.get(api.PODS, "a") == POD
    assert [headers["Authorization"] for _, _, headers, _ in server.seen] == ["Bearer t1", "Bearer t2"]


def test_pages_are_joined_and_an_expired_one_begins_anew(server: Scripted) -> None:
    def page(names: str, more: str, version: str = "9") -> tuple[int, dict[str, str], Any]:
        items = [{"metadata": {"name": name}} for name in names]
        return 200, {}, {"metadata": {"continue": more, "resourceVersion": version}, "items": items}

    server.script = [page("ab", "x"), status(410, "expired"), page("ab", "y"), page("c", "", "10")]
    found = client(server).list(api.PODS, selector="a=b", keep=lambda one: one["metadata"]["name"], page=2)
    assert (found.items, found.version) == (["a", "b", "c"], "10")
    assert "continue=x" in server.seen[1][1]
    assert "continue" not in server.seen[2][1]


def test_a_watch_knows_how_far_it_came(server: Scripted) -> None:
    def line(kind: str, version: int) -> bytes:
        return json.dumps({"type": kind, "object": {"metadata": {"resourceVersion": str(version)}}}).encode() + b"\n"

    server.script = [(200, {"X-Cut": "1"}, line("ADDED", 8) + line("BOOKMARK", 11) + line("MODIFIED", 12)[:-9])]
    seen = []
    with pytest.raises(api.Unreachable), client(server).watch(api.PODS, "7") as watch:  # noqa: PT012
        for kind, _ in watch:
            seen.append(kind)
    assert (seen, watch.version) == (["ADDED"], "11")
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old", "reason": "Expired"}}
    server.script = [(200, {}, json.dumps(gone).encode() + b"\n")]
    with pytest.raises(api.Expired), client(server).watch(api.PODS, "7") as watch:
        list(watch)


def test_deleting_everything_needs_a_selector(server: Scripted) -> None:
    with pytest.raises(ValueError, match="selector"):
        client(server).delete_all(api.JOBS, "")
    assert not server.seen
