"""Files written in pieces by a thread: the bytes are those that were given, past the page cache or through it."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_earth.rasters import staging
from shoal_earth.rasters.staging import StagedFile

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 30_000)),
        st.tuples(st.just("back"), st.integers(0, 40_000)),
    ),
    max_size=14,
)


@pytest.mark.parametrize("direct", [True, False])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_what_is_in_the_file_is_what_was_appended(direct: bool, steps: list[tuple[str, int]]) -> None:
    expected = bytearray()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        patch.setattr(staging, "_PIECE", 8192)
        patch.setattr(staging, "_SYNC", 10_000)
        if not direct:
            patch.setattr(staging, "_set_direct", lambda file, direct: False)
        path = Path(folder) / "f"
        file = StagedFile(path, pool)
        for what, number in steps:
            if what == "append":
                data = os.urandom(number)
                file.append(data)
                expected += data
            else:
                del expected[max(0, len(expected) - number) :]
                file.truncate(len(expected))
            assert file.tell() == len(expected)
        assert file.finish() == len(expected)
        assert path.read_bytes() == expected


def test_a_file_system_that_cannot_write_directly_gets_it_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("this system has no direct writes")
    import errno
    import fcntl

    refused, write = [], os.pwrite

    def pwrite(file: int, data: memoryview, at: int) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(at)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(file, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(staging, "_PIECE", 8192)
    data = os.urandom(50_000)
    with ThreadPoolExecutor(2) as pool:
        file = StagedFile(tmp_path / "f", pool)
        for at in range(0, len(data), 1000):
            file.append(data[at : at + 1000])
        file.finish()
    assert (tmp_path / "f").read_bytes() == data
    assert refused == [0], "it is not asked again"


def test_what_the_thread_could_not_write_is_told_and_the_file_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(staging, "_PIECE", 8192)
    with ThreadPoolExecutor(2) as pool:
        file = StagedFile(tmp_path / "f", pool)
        file.append(bytes(8000))
        file.append(bytes(8000))  # hands the first piece over
        with pytest.raises(OSError, match="No space left"):
            file.append(bytes(8000))
        file.close()
        file.close()
        small = StagedFile(tmp_path / "g", pool)
        small.append(b"x")
        with pytest.raises(OSError, match="No space left"):
            small.finish()
