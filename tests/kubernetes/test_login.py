"""Logging in: real kubeconfig files, and a real plugin that the test writes."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.executors.kubernetes.login import (
    Authenticator,
    Login,
    LoginError,
    Material,
    find_login,
    how_to_renew,
    in_cluster,
    kubeconfig_paths,
    read_login,
    what_expired,
)
from shoal.executors.kubernetes.login.refused import expiry
from testbed.pki import Authority

CA = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
V1, V1BETA1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"


def config(user: Any = None, cluster: Any = None, **top: Any) -> dict[str, Any]:
    """A kubeconfig with one context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example.org:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "secret-token"} if user is None else user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}],
        "current-context": "x",
        **top,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def made(data: Any, name: str = "config") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        return path

    return made


PLUGIN = """#!{python}
import json, os, sys
folder = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(folder, "calls"), "a") as file:
    print(json.dumps([sys.argv[1:], os.environ["KUBERNETES_EXEC_INFO"], os.environ.get("EXTRA"), sys.stdin.isatty()]), file=file)
with open(os.path.join(folder, "answer")) as file:
    text = file.read()
if text.startswith("exit "):
    print("oidc: the refresh token has expired", file=sys.stderr)
    sys.exit(int(text[5:]))
print(text)
"""


class FakePlugin:
    """A plugin on disk, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "my-login"
        self.path.write_text(PLUGIN.format(python=sys.executable))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def answer(self, version: str = V1, **status: Any) -> None:
        self.says(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status}))

    def says(self, text: str) -> None:
        (self.path.parent / "answer").write_text(text)

    @property
    def calls(self) -> list[Any]:
        path = self.path.parent / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def user(self, version: str = V1, **more: Any) -> dict[str, Any]:
        mode = {"interactiveMode": "Never"} if version == V1 else {}
        return {"exec": {"apiVersion": version, "command": "./my-login", "args": ["get-token", "--x"], **mode, **more}}


@pytest.fixture
def plugin(tmp_path: Path) -> FakePlugin:
    return FakePlugin(tmp_path)


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_token(write: Callable[..., Path]) -> None:
    login = read_login([write(config())])
    assert login.server.url == "https://api.example.org:6443"
    assert login.namespace == "lab"
    assert Authenticator(login).current().token == "secret-token"
    assert "secret-token" not in repr(login)
    assert "secret-token" not in repr(Authenticator(login).current())


def test_digits_are_a_token_too(write: Callable[..., Path]) -> None:
    text = yaml.safe_dump(config()).replace("secret-token", "0012345")
    assert read_login([write(text)]).credentials.token == "0012345"


def test_json_is_read_as_well(write: Callable[..., Path]) -> None:
    assert read_login([write(json.dumps(config(), indent=2))]).credentials.token == "secret-token"


def test_files_are_relative_to_the_kubeconfig_and_data_wins(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.pem").write_bytes(CA)
    (tmp_path / "pki" / "cert.pem").write_bytes(b"file cert")
    (tmp_path / "pki" / "key.pem").write_bytes(b"file key")
    user = {"client-certificate": "pki/cert.pem", "client-key": "pki/key.pem",
            "client-certificate-data": base64.b64encode(b"data cert").decode()}  # fmt: skip
    login = read_login([write(config(user, {"certificate-authority": "pki/ca.pem", "tls-server-name": "kube",
                                            "proxy-url": "socks5://localhost:1080", "disable-compression": True}))])  # fmt: skip
    assert login.server.ca == CA
    assert (login.server.tls_server_name, login.server.proxy_url) == ("kube", "socks5://localhost:1080")
    assert login.server.compression is False
    material = Authenticator(login).current()
    assert (material.certificate, material.key) == (b"data cert", b"file key")


def test_token_files_win_over_tokens_and_are_read_anew(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    login = read_login([write(config({"token": "old", "tokenFile": "token"}))])
    who = Authenticator(login)
    assert who.current().token == "first"
    (tmp_path / "token").write_text("second\n")
    assert who.current().token == "second"
    (tmp_path / "token").unlink()
    with pytest.raises(LoginError, match="token file"):
        who.current()


def test_basic_and_impersonation(write: Callable[..., Path]) -> None:
    user = {"username": "me", "password": "pw", "as": "other", "as-groups": ["a", "b"], "as-uid": "7",
            "as-user-extra": {"scopes/x": ["view"]}}  # fmt: skip
    login = read_login([write(config(user))])
    assert Authenticator(login).current().basic == ("me", "pw")
    assert login.credentials.impersonate == {
        "Impersonate-User": ("other",), "Impersonate-Uid": ("7",), "Impersonate-Group": ("a", "b"),
        "Impersonate-Extra-scopes%2Fx": ("view",),
    }  # fmt: skip


def test_several_files_first_come_first_served(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = write({"current-context": "y", "users": [{"name": "u", "user": {"token": "of the first"}}]}, "a/first")
    second = write(config({"token": "of the second", "username": None}), "b/second")
    third = write(
        {"contexts": [{"name": "y", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}, "third"
    )
    paths = [first, first.parent / "missing", second, third]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(["", *map(str, paths), str(first)]))
    assert kubeconfig_paths() == paths
    login = read_login(kubeconfig_paths())
    assert (login.context, login.credentials.token, login.namespace) == ("y", "of the first", "default")
    assert read_login(kubeconfig_paths(), "x").namespace == "lab"


def test_paths_belong_to_the_file_that_defines_the_entry(write: Callable[..., Path]) -> None:
    users = write({"users": [{"name": "u", "user": {"tokenFile": "token"}}]}, "a/users")
    (users.parent / "token").write_text("beside the user")
    login = read_login([write(config(), "b/config"), users])
    assert login.credentials.token == "secret-token"
    login = read_login([users, write(config(), "b/config")])
    assert Authenticator(login).current().token == "beside the user"


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_a_plugin_is_asked_and_its_answer_kept_until_it_expires(
    write: Callable[..., Path], plugin: FakePlugin, version: str
) -> None:
    now = time.time()
    clock = [now]
    plugin.answer(version, token="one", expirationTimestamp=at(now + 60))
    user = plugin.user(version, env=[{"name": "EXTRA", "value": "seen"}])
    who = Authenticator(read_login([write(config(user))]), clock=lambda: clock[0], terminal=False)
    assert [who.current().token for _ in range(3)] == ["one"] * 3
    assert len(plugin.calls) == 1
    arguments, info, extra, terminal = plugin.calls[0]
    assert arguments == ["get-token", "--x"]
    assert json.loads(info) == {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    assert (extra, terminal) == ("seen", False)
    clock[0] = now + 55
    plugin.answer(version, token="two", expirationTimestamp=at(now + 600))
    assert who.current().token == "two"
    assert len(plugin.calls) == 2


def test_without_an_expiry_an_answer_is_kept_until_the_server_refuses_it(
    write: Callable[..., Path], plugin: FakePlugin
) -> None:
    plugin.answer(token="one")
    who = Authenticator(read_login([write(config(plugin.user()))]), terminal=False)
    first = who.current()
    plugin.answer(token="two")
    assert who.current() is first
    assert who.refused(first) is True
    second = who.current()
    assert second.token == "two"
    assert who.refused(first) is True, "a late refusal of the old one"
    assert who.current() is second
    assert len(plugin.calls) == 2
    assert Authenticator(read_login([write(config(), "static")])).refused(second) is False


def test_many_threads_ask_once(write: Callable[..., Path], plugin: FakePlugin) -> None:
    plugin.answer(token="one")
    who = Authenticator(read_login([write(config(plugin.user()))]), terminal=False)
    threads = [threading.Thread(target=who.current) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plugin.calls) == 1


def test_a_plugin_may_give_a_certificate_and_is_told_of_the_server(
    write: Callable[..., Path], plugin: FakePlugin
) -> None:
    plugin.answer(clientCertificateData="cert", clientKeyData="key")
    extension = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]
    cluster = {"certificate-authority-data": base64.b64encode(CA).decode(), "extensions": extension}
    login = read_login([write(config(plugin.user(provideClusterInfo=True), cluster))])
    material = Authenticator(login, terminal=False).current()
    assert (material.certificate, material.key, material.token) == (b"cert", b"key", None)
    told = json.loads(plugin.calls[0][1])["spec"]["cluster"]
    assert told == {
        "server": "https://api.example.org:6443",
        "certificate-authority-data": base64.b64encode(CA).decode(),
        "config": {"audience": "x"},
    }


def test_static_credentials_win_over_the_plugin(write: Callable[..., Path], plugin: FakePlugin) -> None:
    login = read_login([write(config({**plugin.user(), "token": "static"}))])
    assert Authenticator(login, terminal=False).current().token == "static"
    assert plugin.calls == []


ANSWERS = [
    ("exit 3", "exit code 3: oidc: the refresh token has expired"),
    ("not json", "did not answer with an ExecCredential in JSON"),
    ("[]", "did not answer with an ExecCredential"),
    (json.dumps({"apiVersion": V1, "kind": "Other"}), "did not answer with an ExecCredential"),
    (json.dumps({"apiVersion": V1BETA1, "kind": "ExecCredential", "status": {"token": "x"}}), "v1beta1, though"),
    (json.dumps({"apiVersion": V1, "kind": "ExecCredential"}), "no status"),
    (json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": {}}), "neither token nor certificate"),
    (json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": {"token": 7}}), "is no text"),
    (
        json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": {"clientCertificateData": "x"}}),
        "without its key",
    ),
    (
        json.dumps(
            {"apiVersion": V1, "kind": "ExecCredential", "status": {"token": "x", "expirationTimestamp": "soon"}}
        ),
        "no time",
    ),
    (
        json.dumps(
            {"apiVersion": V1, "kind": "ExecCredential", "status": {"token": "x", "expirationTimestamp": at(1)}}
        ),
        "expired at 1970",
    ),
    ("x" * (1 << 21), "ExecCredential in JSON"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_what_a_plugin_says_wrong_is_one_message(
    write: Callable[..., Path], plugin: FakePlugin, answer: str, said: str
) -> None:
    plugin.says(answer)
    path = write(config(plugin.user()))
    with pytest.raises(LoginError) as caught:
        Authenticator(read_login([path]), terminal=False).current()
    text = str(caught.value)
    assert said in text
    assert text.startswith(f"{path}, context x: the login plugin my-login")


def test_plugins_that_are_not_there_hang_or_need_a_person(write: Callable[..., Path], plugin: FakePlugin) -> None:
    def login(**more: Any) -> Login:
        return read_login([write(config(plugin.user(**more)))])

    with pytest.raises(LoginError, match="is not installed") as caught:
        Authenticator(login(command="kubectl-oidc_login-nowhere", installHint="brew install kubelogin")).current()
    assert caught.value.hint == "brew install kubelogin"
    with pytest.raises(LoginError, match="has to ask at a terminal"):
        Authenticator(login(interactiveMode="Always"), terminal=False).current()
    plugin.path.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(LoginError, match=r"no answer within 0\.3 s"):
        Authenticator(login(), terminal=False, timeout=0.3).current()


def test_oidc_login_has_its_own_advice(write: Callable[..., Path], plugin: FakePlugin) -> None:
    plugin.says("exit 1")
    path = write(config(plugin.user(args=["oidc-login", "get-token"])))
    with pytest.raises(LoginError) as caught:
        Authenticator(read_login([path]), terminal=False).current()
    assert "kubectl oidc-login" in str(caught.value.hint)
    # As kubectl says it where the plugin is not installed.
    plugin.path.write_text('#!/bin/sh\necho \'error: unknown command "oidc-login" for "kubectl"\' >&2; exit 1\n')
    with pytest.raises(LoginError, match="unknown command") as caught:
        Authenticator(read_login([path]), terminal=False).current()
    assert "a program kubectl-oidc_login on the PATH" in str(caught.value.hint)


MISTAKES: list[tuple[Any, str]] = [
    (config(**{"current-context": "y"}), 'no context "y"'),
    ({**config(), "current-context": None}, "no current context"),
    ({**config(), "clusters": []}, 'the cluster "c", which does not exist'),
    ({**config(), "users": None}, 'the user "u", which does not exist'),
    ({**config(), "contexts": {}}, '"contexts" must be a list'),
    ({**config(), "users": ["u"]}, "must have a name and a user"),
    ({**config(), "users": [{"name": "u", "user": "x"}]}, "must be a mapping"),
    (config(cluster={"server": "api.example.org"}), "is not an address"),
    (config(cluster={"server": "https://host:notaport"}), "is not an address"),
    (config(cluster={"server": "file:///etc/passwd"}), "is not an address"),
    (config(cluster={"certificate-authority-data": "%%%"}), "is not base64"),
    (config(cluster={"certificate-authority-data": "eHg="}), "no PEM certificate"),
    (config(cluster={"certificate-authority": "nothing.pem"}), "cannot be read"),
    (
        config(cluster={"insecure-skip-tls-verify": True, "certificate-authority-data": base64.b64encode(CA).decode()}),
        "insecure-skip-tls-verify as well",
    ),
    (config(cluster={"insecure-skip-tls-verify": "yes"}), "true or false"),
    (config(cluster={"proxy-url": "ftp://x"}), "is not the address of a proxy"),
    (config({"client-certificate-data": "eHg="}), "client-key is missing"),
    (config({"token": "t", "username": "me"}), "both a token and a user name"),
    (config({"token": ["t"]}), '"token" must be a text'),
    (config({"auth-provider": {"name": "gcp"}}), "auth-provider"),
    (config({"exec": "x"}), '"exec" must be a mapping'),
    (config({"exec": {"apiVersion": V1}}), "names no command"),
    (config({"exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"}}), "v1 or v1beta1"),
    (config({"exec": {"command": "x", "apiVersion": V1}}), "needs interactiveMode"),
    (config({"exec": {"command": "x", "apiVersion": V1, "interactiveMode": "Maybe"}}), "not Maybe"),
    (config({"exec": {"command": "x", "apiVersion": V1BETA1, "env": [{"name": "A"}]}}), "a name and a value"),
    ("a: [", "config:"),
    ("- a", "a kubeconfig is a mapping"),
    ("\0", "NUL"),
]


@pytest.mark.parametrize(("data", "said"), MISTAKES)
def test_mistakes_name_the_file_and_what_is_wrong(write: Callable[..., Path], data: Any, said: str) -> None:
    path = write(data)
    with pytest.raises(LoginError) as caught:
        read_login([path])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "study" not in str(caught.value)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="there is no kubeconfig"):
        read_login([tmp_path / "nothing"])
    (tmp_path / "empty").write_text("")
    with pytest.raises(LoginError, match="no current context"):
        read_login([tmp_path / "empty"])


def test_a_pod_is_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster({}, tmp_path) is None
    with pytest.raises(LoginError, match="no service-account token"):
        in_cluster(env, tmp_path)
    (tmp_path / "token").write_text("pod token")
    (tmp_path / "ca.crt").write_bytes(CA)
    (tmp_path / "namespace").write_text("lab\n")
    login = in_cluster(env, tmp_path)
    assert login is not None
    assert login.server.url == "https://[fd00::1]:443"
    assert (login.namespace, login.server.ca) == ("lab", CA)
    assert Authenticator(login).current().token == "pod token"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(LoginError, match="there is no kubeconfig"):
        find_login()


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "cluster", "user", "context", "server", "exec", "token", "clusters", "users", "contexts"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["clusters", "users", "contexts", "current-context"]), trees))
def test_nothing_in_a_kubeconfig_ends_in_a_traceback(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "hostile"
    path.write_text(json.dumps({**config(), **data}))
    try:
        read_login([path])
    except LoginError as error:
        assert str(path) in str(error)  # noqa: PT017


def token(**claims: Any) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "x"}, claims)
    ]
    return ".".join([*parts, "c2ln"])


@pytest.mark.parametrize("hours", [-30, 30])
def test_credentials_tell_when_they_end(hours: int) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)
    pair = Authority.new().issue("me", ["group"], life=timedelta(hours=hours))
    said = {"token": what_expired(Material(token(exp=end.timestamp())), time.time())}
    said["client certificate"] = what_expired(Material(certificate=pair.certificate, key=pair.key), time.time())
    for name, text in said.items():
        assert text == (f"its {name} expired on {end:%Y-%m-%d at %H:%M} UTC" if hours < 0 else None)
    assert expiry(Material(certificate=pair.certificate)) == pytest.approx(end.timestamp(), abs=2)


@given(st.text(max_size=40) | st.builds(lambda exp: token(exp=exp), trees), st.binary(max_size=60))
def test_credentials_that_tell_nothing_are_no_error(text: str, data: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(data) + b"\n-----END CERTIFICATE-----\n"
    for used in (Material(text), Material(certificate=pem), Material(certificate=data), Material()):
        said = what_expired(used, 0.0)
        assert said is None or said.startswith("its token")


def test_how_to_renew_depends_on_where_the_login_is_from(
    write: Callable[..., Path], plugin: FakePlugin, tmp_path: Path
) -> None:
    def hint(user: dict[str, Any], used: Material) -> str:
        return how_to_renew(read_login([write(config(user))]), used)

    assert str(tmp_path / "config") in hint({"token": "t"}, Material("t"))
    assert str(tmp_path / "token") in hint({"tokenFile": "token"}, Material("t"))
    assert "portal" in hint(
        {"client-certificate-data": "eHg=", "client-key-data": "eHg="}, Material(None, None, b"x", b"x")
    )
    assert "my-login get-token --x" in hint(plugin.user(), Material("t"))
    assert "kubectl oidc-login" in hint(plugin.user(args=["oidc-login", "get-token"]), Material("t"))
