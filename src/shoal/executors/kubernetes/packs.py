"""Records of a runner whose store is a bucket: what the pod of ``shoal run --detach`` knows, for the next pod and for laptops.

Task pods bring their own files to the bucket. What the runner itself writes (what was submitted, how each attempt ended) lies on
its pod's disk, which goes when the pod goes. So it is sent as packs: each has what changed since the one before, in the form in
which ``reader.py`` sends records, compressed. Read in their order they give the folder. The first one that a runner sends is
whole, and takes the place of all before it.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from shoal.errors import StoreError
from shoal.executors.kubernetes import reader
from shoal.executors.kubernetes.arriving import State, take_records
from shoal.executors.kubernetes.s3 import Bucket, S3Error

__all__ = ["OWN", "SLACK", "Packs", "settle", "take"]

SLACK = 2.0
"""Seconds: a file may be written in the moment in which somebody looks."""
_MANY = 200
_NAME = re.compile(r"(\d{8})\.tar\.gz")
OWN = frozenset({"plan.json", "study.yaml", "place.json", "policies.json"})
"""Files that each machine writes for itself."""


class Packs:
    """The packs of one study.

    Args:
        bucket: the bucket.
        prefix: the folder inside of it that is the store.
        folder: the study's folder here.
    """

    def __init__(self, bucket: Bucket, prefix: str, folder: Path) -> None:
        self._bucket, self._folder = bucket, folder
        self._home = "/".join(one for one in (prefix, folder.name, ".runner") if one)
        self._since = 0.0
        self._last: tuple[frozenset[str], frozenset[str]] | None = None
        self._sent = 0

    def take(self, after: int = 0, *, skip: Callable[[str], bool] = lambda _: False) -> int:
        """Bring the folder here up to date; return the number of the last pack.

        Args:
            after: number of the last one that was taken.
            skip: which paths to leave as they are, besides those that each machine writes for itself.

        Raises:
            StoreError: the bucket cannot be read, or holds something else.
        """
        try:
            for number in self._numbers():
                if number <= after:
                    continue
                data = self._bucket.get(self._key(number))
                if data is not None:  # one that is whole has just taken its place
                    take(gzip.decompress(data), self._folder, skip=skip)
                    after = number
            return after
        except (OSError, EOFError) as error:
            raise _failed(error) from error

    def send(self, *, whole: bool = False) -> bool:
        """Send what has changed since the last time; return whether there was anything.

        Args:
            whole: all there is, in place of all packs that are there.

        Raises:
            StoreError: it did not arrive; the next time sends it.
        """
        whole = whole or self._sent >= _MANY
        raw = io.BytesIO()
        since = 0.0 if whole else max(0.0, self._since - SLACK)
        reader.records({"root": str(self._folder), "since": since}, raw)
        state, files = _look_into(raw.getvalue())
        now = (state.done, state.waiting)
        if not whole and not files and now == self._last:
            return False
        try:
            before = self._numbers()
            number = before[-1] + 1 if before else 1
            while not self._bucket.create(self._key(number), gzip.compress(raw.getvalue(), 6)):
                number += 1
            for old in before if whole else ():
                self._bucket.delete(self._key(old))
        except OSError as error:
            raise _failed(error) from error
        self._since, self._last = state.now, now
        self._sent = 0 if whole else self._sent + 1
        return True

    def _numbers(self) -> list[int]:
        found = (_NAME.fullmatch(key.rpartition("/")[2]) for key, _ in self._bucket.list(self._home + "/"))
        return sorted(int(match[1]) for match in found if match)

    def _key(self, number: int) -> str:
        return f"{self._home}/{number:08d}.tar.gz"


def take(raw: bytes, folder: Path, *, skip: Callable[[str], bool] = lambda _: False) -> State:
    """Take records as ``reader.py`` sends them into a study's folder, so that it says what the sender's says."""
    state, _ = take_records([raw], folder, skip=lambda path: path in OWN or skip(path))
    settle(folder, state)
    return state


def settle(folder: Path, state: State) -> None:
    """Remove results and notes that the sender has not any more."""
    for step in reader.steps(str(folder)):
        for result in folder.glob(f"{step}/*/result.json"):
            if state.complete and f"{step}/{result.parent.name}" not in state.done:
                result.unlink(missing_ok=True)
        for note in folder.glob(f"{step}/*/attempts/*/waiting.json"):
            if note.relative_to(folder).as_posix() not in state.waiting:
                note.unlink(missing_ok=True)
    for task in state.done:
        # Its outputs are in the store of the pods.
        (folder / task / "out").mkdir(parents=True, exist_ok=True)


def _look_into(raw: bytes) -> tuple[State, int]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        first, *others = archive.getmembers()
        source = archive.extractfile(first)
        assert source is not None
        said = json.load(source)
    state = State(said["now"], frozenset(said["done"]), frozenset(said["waiting"]), said["complete"])
    return state, len(others)


def _failed(error: Exception) -> StoreError:
    hint = None
    if isinstance(error, S3Error) and error.status in (401, 403):
        hint = "Are the keys right, and may they read and write there?"
    return StoreError(f"the records of the runner in the bucket: {error}", hint=hint)
