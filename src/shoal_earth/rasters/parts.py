"""Part of a file that is being fetched: what has come so far, what it is known to be a part of, and a lock on it.

Until it is whole it lies beside the file that it will be, hidden, with a note of the server's tag, so that a later run goes on
with it only where the server still has the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ShoalError

__all__ = ["Download", "FetchError", "Part"]

# Multihash, in hexadecimal: code and length, then the digest.
_HASHES = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "1620": "sha3_256", "1440": "sha3_512", "d50110": "md5"}


class FetchError(ShoalError):
    """Something could not be fetched, or is not what was promised; no file was left that could be taken for whole."""


@dataclass(frozen=True)
class Download:
    """One file to fetch. ``size`` in bytes and ``checksum`` (multihash in hexadecimal) are what the catalogue promises."""

    url: str
    path: Path
    size: int | None = None
    checksum: str | None = None

    def there(self) -> bool:
        """Whether it has been fetched, and has the size that was promised."""
        return self.path.is_file() and (self.size is None or self.path.stat().st_size == self.size)


class Part:
    """What has come of a file so far."""

    def __init__(self, file: Download) -> None:
        self.file = file
        self.path = file.path.with_name(f".{file.path.name}.part")
        self.note = self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @contextlib.contextmanager
    def alone(self, stop: threading.Event) -> Iterator[None]:
        """Hold the lock, so that two processes that fetch the same file do not write into each other's part.

        Raises:
            FetchError: ``stop`` was set while another process held it.
        """
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                while not stop.is_set():
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        stop.wait(0.1)
                else:
                    raise FetchError(f"{self.path}: stopped while another process fetches it")
                # Whoever held the lock may have renamed or removed the file that it was on.
                if self.path.exists() and os.fstat(handle).st_ino == self.path.stat().st_ino:
                    try:
                        yield
                    finally:
                        if self.size == 0:
                            self.remove()
                    return
            finally:
                os.close(handle)

    def known(self) -> tuple[int, str | None]:
        """How much of the file is here, and the server's tag for it; nothing where it cannot be told that both go together."""
        size = self.size
        if not size:
            return 0, None
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            tag, promised = noted["tag"], self.file.size
            fits = promised is None or size <= promised
            if noted["url"] == _bare(self.file.url) and (tag or self.file.checksum) and fits:
                return size, tag
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, None

    def remember(self, headers: Mapping[str, str]) -> None:
        """Note what the server says of the file whose bytes come now."""
        tag = headers.get("ETag")
        # Weak tags do not promise the same bytes.
        tag = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        self.note.write_text(json.dumps({"url": _bare(self.file.url), "tag": tag}), encoding="utf-8")

    def restart(self) -> None:
        """Begin anew, in the same file: the lock is on it."""
        with self.path.open("r+b") as handle:
            handle.truncate(0)
        self.note.unlink(missing_ok=True)

    def wrong_checksum(self) -> str | None:
        """None if the checksum is as promised, or none (that is known) is promised; else what differs, in words."""
        checksum = (self.file.checksum or "").lower()
        found = next((prefix for prefix in _HASHES if checksum.startswith(prefix)), None)
        if found is None:
            return None
        digest = hashlib.new(_HASHES[found], usedforsecurity=False)
        with self.path.open("rb") as handle:
            while chunk := handle.read(2**20):
                digest.update(chunk)
        if digest.hexdigest() == checksum.removeprefix(found):
            return None
        return f"what came is not what the catalogue promises: its {_HASHES[found].replace('_', '-')} checksum differs"

    def publish(self) -> None:
        """Give it the file's name, once it is on the disk."""
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())
        self.path.replace(self.file.path)
        self.note.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing."""
        for leftover in (self.path, self.note):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def _bare(url: str) -> str:
    """Without the query: signatures change from day to day, and are nobody's business."""
    return url.partition("?")[0]
