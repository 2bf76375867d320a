"""Downloads that can be trusted: resumed where they stopped, checked for size and checksum, whole or not there at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from shoal.errors import ShoalError
from shoal_earth.rasters.output import write_error

__all__ = ["Access", "Download", "FetchError", "download", "download_all"]

_CHUNK = 256 * 1024
# Multihash, in hexadecimal: code and length, then the digest.
_HASHES = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "1620": "sha3_256", "1440": "sha3_512", "d50110": "md5"}


class FetchError(ShoalError):
    """Something could not be fetched, or is not what was promised; no file was left that could be taken for whole."""


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


@dataclass(frozen=True)
class Download:
    """One file to fetch. ``size`` in bytes and ``checksum`` (multihash in hexadecimal) are what the catalogue promises."""

    url: str
    path: Path
    size: int | None = None
    checksum: str | None = None


def download_all(files: Sequence[Download], access: Access) -> dict[str, int]:
    """Fetch files, a few at once. What is there already and of the right size is not fetched again.

    Returns:
        How many files were ``fetched``, how many were ``there``, and the ``bytes`` received.

    Raises:
        FetchError: one or more could not be fetched; the others were.
        WriteError: the disk is full.
    """
    stop = threading.Event()
    counts = {"fetched": 0, "there": 0, "bytes": 0}
    errors: list[ShoalError] = []
    with ThreadPoolExecutor(max_workers=max(1, access.parallel)) as pool:
        futures = [pool.submit(download, file, access, stop) for file in files]
        try:
            for future in futures:
                try:
                    received = future.result()
                except FetchError as error:
                    errors.append(error)
                else:
                    counts["there" if received is None else "fetched"] += 1
                    counts["bytes"] += received or 0
        except BaseException:  # interrupted, or the disk is full: what is under way ends at its next bytes
            stop.set()
            for future in futures:
                future.cancel()
            raise
    if len(errors) > 1:
        listed = "\n".join(f"  {error.message}" for error in errors[:5])
        more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise FetchError(
            f"{len(errors)} of {len(files)} files could not be fetched:\n{listed}{more}", hint=errors[0].hint
        )
    if errors:
        raise errors[0]
    return counts


def download(file: Download, access: Access, stop: threading.Event | None = None) -> int | None:
    """Fetch one file. What an earlier attempt (or run) got is kept beside it, hidden, and continued.

    Returns:
        Bytes received; None if the file was there already.

    Raises:
        FetchError: it cannot be had, or is not what the catalogue promises.
        WriteError: the disk is full.
    """
    if _whole(file):
        return None
    part = file.path.with_name(f".{file.path.name}.part")
    note = part.with_name(part.name + ".json")
    halt = stop or threading.Event()
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part, halt):
            if _whole(file):  # another process was quicker
                return None
            received = _fetch(file, part, note, access, halt)
            for second in (False, True):
                wrong = _wrong_checksum(part, file.checksum)
                if wrong is None:
                    break
                # Pieces of two versions may have met: once more from the start.
                _restart(part, note)
                if second:
                    raise FetchError(
                        f"{file.url}: {wrong}", hint="The catalogue or the file is wrong: tell its publisher."
                    )
                received += _fetch(file, part, note, access, halt)
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
            part.replace(file.path)
            note.unlink(missing_ok=True)
    except OSError as error:
        for leftover in (part, note):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
        raise write_error(file.path, error) from None
    return received


def _whole(file: Download) -> bool:
    return file.path.is_file() and (file.size is None or file.path.stat().st_size == file.size)


@contextlib.contextmanager
def _alone(part: Path, stop: threading.Event) -> Iterator[None]:
    """Hold the lock on a part, so that two processes that fetch the same file do not write into each other's."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not stop.is_set():
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    stop.wait(0.1)
            else:
                raise FetchError(f"{part}: stopped while another process fetches it")
            # Whoever held the lock may have renamed or removed the file that it was on.
            if part.exists() and os.fstat(handle).st_ino == part.stat().st_ino:
                try:
                    yield
                finally:
                    if _size(part) == 0:
                        part.unlink(missing_ok=True)
                        part.with_name(part.name + ".json").unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def _fetch(file: Download, part: Path, note: Path, access: Access, stop: threading.Event) -> int:
    """Attempts, until the part is whole or several in a row got no further."""
    scheme = urlsplit(file.url).scheme
    if scheme in ("", "file"):
        return _copy(file, part)
    if scheme not in ("http", "https"):
        raise FetchError(
            f"{file.url}: links of {scheme}:// are not fetched", hint="Use a catalogue that gives https links."
        )
    import requests
    import stamina

    def worth_it(error: Exception) -> bool | float:
        if not isinstance(error, _Again):
            return False
        return True if error.after is None else min(error.after, access.longest_wait)

    counter: list[int] = []
    with requests.Session() as session:
        while True:
            before = _size(part)
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
                        _attempt(session, file, part, note, access, stop, counter)
                return sum(counter)
            except _Again as error:
                if _size(part) > before and not stop.is_set():
                    continue  # it does get further: as long as it takes
                raise FetchError(
                    f"{file.url}: cannot be fetched: {error}",
                    hint=f"{access.attempts} attempts got no further. What has come so far is kept and continued next time.",
                ) from None


