"""Chips on disk: uncompressed tar files of ``.npy`` members and one index of their offsets.

Any tar reader (WebDataset too) can read the shards; with the index a chip is one ``pread`` away. The same chips give the
same bytes: times, owners and order are fixed.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.output import write_error
from shoal_earth.rasters.staging import StagedFile

__all__ = ["INDEX", "ShardReader", "ShardWriter"]

INDEX = "index.json"
_FORMAT = 1


class ShardWriter:
    """Write chips into shards, then the index. Until :meth:`close` there is no index, and without it nothing counts as written.

    In a ``with`` block, what was begun is removed if the block fails.

    Args:
        folder: where to; an index that is there already is removed first.
        shard_bytes: a new shard is begun when the last one has grown beyond this.
        index: name of the index.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = 512 * 2**20, index: str = INDEX) -> None:
        self.folder, self.shard_bytes, self.index = folder, shard_bytes, index
        folder.mkdir(parents=True, exist_ok=True)
        (folder / index).unlink(missing_ok=True)
        for old in [*folder.glob("*.tar"), *folder.glob(".*.tar.part")]:
            old.unlink()
        self.chips: list[dict[str, Any]] = []
        self.shards: list[dict[str, Any]] = []
        self._open: dict[str, tuple[str, StagedFile]] = {}
        self._made: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="write")

    def add(self, split: str, key: str, arrays: dict[str, np.ndarray[Any, Any]], **facts: Any) -> None:
        """Append one chip: ``{"image": ..., "label": ...}`` become ``<key>.image.npy``, ``<key>.label.npy``.

        The arrays are copied, and need not be contiguous.

        Raises:
            WriteError: the disk is full; what was begun has been removed.
        """
        with self._writing():
            self._add(split, key, arrays, facts)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abandon()
            raise write_error(self.folder, error) from None

    def abandon(self) -> None:
        """Remove what was begun."""
        for _, file in self._open.values():
            file.close()
        self._open.clear()
        self._pool.shutdown()
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()

    def _add(self, split: str, key: str, arrays: dict[str, np.ndarray[Any, Any]], facts: dict[str, Any]) -> None:
        if split not in self._open:
            number = self._made[split] = self._made.get(split, -1) + 1
            name = f"{split}-{number:05d}.tar"
            self._open[split] = name, StagedFile(self.folder / f".{name}.part", self._pool)
        name, file = self._open[split]
        places = {kind: _append(file, f"{key}.{kind}.npy", array) for kind, array in sorted(arrays.items())}
        self.chips.append({"key": key, "split": split, "shard": name, **places, **facts})
        if file.tell() > self.shard_bytes:
            self._finish(split)

    def _finish(self, split: str) -> None:
        name, file = self._open.pop(split)
        # As tar ends: two empty blocks, and then to the end of a record.
        end = file.tell() + 2 * tarfile.BLOCKSIZE
        file.append(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
        self.shards.append({"name": name, "bytes": file.finish()})

    def close(self, **facts: Any) -> None:
        """Give the shards their names and write the index, with any more facts about the chips.

        Raises:
            WriteError: the disk is full.
        """
        with self._writing():
            self._close(facts)

    def _close(self, facts: dict[str, Any]) -> None:
        for split in sorted(self._open):
            self._finish(split)
        self._pool.shutdown()
        self.shards.sort(key=lambda shard: str(shard["name"]))
        for shard in self.shards:
            (self.folder / f".{shard['name']}.part").replace(self.folder / shard["name"])
        content = {"format": _FORMAT, **facts, "shards": self.shards, "chips": self.chips}
        temporary = self.folder / f".{self.index}.part"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_compact(content))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / self.index)


def _append(file: StagedFile, name: str, array: np.ndarray[Any, Any]) -> list[int]:
    """Add a member; gives its offset and size. The pixels are copied once, to where the disk takes them from."""
    head = _header(array.dtype, array.shape)
    size = len(head) + array.nbytes
    file.append(_member(name, size))
    place = [file.tell(), size]
    file.append(head)
    np.copyto(np.ndarray(array.shape, array.dtype, file.room(array.nbytes)), array)
    file.append(bytes(-size % tarfile.BLOCKSIZE))
    return place


