"""Tar streams from a pod, laid out on this disk: nothing leaves its folder, and no link is written through."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from shoal.errors import StoreError
from shoal.executors.kubernetes.reader import STATE

__all__ = ["State", "lay_out", "take_records"]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class State:
    """What a pod said of a study's folder, before it sent files of it.

    Attributes:
        now: the pod's clock, in seconds since 1970: where the next look goes on from.
        done: ``STEP/TASK`` of those that have a result.
        waiting: paths of the notes on what waits.
        complete: whether these are all tasks.
    """

    now: float
    done: frozenset[str]
    waiting: frozenset[str]
    complete: bool


def lay_out(chunks: Iterable[bytes], folder: Path) -> None:
    """Unpack a tar stream into an empty folder.

    Raises:
        StoreError: it is none, is cut short, or has an entry that leads out of the folder.
    """
    root = Path(os.path.realpath(folder))
    links: list[tuple[Path, str]] = []
    with _whole():
        for entry, data in _entries(chunks):
            place = _place(root, entry.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.issym():
                links.append((place, entry.linkname))
            elif data is not None:
                with place.open("xb") as file:
                    while block := data.read(_CHUNK):
                        file.write(block)
                place.chmod(0o755 if entry.mode & 0o100 else 0o644)
    # Last, so that no file is written through one.
    for place, target in links:
        place.symlink_to(target)


def take_records(
    chunks: Iterable[bytes], folder: Path, *, skip: Callable[[str], bool] = lambda _: False, live: bool = False
) -> tuple[State, int]:
    """Take small files of a study into its folder here: each whole or not at all, in the order in which they come.

    Args:
        chunks: what ``reader.py records`` sends.
        folder: the study's folder here.
        skip: which paths to leave as they are.
        live: whether they are sent now; then their times are by this machine's clock, by which a sign of life is judged.

    Returns:
        What the pod said, and how many files came.

    Raises:
        StoreError: the stream is none of records, or is cut short.
    """
    root = Path(os.path.realpath(folder))
    state: State | None = None
    count, ahead = 0, 0.0
    with _whole():
        for entry, data in _entries(chunks):
            if data is None:
                continue
            content = data.read()
            if state is None:
                state = _state(entry.name, content)
                ahead = time.time() - state.now if live else 0.0
                continue
            if skip(entry.name):
                continue
            place = _place(root, entry.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            making = place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}"
            making.write_bytes(content)
            os.utime(making, (entry.mtime + ahead, entry.mtime + ahead))
            making.replace(place)
            count += 1
    if state is None:
        raise StoreError("nothing came from the pod")
    return state, count


def _state(name: str, content: bytes) -> State:
    try:
        said: dict[str, Any] = json.loads(content) if name == STATE else {}
        return State(float(said["now"]), frozenset(said["done"]), frozenset(said["waiting"]), bool(said["complete"]))
    except (ValueError, KeyError, TypeError):
        raise StoreError("what came from the pod are no records of a study") from None


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise StoreError(f"what came from the pod is cut short: {error}") from error


def _entries(chunks: Iterable[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The entries of a tar stream; regular files with their content."""
    joined = _Joined(chunks)
    with tarfile.open(fileobj=cast(Any, joined), mode="r|") as archive:
        for entry in archive:
            if entry.isfile():
                yield entry, archive.extractfile(entry)
            elif entry.issym():
                yield entry, None
            else:
                raise StoreError(f"unexpected entry {entry.name!r} from the pod")
        # How the command ended comes after what it sent.
        joined.drain()


def _place(root: Path, name: str) -> Path:
    place = Path(os.path.normpath(root / name))
    if not place.is_relative_to(root) or place == root:
        raise StoreError(f"an entry from the pod leads out of its folder: {name!r}")
    # A folder on the way that is a link would lead elsewhere.
    if Path(os.path.realpath(place.parent)) != place.parent:
        raise StoreError(f"an entry from the pod leads through a link: {name!r}")
    return place


class _Joined(io.RawIOBase):
    """Chunks as a stream to read from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def drain(self) -> None:
        """Read to the end of what comes."""
        for _ in self._chunks:
            pass

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes: fewer only at the end."""
        parts = [self._rest]
        length = len(self._rest)
        while size is None or size < 0 or length < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            length += len(chunk)
        data = b"".join(parts)
        if size is None or size < 0:
            self._rest = b""
            return data
        self._rest = data[size:]
        return data[:size]
