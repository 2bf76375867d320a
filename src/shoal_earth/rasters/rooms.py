"""Memory for pixels that is used again: fresh memory must be found and cleared by the system, which costs as much as copying."""

from __future__ import annotations

import mmap
import weakref
from typing import Any

import numpy as np

__all__ = ["Rooms"]

_LEAST = 2**20
_SPARE = 4


class Rooms:
    """Arrays of a MiB and more lie in memory that earlier ones have left; at most four pieces wait for the next one."""

    def __init__(self) -> None:
        self._spare: list[mmap.mmap] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array whose values are not set. Its memory is used again when neither it nor a view of it is left."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size < _LEAST:
            return np.empty(shape, dtype)
        # Rows end with a shorter run: powers of two make one room fit both. Pages that are not touched take no memory.
        length = 1 << (size - 1).bit_length()
        room = next((room for room in self._spare if len(room) == length), None)
        if room is None:
            # Private: the default is shared memory, whose pages are dearer and never large.
            room = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux alone
                room.madvise(mmap.MADV_HUGEPAGE)
        else:
            self._spare.remove(room)
        # Views of it refer to this very array, so that it goes when the last of them does.
        flat = np.frombuffer(room, np.uint8, size)
        weakref.finalize(flat, self._leave, room).atexit = False
        return flat.view(dtype).reshape(shape)

    def _leave(self, room: mmap.mmap) -> None:
        if len(self._spare) < _SPARE:
            self._spare.append(room)

    def clear(self) -> None:
        """Give the memory that waits back."""
        self._spare.clear()
