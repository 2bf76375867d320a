"""A file that grows at its end: gathered in large pieces, which a thread writes past the page cache where the file system can.

Through the page cache every byte is copied once more, into memory that the system must find and often clear first
(docs/decisions/direct-writes.md). What is smaller than a piece, and what a file system cannot write directly, goes through the
cache.
"""

from __future__ import annotations

import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

__all__ = ["StagedFile"]

_BLOCK = 4096
_PIECE = 4 * 2**20
_SYNC = 32 * 2**20


class StagedFile:
    """Append to a new file. Memory: two pieces of 4 MiB, or of what is appended at once if that is more.

    Args:
        path: of the file; one that is there is emptied.
        pool: threads that write; at least two, so that a piece is written while the disk is waited for.
    """

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self.path, self._pool = path, pool
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._direct = False
        self._begun = False
        self._piece, self._other = mmap.mmap(-1, _PIECE), mmap.mmap(-1, _PIECE)
        self._start = 0  # of the piece in the file, whole blocks
        self._used = 0
        self._writing: Future[None] | None = None
        self._syncing: Future[None] | None = None
        self._synced = 0

    def tell(self) -> int:
        """Bytes so far."""
        return self._start + self._used

    def room(self, size: int) -> memoryview:
        """The next ``size`` bytes, to be filled before anything else is asked of the file.

        Raises:
            OSError: an earlier piece could not be written.
        """
        if self._used + size > len(self._piece):
            self._hand_over(size)
        self._used += size
        return memoryview(self._piece)[self._used - size : self._used]

    def append(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            OSError: an earlier piece could not be written.
        """
        self.room(len(data))[:] = data

    def _hand_over(self, size: int) -> None:
        """Let the thread write the whole blocks of the piece, and go on in the other one with what is left and ``size`` more."""
        self._wait()
        whole = self._used // _BLOCK * _BLOCK
        left = self._used - whole
        free = self._other
        if len(free) < left + size:
            free = mmap.mmap(-1, -(-(left + size) // _BLOCK) * _BLOCK)
        free[:left] = self._piece[whole : self._used]
        if whole:
            self._writing = self._pool.submit(self._write, memoryview(self._piece)[:whole], self._start)
        self._other, self._piece = self._piece, free
        self._start, self._used = self._start + whole, left

    def _write(self, data: memoryview, at: int) -> None:
        if not self._begun:
            self._begun, self._direct = True, _set_direct(self._file, True)
        while data:
            try:
                count = os.pwrite(self._file, data, at)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                # This file system cannot, or a limit left no whole block.
                self._direct = _set_direct(self._file, False)
                continue
            data, at = data[count:], at + count
        if not self._direct and at > self._synced + _SYNC and (self._syncing is None or self._syncing.done()):
            # Let the disk begin, or all of it would wait for the end, with nothing else left to do.
            if self._syncing is not None:
                self._syncing.result()
            self._synced = at
            self._syncing = self._pool.submit(os.fsync, self._file)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def truncate(self, size: int) -> None:
        """Take back what lies beyond ``size`` bytes.

        Raises:
            OSError: an earlier piece could not be written, or what is left cannot be read again.
        """
        if size < self._start:
            self._wait()
            start = size // _BLOCK * _BLOCK
            direct, _ = self._direct, _set_direct(self._file, False)
            held = os.pread(self._file, size - start, start)
            os.ftruncate(self._file, start)
            self._direct = direct and _set_direct(self._file, True)
            self._piece[: len(held)] = held
            self._start, self._synced = start, min(self._synced, start)
        self._used = size - self._start

    def finish(self) -> int:
        """Write what is left, wait for the disk and close the file; gives its size in bytes.

        Raises:
            OSError: something could not be written.
        """
        try:
            self._wait()
            self._begun, self._direct = True, _set_direct(self._file, False)
            self._write(memoryview(self._piece)[: self._used], self._start)
            if self._syncing is not None:
                self._syncing.result()
            os.fsync(self._file)
        finally:
            self.close()
        return self.tell()

    def close(self) -> None:
        """Close the file as it is: what has not been written is lost."""
        for waiting in (self._writing, self._syncing):
            if waiting is not None:
                waiting.exception()
        self._writing = self._syncing = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _set_direct(file: int, direct: bool) -> bool:
    """Write past the page cache from now on, or not; gives what it now is."""
    flag = getattr(os, "O_DIRECT", 0)  # macOS has none
    if not flag:
        return False
    import fcntl

    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | flag if direct else flags & ~flag)
    except OSError:
        return False
    return direct
