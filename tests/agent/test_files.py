"""The agent's small parts: atomic files, digests, emptying, masking, claims."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.agent import agent


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_the_digest_is_of_content_alone(tmp_path: Path) -> None:
    files = {"b": b"2", "a/z": b"1", "a.txt": b""}
    one = agent.digest_tree(str(tree(tmp_path / "one", files)))
    other = tree(tmp_path / "other", dict(reversed(files.items())))
    os.utime(other / "b", (1, 1))
    assert one == agent.digest_tree(str(other))
    assert (one["files"], one["bytes"]) == (3, 2)
    (tmp_path / "link").symlink_to(other)
    assert agent.digest_tree(str(tmp_path / "link")) == one


@pytest.mark.parametrize("change", ["content", "name", "more", "link"])
def test_the_digest_sees_every_change(tmp_path: Path, change: str) -> None:
    root = tree(tmp_path / "t", {"a": b"1", "d/b": b"2"})
    before = agent.digest_tree(str(root))["digest"]
    if change == "content":
        (root / "a").write_bytes(b"2")
    elif change == "name":
        (root / "a").rename(root / "c")
    elif change == "more":
        (root / "empty").touch()
    else:
        (root / "l").symlink_to("a")
    assert agent.digest_tree(str(root))["digest"] != before


def test_the_digest_as_documented(tmp_path: Path) -> None:
    import hashlib

    root = tree(tmp_path / "t", {"a/b": b"xy"})
    line = b"a/b\x002\x00" + hashlib.sha256(b"xy").hexdigest().encode() + b"\n"
    assert agent.digest_tree(str(root))["digest"] == hashlib.sha256(line).hexdigest()
    single = b"\x002\x00" + hashlib.sha256(b"xy").hexdigest().encode() + b"\n"
    assert agent.digest_tree(str(root / "a" / "b"))["digest"] == hashlib.sha256(single).hexdigest()


def test_the_digest_stays_inside_and_does_not_hang(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", {"a": b"1"})
    before = agent.digest_tree(str(root))
    os.mkfifo(root / "pipe")
    assert agent.digest_tree(str(root)) == before
    secret = tree(tmp_path, {"secret": b"1"}) / "secret"
    for name, target in {"out": secret, "circle": root, "dangling": "nowhere"}.items():
        (root / name).symlink_to(target)
    one = agent.digest_tree(str(root))
    secret.write_bytes(b"other")
    assert agent.digest_tree(str(root)) == one
    assert one["files"] == 1
    with pytest.raises(OSError, match="not a regular file"):
        agent.digest_tree(str(root / "pipe"))
    with pytest.raises(FileNotFoundError):
        agent.digest_tree(str(root / "absent"))


def test_of_a_large_file_both_ends_count(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    digests = [agent.digest_tree(str(path))["digest"]]
    for place in (0, (100 << 20) - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        digests.append(agent.digest_tree(str(path))["digest"])
    with path.open("ab") as file:
        file.write(b"\0")
    digests.append(agent.digest_tree(str(path))["digest"])
    assert len(set(digests)) == 4


def test_json_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    agent.write_json_atomic(str(path), {"a": 1}, durable=True)
    with pytest.raises(ValueError):
        agent.write_json_atomic(str(path), {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    agent.write_json_atomic(str(path), {"ä": "\udcff"})
    assert json.loads(path.read_text()) == {"ä": "\udcff"}
    assert os.listdir(tmp_path) == ["x.json"]


def test_times() -> None:
    assert agent.now(0) == "1970-01-01T00:00:00.000Z"
    assert agent.now(1795450801.9996) == "2026-11-23T16:20:02.000Z"
    assert len(agent.now()) == 24


def test_emptying(tmp_path: Path) -> None:
    root = tree(tmp_path / "out", {"a": b"1", "d/e/f": b"2", "h/i": b""})
    outside = tree(tmp_path / "outside", {"precious": b""})
    (root / "d" / "link").symlink_to(outside)
    (root / "d" / "e").chmod(0o500)
    agent.empty_folder(str(root))
    assert os.listdir(root) == []
    root.rmdir()
    root.symlink_to(outside)
    agent.empty_folder(str(root))
    assert root.is_dir()
    assert not root.is_symlink()
    assert os.listdir(outside) == ["precious"]


def test_one_claim_wins(tmp_path: Path) -> None:
    won: list[int] = []
    gate = threading.Barrier(8)

    def race(number: int) -> None:
        gate.wait()
        if agent.claim(str(tmp_path), number, "then"):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert json.loads((tmp_path / "heartbeat").read_text())["pid"] == won[0]
    assert os.listdir(tmp_path) == ["heartbeat"]


def test_a_process_is_named_by_pid_and_start() -> None:
    start = agent.process_start(os.getpid())
    assert start
    assert start == agent.process_start(os.getpid())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert agent.process_start(pid) is None  # a zombie
    os.waitpid(pid, 0)
    assert agent.process_start(pid) is None


PIECE = st.sampled_from(["a", "ab", "aba", "s3cret", "s3", "cret", "\n", "é", "x"])


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(PIECE, max_size=30).map("".join),
    secrets=st.lists(st.sampled_from(["s3cret", "aba", "ab", "é"]), max_size=3),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=20),
)
def test_masking_does_not_depend_on_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, text: str, secrets: list[str], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    data, place, turn = text.encode(), 0, 0
    log = agent.Log(str(folder / "log"), [each.encode() for each in secrets], False)
    while place < len(data):
        size = cuts[turn % len(cuts)]
        log.feed(data[place : place + size])
        place, turn = place + size, turn + 1
    log.close()
    written = (folder / "log").read_text()
    for secret in secrets:
        assert secret not in written.replace("***", "\0")
    if not secrets:
        assert written == text
