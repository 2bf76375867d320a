"""One runner a study: a lock that dies with its holder and says who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from shoal.agent.agent import now
from shoal.errors import HeldError, StoreError

__all__ = ["RunnerLock", "holder", "user_name"]


class RunnerLock:
    """Exclusive hold of a study, as a context manager.

    The lock is the kernel's (``flock``): it goes when the process goes, however that ends, and it is not inherited by the
    processes a runner starts.

    Args:
        path: the file.
        executor: name of the holder's executor, for others to read.
        look: the study as the commands name it that are suggested to whom it is refused.

    Raises:
        HeldError: another runner holds the study; the message says who, where and since when.
        StoreError: the file cannot be made or locked.
    """

    def __init__(self, path: Path, *, executor: str = "local", look: str = "STUDY") -> None:
        self._path = path
        self._look = look
        self._executor = executor
        self._fd: int | None = None

    def __enter__(self) -> RunnerLock:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # The umask decides who else may write, as for all other files.
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(
                f"cannot be locked: {error.strerror}",
                path=self._path,
                hint="Who runs or changes a study needs to write there. Another place: --store DIR or SHOAL_STORE.",
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise HeldError(
                f"study {self._path.parent.name!r} is being run by {_described(_read(self._path))}",
                hint=f"Watch it with: shoal status {self._look} · end it with: shoal stop {self._look}",
            ) from None
        except OSError as error:
            os.close(fd)
            raise StoreError(
                f"the file system cannot lock: {error.strerror}", path=self._path, hint="Use another store."
            ) from error
        self._fd = fd
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": user_name(),
            "since": now(),
            "executor": self._executor,
        }
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(me).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            # Emptied, not removed: a removed file could be locked by one runner and made anew by another.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def holder(path: Path) -> dict[str, object] | None:
    """Who holds a study now, or None. Reads only."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path) or {}
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _read(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        read = json.loads(path.read_text())
        if isinstance(read, dict):
            return read
    return {}


def _described(who: dict[str, object]) -> str:
    if not who:
        return "another runner"
    return f"{who.get('user')} on {who.get('host')} (process {who.get('pid')}, since {who.get('since')})"


def user_name() -> str:
    """Who runs this process: a name, or the number where there is none (as in many containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
