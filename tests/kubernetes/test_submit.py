"""What is stopped is asked for by label: in few requests, each short enough, that match the attempts and nothing else."""

from __future__ import annotations

import re
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from shoal.executors import AttemptKey
from shoal.executors.kubernetes import names
from shoal.executors.kubernetes.submit import selectors


@given(st.integers(0, 5000), st.integers(1, 3))
def test_selectors_match_the_attempts_and_nothing_else(tasks: int, numbers: int) -> None:
    keys = [AttemptKey(f"{task:012x}", 1 + task % numbers) for task in range(tasks)]
    found = selectors("5c0pe", keys)
    matched = []
    for selector in found:
        everything, number, chosen = re.fullmatch(r"(.*),[^,]*/attempt=(\d+),[^,]*/task in \((.*)\)", selector).groups()  # type: ignore[union-attr]
        assert everything == names.selector("5c0pe"), "of this study alone"
        matched += [AttemptKey(task, int(number)) for task in chosen.split(",")]
        assert len(quote(selector)) < 8000, "proxies take no longer address"
    assert sorted(matched) == sorted(keys)
    assert len(found) <= max(8 * numbers, tasks // 450 + numbers)
    if tasks >= 400 and numbers == 1:
        assert len(found) >= 8, "the server removes one after the other what one request asks for"
