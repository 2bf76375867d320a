"""Looks at what running pods use: few, seldom, and by a command in the pod."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from shoal.executors.contract import AttemptKey
from shoal.executors.kubernetes import use
from shoal.executors.kubernetes.use import DENIED, Looks, read_use

from .apiserver import pods


def keys(count: int) -> list[AttemptKey]:
    return [AttemptKey(f"{number:012d}", 1) for number in range(count)]


def test_short_attempts_are_never_looked_at_and_long_ones_seldom() -> None:
    looks = Looks()
    short, long = keys(2)
    seen = {short: 0, long: 0}
    for now in range(0, 3600, 2):
        for key in looks.due(float(now), [long] + [short] * (now < 140)):
            seen[key] += 1
    assert seen[short] == 0
    assert 3 <= seen[long] <= 4


def test_of_many_all_get_their_turn_and_few_at_once() -> None:
    looks = Looks()
    many = keys(100)
    seen = []
    for now in range(0, 900, 2):
        due = looks.due(float(now), many)
        assert len(due) <= 8
        seen += due
    assert len(seen) == len(set(seen)) == 100
    looks.give_up()
    assert not any(looks.due(float(now), many) for now in range(900, 5000, 30))


def test_the_end_of_the_samples_is_read_in_the_pod(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with pods() as server:
        client = server.client()
        asked = ("pod-1", "task", sys.executable, str(path))
        assert read_use(client, *asked) is None, "there is none yet"
        path.write_text("".join(f'{{"cpu": {number}, "gpus": []}}\n' for number in range(10_000)))
        read = read_use(client, *asked)
        assert isinstance(read, bytes)
        assert len(read) <= 65536
        lines = [json.loads(line) for line in read.splitlines()]
        assert lines[-1]["cpu"] == 9999
        server.refuse = (403, {"message": 'pods "pod-1" is forbidden'})
        assert read_use(client, *asked) == DENIED
    assert use._AT_ONCE * 60 / use._EVERY <= 20, "requests a minute"
