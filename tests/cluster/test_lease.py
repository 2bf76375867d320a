"""One runner a study in a namespace, by a Lease on a real API server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from shoal.errors import HeldError
from shoal.executors.kubernetes import lease as module
from shoal.executors.kubernetes.client import LEASES, PODS
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


HOLD = """
import sys, time
from pathlib import Path
from shoal.executors.kubernetes.client import Client
from shoal.executors.kubernetes.lease import Lease
from shoal.executors.kubernetes.login import read_login
with Lease(Client(read_login([Path(sys.argv[1])])), "study", {}, holder="a process"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_that_was_killed_on_this_machine_is_followed_at_once(lab: Lab) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lab.kubeconfig)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match="a process"), Lease(lab.client, "study", {}):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with Lease(lab.client, "study", {}, holder="next"):  # without any patience
        assert lab.client.get(LEASES, "study")["spec"]["holderIdentity"].startswith("next")


def test_another_machines_process_is_not_looked_for_here(lab: Lab) -> None:
    elsewhere = Lease(lab.client, "study", {}, holder="elsewhere")
    elsewhere._who = {**elsewhere._who, "machine": "another", "pid": 1 << 22}
    elsewhere._acquire()
    with pytest.raises(HeldError, match="elsewhere"), Lease(lab.client, "study", {}):
        pass


def test_a_pod_that_is_gone_is_followed_at_once(lab: Lab) -> None:
    container = {"name": "c", "image": "example.org/task:1"}
    meta = {"name": "runner", "annotations": {"fake.testbed/end": "never"}}
    spec = {"restartPolicy": "Never", "containers": [container]}
    lab.client.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    Lease(lab.client, "study", {}, holder="the pod runner", pod="runner")._acquire()
    with pytest.raises(HeldError, match="the pod runner"), Lease(lab.client, "study", {}):
        pass
    lab.client.delete(PODS, "runner", grace=0)
    with Lease(lab.client, "study", {}, holder="next", patience=10):
        pass


def test_one_that_nobody_can_see_is_followed_when_its_time_is_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 2)
    dead = Lease(lab.client, "study", {}, holder="dead")
    dead._who = {}
    dead._acquire()
    begin = time.monotonic()
    with Lease(lab.client, "study", {}, holder="next", patience=20):
        assert time.monotonic() - begin >= 1.5


def test_a_holder_that_lives_keeps_it_however_wrong_its_clock_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RENEW", 0.2)
    monkeypatch.setattr(module, "_LOOK", 3.0)
    behind = timedelta(hours=1)
    monkeypatch.setattr(module, "_now", lambda: (datetime.now(UTC) - behind).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    lost = threading.Event()
    with Lease(lab.client, "study", {}, holder="ann", lost=lost.set) as one:
        one._who = {}
        with pytest.raises(HeldError, match="ann"), Lease(lab.client, "study", {}, holder="ben"):
            pass
        assert not lost.is_set()
    dead = Lease(lab.client, "study", {}, holder="dead")
    dead._who = {}
    dead._acquire()
    with Lease(
        lab.client, "study", {}, holder="next"
    ):  # without any patience: what is old and does not change is nobody's
        pass


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


def test_an_answer_that_was_lost_and_a_server_that_is_away_lose_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RENEW", 0.2)
    monkeypatch.setattr(module, "SECONDS", 1)
    lost = threading.Event()
    client = lab.client.with_patience(0.0)
    with Lease(client, "study", {}, holder="ann", lost=lost.set) as lease:
        # As when it was renewed, and nobody here heard of it.
        lab.client.patch(LEASES, "study", {"spec": {"renewTime": module._now()}})
        version = lab.client.get(LEASES, "study")["metadata"]["resourceVersion"]
        until(lambda: lease._version not in ("", version), 20)
        lab.bed.kill_apiserver()
        time.sleep(2)
        lab.bed.restart_apiserver()
        before = lab.client.get(LEASES, "study")["spec"]["renewTime"]
        until(lambda: lab.client.get(LEASES, "study")["spec"]["renewTime"] > before, 30)
        assert not lost.is_set()
    assert lab.client.get(LEASES, "study")["spec"]["holderIdentity"] == ""
