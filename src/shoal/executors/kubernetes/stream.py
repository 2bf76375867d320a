"""List, then watch, for as long as the run lasts: what is there and every change of it, whatever the network does.

An end is never lost: a list tells the whole state, a watch goes on from it; when the version is too old or something may
have been missed, a new list tells the whole state again. What a list does not have any more is gone.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.errors import ShoalError
from shoal.executors.kubernetes.client import Client, Expired, Resource, Unreachable, Watch

__all__ = ["Changed", "Faltered", "Listed", "Stream"]

_WATCH_SECONDS = (240, 300)
_RELIST_SECONDS = 600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
_SPEAK_AFTER = 15.0


@dataclass(frozen=True, slots=True)
class Listed:
    """The whole state as of a moment.

    Attributes:
        resource: of what.
        items: what was kept of each object.
        asked: monotonic time before which everything there is counted.
    """

    resource: Resource
    items: list[Any]
    asked: float


@dataclass(frozen=True, slots=True)
class Changed:
    """One change.

    Attributes:
        resource: of what.
        item: what was kept of the object.
        gone: whether it was removed; what was kept is its last state.
    """

    resource: Resource
    item: Any
    gone: bool


@dataclass(frozen=True, slots=True)
class Faltered:
    """The server has not been heard for a while; None when it is heard again."""

    resource: Resource
    error: ShoalError | None


class Stream:
    """A thread that tells what there is of one resource.

    Args:
        client: the client; the thread has a patience of its own.
        resource: what.
        selector: which, by label.
        keep: what to keep of an object and whether it is gone, or None to skip it. Called in the thread.
        tell: called in the thread with everything that happens.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        selector: str,
        keep: Callable[[dict[str, Any], bool], Any],
        tell: Callable[[Listed | Changed | Faltered], None],
        *,
        relist: float = _RELIST_SECONDS,
    ) -> None:
        self._client = client.with_patience(0.0)
        self._resource = resource
        self._selector = selector
        self._keep = keep
        self._tell = tell
        self._relist_seconds = relist
        self._ended = threading.Event()
        self._again = threading.Event()
        self._watch: Watch | None = None
        self._lock = threading.Lock()
        self._pause = _FIRST_PAUSE
        self._troubled: float | None = None
        self._spoken = False
        self._thread = threading.Thread(target=self._run, name=f"shoal-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Begin: with a list."""
        self._thread.start()

    def relist(self) -> None:
        """Tell the whole state again, soon."""
        self._again.set()
        self._cancel()

    def close(self) -> None:
        """End it; the thread goes by itself."""
        self._ended.set()
        self._again.set()
        self._cancel()

    def _cancel(self) -> None:
        with self._lock:
            if self._watch is not None:
                self._watch.cancel()

    def _run(self) -> None:
        version: str | None = None
        listed = 0.0
        while not self._ended.is_set():
            try:
                if version is None or self._again.is_set() or time.monotonic() - listed > self._relist_seconds:
                    self._again.clear()
                    version, listed = self._list()
                version = self._follow(version, listed)
            except Expired:
                version = None
            except _Cut as cut:
                # It had been open: go on from where it came to, at once unless that goes on.
                version = cut.version
                if cut.quick:
                    self._rest()
            except (ValueError, KeyError, TypeError):
                # Half a line, or not what an API answers: the whole state again.
                version = None
                self._rest()
            except ShoalError as error:
                now = time.monotonic()
                self._troubled = self._troubled or now
                # Of rights and logins too: a server that has just started does not know them all yet.
                if not self._spoken and now - self._troubled > _SPEAK_AFTER:
                    self._spoken = True
                    self._tell(Faltered(self._resource, error))
                self._rest()

    def _rest(self) -> None:
        self._ended.wait(random.uniform(0.5, 1) * self._pause)
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    def _well(self) -> None:
        """The server answers."""
        if self._spoken:
            self._tell(Faltered(self._resource, None))
        self._troubled, self._spoken = None, False

    def _list(self) -> tuple[str, float]:
        asked = time.monotonic()
        found = self._client.list(self._resource, selector=self._selector, keep=lambda one: self._keep(one, False))
        self._well()
        self._tell(Listed(self._resource, [one for one in found.items if one is not None], asked))
        return found.version, time.monotonic()

    def _follow(self, version: str, listed: float) -> str:
        begun = time.monotonic()
        left = int(max(1.0, self._relist_seconds - (begun - listed)))
        seconds = min(left, random.randint(*_WATCH_SECONDS))
        watch: Watch | None = None
        try:
            with self._client.watch(self._resource, version, selector=self._selector, seconds=seconds) as watch:
                with self._lock:
                    self._watch = watch
                self._well()
                if self._again.is_set():
                    return version
                for kind, found in watch:
                    kept = self._keep(found, kind == "DELETED")
                    if kept is not None:
                        self._tell(Changed(self._resource, kept, kind == "DELETED"))
            self._pause = _FIRST_PAUSE
            return watch.version
        except Unreachable as error:
            if watch is None:
                raise
            quick = time.monotonic() - begun < 1.0
            if not quick:
                self._pause = _FIRST_PAUSE
            raise _Cut(watch.version, quick) from error
        finally:
            with self._lock:
                self._watch = None


class _Cut(Exception):
    def __init__(self, version: str, quick: bool) -> None:
        super().__init__(version)
        self.version, self.quick = version, quick
