"""An iterator that works ahead in a thread, so that decoding and writing happen at the same time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


@contextmanager
def ahead(items: Generator[T, None, None], depth: int = 1) -> Iterator[Iterator[T]]:
    """Take ``items`` in a thread, at most ``depth`` of them (and one in the making) before they are asked for.

    An error of theirs is raised where the next item would have come. When the block is left, the thread
    ends with the item it is at.
    """
    queue: Queue[tuple[bool, T | BaseException | None]] = Queue(depth)
    stop = threading.Event()

    def put(last: bool, item: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                queue.put((last, item), timeout=0.1)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)
        finally:
            items.close()  # here, in its own thread

    def results() -> Iterator[T]:
        while True:
            last, item = queue.get()
            if last:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=work, name="decode-ahead", daemon=True)
    thread.start()
    try:
        yield results()
    finally:
        stop.set()
        thread.join()