def _attempt(
    session: Any,
    file: Download,
    part: Path,
    note: Path,
    access: Access,
    stop: threading.Event,
    counter: list[int],
) -> None:
    import requests
    from urllib3.exceptions import HTTPError

    url = access.sign(file.url) if access.sign else file.url
    have, tag = _known(part, note, file)
    headers = {**access.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    try:
        with session.get(url, headers=headers, stream=True, timeout=(access.connect, access.read)) as answer:
            start, total = _judge(answer, file, part, note, have)
            if start == total and total is not None:
                return
            _remember(note, file, answer.headers)
            _receive(answer, file, part, start, total, access, stop, counter)
    except (requests.RequestException, HTTPError) as error:
        raise _Again(_network(error)) from None


def _judge(answer: Any, file: Download, part: Path, note: Path, have: int) -> tuple[int, int | None]:
    """Where this answer's bytes begin, and how long the whole file is, if the server says so."""
    code = answer.status_code
    if code in (408, 425, 429) or code >= 500:
        after = str(answer.headers.get("Retry-After") or "")
        raise _Again(f"the server answers {code}", float(after) if after.isdigit() else None)
    if code == 416:
        found = re.search(r"/(\d+)$", str(answer.headers.get("Content-Range") or ""))
        if found and int(found.group(1)) == have:
            return have, have
        _restart(part, note)
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
            _restart(part, note)
            raise _Again("the server resumed at the wrong place")
        start, total = have, int(found.group(2)) if found.group(2) != "*" else None
    else:
        start, total = 0, int(length) if length.isdigit() else None
    if file.size is not None and total is not None and total != file.size:
        _restart(part, note)
        raise FetchError(
            f"{file.url}: has {total:,} bytes, but the catalogue promises {file.size:,}",
            hint="One of the two is wrong, so it is not used. Search the catalogue again.",
        )
    return start, total if total is not None else file.size


def _receive(
    answer: Any,
    file: Download,
    part: Path,
    start: int,
    total: int | None,
    access: Access,
    stop: threading.Event,
    counter: list[int],
) -> None:
    if total is not None and shutil.disk_usage(part.parent).free < total - start:
        raise OSError(28, "the disk is full")
    received, since, lately = 0, time.monotonic(), 0
    with part.open("r+b") as handle:
        handle.seek(start)
        handle.truncate()
        # What has come, however little: a server that dribbles must be noticed, and nothing be asked for twice.
        while chunk := answer.raw.read1(_CHUNK):
            if stop.is_set():
                raise FetchError(f"{file.url}: stopped")
            handle.write(chunk)
            received += len(chunk)
            counter.append(len(chunk))
            lately += len(chunk)
            if total is not None and start + received > total:
                handle.truncate(0)
                raise FetchError(
                    f"{file.url}: the server sent more than the {total:,} bytes promised", hint="It is not used."
                )
            passed = time.monotonic() - since
            if passed >= access.patience:
                if lately < access.slowest * passed:
                    raise _Again(f"only {lately / passed:,.0f} bytes a second came")
                since, lately = time.monotonic(), 0
    if total is not None and start + received < total:
        raise _Again(f"the connection ended after {start + received:,} of {total:,} bytes")


def _copy(file: Download, part: Path) -> int:
    source = Path(unquote(urlsplit(file.url).path)) if file.url.startswith("file:") else Path(file.url)
    if not source.is_file():
        raise FetchError(f"{file.url}: there is no such file", hint="Is the catalogue complete?")
    if file.size is not None and source.stat().st_size != file.size:
        raise FetchError(
            f"{file.url}: has {source.stat().st_size:,} bytes, but the catalogue promises {file.size:,}",
            hint="One of the two is wrong, so it is not used.",
        )
    with source.open("rb") as one, part.open("r+b") as other:
        other.truncate(0)
        shutil.copyfileobj(one, other, 2**20)
    return part.stat().st_size


def _known(part: Path, note: Path, file: Download) -> tuple[int, str | None]:
    """How much of the file is here, and the server's tag for it; nothing where it cannot be told that both go together."""
    size = _size(part)
    if not size:
        return 0, None
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        tag = noted["tag"]
        if noted["url"] == _bare(file.url) and (tag or file.checksum) and (file.size is None or size <= file.size):
            return size, tag
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, None


def _remember(note: Path, file: Download, headers: Mapping[str, str]) -> None:
    tag = headers.get("ETag")
    # Weak tags do not promise the same bytes.
    tag = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    note.write_text(json.dumps({"url": _bare(file.url), "tag": tag}), encoding="utf-8")


def _restart(part: Path, note: Path) -> None:
    """Begin anew, in the same file: the lock is on it."""
    with part.open("r+b") as handle:
        handle.truncate(0)
    note.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _bare(url: str) -> str:
    """Without the query: signatures change from day to day, and are nobody's business."""
    return url.partition("?")[0]


def _wrong_checksum(path: Path, checksum: str | None) -> str | None:
    """None if the file's checksum is as promised, or nothing (known) is."""
    found = next((prefix for prefix in _HASHES if (checksum or "").lower().startswith(prefix)), None)
    if checksum is None or found is None:
        return None
    digest = hashlib.new(_HASHES[found], usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() == checksum.lower().removeprefix(found):
        return None
    return f"what came is not what the catalogue promises: its {_HASHES[found].replace('_', '-')} checksum differs"


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
