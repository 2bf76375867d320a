"""What follows a failure."""

from __future__ import annotations

from shoal.failures import FailureClass
from shoal.runner.policy import PLATFORM_TRIES, Canary, decide

USER, LOST, CANCELLED = FailureClass.USER, FailureClass.NODE_LOST, FailureClass.CANCELLED


def test_failures_of_its_own_spend_retries_and_faults_of_the_platform_do_not() -> None:
    assert decide([USER], 0) is None
    assert decide([USER], 1) is not None
    assert decide([LOST, USER, LOST, LOST], 1) is not None
    assert decide([LOST, USER, LOST, USER], 1) is None


def test_faults_of_the_platform_wait_longer_each_time_and_end_somewhere() -> None:
    delays = []
    for count in range(1, PLATFORM_TRIES + 1):
        retry = decide([LOST] * count, 0)
        assert retry is not None
        delays.append(retry.delay)
    assert delays == sorted(delays)
    assert delays[-1] <= 60
    assert decide([LOST] * (PLATFORM_TRIES + 1), 5) is None


def test_cancelling_is_final() -> None:
    assert decide([CANCELLED], 9) is None


def test_a_canary_stops_a_step_whose_first_tasks_fail_alike() -> None:
    canary = Canary(3)
    assert not canary.failed("a", USER, "KeyError: 'x' at /tmp/a/17.py:3")
    assert not canary.failed("a", USER, "KeyError: 'x' at /tmp/a/18.py:9")
    assert not canary.failed("b", USER, "KeyError: 'x' at /tmp/b/3.py:3")
    assert canary.failed("c", USER, "KeyError: 'x' at /tmp/c/4.py:3")


def test_a_canary_is_silent_once_the_step_works_or_when_failures_differ() -> None:
    proven = Canary(2, proven=True)
    assert not any(proven.failed(task, USER, "no") for task in "abcd")
    mixed = Canary(2)
    assert [mixed.failed("a", USER, "one"), mixed.failed("b", USER, "two"), mixed.failed("c", USER, "two")] == [
        False
    ] * 3
    off = Canary(0)
    assert not any(off.failed(task, USER, "no") for task in "abcd")
    lost = Canary(2)
    assert not any(lost.failed(task, LOST, "gone") for task in "abcd")
