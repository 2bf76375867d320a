"""One runner a study in a namespace, by a Lease on a real API server."""

from __future__ import annotations

import threading
import time

import pytest

from shoal.errors import HeldError
from shoal.executors.kubernetes import lease as module
from shoal.executors.kubernetes.client import LEASES
from shoal.executors.kubernetes.lease import Lease

from .conftest import Lab, until


def test_one_holds_it_and_a_second_is_told_who(lab: Lab) -> None:
    with Lease(lab.client, "study", {}, holder="ann on desk"):
        with pytest.raises(HeldError, match="ann on desk"), Lease(lab.client, "study", {}, holder="ben"):
            pass
        spec = lab.client.get(LEASES, "study")["spec"]
        assert spec["holderIdentity"].startswith("ann on desk")
    with Lease(lab.client, "study", {}, holder="ben"):
        assert lab.client.get(LEASES, "study")["spec"]["holderIdentity"].startswith("ben")


def test_one_that_was_killed_is_followed_when_its_time_is_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 2)
    dead = Lease(lab.client, "study", {}, holder="dead")
    dead._acquire()
    begin = time.monotonic()
    with Lease(lab.client, "study", {}, holder="next", patience=20):
        assert time.monotonic() - begin >= 1.5


def test_of_many_at_once_one_gets_it(lab: Lab) -> None:
    held: list[Lease] = []

    def take(number: int) -> None:
        one = Lease(lab.client, "study", {}, holder=str(number))
        try:
            one._acquire()
        except HeldError:
            return
        held.append(one)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_who_has_lost_it_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RENEW", 0.2)
    lost = threading.Event()
    with Lease(lab.client, "study", {}, holder="ann", lost=lost.set):
        lab.client.patch(LEASES, "study", {"spec": {"holderIdentity": "thief"}})
        until(lost.is_set, 20)
    assert lab.client.get(LEASES, "study")["spec"]["holderIdentity"] == "thief", "what is another's is not given back"
