"""List-then-watch, while the connection is cut, the history is compacted, and the API server goes away and comes back."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.executors.kubernetes.client import CONFIG_MAPS, Client, NotFound
from shoal.executors.kubernetes.login import read_login
from shoal.executors.kubernetes.stream import Changed, Faltered, Listed, Stream

from .conftest import Lab, until


class Proxy:
    """Hands bytes on between a port of its own and a server, and cuts connections to order."""

    def __init__(self, server: str) -> None:
        host, port = server.rpartition("//")[2].rsplit(":", 1)
        self._target = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self.cuts = 0
        self.refuse = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                if self.refuse:
                    raise OSError
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._hand_on, args=(one, other), daemon=True).start()

    def _hand_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._open.discard(each)

    def cut(self) -> None:
        """Break every connection that there is."""
        self.cuts += 1
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()
        self.cut()


class Seen:
    """What a stream has told, put together: name to version."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.lists = 0
        self.faltered: list[Faltered] = []

    def keep(self, one: dict[str, Any], _gone: bool) -> tuple[str, str] | None:
        meta = one["metadata"]
        return None if meta["name"] == "kube-root-ca.crt" else (meta["name"], meta["resourceVersion"])

    def tell(self, told: Listed | Changed | Faltered) -> None:
        if isinstance(told, Listed):
            self.lists += 1
            self.there = dict(told.items)
        elif isinstance(told, Faltered):
            self.faltered.append(told)
        elif told.gone:
            self.there.pop(told.item[0], None)
        else:
            self.there[told.item[0]] = told.item[1]


@pytest.fixture
def proxy(lab: Lab) -> Iterator[Proxy]:
    made = Proxy(lab.bed.server)
    yield made
    made.close()


def config_map(name: str, value: int = 0) -> dict[str, Any]:
    meta = {"name": name, "labels": {"pond": "yes"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"value": str(value)}}


def truth(lab: Lab) -> dict[str, str]:
    items = lab.client.list(CONFIG_MAPS, selector="pond=yes").items
    return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in items}


def stream(lab: Lab, server: str | None = None, **more: Any) -> tuple[Stream, Seen]:
    seen = Seen()
    login = read_login([lab.bed.namespace_user(lab.namespace, server=server)])
    made = Stream(Client(login), CONFIG_MAPS, "pond=yes", seen.keep, seen.tell, **more)
    made.start()
    until(lambda: seen.lists)
    return made, seen


def change(lab: Lab, chance: random.Random, turn: int) -> None:
    name = f"m-{chance.randrange(12)}"
    if chance.random() < 0.3:
        with contextlib.suppress(NotFound):
            lab.client.delete(CONFIG_MAPS, name)
    else:
        lab.client.apply(config_map(name, turn))


def test_what_a_cut_watch_has_missed_is_told(lab: Lab, proxy: Proxy) -> None:
    watching, seen = stream(lab, proxy.address)
    chance = random.Random(3)
    for turn in range(120):
        change(lab, chance, turn)
        if turn % 15 == 7:
            proxy.cut()
        if turn % 40 == 20:
            proxy.refuse = True
            proxy.cut()
        if turn % 40 == 30:
            proxy.refuse = False
    until(lambda: seen.there == truth(lab), 30)
    assert proxy.cuts >= 8
    assert seen.lists == 1, "a cut alone needs no new list: the watch goes on from where it was"
    watching.close()


def test_a_history_that_is_gone_is_listed_anew(lab: Lab, proxy: Proxy) -> None:
    watching, seen = stream(lab, proxy.address)
    lab.client.apply(config_map("a"))
    until(lambda: "a" in seen.there)
    proxy.refuse = True
    proxy.cut()
    lab.client.delete(CONFIG_MAPS, "a")
    for turn in range(5):
        lab.client.apply(config_map("b", turn))
    # The server's own cache of changes goes with its process; then only etcd could tell, and it has forgotten.
    lab.bed.compact_etcd()
    lab.bed.restart_apiserver()
    proxy.refuse = False
    until(lambda: seen.there == truth(lab), 60)
    assert "a" not in seen.there
    assert seen.lists >= 2
    watching.close()


def test_an_api_server_that_is_away_is_waited_for_and_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.executors.kubernetes.stream._SPEAK_AFTER", 1.0)
    watching, seen = stream(lab)
    lab.client.apply(config_map("a"))
    lab.bed.kill_apiserver()
    until(lambda: seen.faltered, 30)
    assert seen.faltered[0].error is not None
    assert "cannot be reached" in str(seen.faltered[0].error)
    lab.bed.restart_apiserver()
    lab.client.apply(config_map("b"))
    until(lambda: seen.there == truth(lab), 60)
    until(lambda: len(seen.faltered) == 2)
    assert seen.faltered[1].error is None
    watching.close()


def test_a_list_now_and_then_finds_what_no_watch_told(lab: Lab) -> None:
    watching, seen = stream(lab, relist=2.0)
    lab.client.apply(config_map("a"))
    until(lambda: "a" in seen.there)
    seen.there.clear()  # as if it had been missed
    time.sleep(0.1)
    until(lambda: seen.there == truth(lab), 20)
    watching.close()
