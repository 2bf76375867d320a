"""Bytes from a server into the part of a file: from where an earlier attempt stopped, and again after faults that may pass."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from shoal_earth.rasters.parts import FetchError, Part

__all__ = ["Access", "transfer"]

_CHUNK = 256 * 1024


class _Again(Exception):
    """A fault that may pass: worth another attempt, not before ``after`` seconds."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True)
class Access:
    """How to speak to servers.

    Args:
        headers: sent with every request, e.g. ``Authorization``; dropped when a server redirects to another.
        sign: makes a link usable, e.g. by adding a token.
        connect: seconds to wait for a connection.
        read: seconds to wait for the next bytes.
        attempts: in a row without getting any further.
        wait: seconds before the second attempt, twice as long before each further one, with some jitter.
        longest_wait: between attempts, also where the server asks for more.
        slowest: bytes a second, on average over ``patience`` seconds, below which a connection is given up and made anew.
        patience: see ``slowest``.
        parallel: downloads at once.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    sign: Callable[[str], str] | None = None
    connect: float = 15.0
    read: float = 60.0
    attempts: int = 6
    wait: float = 1.0
    longest_wait: float = 60.0
    slowest: float = 2_000.0
    patience: float = 60.0
    parallel: int = 4


def transfer(part: Part, access: Access, stop: threading.Event) -> int:
    """Fetch what a part lacks, from a server or from another place on this machine, until it is whole.

    Returns:
        Bytes received.

    Raises:
        FetchError: the server refuses, several attempts in a row got no further, or ``stop`` was set.
        OSError: the disk is full.
    """
    url = part.file.url
    scheme = urlsplit(url).scheme
    if scheme in ("", "file"):
        return _copy(part)
    if scheme not in ("http", "https"):
        raise FetchError(f"{url}: links of {scheme}:// are not fetched", hint="Use a catalogue that gives https links.")
    import requests
    import stamina

    def worth_it(error: Exception) -> bool | float:
        if not isinstance(error, _Again):
            return False
        return True if error.after is None else min(error.after, access.longest_wait)

    counter: list[int] = []
    with requests.Session() as session:
        while True:
            before = part.size
            try:
                for attempt in stamina.retry_context(
                    on=worth_it,
                    attempts=access.attempts,
                    timeout=None,
                    wait_initial=access.wait,
                    wait_max=access.longest_wait,
                    wait_jitter=access.wait,
                ):
                    with attempt:
                        _attempt(session, part, access, stop, counter)
                return sum(counter)
            except _Again as error:
                if part.size > before and not stop.is_set():
                    continue  # it does get further: as long as it takes
                raise FetchError(
                    f"{url}: cannot be fetched: {error}",
                    hint=f"{access.attempts} attempts got no further. What has come so far is kept and continued next time.",
                ) from None


def _attempt(session: Any, part: Part, access: Access, stop: threading.Event, counter: list[int]) -> None:
    import requests
    from urllib3.exceptions import HTTPError

    url = access.sign(part.file.url) if access.sign else part.file.url
    have, tag = part.known()
    headers = {**access.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    try:
        with session.get(url, headers=headers, stream=True, timeout=(access.connect, access.read)) as answer:
            start, total = _judge(answer, part, have)
            if start == total and total is not None:
                return
            part.remember(answer.headers)
            _receive(answer, part, start, total, access, stop, counter)
    except (requests.RequestException, HTTPError) as error:
        raise _Again(_network(error)) from None


def _judge(answer: Any, part: Part, have: int) -> tuple[int, int | None]:
    """Where this answer's bytes begin, and how long the whole file is, if the server says so."""
    file, code = part.file, answer.status_code
    if code in (408, 425, 429) or code >= 500:
        after = str(answer.headers.get("Retry-After") or "")
        raise _Again(f"the server answers {code}", float(after) if after.isdigit() else None)
    if code == 416:
        found = re.search(r"/(\d+)$", str(answer.headers.get("Content-Range") or ""))
        if found and int(found.group(1)) == have:
            return have, have
        part.restart()
        raise _Again("the server has another file now")
    if code not in (200, 206):
        hint = (
            "Log in: set SHOAL_EARTH_TOKEN to the catalogue's access token."
            if code in (401, 403)
            else "Search the catalogue again: links go out of date."
        )
        raise FetchError(f"{file.url}: the server answers {code} {answer.reason}".rstrip(), hint=hint)
    length = str(answer.headers.get("Content-Length") or "")
    total: int | None
    if code == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", str(answer.headers.get("Content-Range") or ""))
        if not found or int(found.group(1)) != have:
            part.restart()
            raise _Again("the server resumed at the wrong place")
        start, total = have, int(found.group(2)) if found.group(2) != "*" else None
    else:
        start, total = 0, int(length) if length.isdigit() else None
    if file.size is not None and total is not None and total != file.size:
        part.restart()
        raise FetchError(
            f"{file.url}: has {total:,} bytes, but the catalogue promises {file.size:,}",
            hint="One of the two is wrong, so it is not used. Search the catalogue again.",
        )
    return start, total if total is not None else file.size


def _receive(
    answer: Any,
    part: Part,
    start: int,
    total: int | None,
    access: Access,
    stop: threading.Event,
    counter: list[int],
) -> None:
    if total is not None and shutil.disk_usage(part.path.parent).free < total - start:
        raise OSError(28, "the disk is full")
    received, since, lately = 0, time.monotonic(), 0
    with part.path.open("r+b") as handle:
        handle.seek(start)
        handle.truncate()
        # What has come, however little: a server that dribbles must be noticed, and nothing be asked for twice.
        while chunk := answer.raw.read1(_CHUNK):
            if stop.is_set():
                raise FetchError(f"{part.file.url}: stopped")
            handle.write(chunk)
            received += len(chunk)
            counter.append(len(chunk))
            lately += len(chunk)
            if total is not None and start + received > total:
                handle.truncate(0)
                raise FetchError(
                    f"{part.file.url}: the server sent more than the {total:,} bytes promised", hint="It is not used."
                )
            passed = time.monotonic() - since
            if passed >= access.patience:
                if lately < access.slowest * passed:
                    raise _Again(f"only {lately / passed:,.0f} bytes a second came")
                since, lately = time.monotonic(), 0
    if total is not None and start + received < total:
        raise _Again(f"the connection ended after {start + received:,} of {total:,} bytes")


def _copy(part: Part) -> int:
    file = part.file
    source = Path(unquote(urlsplit(file.url).path)) if file.url.startswith("file:") else Path(file.url)
    if not source.is_file():
        raise FetchError(f"{file.url}: there is no such file", hint="Is the catalogue complete?")
    if file.size is not None and source.stat().st_size != file.size:
        raise FetchError(
            f"{file.url}: has {source.stat().st_size:,} bytes, but the catalogue promises {file.size:,}",
            hint="One of the two is wrong, so it is not used.",
        )
    with source.open("rb") as one, part.path.open("r+b") as other:
        other.truncate(0)
        shutil.copyfileobj(one, other, 2**20)
    return part.size


def _network(error: Exception) -> str:
    kind = type(error).__name__
    words = {
        "ConnectTimeout": "no connection within the time",
        "ReadTimeout": "the server fell silent",
        "ReadTimeoutError": "the server fell silent",
        "ProtocolError": "the connection broke",
        "IncompleteRead": "the connection broke",
        "ConnectionError": "no connection, or it broke",
        "ChunkedEncodingError": "the connection broke",
        "SSLError": "the server's certificate is not accepted",
    }
    return words.get(kind, f"{kind}: {str(error)[:120]}")
