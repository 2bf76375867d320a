"""A generated world, the real fixtures, and a server that misbehaves on request."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shoal_earth.rasters.composites import composite
from shoal_earth.rasters.download import Access
from shoal_earth.rasters.grids import Pixels
from shoal_earth.rasters.normalise import Fitter, Scale
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.synthetic import World, make_world

QUICK = Access(connect=2, read=2, attempts=3, wait=0.01, longest_wait=0.05, patience=0.3, slowest=1000, parallel=3)
"""As patient as a test can be."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two tiles, four dates, as TIF."""
    return make_world(tmp_path_factory.mktemp("world") / "w", tiles=2, size=120, image="tif")


@pytest.fixture(scope="session")
def safes(fixtures: Path) -> dict[str, Path]:
    """The real ``.SAFE`` trees by tile."""
    found = sorted((fixtures / "safe" / "stactools_downsampled").glob("*.SAFE"))
    assert len(found) == 3
    return {re.search(r"_T(\w{5})_", path.name).group(1): path for path in found}


def fitted(paths: Sequence[Path], kind: str, method: str = "iqr") -> Scale:
    """A scale of whole scenes."""
    scenes: dict[str, Pixels] = {}
    for path in paths:
        with read_scene(path) as scene:
            scenes[scene.name] = composite(scene, kind)
    fitter = Fitter(kind, len(next(iter(scenes.values())).values))
    for name, pixels in scenes.items():
        fitter.add(pixels)
        fitter.scenes.append(name)
    return fitter.fit(method)


class Server:
    """Serves a folder. ``faults[path]`` is a list of what to do with the next requests for a path instead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []
        self.sent: dict[str, int] = defaultdict(int)
        self.headers: list[dict[str, str]] = []
        self.tags = True
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                outer.answer(self, head=True)

            def do_POST(self) -> None:
                outer.post(self)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # clients hang up on purpose here

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.search: Callable[[dict], dict] | None = None
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(5)

    def post(self, handler: BaseHTTPRequestHandler) -> None:
        import json

        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert self.search is not None
        answer = json.dumps(self.search(body)).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/geo+json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def answer(self, handler: BaseHTTPRequestHandler, head: bool = False) -> None:
        path = handler.path.partition("?")[0]
        span = handler.headers.get("Range")
        with self.lock:
            if not head:
                self.requests.append((path, span))
            self.headers.append(dict(handler.headers))
            fault = self.faults[path].pop(0) if self.faults[path] and not head else ""
        file = self.folder / path.lstrip("/")
        if not file.is_file():
            fault = "404"
        if fault.isdigit():
            handler.send_response(int(fault))
            if fault in ("429", "503"):
                handler.send_header("Retry-After", "0")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        data = file.read_bytes()
        start, end = 0, len(data) - 1
        match = re.match(r"bytes=(\d+)-(\d*)", span or "")
        tag = f'"{len(data)}-{file.stat().st_mtime_ns}"'
        if match and handler.headers.get("If-Range") in (None, tag):
            start = int(match.group(1))
            end = min(int(match.group(2) or end), end)
            if start > end:
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(data)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        else:
            handler.send_response(200)
        body = data[start : end + 1]
        handler.send_header("Accept-Ranges", "bytes")
        if self.tags:
            handler.send_header("ETag", tag)
        if fault == "unsized":  # no length at all, and the connection ends early
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(body[: len(body) // 2])
            handler.close_connection = True
            return
        if fault == "endless":
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(body + b"x" * 1000)
            handler.close_connection = True
            return
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if head:
            return
        if fault == "cut":
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            with self.lock:
                self.sent[path] += len(body) // 2
            handler.close_connection = True
            return
        if fault == "corrupt":
            body = bytes([body[0] ^ 255]) + body[1:]
        if fault == "silent":
            time.sleep(3)
            handler.close_connection = True
            return
        if fault == "slow":
            try:
                for byte in body[:400]:
                    handler.wfile.write(bytes([byte]))
                    handler.wfile.flush()
                    time.sleep(0.01)
            except OSError:
                pass
            handler.close_connection = True
            return
        with self.lock:
            self.sent[path] += len(body)
        handler.wfile.write(body)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """``serve(folder)``: a server on the loopback, which ends with the test."""
    running: list[Server] = []

    def start(folder: Path) -> Server:
        running.append(Server(folder))
        return running[-1]

    yield start
    for server in running:
        server.close()