def _member(name: str, size: int) -> bytes:
    """What comes before a member in a tar. ``TarInfo`` takes longer to make it than a chip takes to copy."""
    if len(name) > tarfile.LENGTH_NAME or not name.isascii():
        return _described(name, size)
    nameless, total = _nameless(size)
    own = name.encode("ascii")
    check = b"%06o\0 " % (total + sum(own))
    return own.ljust(tarfile.LENGTH_NAME, b"\0") + nameless[100:148] + check + nameless[156:]


@lru_cache(64)
def _nameless(size: int) -> tuple[bytes, int]:
    """The same without a name, and the sum of its bytes, in which the place of the sum itself counts as spaces."""
    found = _described("", size)
    return found, sum(found[:148]) + 8 * ord(" ") + sum(found[156:])


def _described(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    # The same as USTAR, but for names that do not fit into it.
    return member.tobuf(tarfile.PAX_FORMAT)


@lru_cache(64)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The head of an ``.npy`` file."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(np.empty(shape, dtype)))
    return head.getvalue()


def _compact(content: dict[str, Any]) -> str:
    """JSON with one chip a line: readable, and small in a diff."""
    lists = {key: content[key] for key in ("shards", "chips")}
    head = json.dumps({k: v for k, v in content.items() if k not in lists}, indent=1)[:-2]
    parts = [f' "{k}": [\n  ' + ",\n  ".join(json.dumps(item) for item in v) + "\n ]" for k, v in lists.items()]
    return head + ",\n" + ",\n".join(parts) + "\n}\n"


class ShardReader:
    """Read chips by position, in about a millisecond or less.

    Args:
        folder: what :class:`ShardWriter` wrote.
        index: name of the index.

    Raises:
        UsageError: there is no index, or a shard is missing or of another size than the index says.
    """

    def __init__(self, folder: Path, *, index: str = INDEX) -> None:
        self.folder = Path(folder)
        path = self.folder / index
        try:
            self.index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self.chips: list[dict[str, Any]] = self.index["chips"]
            sizes = {str(shard["name"]): int(shard["bytes"]) for shard in self.index["shards"]}
            known = self.index["format"] == _FORMAT
        except FileNotFoundError:
            raise UsageError(
                f"{path}: there is no such file, so this is no folder of chips",
                hint="Make it with: shoal-earth segmentation chips",
            ) from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UsageError(f"{path}: cannot be read as an index of chips: {error}") from None
        if not known:
            raise UsageError(f"{path}: is of format {self.index['format']}, this version reads {_FORMAT}")
        for name, size in sizes.items():
            if PurePosixPath(name).name != name:
                raise UsageError(f'{path}: the name of a shard, "{name}", leaves the folder')
            shard = self.folder / name
            if not shard.is_file() or shard.stat().st_size != size:
                found = f"{shard.stat().st_size} bytes" if shard.is_file() else "missing"
                raise UsageError(f"{shard}: should have {size} bytes and is {found}", hint="Make the chips again.")
        if unknown := {str(chip["shard"]) for chip in self.chips} - sizes.keys():
            raise UsageError(f"{path}: chips lie in a shard that is not listed: {min(unknown)}")
        self._files: dict[str, int] = {}
        self._owner = os.getpid()

    def read(self, position: int, kind: str) -> np.ndarray[Any, Any]:
        """One array of one chip, e.g. ``read(3, "image")``."""
        chip = self.chips[position]
        offset, size = chip[kind]
        data = os.pread(self._file(chip["shard"]), size, offset)
        try:
            return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        except ValueError as error:
            raise UsageError(f"{self.folder / chip['shard']}: chip {chip['key']} is damaged: {error}") from None

    def _file(self, name: str) -> int:
        if self._owner != os.getpid():  # a forked worker opens its own
            self._files, self._owner = {}, os.getpid()
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_RDONLY)
        return self._files[name]

    def close(self) -> None:
        """Close the shards."""
        if self._owner == os.getpid():
            for file in self._files.values():
                os.close(file)
        self._files = {}

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_owner": -1}
