"""Logging in at a real API server, in each of the ways that a kubeconfig can name."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from shoal.executors.kubernetes.client import JOBS, PODS, Client, Resource, Unauthorized, Unreachable
from shoal.executors.kubernetes.login import LoginError, find_login, read_login
from testbed.forward import pipe
from testbed.pki import Authority, Pair

from .conftest import Lab, until
from .terminal import at_a_terminal

V1, V1BETA1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
WHO = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)
# A login plugin as those of clouds are: it keeps what it got in a cache of its own, and counts how often it was asked.
PLUGIN = """#!{python}
import json, os, sys, time
from datetime import datetime, timezone

folder = os.path.dirname(os.path.abspath(__file__))
asked = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
with open(os.path.join(folder, "calls"), "a") as file:
    print(json.dumps(asked), file=file)
if "--ask" in sys.argv:
    print("Code: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != "1234":
        sys.exit("that is not the code")
with open(os.path.join(folder, "status.json")) as file:
    status = json.load(file)
if "error" in status:
    sys.exit(status["error"])
if "lives" in status:
    end = datetime.fromtimestamp(time.time() + status.pop("lives"), timezone.utc)
    status["expirationTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
print(json.dumps({{"apiVersion": asked["apiVersion"], "kind": "ExecCredential", "status": status}}))
"""


class Desk:
    """Makes logins for a lab's namespace, by whatever way."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.root = lab, lab.root / "logins"
        self.root.mkdir()
        given = yaml.safe_load(lab.kubeconfig.read_text())
        self.cluster: dict[str, Any] = given["clusters"][0]["cluster"]
        self.user: dict[str, Any] = given["users"][0]["user"]
        self.name = str(given["users"][0]["name"])

    @property
    def pair(self) -> Pair:
        """The client certificate of the namespace's admin."""
        data = [base64.b64decode(self.user[f"client-{part}-data"]) for part in ("certificate", "key")]
        return Pair(data[0], data[1])

    def token(self) -> str:
        """A token of a service account that is the namespace's admin; for ten minutes."""
        base = f"/api/v1/namespaces/{self.lab.namespace}/serviceaccounts"
        self.lab.admin.create(base, {"metadata": {"name": "robot"}})
        subject = {"kind": "ServiceAccount", "name": "robot", "namespace": self.lab.namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
        bindings = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.lab.namespace}/rolebindings"
        self.lab.admin.create(bindings, {"metadata": {"name": "robot"}, "roleRef": role, "subjects": [subject]})
        answer = self.lab.admin.request("POST", f"{base}/robot/token", {"spec": {"expirationSeconds": 600}})
        return str(answer.raise_for_status().json()["status"]["token"])

    def old_token(self) -> str:
        """The same token, signed with the server's own key, but with a time that has passed."""
        head, body, _ = self.token().split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        claims |= {"iat": claims["iat"] - 7200, "nbf": claims["nbf"] - 7200, "exp": claims["exp"] - 7200}
        signed = f"{head}.{_packed(json.dumps(claims).encode())}"
        key = serialization.load_pem_private_key((self.lab.bed.place.pki / "accounts.key").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return f"{signed}.{_packed(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def old_certificate(self) -> dict[str, str]:
        """A client certificate that has expired."""
        authority = Authority.load(self.lab.bed.place.pki / "ca")
        pair = authority.issue(self.name, life=datetime.timedelta(hours=-2))
        parts = {"client-certificate-data": pair.certificate, "client-key-data": pair.key}
        return {name: base64.b64encode(data).decode() for name, data in parts.items()}

    def plugin(self, status: dict[str, Any], version: str = V1, mode: str = "Never", *words: str) -> dict[str, Any]:
        """A user who logs in by a plugin that answers with a status."""
        program = self.root / "my-login"
        program.write_text(PLUGIN.format(python=sys.executable))
        program.chmod(0o755)
        (self.root / "status.json").write_text(json.dumps(status))
        executed = {"apiVersion": version, "command": "./my-login", "args": ["get-token", *words]}
        return {"exec": {**executed, "interactiveMode": mode, "provideClusterInfo": True}}

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the plugin was told, each time."""
        path = self.root / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write(self, user: dict[str, Any] | None = None, name: str = "config", **cluster: Any) -> Path:
        """Write a kubeconfig."""
        context = {"cluster": "c", "user": "u", "namespace": self.lab.namespace}
        config = {
            "clusters": [{"name": "c", "cluster": {**self.cluster, **cluster}}],
            "users": [{"name": "u", "user": self.user if user is None else user}],
            "contexts": [{"name": "x", "context": context}],
            "current-context": "x",
        }
        path = self.root / name
        path.write_text(yaml.safe_dump(config))
        return path

    def client(self, path: Path) -> Client:
        return Client(read_login([path]), patience=2, terminal=False)

    def who(self, path: Path) -> str:
        """As whom the server knows a kubeconfig's login, which may list Jobs."""
        client = self.client(path)
        try:
            client.list(JOBS)
            return str(client.review(WHO, {})["status"]["userInfo"]["username"])
        finally:
            client.close()


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture
def desk(lab: Lab) -> Desk:
    return Desk(lab)


class Proxy:
    """A proxy on loopback, by HTTP's CONNECT and by SOCKS 5 (RFC 1928), that remembers to where."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.place = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if first == b"\x05":
            method, target = "SOCKS", await self._greet(reader, writer)
            done = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
        else:
            head = first + await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split()
            done = b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.asked.append(f"{method} {target}")
        host, _, port = target.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(done)
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\x05\x00")  # nobody has to say who they are
        kind = (await reader.readexactly(4))[3]
        if kind == 1:
            host = ".".join(map(str, await reader.readexactly(4)))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        return f"{host}:{int.from_bytes(await reader.readexactly(2), 'big')}"

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def test_certificates_tokens_and_files_of_either(desk: Desk) -> None:
    robot = f"system:serviceaccount:{desk.lab.namespace}:robot"
    token = desk.token()
    desk.pair.save(desk.root / "me")
    (desk.root / "token").write_text(f"{token}\n")
    (desk.root / "ca.pem").write_bytes(base64.b64decode(desk.cluster["certificate-authority-data"]))
    assert desk.who(desk.write()) == desk.name
    assert desk.who(desk.write({"client-certificate": "me.crt", "client-key": "me.key"})) == desk.name
    assert desk.who(desk.write({"token": token})) == robot
    path = desk.write({"tokenFile": "token"}, **{"certificate-authority": "ca.pem"})
    config = yaml.safe_load(path.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority-data"]
    path.write_text(yaml.safe_dump(config))
    assert desk.who(path) == robot
    # A file is read anew: what is put there after the old one expired serves at once.
    (desk.root / "token").write_text(desk.old_token())
    client = desk.client(path)
    with pytest.raises(Unauthorized):
        client.list(JOBS)
    (desk.root / "token").write_text(token)
    assert client.list(JOBS).items == []
    client.close()


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_a_plugin_gives_a_token_or_a_certificate_and_is_asked_once_until_that_expires(desk: Desk, version: str) -> None:
    token, pair = desk.token(), desk.pair
    client = desk.client(desk.write(desk.plugin({"token": token, "lives": 12}, version)))
    for _ in range(5):
        client.list(JOBS)
    assert len(desk.calls) == 1
    assert desk.calls[0]["apiVersion"] == version
    assert desk.calls[0]["spec"]["cluster"]["server"] == desk.cluster["server"]
    time.sleep(2.5)  # It is renewed ten seconds before its end.
    client.list(JOBS)
    assert len(desk.calls) == 2
    client.close()
    # Another certificate of the same user, in the middle of a life: the connections are made anew.
    both = {"clientCertificateData": pair.certificate.decode(), "clientKeyData": pair.key.decode()}
    client = desk.client(desk.write(desk.plugin({**both, "lives": 12}, version)))
    assert client.review(WHO, {})["status"]["userInfo"]["username"] == desk.name
    other = Authority.load(desk.lab.bed.place.pki / "ca").issue("somebody-else")
    desk.plugin({"clientCertificateData": other.certificate.decode(), "clientKeyData": other.key.decode()})
    time.sleep(2.5)
    assert client.review(WHO, {})["status"]["userInfo"]["username"] == "somebody-else"
    client.close()


def test_a_run_outlives_its_token(desk: Desk) -> None:
    lab = desk.lab
    lab.kubeconfig = desk.write(desk.plugin({"token": desk.token(), "lives": 12}))
    lab.study("""
study: pond
steps: {train: {run: 'train {fake_seconds}', matrix: {fake_seconds: [1, 4]}}}
""")
    lab.shoal("run", "s.yaml", "--on", "lab")
    assert lab.counts() == {"done": 2}
    assert 3 <= len(desk.calls) <= 12


def test_a_stop_and_an_end_wait_for_no_login(desk: Desk) -> None:
    lab, token, file = desk.lab, desk.token(), desk.root / "token"
    file.write_text(token)
    lab.kubeconfig = desk.write({"tokenFile": "token"})
    lab.study("study: pond\nsteps: {train: {run: 'train {fake_end} {n}', matrix: {fake_end: [never], n: [1, 2]}}}\n")
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    until(lambda: lab.counts().get("running") == 2)
    file.write_text(desk.old_token())
    some = lab.status()["tasks"][0]["id"]
    lab.shoal("stop", "s.yaml", some)
    until((lab.root / "runs-lab" / "pond" / "train" / some / "attempts" / "1" / "stop").exists)
    time.sleep(1)  # the server refuses it meanwhile
    file.write_text(token)
    until(lambda: lab.counts() == {"running": 1, "interrupted": 1})
    # What is over here is told although the Lease cannot be given back.
    file.write_text("")
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 130
    said = (lab.root / "said.txt").read_text()
    assert "1 task of this run goes on running" in said
    assert "error:" not in said
    file.write_text(token)
    lab.shoal("stop", "s.yaml")


def test_what_is_refused_with_a_plugin_is_asked_for_once_more(desk: Desk) -> None:
    client = desk.client(desk.write(desk.plugin({"token": desk.old_token()})))
    with pytest.raises(Unauthorized) as caught:
        client.list(JOBS)
    assert len(desk.calls) == 2
    assert "its token expired on" in caught.value.message
    with pytest.raises(Unauthorized), client.execute("any", ["true"]):
        pass
    assert len(desk.calls) == 3
    desk.plugin({"token": desk.token()})
    assert client.list(JOBS).items == []
    client.close()


def test_several_files_are_one_and_a_context_may_be_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, token = desk.lab, desk.token()
    files = {
        "places/clusters": {"clusters": [{"name": "here", "cluster": desk.cluster}]},
        "people/users": {
            "users": [{"name": "robot", "user": {"tokenFile": "token"}}, {"name": "me", "user": desk.user}]
        },
        "first": {
            "current-context": "mine",
            "contexts": [
                {"name": "mine", "context": {"cluster": "here", "user": "me", "namespace": lab.namespace}},
                {"name": "robots", "context": {"cluster": "here", "user": "robot", "namespace": lab.namespace}},
            ],
        },
        "last": {"current-context": "robots", "users": [{"name": "me", "user": {"token": "of the last file"}}]},
    }
    for name, config in files.items():
        (desk.root / name).parent.mkdir(exist_ok=True)
        (desk.root / name).write_text(yaml.safe_dump(config))
    (desk.root / "people" / "token").write_text(token)
    paths = [str(desk.root / name) for name in ("first", "missing", "places/clusters", "people/users", "last")]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(paths))
    kubectl = [str(lab.bed.programs / "kubectl"), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]
    for context, user in ((None, desk.name), ("robots", f"system:serviceaccount:{lab.namespace}:robot")):
        client = Client(find_login(context), patience=2)
        assert client.review(WHO, {})["status"]["userInfo"]["username"] == user
        client.close()
        # kubectl reads the same files in the same way.
        words = ["--context", context] if context else []
        assert subprocess.run([*kubectl, *words], capture_output=True, text=True, check=True).stdout == user


def test_an_authority_that_is_not_the_servers_is_refused_at_once(desk: Desk) -> None:
    other = base64.b64encode(Authority.new().pair.certificate).decode()
    wrong = desk.write(**{"certificate-authority-data": other})
    begin = time.monotonic()
    with pytest.raises(Unreachable, match="certificate is not trusted") as caught:
        Client(read_login([wrong]), patience=60).list(JOBS)
    assert time.monotonic() - begin < 30
    assert "certificate-authority" in str(caught.value.hint)
    # The address is another's than those in the certificate, unless one says which name to look for.
    port = desk.cluster["server"].rpartition(":")[2]
    elsewhere = desk.write(server=f"https://127.0.0.2:{port}")
    with pytest.raises(Unreachable):
        desk.who(elsewhere)
    assert desk.who(desk.write(**{"tls-server-name": "kubernetes.default.svc"})) == desk.name
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        desk.who(desk.write(**{"tls-server-name": "other.example.org"}))
    path = desk.write(**{"insecure-skip-tls-verify": True})
    config = yaml.safe_load(path.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority-data"]
    path.write_text(yaml.safe_dump(config))
    assert desk.who(path) == desk.name


@pytest.mark.parametrize(("scheme", "verb"), [("http", "CONNECT"), ("socks5", "SOCKS")])
def test_all_goes_by_the_proxy_of_the_kubeconfig(desk: Desk, proxy: Proxy, scheme: str, verb: str) -> None:
    address = desk.cluster["server"].removeprefix("https://")
    path = desk.write(**{"proxy-url": f"{scheme}://{proxy.place}"})
    assert desk.who(path) == desk.name
    assert set(proxy.asked) == {f"{verb} {address}"}
    before = len(proxy.asked)
    client = desk.client(path)
    with pytest.raises(Exception, match="none"), client.execute("none", ["true"]):  # by a websocket
        pass
    client.close()
    assert len(proxy.asked) > before
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        desk.who(desk.write(**{"proxy-url": f"{scheme}://127.0.0.1:9"}))
    assert "proxy" in str(caught.value.hint)


def _expired_token(desk: Desk) -> dict[str, Any]:
    return {"token": desk.old_token()}


def _expired_file(desk: Desk) -> dict[str, Any]:
    (desk.root / "token").write_text(desk.old_token())
    return {"tokenFile": "token"}


def _expired_certificate(desk: Desk) -> dict[str, Any]:
    return desk.old_certificate()


def _no_plugin(desk: Desk) -> dict[str, Any]:
    user = desk.plugin({})
    user["exec"] |= {"command": "kubectl-oidc_login-nowhere", "installHint": "Get kubelogin from your portal."}
    return user


def _failing_plugin(desk: Desk) -> dict[str, Any]:
    return desk.plugin({"error": "the refresh token has expired"})


def _plugin_with_old_credentials(desk: Desk) -> dict[str, Any]:
    return desk.plugin({"token": desk.old_token(), "lives": -60})


def _plugin_that_asks(desk: Desk) -> dict[str, Any]:
    return desk.plugin({"token": desk.token()}, V1, "Always", "--ask")


EXPIRED: list[tuple[Callable[[Desk], dict[str, Any]], list[str]]] = [
    (_expired_token, ["does not accept the login: its token expired on 20", "a new token belongs into"]),
    (_expired_file, ["its token expired on 20", "logins/token", "read anew"]),
    (_expired_certificate, ["its client certificate expired on 20", "get a new kubeconfig"]),
    (_no_plugin, ["kubectl-oidc_login-nowhere is not installed", "Get kubelogin from your portal."]),
    (_failing_plugin, ["my-login failed with exit code 1: the refresh token has expired", "Try it by hand"]),
    (_plugin_with_old_credentials, ["gave credentials that expired at", "Try it by hand"]),
    (_plugin_that_asks, ["has to ask at a terminal, and there is none", "Log in once where there is one"]),
]


@pytest.mark.parametrize(("user", "words"), EXPIRED, ids=[made.__name__.strip("_") for made, _ in EXPIRED])
def test_a_login_that_is_over_is_one_message_with_what_to_do(
    desk: Desk, user: Callable[[Desk], dict[str, Any]], words: list[str]
) -> None:
    lab = desk.lab
    lab.kubeconfig = desk.write(user(desk))
    lab.study("study: pond\nsteps: {train: {run: train}}\n")
    done = lab.shoal("run", "s.yaml", "--on", "lab", code=2)
    said = " ".join(done.stderr.split())
    assert all(word in said for word in words), done.stderr
    assert said.count("error:") == 1, done.stderr
    assert str(lab.kubeconfig) in said
    assert "eyJ" not in said, "a token is nobody's to read"


def test_a_plugin_asks_a_person_at_the_terminal(desk: Desk) -> None:
    lab = desk.lab
    lab.kubeconfig = desk.write(desk.plugin({"token": desk.token()}, V1, "IfAvailable", "--ask"))
    code, said = at_a_terminal(
        *lab.command("clusters", "show", "lab"), answer=lambda said: "1234\n" if said.endswith("Code: ") else None
    )
    assert code == 0, said
    assert said.count("Code: ") == 1
    assert [call["spec"]["interactive"] for call in desk.calls] == [True]


def test_no_login_at_all_is_said_with_where_one_was_looked_for(desk: Desk) -> None:
    with pytest.raises(LoginError, match="there is no kubeconfig"):
        desk.who(desk.root / "nothing")
    assert Client(read_login([desk.write()])).list(PODS).items == []
